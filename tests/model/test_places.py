"""A structure is looked for at several places, and the one whose mask the network thinks best of is taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from samdpo.files import read_json, write_json
from samdpo.model.places import decode_places, hypothesis_prompts
from samdpo.model.predictor import Predictor
from samdpo.networks.registry import build_network
from samdpo.plans import InferencePlan, NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StructurePlan
from samdpo.prompting.prompt import StructurePrompt

SIZE, HYPOTHESES = 256, 3
BOXES = np.array([[10, 10, 80, 90], [120, 100, 200, 220], [30, 150, 90, 230]], np.float32)


def plans(choose: bool = True) -> Plans:
    structures = {"mass": StructurePlan(1, "mass"), "lungs": StructurePlan(2, "lungs", components=2)}
    return Plans("Dataset900_Masses", "samdpoPlans", "LitePlanner", ".png", structures, [1.0, 1.0], [SIZE, SIZE], 2,
                 PreprocessingPlan(), PromptingPlan(n_hypotheses=HYPOTHESES), NetworkPlan(backbone="tiny_sam"), {},
                 InferencePlan(choose_place=choose))


def prompt(structure: str, hypotheses: np.ndarray = BOXES) -> StructurePrompt:
    return StructurePrompt(
        structure=structure, label=1, present=True, score=0.9, saliency=np.zeros((64, 64), np.float16),
        regions=np.zeros((SIZE, SIZE), np.uint8), boxes=BOXES[:1], points=np.array([[40, 40]], np.float32),
        hypotheses=hypotheses, hypothesis_scores=np.ones(len(hypotheses), np.float32), answer="", description="",
        text_embedding=np.zeros(384, np.float32),
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(NetworkPlan(backbone="tiny_sam")).eval()


@pytest.fixture
def embeddings(network) -> torch.Tensor:
    return network.encode_image(torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))


def test_every_hypothesis_is_a_place_and_so_is_the_prompt_itself(network, embeddings):
    places = decode_places(network, embeddings, [[prompt("mass")], [prompt("mass")]], plans())
    assert places.logits.shape == (2, 1 + HYPOTHESES, SIZE, SIZE)
    alone = [dataclasses.replace(prompt("mass", BOXES[:0]), boxes=box[None], points=BOXES[:0, :2]) for box in BOXES]
    for number, one in enumerate(alone, start=1):
        expected = hypothesis_prompts([[one]], plans()).select(torch.tensor([0]))
        torch.testing.assert_close(places.logits[0, number], network.decode(embeddings[:1], expected)[0][0],
                                   atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(places.at(places.chosen), places.logits[torch.arange(2), places.quality.argmax(1)])


def test_a_structure_of_two_components_is_not_looked_for_elsewhere(network, embeddings):
    places = decode_places(network, embeddings, [[prompt("lungs"), prompt("mass")], [prompt("lungs")]], plans())
    assert places.quality.isfinite().sum(1).tolist() == [1, 1 + HYPOTHESES, 1]
    assert places.chosen[0] == places.chosen[2] == 0
    assert [len(boxes) for boxes in places.boxes] == [0, HYPOTHESES, 0]
    alone = decode_places(network, embeddings, [[prompt("lungs")], [prompt("lungs")]], plans())
    assert alone.logits.shape[1] == 1


def test_the_plan_can_switch_it_off(network, embeddings):
    places = decode_places(network, embeddings, [[prompt("mass")], []], plans(choose=False))
    assert places.logits.shape[:2] == (1, 1) and places.chosen.tolist() == [0]


def test_few_hypotheses_are_repeated_and_none_is_no_place(network, embeddings):
    few = decode_places(network, embeddings, [[prompt("mass", BOXES[:1])], []], plans())
    np.testing.assert_array_equal(few.boxes[0], BOXES[[0, 0, 0]])
    none = decode_places(network, embeddings, [[prompt("mass", BOXES[:0])], []], plans())
    assert none.logits.shape[1] == 1


def test_the_mask_prompt_speaks_only_inside_the_hypothesis():
    batch = hypothesis_prompts([[prompt("mass")], [prompt("mass")]], plans())
    assert batch.image_index.tolist() == [0] * HYPOTHESES + [1] * HYPOTHESES
    x0, y0, x1, y1 = BOXES[1].astype(int)
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[y0:y1, x0:x1] = True
    assert (batch.mask_logits[1][inside] == 0).all() and (batch.mask_logits[1][~inside] == -4).all()


def test_a_prediction_says_which_place_was_used(finetuned):
    described = finetuned.finetuned / "plans.json"
    content = read_json(described)
    content["structures"]["lung"]["components"] = 1
    write_json(described, content)
    predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu")
    head = predictor.folds[0].network.mask_decoder.iou_prediction_head
    masks = {}
    for sign in (1, -1):  # the same places, thought of the other way round
        with torch.no_grad():
            head.layers[-1].weight.mul_(sign)
            head.layers[-1].bias.mul_(sign)
        predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
        prediction = predictor.predict()
        used = prediction.report["structures"]["lung"]["prompts"][0]
        masks[used["place"]] = prediction.segmentation
        assert (used["place"] == 0) == bool(used["points"]) and len(used["boxes"]) >= 1
    assert len(masks) == 2 and not np.array_equal(*masks.values())

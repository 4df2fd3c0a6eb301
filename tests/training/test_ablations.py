"""Each ablation switch removes its part of the prompt, and nothing else, from training and from prediction."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from samdpo.model.batches import prompt_tensors
from samdpo.model.places import decode_places
from samdpo.model.slices import predict_slices
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.registry import build_network
from samdpo.plans import (
    CrfPlan,
    InferencePlan,
    NetworkPlan,
    Plans,
    PreprocessingPlan,
    PromptingPlan,
    StructurePlan,
    load_plans,
    save_plans,
)
from samdpo.prompting.assemble import assemble_prompt
from samdpo.prompting.calibration import StructureCalibration
from samdpo.prompting.prompt import StructurePrompt

SIZE = 256
TEXTS = Path(__file__).resolve().parents[2] / "documentation" / "texts.md"
PARTS = {
    "use_boxes": {"boxes", "boxes_valid"},
    "use_points": {"points", "points_valid"},
    "use_saliency": {"mask_logits", "mask_valid"},
    "use_answers": {"text"},
    "use_descriptions": {"text"},
}
TABLE_1 = {  # row -> is there a box, a point, a mask, an answer, a description
    "- Alignment": (True, True, True, True, True),
    "- Alignment - VQA": (True, True, True, False, True),
    "- Alignment - VQA - GPT4": (True, True, True, False, False),
    "- Alignment - VQA - CAM": (False, False, False, False, True),
}


def plans(choose_place: bool = False, **switches: bool) -> Plans:
    prompting = PromptingPlan(n_hypotheses=2, crf=CrfPlan(enabled=False), **switches)
    return Plans("Dataset900_Masses", "samdpoPlans", "LitePlanner", ".png", {"liver": StructurePlan(1, "liver")},
                 [1.0, 1.0], [SIZE, SIZE], 2, PreprocessingPlan(), prompting, NetworkPlan(backbone="tiny_sam"), {},
                 InferencePlan(choose_place=choose_place))


def prompt(plan: Plans) -> StructurePrompt:
    """Of a bright disc, with a stand-in for the embedding of its text."""
    y, x = np.mgrid[:64, :64]
    logits = (6.0 - 0.02 * ((y - 20) ** 2 + (x - 40) ** 2)).clip(-6, 6)
    image = np.random.default_rng(0).random((3, SIZE, SIZE)).astype(np.float32)
    made = assemble_prompt("liver", plan.structures["liver"], plan.prompting, StructureCalibration(), image, logits,
                           np.random.default_rng(0))
    embedding = np.random.default_rng(len(made.text)).normal(size=384) if made.text else np.zeros(384)
    return dataclasses.replace(made, text_embedding=embedding.astype(np.float32))


def tensors(plan: Plans) -> PromptBatch:
    return prompt_tensors([[prompt(plan)]], plan)


def changed(one: PromptBatch, other: PromptBatch) -> set[str]:
    names = [name for name, tensor in vars(one).items() if tensor is not None]
    return {name for name in names if not torch.equal(getattr(one, name), getattr(other, name))}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_network(NetworkPlan(backbone="tiny_sam")).eval()
    torch.nn.init.normal_(network.text_projection.weight, std=0.2)  # a finetuned one: the text counts
    return network


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def predicted(network, image: torch.Tensor, plan: Plans) -> np.ndarray:
    return predict_slices(network, image, [[prompt(plan)]], plan, torch.device("cpu"), "fp32").probabilities


@pytest.mark.parametrize("switch", PARTS)
def test_a_switch_removes_its_part_and_nothing_else(switch):
    assert changed(tensors(plans()), tensors(plans(**{switch: False}))) == PARTS[switch]


@pytest.mark.parametrize("switch", PARTS)
def test_a_switch_changes_what_is_predicted(network, image, switch):
    with_it, without = (predicted(network, image, plan) for plan in (plans(), plans(**{switch: False})))
    assert np.abs(with_it - without).max() > 1e-4


def test_without_boxes_no_other_place_is_decoded(network, image):
    embeddings = network.encode_image(image)
    for uses, places in ((True, 3), (False, 1)):
        plan = plans(choose_place=True, use_boxes=uses)
        assert len(prompt(plan).hypotheses) > 0
        assert decode_places(network, embeddings, [[prompt(plan)]], plan).logits.shape[1] == places


@pytest.mark.parametrize("switches", [{"use_answers": False, "use_descriptions": False},
                                      {"answers": "none", "use_descriptions": False}])
def test_without_any_text_there_is_no_text_token(network, switches):
    batch = tensors(plans(**switches))
    assert not batch.text_valid.any() and not network.token_valid(batch)[:, -1].any()
    assert tensors(plans()).text_valid.all()


def test_without_any_part_a_mask_still_comes_out(network, image):
    nothing = predicted(network, image, plans(**dict.fromkeys(PARTS, False)))
    assert np.isfinite(nothing).all() and nothing.max() > 0


def table(heading: str) -> dict[str, dict[str, bool]]:
    """First cell -> the JSON in the second of the documentation's table under ``heading``."""
    text = TEXTS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `(\{.*?\})` \|", text[text.index(heading) :].split("\n\n")[0], re.M)
    return {name: json.loads(content) for name, content in rows}


def test_the_documented_switches_are_those_of_the_plan():
    documented = table("| off | `prompting` |")
    assert {key for switches in documented.values() for key in switches} == set(PARTS)
    assert len(documented) == 6
    for switches in documented.values():
        expected = set().union(*(PARTS[switch] for switch in switches))
        gone = changed(tensors(plans()), tensors(plans(**switches)))
        assert gone - {"text_valid"} == expected


@pytest.mark.parametrize("row", TABLE_1)
def test_the_rows_of_the_papers_table_are_variants_of_five_lines(row, tmp_path):
    save_plans(plans(), tmp_path / "samdpoPlans.json")
    variant = {"inherits_from": "samdpoPlans", "plans_name": "rowPlans", "prompting": table("| row of Table 1")[row]}
    (tmp_path / "rowPlans.json").write_text(json.dumps(variant))
    plan = load_plans(tmp_path / "rowPlans.json")
    batch, told = tensors(plan), prompt(plan)
    found = (batch.boxes_valid, batch.points_valid, batch.mask_valid)
    assert (*(bool(valid.any()) for valid in found), bool(told.answer), bool(told.description)) == TABLE_1[row]

"""A box round the whole slice, for networks that nobody prompts."""

from __future__ import annotations

import numpy as np
import pytest

from samdpo.errors import ModelFolderError, PlansError
from samdpo.files import write_json
from samdpo.lab.baselines.stages import BOX_ONLY
from samdpo.model.batches import prompt_tensors
from samdpo.model.views import FLIPPED, view_prompt
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StagePlan, StructurePlan
from samdpo.prompting.box_prompt import WHOLE_IMAGE, WholeImagePrompter

STRUCTURES = {"liver": StructurePlan(label=6, phrase="liver"), "spleen": StructurePlan(1, "spleen", components=2)}
PROMPTER = WholeImagePrompter({"liver": 6, "spleen": 1}, 32)


@pytest.fixture
def plans() -> Plans:
    """Of 32 x 32 slices, with the switches of the stages that are prompted with boxes alone."""
    prompting = PromptingPlan(**BOX_ONLY["prompting"])
    return Plans("Dataset001_A", "samdpoPlans", "LitePlanner", ".png", STRUCTURES, [999.0, 1, 1], [1, 32, 32], 2,
                 PreprocessingPlan(image_size=32), prompting, NetworkPlan(), {"sam": StagePlan()})


def test_every_structure_has_one_box_and_it_is_the_whole_slice():
    prompts = PROMPTER.prompt(np.zeros((3, 32, 32), np.float32))
    assert [(p.structure, p.label, p.present) for p in prompts] == [("liver", 6, True), ("spleen", 1, True)]
    for prompt in prompts:
        assert prompt.boxes.tolist() == [[0, 0, 32, 32]] and prompt.boxes.dtype == np.float32
        assert not len(prompt.points) and not len(prompt.hypotheses) and not prompt.text


def test_a_slice_of_the_store_and_a_new_one_are_prompted_alike():
    of_store, new = PROMPTER.get("case", 7), PROMPTER.prompt(np.ones((3, 32, 32)))
    for one, other in zip(of_store, new, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.regions, other.regions)


def test_the_mirror_image_has_the_same_box(plans):
    prompt = PROMPTER.get("case", 0)[0]
    mirrored = view_prompt(prompt, FLIPPED, plans.stage("sam").augmentation, n_points=5)
    np.testing.assert_array_equal(mirrored.boxes, prompt.boxes)


def test_the_network_gets_the_box_and_nothing_else(plans):
    batch = prompt_tensors([PROMPTER.get("case", 0)], plans)
    assert batch.boxes_valid.tolist() == [[True, False], [True, False]]  # room for two components
    assert not (batch.points_valid.any() or batch.text_valid.any() or batch.mask_valid.any())


def test_it_is_of_the_plans_structures(plans):
    assert WholeImagePrompter.of(plans) == PROMPTER


def test_what_is_saved_is_loaded(tmp_path):
    PROMPTER.save(tmp_path / "prompter")
    assert WholeImagePrompter.load(tmp_path / "prompter") == PROMPTER


def test_a_damaged_file_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=WHOLE_IMAGE):
        WholeImagePrompter.load(tmp_path)
    (tmp_path / WHOLE_IMAGE).write_text("{")
    with pytest.raises(ModelFolderError, match=f"{WHOLE_IMAGE}.*Train the model again"):
        WholeImagePrompter.load(tmp_path)
    write_json(tmp_path / WHOLE_IMAGE, {"labels": {"liver": 6}, "image_siez": 32})
    with pytest.raises(PlansError, match="image_siez"):
        WholeImagePrompter.load(tmp_path)

"""CT phantoms of a few slices: what is decided over a whole volume, in the store of training and at prediction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.files import read_json, write_json
from samdpo.model.folder import FoldModel
from samdpo.model.predictor import Predictor
from samdpo.model.slice_labels import read_image
from samdpo.model.views import IDENTITY
from samdpo.networks.registry import build_network
from samdpo.planning.plan_and_preprocess import plan_and_preprocess, preprocess_planned
from samdpo.plans import Plans, load_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.making import make_prompts_of
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter

NAME = "Dataset904_PhantomCt"


class Volumes:
    """Four labelled CT phantoms of 16 slices, three of which prompts are fitted to."""

    def __init__(self, folder) -> None:
        self.raw, self.folder = folder / "nnUNet_raw" / NAME, folder / "nnUNet_preprocessed" / NAME
        self.plans: Plans = load_plans(self.folder / "samdpoPlans.json")
        self.slices = SliceStore(self.folder / self.plans.preprocessing.data_identifier)
        self.prompts = PromptStore(self.folder / "prompts")
        self.prompter = Prompter.load(self.folder / "prompts" / "prompter")

    def predictor(self) -> Predictor:
        network = build_network(self.plans.network).eval()
        settings = {"stage": "finetune", "mask_cut": 0.5}
        return Predictor(self.plans, [FoldModel(network, self.prompter, settings)], torch.device("cpu"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Iterator[Volumes]:
    folder = tmp_path_factory.mktemp("volumes")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        make_phantom_dataset("ct", folder / "nnUNet_raw" / NAME, 4, 0, 0, seed=0, size=(16, 48, 48))
        plan_and_preprocess(904, backbone="tiny_sam", preprocess=False)
        file = folder / "nnUNet_preprocessed" / NAME / "samdpoPlans.json"
        content = read_json(file)
        content["prompting"] |= {"tower_steps": 5, "n_points": 1}
        content["preprocessing"]["neighbours"] = 12.0
        write_json(file, content)
        plans = load_plans(file)
        preprocess_planned(904)
        cases = SliceStore(file.parent / plans.preprocessing.data_identifier).cases()
        make_prompts_of(plans, file.parent / "prompts", cases[:3], cases[3:], device="cpu")
        yield Volumes(folder)


def test_the_planner_decides_presence_over_volumes_alone(volumes):
    assert volumes.plans.prompting.presence == "volume"
    assert read_json(volumes.folder / "samdpoPlans.json")["prompting"]["presence"] == "volume"


def test_organs_have_a_map_of_where_the_labels_show_them(volumes):
    places = volumes.prompter.settings.axial.places
    assert volumes.prompter.sees_volumes and {"liver", "left kidney"} <= places.keys()
    assert all(0 < min(place.shown) < 0.2 and 0.6 < max(place.shown) < 1 for place in places.values())
    assert np.argmax(places["left kidney"].shown) < np.argmax(places["liver"].shown), "the lower one comes first"


def test_a_new_volume_is_prompted_as_the_store_of_training_prompts_it(volumes):
    case = volumes.slices.cases()[3]
    predictor = volumes.predictor()
    predictor.set_image(volumes.raw / "imagesTr" / f"{case}_0000.nii.gz")
    reported = predictor.predict().report["structures"]
    for name in volumes.plans.structures:
        kept = [(index, prompt) for index in range(volumes.slices.slices(case))
                for prompt in volumes.prompts.get(case, index) if prompt.structure == name and prompt.present]
        assert [used["slice"] for used in reported[name]["prompts"]] == [index for index, _ in kept]
        by_score = name not in volumes.prompter.settings.axial.places
        assert ("presence_threshold" in reported[name]) == by_score, "no threshold that has not decided"
        for used, (_, prompt) in zip(reported[name]["prompts"], kept):
            np.testing.assert_allclose(used["boxes"], prompt.boxes, atol=1)


def test_the_encoder_sees_neighbours_alike_in_training_and_at_prediction(volumes, monkeypatch):
    case, predictor = volumes.slices.cases()[3], volumes.predictor()
    predictor.set_image(volumes.raw / "imagesTr" / f"{case}_0000.nii.gz")
    assert volumes.slices.neighbours(case) == 1
    for index in (0, 7, 15):
        seen, own = volumes.slices.seen_image(case, index), volumes.slices.image(case, index)
        np.testing.assert_array_equal(predictor._cut.seen_slice(index), seen)
        np.testing.assert_array_equal(predictor._cut.slice(index), own)
        np.testing.assert_array_equal(seen[1], own[1])
        assert index == 0 or np.abs(seen[0] - seen[1]).max() > 0.1
        read = read_image(volumes.slices, (case, index), IDENTITY)
        np.testing.assert_array_equal(read.numpy(), seen)
    np.testing.assert_array_equal(volumes.slices.seen_image(case, 0)[0], volumes.slices.image(case, 0)[0])


def test_a_volume_that_lies_the_other_way_round_gets_the_same_slices(volumes, tmp_path):
    import nibabel

    case = volumes.slices.cases()[3]
    image = nibabel.load(volumes.raw / "imagesTr" / f"{case}_0000.nii.gz")
    turned = image.slicer[:, :, ::-1]
    nibabel.save(turned, tmp_path / "turned_0000.nii.gz")
    predictor = volumes.predictor()
    predictor.set_image(tmp_path / "turned_0000.nii.gz")
    for name, of in predictor.predict().report["structures"].items():
        kept = [index for index in range(volumes.slices.slices(case))
                for prompt in volumes.prompts.get(case, index) if prompt.structure == name and prompt.present]
        assert [used["slice"] for used in of["prompts"]] == kept


def test_a_click_on_a_slice_needs_no_look_at_the_others(volumes, monkeypatch):
    predictor, seen = volumes.predictor(), []
    look = volumes.prompter.raw_saliency
    monkeypatch.setattr(volumes.prompter, "raw_saliency", lambda *given: seen.append(1) or look(*given))
    predictor.set_image(np.random.default_rng(0).normal(size=(1, 16, 48, 48)).astype(np.float32))
    predictor.predict(points=[[20, 20]], structure="liver", slice_index=7)
    assert len(seen) == 1

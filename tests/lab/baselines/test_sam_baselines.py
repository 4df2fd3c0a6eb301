"""The stages ``sam`` and ``sam_med2d``: boxes of the truth in training, nobody's box in prediction."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import small_backbones  # noqa: F401
import torch
from trained_models import Phantoms, _as_current, interrupt
from without_prompts import final_bytes

from samdpo.dataset.images import read_label
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.errors import ModelFolderError, TrainingError
from samdpo.files import read_json
from samdpo.lab.baselines.sam import TruthBoxes
from samdpo.model.predictor import Predictor
from samdpo.model.views import FLIPPED, View
from samdpo.networks.lora import is_lora
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.regions import boxes_of, largest_components
from samdpo.training.get_trainer import get_trainer

VIT = ("network.backbone=small_vit", "network.adapters=false", "epochs=2")
WHOLE = [[0.0, 0.0, 256.0, 256.0]]


def reports(folder) -> dict[str, dict]:
    """What the reports of a validation say of each case's lung."""
    files = [f for f in folder.glob("*.json") if f.name != "summary.json"]
    return {f.stem: read_json(f)["structures"]["lung"] for f in files}


def test_no_prompts_are_made_and_the_labelled_cases_are_learned_from(planned):
    shutil.rmtree(planned.preprocessed / "samdpoPlans_prompts")
    trainer = planned.train("sam_med2d", *VIT)
    assert not (planned.preprocessed / "samdpoPlans_prompts").exists()
    described = read_json(trainer.fold_folder / "model.json")
    assert described["labelled_cases"] == sorted(trainer.data.split.labelled)
    assert [f.name for f in (trainer.fold_folder / "prompter").iterdir()] == ["whole_image.json"]


def test_the_encoder_learns_low_rank_matrices_and_everything_else_its_weights(planned):
    trainer = planned.trainer("sam_med2d", *VIT)
    trainer.initialize()
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run_training()
    moved = {name for name, tensor in trainer.network.state_dict().items() if not torch.equal(tensor, before[name])}
    of_encoder = {name for name in moved if name.startswith("image_encoder")}
    assert of_encoder and all(map(is_lora, of_encoder))
    assert any(name.startswith("mask_decoder") for name in moved)
    assert any(name.startswith("prompt_encoder") for name in moved)


def test_a_box_is_drawn_round_each_component_of_the_truth(planned):
    trainer = planned.trainer("sam_med2d", *VIT)
    case = trainer.data.split.labelled[0]
    mask = trainer.data.slices.label(case, 0) == 1
    (prompt,) = trainer.data.prompts.get(case, 0)
    assert prompt.present and len(prompt.boxes) == 2 and not len(prompt.points) and not len(prompt.hypotheses)
    inside = np.zeros_like(mask)
    for x0, y0, x1, y1 in prompt.boxes.astype(int):
        inside[y0:y1, x0:x1] = True
        assert mask[y0, x0:x1].any() and mask[y1 - 1, x0:x1].any(), "a box touches what it is drawn round"
    assert not (mask & ~inside).any()
    batch = trainer.samples.collate([trainer.samples.sample((case, 0))])
    assert batch.prompts.boxes_valid.all() and not batch.prompts.mask_valid.any() and not batch.prompts.text_valid.any()


@pytest.mark.parametrize("view", [FLIPPED, View(rotation=8, scale=1.05, shift=(0.04, -0.03), seed=1)])
def test_boxes_move_with_the_view(planned, view):
    trainer = planned.trainer("sam_med2d", *VIT, "augmentation.box_jitter=0")
    sample = trainer.samples.sample((trainer.data.split.labelled[0], 0), view)
    expected = boxes_of(largest_components(sample.truth[0].numpy(), 2, 0.15))
    found = sample.prompts[0].boxes
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], expected[np.argsort(expected[:, 0])], atol=1)


def test_training_boxes_are_as_imprecise_as_a_persons(planned):
    exact = planned.trainer("sam_med2d", *VIT, "augmentation.box_jitter=0")
    jittered = planned.trainer("sam_med2d", *VIT, "augmentation.box_jitter=0.1")
    key, view = (exact.data.split.labelled[0], 0), View(seed=3)
    boxes = [trainer.samples.sample(key, view).prompts[0].boxes for trainer in (exact, jittered)]
    difference = np.abs(boxes[0] - boxes[1])
    assert 0 < difference.max() < 0.1 * 256


def test_there_are_two_validations_and_the_one_without_a_person_counts(planned):
    trainer = planned.trainer("sam_med2d", *VIT)
    trainer.initialize()
    trainer.run_training()
    summary = trainer.perform_actual_validation()
    folder = trainer.fold_folder
    written = read_json(folder / "validation" / "summary.json")
    assert json.dumps(summary) == json.dumps(written)  # as text: an empty mask has distances that are no number
    with_truth = read_json(folder / "validation_truth_box" / "summary.json")
    assert {case["reference_file"] for case in summary["metric_per_case"]} == {
        case["reference_file"] for case in with_truth["metric_per_case"]}
    assert all(lung["prompts"][0]["boxes"] == WHOLE for lung in reports(folder / "validation").values())
    boxes = TruthBoxes(trainer.plans, trainer.data.slices)
    assert set(reports(folder / "validation_truth_box")) == set(trainer.data.split.val)
    for case, lung in reports(folder / "validation_truth_box").items():
        assert lung["prompts"][0]["boxes"] == boxes.get(case, 0)[0].boxes.tolist()


def test_prediction_says_what_validation_said(planned):
    trainer = planned.train("sam_med2d", *VIT)
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    masks = sorted((trainer.fold_folder / "validation").glob("*.png"))
    assert len(masks) == len(trainer.data.split.val)
    for file in masks:
        predictor.set_image(planned.raw / "imagesTr" / f"{file.stem}_0000.png")
        predicted = predictor.predict()
        np.testing.assert_array_equal(predicted.segmentation, read_label(file))
        assert {"case": file.stem, **predicted.report} == read_json(file.with_suffix(".json"))


def test_what_is_held_back_and_the_confidence_are_measured_without_a_person(planned, monkeypatch):
    trainer = planned.trainer("sam_med2d", *VIT, "held_back=0.34")
    trainer.initialize()
    (batch,) = trainer.validation_batches()
    assert [s.key for s in batch.samples] == trainer.held_back_keys and batch.truth.any()
    seen = []
    monkeypatch.setattr("samdpo.lab.baselines.sam.FinetuneTrainer.probabilities",
                        lambda self, batch: seen.append(batch) or torch.full((len(batch.prompts), 256, 256), 0.9))
    trainer.measure_confidence()
    for one in (batch, *seen):
        assert all(p.boxes.tolist() == WHOLE for sample in one.samples for p in sample.prompts)
    assert len(trainer.samples.sample(trainer.train_keys[0]).prompts[0].boxes) == 2, "training goes on with the truth's"


def test_a_stopped_training_goes_on_to_the_same_weights_and_is_validated_anew(planned):
    settings = (*VIT, "epochs=3")
    interrupt(planned, "sam_med2d", *settings, after=1)
    resumed = final_bytes(planned.train("sam_med2d", *settings, resume=True))
    trainer = planned.train("sam_med2d", *settings)
    assert resumed == final_bytes(trainer)
    masks = sorted(trainer.fold_folder.glob("validation*/*.png"))
    before = [file.read_bytes() for file in masks]
    for file in masks:
        file.unlink()
    planned.trainer("sam_med2d", *settings).train(only_validate=True)
    assert len(before) == 2 * len(trainer.data.split.val) and [file.read_bytes() for file in masks] == before


@pytest.mark.parametrize("damage", ["remove", "cut short"])
def test_a_model_without_its_prompter_is_refused(planned, damage):
    trainer = planned.train("sam_med2d", *VIT)
    file = trainer.fold_folder / "prompter" / "whole_image.json"
    file.unlink() if damage == "remove" else file.write_text(file.read_text()[:20])
    with pytest.raises(ModelFolderError, match="prompter.*Train"):
        Predictor.from_model_folder(trainer.folder, device="cpu")


# ---- the truth's boxes alone ----------------------------------------------------------------------------------------


def test_a_case_without_a_label_has_no_boxes(planned):
    trainer = planned.trainer("sam_med2d", *VIT)
    with pytest.raises(TrainingError, match="xray_ul_001 has no label"):
        trainer.data.prompts.get("xray_ul_001", 0)


@pytest.fixture
def volumes(tmp_path):
    """Five labelled CT phantoms of five organs, 16 slices each."""
    made = Phantoms(tmp_path)
    with _as_current(made):
        make_phantom_dataset("ct", made.raw, n_labelled=5, n_test=1, seed=0, size=(16, 48, 48))
        plan_and_preprocess(901)
        yield made


def test_a_volume_is_learned_and_predicted_slice_by_slice(volumes):
    overrides = [*VIT, "epochs=1", "slices_per_epoch=4"]
    trainer = get_trainer(901, "sam_med2d", 0, device="cpu", overrides=overrides)
    trainer.train()
    names = list(trainer.plans.structures)
    assert len(names) == 5
    store: SliceStore = trainer.data.slices
    case = trainer.data.split.val[0]
    shown = {name: set(store.properties(case)["slices_of"][name]) for name in names}
    for index in range(store.n_slices(case)):
        prompts = trainer.data.prompts.get(case, index)
        assert [p.present for p in prompts] == [index in shown[name] for name in names]
    with_truth = read_json(trainer.fold_folder / "validation_truth_box" / f"{case}.json")["structures"]
    assert {name: {p["slice"] for p in with_truth[name]["prompts"]} for name in names} == shown
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    predictor.set_image(volumes.raw / "imagesTr" / f"{case}_0000.nii.gz")
    np.testing.assert_array_equal(
        predictor.predict().segmentation, read_label(trainer.fold_folder / "validation" / f"{case}.nii.gz"))

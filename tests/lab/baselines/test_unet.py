"""The baseline ``unet``: from the labelled slices to predictions of new images, without any prompt."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from trained_models import Phantoms, _as_current, interrupt
from without_prompts import SHORT, final_bytes, no_prompts_made

from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.errors import TrainingError
from samdpo.files import read_json, write_json
from samdpo.lab.baselines import unet
from samdpo.lab.baselines.prompt_free import MaskSamples
from samdpo.lab.baselines.unet import dice_and_cross_entropy
from samdpo.model.predictor import Predictor
from samdpo.model.views import FLIPPED, View
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import IGNORED, SliceStore
from samdpo.training.get_trainer import get_trainer

LENGTH = "slices_per_epoch=8"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """A U-Net of few channels: the real one takes a second a step on a busy core."""
    monkeypatch.setattr(unet, "WIDTHS", (8, 8, 16, 16, 16, 16, 16))


def test_it_learns_and_predicts_without_any_prompt(planned):
    shutil.rmtree(planned.preprocessed / "samdpoPlans_prompts")
    trainer = planned.train("unet", "epochs=5", LENGTH)
    loss = trainer.run_log.history["loss"]
    assert loss[-1] < 0.8 * loss[0]
    assert no_prompts_made(planned, trainer.fold_folder)
    described = read_json(trainer.fold_folder / "model.json")
    assert not described["custom_architecture"] and len(described["labelled_cases"]) == 3
    assert 0 < described["confidence_threshold"]["lung"] < 1
    summary = read_json(trainer.fold_folder / "validation" / "summary.json")
    assert summary["foreground_mean"]["Dice"] > 0.3
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    predictor.set_image(planned.raw / "imagesTs" / "xray_ts_001_0000.png")
    predicted = predictor.predict()
    assert predicted.segmentation.shape == (1, 96, 112)
    assert predicted.report["structures"]["lung"]["prompts"] == []


def test_an_epoch_has_as_many_slices_as_planned_however_few_there_are(planned):
    trainer = planned.trainer("unet", "slices_per_epoch=8", "batch_size=3")
    trainer.initialize()
    batches = [[s.key for s in batch.samples] for batch in trainer.train_batches(0)]
    assert [len(keys) for keys in batches] == [3, 3, 2]
    assert set(batches[0]) == set(batches[1]) == set(trainer.train_keys), "every slice before one comes again"


def test_a_stopped_training_goes_on_to_the_same_weights(planned):
    interrupt(planned, "unet", *SHORT, after=1)
    resumed = final_bytes(planned.train("unet", *SHORT, resume=True))
    assert resumed == final_bytes(planned.train("unet", *SHORT))


def test_held_back_cases_are_measured(planned):
    trainer = planned.trainer("unet", "held_back=0.34", *SHORT)
    trainer.initialize()
    trainer.run_training()
    assert len(trainer.train_keys) == 2 and len(trainer.held_back_keys) == 1
    assert len(trainer.run_log.history["held_back_dice"]) == 2


def test_masks_without_a_structure_are_refused(planned):
    store = planned.preprocessed / "samdpoPlans_2d_256"
    for file in store.glob("*.json"):
        properties = read_json(file)
        del properties["checksum"]  # as stores of older versions
        write_json(file, {**properties, "slices_of": {"lung": []}})
    with pytest.raises(TrainingError, match="nothing to learn from.*--verify_dataset_integrity"):
        planned.trainer("unet").initialize()


# ---- volumes of several structures, and the label to ignore ---------------------------------------------------------


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Five labelled CT phantoms of five organs, 16 slices each."""
    made = Phantoms(tmp_path_factory.mktemp("volumes"))
    with _as_current(made):
        make_phantom_dataset("ct", made.raw, n_labelled=5, n_test=1, seed=0, size=(16, 48, 48))
        plan_and_preprocess(901)
        yield made


def test_a_volume_is_segmented_slice_by_slice_into_every_structure(volumes):
    trainer = get_trainer(901, "unet", 0, device="cpu", overrides=["epochs=1", "slices_per_epoch=4"])
    trainer.train()
    assert len(trainer.train_keys) == 4 * 16, "slices that show nothing are trained on too"
    assert trainer.network.segment(torch.rand(1, 3, 256, 256)).shape == (1, 5, 256, 256)
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    predictor.set_image(next((volumes.raw / "imagesTs").glob("*.nii.gz")))
    predicted = predictor.predict()
    assert predicted.segmentation.shape == (16, 48, 48)
    assert list(predicted.report["structures"]) == list(trainer.plans.structures)


def samples_of(tmp_path, label: np.ndarray) -> MaskSamples:
    store = SliceStore(tmp_path)
    geometry = SliceGeometry(0, label.shape, label.shape[-1]).to_dict()
    properties = {"hash": "1", "geometry": geometry, "labelled": True, "channels": [0, 0, 0],
                  "ignored_slices": np.flatnonzero((label == IGNORED).all((1, 2))).tolist()}
    store.put("a", np.zeros((len(label), 1, 32, 32)), label, properties)
    return MaskSamples(store, [1, 3])


@pytest.mark.parametrize("view", [View(), FLIPPED, View(rotation=30, seed=1)], ids=["as it is", "mirrored", "turned"])
def test_the_masks_are_of_the_structures_in_order_and_ignored_pixels_do_not_count(tmp_path, view):
    label = np.zeros((3, 32, 32), np.int16)
    label[0], label[1, 8:16, 8:24], label[2, 10:20, 10:20], label[2, :4] = IGNORED, 3, 1, IGNORED
    samples = samples_of(tmp_path, label)
    assert samples.keys(["a"]) == [("a", 1), ("a", 2)], "nothing is known of the first"
    batch = samples.collate([samples.sample(key, view) for key in samples.keys(["a"])])
    assert batch.truth.shape == batch.counted.shape == (4, 32, 32)
    assert batch.truth.flatten(1).any(1).tolist() == [False, True, True, False]
    assert batch.counted[:2].all() and not batch.counted[2:].all()
    assert torch.equal(batch.counted[2], batch.counted[3])


def test_ignored_pixels_have_no_part_in_the_loss():
    logits = torch.randn(4, 8, 8, requires_grad=True)
    truth, counted = torch.rand(4, 8, 8) > 0.5, torch.ones(4, 8, 8, dtype=torch.bool)
    counted[:, :4] = False
    dice_and_cross_entropy(logits, truth, 2, counted).backward()
    assert not logits.grad[:, :4].any() and logits.grad[:, 4:].all()


def test_the_loss_is_smallest_at_the_truth_and_defined_where_nothing_is_shown():
    truth = torch.zeros(2, 8, 8, dtype=torch.bool)
    sure_of_nothing = dice_and_cross_entropy(torch.full((2, 8, 8), -20.0), truth, 1)
    assert sure_of_nothing.item() == pytest.approx(0, abs=1e-3)
    truth[0, 2:5, 2:5] = True
    right = torch.where(truth, 20.0, -20.0)
    assert dice_and_cross_entropy(right, truth, 1).item() == pytest.approx(0, abs=1e-3)
    assert dice_and_cross_entropy(-right, truth, 1).item() > 10

"""The resident model: one image after another, in native size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from trained_models import second_fold

from samdpo.dataset.images import read_image, read_label
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import read_json
from samdpo.model.predictor import Predictor
from samdpo.networks import frozen_encoder
from samdpo.networks.frozen_encoder import FrozenEncoder


@pytest.fixture
def predictor(finetuned) -> Predictor:
    return Predictor.from_model_folder(finetuned.finetuned, device="cpu")


def test_a_mask_has_the_size_of_its_image_whatever_that_is(predictor):
    for shape in ((96, 112), (61, 203), (300, 40)):
        predictor.set_image(np.random.default_rng(0).uniform(0, 255, shape))
        prediction = predictor.predict()
        assert prediction.segmentation.shape == (1, *shape) and prediction.segmentation.dtype == np.int16
        assert prediction.probabilities.shape == (1, 1, *shape)
        assert prediction.probabilities.min() >= 0 and prediction.probabilities.max() <= 1


def test_the_report_says_what_was_seen_and_what_was_done(predictor, finetuned):
    predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
    prediction = predictor.predict()
    report = prediction.report
    assert set(report) == {"structures", "look_at", "reasons", "mask_cut"}
    lung = report["structures"]["lung"]
    assert lung["pixels"] == (prediction.segmentation == 1).sum() > 0
    assert 0 < lung["confidence"] <= 1
    used = lung["prompts"][0]
    assert used["slice"] == 0 and len(used["boxes"][0]) == 4 and len(used["points"][0]) == 2 and used["text"]
    assert report["look_at"] == bool(report["reasons"])


def test_a_mask_less_sure_than_those_of_training_is_to_be_looked_at(predictor, finetuned):
    predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
    predictor.folds[0].settings["confidence_threshold"] = {"lung": 0.0}
    assert not predictor.predict().report["look_at"]
    predictor.folds[0].settings["confidence_threshold"] = {"lung": 1.0}
    report = predictor.predict().report
    assert report["look_at"] and "9 of 10 training images" in report["reasons"][0]


def test_a_validation_case_is_predicted_as_the_validation_did(predictor, finetuned):
    validation = finetuned.finetuned / "fold_0" / "validation"
    for file in validation.glob("*.png"):
        predictor.set_image(finetuned.raw / "imagesTr" / f"{file.stem}_0000.png")
        prediction = predictor.predict()
        np.testing.assert_array_equal(prediction.segmentation, read_label(file))
        assert read_json(validation / f"{file.stem}.json")["structures"]["lung"]["prompts"] == (
            prediction.report["structures"]["lung"]["prompts"])


def test_a_file_and_its_array_give_the_same(predictor, finetuned):
    file = finetuned.raw / "imagesTs" / "xray_ts_002_0000.png"
    results = []
    for image in (file, str(file), [file], read_image([file]).data, read_image([file]).data[0, 0]):
        predictor.set_image(image)
        results.append(predictor.predict().probabilities)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def test_predicting_again_gives_the_same(predictor, finetuned):
    predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_002_0000.png")
    np.testing.assert_array_equal(predictor.predict().probabilities, predictor.predict().probabilities)


def test_averaging_with_the_mirror_image_can_be_left_out(finetuned):
    maps = []
    for mirror in (True, False):
        predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu", mirror=mirror)
        predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_002_0000.png")
        maps.append(predictor.predict().probabilities)
    assert not np.array_equal(*maps) and np.abs(maps[0] - maps[1]).mean() < 0.2


def test_several_folds_are_averaged(aligned):
    second_fold(aligned)
    image, maps = aligned.raw / "imagesTs" / "xray_ts_002_0000.png", []
    for folds in ([0], [1], None):
        predictor = Predictor.from_model_folder(aligned.finetuned, folds, device="cpu")
        predictor.set_image(image)
        maps.append(predictor.predict().probabilities)
    assert not np.array_equal(maps[0], maps[1])
    np.testing.assert_allclose(maps[2], (maps[0] + maps[1]) / 2, atol=1e-5)


def test_folds_whose_encoders_are_the_same_encode_a_slice_once(aligned, monkeypatch):
    monkeypatch.setattr(FrozenEncoder, "_kept", frozen_encoder.kept_activations(64 * 1024**2))
    second_fold(aligned)
    predictor = Predictor.from_model_folder(aligned.finetuned, device="cpu")
    first, second = predictor.folds
    assert first.encoder is second.encoder and first.network is not second.network
    seen = []
    for fold in predictor.folds:
        fold.network.image_encoder.neck.register_forward_hook(lambda _, inputs, __: seen.extend(inputs[0]))
    predictor.set_image(aligned.raw / "imagesTs" / "xray_ts_002_0000.png")
    predictor.predict()
    assert len(seen) == 2, "the slice and its mirror image"


def test_a_volume_is_predicted_slice_by_slice(predictor, finetuned):
    picture = read_image([finetuned.raw / "imagesTs" / "xray_ts_001_0000.png"]).data[0, 0]
    predictor.set_image(np.stack([picture, picture[:, ::-1], picture])[None])
    prediction = predictor.predict()
    assert prediction.segmentation.shape == (3, 96, 112)
    np.testing.assert_array_equal(prediction.segmentation[0], prediction.segmentation[2])
    assert "volume_ml" in prediction.report["structures"]["lung"]


def test_what_is_no_image_is_a_sentence(predictor, tmp_path):
    with pytest.raises(DatasetError, match="call set_image first"):
        predictor.predict()
    with pytest.raises(DatasetError, match=r"\(Y, X\)"):
        predictor.set_image(np.zeros(7))
    with pytest.raises(DatasetError, match=r"none\.png"):
        predictor.set_image(tmp_path / "none.png")


def test_a_device_that_is_not_there_is_a_sentence(finetuned):
    with pytest.raises(ConfigurationError, match="is not a device"):
        Predictor.from_model_folder(finetuned.finetuned, device="gpu0")


def test_the_report_of_a_structure_that_may_be_absent_has_its_score_also_where_it_is_not_prompted(predictor, finetuned):
    predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
    assert "presence" not in predictor.predict().report["structures"]["lung"]
    settings = predictor.folds[0].prompter.settings
    may_be_absent = {"lung": dataclasses.replace(predictor.plans.structures["lung"], may_be_absent=True)}
    predictor.plans = dataclasses.replace(predictor.plans, structures=may_be_absent)
    settings.structures["lung"] = may_be_absent["lung"]
    found = []
    for threshold in (0.0, 1.1):
        settings.calibrations["lung"] = dataclasses.replace(settings.calibrations["lung"], presence_threshold=threshold)
        predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
        found.append(predictor.predict().report["structures"]["lung"])
    there, absent = found
    assert there["pixels"] > 0 and absent["pixels"] == 0 and absent["prompts"] == []
    assert there["presence"] == absent["presence"] == [pytest.approx(there["prompts"][0]["presence"], abs=1e-4)]
    assert (there["presence_threshold"], absent["presence_threshold"]) == (0.0, 1.1)

"""A case is put together some slices at a time, and nobody can tell."""

from __future__ import annotations

import numpy as np
import pytest

from samdpo.model import predictor as module
from samdpo.model.masks import NativeCollector, confidence_of, label_map
from samdpo.model.predictor import Predictor
from samdpo.preprocessing.slicing import SliceGeometry


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(0).random((*shape[:2], 8, 8)).astype(np.float32)
    return np.kron(values, np.ones((1, 1, shape[2] // 8, shape[3] // 8), np.float32))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_in_parts_give_what_all_at_once_gives(axis):
    geometry = SliceGeometry(axis, (7, 9, 8), 64)
    probabilities = smooth((geometry.n_slices, 2, 64, 64))
    whole = geometry.to_native(probabilities)
    parts = NativeCollector(geometry, [1, 4], 0.5)
    for start in range(0, geometry.n_slices, 3):
        parts.add(start, probabilities[start : start + 3])
    np.testing.assert_array_equal(parts.probabilities, whole)
    np.testing.assert_array_equal(parts.segmentation, label_map(whole, 0.5, [1, 4]))
    for row in (0, 1):
        assert parts.confidence(row) == pytest.approx(confidence_of(whole[row], 0.5), rel=1e-5)


def test_a_structure_that_is_nowhere_has_no_confidence():
    collected = NativeCollector(SliceGeometry(0, (2, 8, 8), 64), [1], 0.5)
    collected.add(0, np.full((2, 1, 64, 64), 0.3, np.float32))
    assert collected.confidence(0) == 0 and not collected.segmentation.any()


def test_a_volume_is_the_same_whatever_number_of_slices_is_in_memory(finetuned, monkeypatch):
    predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu")
    volume = np.random.default_rng(1).uniform(0, 255, (1, 5, 96, 112)).astype(np.float32)
    results = []
    for count in (16, 2):
        monkeypatch.setattr(module, "SLICES_AT_ONCE", count)
        predictor.set_image(volume)
        results.append(predictor.predict())
    np.testing.assert_allclose(results[0].probabilities, results[1].probabilities, atol=1e-4)
    lists = [result.report["structures"]["lung"]["prompts"] for result in results]
    assert [entry["slice"] for entry in lists[0]] == [entry["slice"] for entry in lists[1]] == list(range(5))


def test_probabilities_that_nobody_wants_are_not_kept(finetuned):
    predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu")
    predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
    light, full = predictor.predict(keep_probabilities=False), predictor.predict()
    assert light.probabilities is None and full.probabilities is not None
    np.testing.assert_array_equal(light.segmentation, full.segmentation)
    assert light.report == full.report

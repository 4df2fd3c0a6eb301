from __future__ import annotations

import numpy as np

from samdpo.files import read_json, write_json
from samdpo.model.masks import keep_largest_components
from samdpo.model.predictor import Predictor


def scene() -> np.ndarray:
    """Two pieces of structure 1 on different slices, two of structure 5 in one plane."""
    labels = np.zeros((6, 20, 20), np.int16)
    labels[0:3, 2:8, 2:8] = 1
    labels[4:6, 12:15, 12:15] = 1
    labels[2:4, 14:18, 2:6] = 5
    labels[2:4, 14:16, 14:16] = 5
    return labels


def test_only_the_largest_part_of_the_named_structures_stays():
    labels = keep_largest_components(scene(), [1])
    assert (labels == 1).sum() == 3 * 36 and not (labels[4:] == 1).any()
    np.testing.assert_array_equal(labels == 5, scene() == 5)


def test_parts_that_touch_at_a_corner_in_space_are_one():
    labels = np.zeros((4, 8, 8), np.int16)
    labels[:2, :4, :4] = 2
    labels[2:, 4:, 4:] = 2
    assert (keep_largest_components(labels, [2]) == 2).sum() == 64


def test_structures_that_are_not_there_change_nothing():
    np.testing.assert_array_equal(keep_largest_components(scene(), [2, 9]), scene())
    empty = np.zeros((2, 4, 4), np.int16)
    np.testing.assert_array_equal(keep_largest_components(empty, [1]), empty)


def test_a_prediction_follows_the_plan(finetuned):
    volume = np.random.default_rng(0).uniform(0, 255, (1, 3, 96, 112)).astype(np.float32)
    results = []
    for names in ([], ["lung"]):
        content = read_json(finetuned.finetuned / "plans.json")
        content["inference"]["largest_component"] = names
        write_json(finetuned.finetuned / "plans.json", content)
        predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu")
        predictor.set_image(volume)
        predictor.mask_cut = float(np.quantile(predictor.predict().probabilities, 0.95))  # so that there are islands
        prediction = predictor.predict()
        results.append(prediction.segmentation)
        assert prediction.report["structures"]["lung"]["pixels"] == (prediction.segmentation == 1).sum()
    assert (results[0] != results[1]).any()  # there was something to remove
    np.testing.assert_array_equal(results[1], keep_largest_components(results[0].copy(), [1]))

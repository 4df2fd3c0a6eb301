from __future__ import annotations

import numpy as np
from scipy.special import expit

from samdpo.prompting.calibration import calibrate, presence_score


def cases(n: int, showing: list[bool]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(0)
    raw, masks = [], []
    for shows in showing[:n]:
        mask = np.zeros((64, 64), bool)
        if shows:
            mask[20:36, 10:30] = True
        raw.append(np.where(mask, 12.0, -20.0) + generator.normal(0, 8, mask.shape))
        masks.append(mask)
    return raw, masks


def test_calibrated_logits_are_probabilities_of_foreground():
    raw, masks = cases(6, [True] * 6)
    calibration = calibrate(raw, masks, may_be_absent=False)
    probability = expit(calibration.apply(np.stack(raw)))
    assert abs(probability.mean() - np.mean(masks)) < 0.01
    middling = (probability > 0.3) & (probability < 0.7)
    assert abs(np.stack(masks)[middling].mean() - 0.5) < 0.15


def test_the_cut_is_half_of_the_masks_probability():
    raw, masks = cases(4, [True] * 4)
    calibration = calibrate(raw, masks, may_be_absent=False)
    at_cut = np.log(calibration.cut / (1 - calibration.cut))
    np.testing.assert_allclose(calibration.mask_probability(np.array([at_cut])), 0.5)


def test_the_presence_threshold_separates_slices_with_and_without_the_structure():
    raw, masks = cases(8, [True, False] * 4)
    calibration = calibrate(raw, masks, may_be_absent=True)
    scores = [presence_score(calibration.apply(one)) for one in raw]
    assert all((score >= calibration.presence_threshold) == mask.any() for score, mask in zip(scores, masks))


def test_a_structure_that_is_in_every_labelled_slice_is_always_present():
    raw, masks = cases(4, [True] * 4)
    assert calibrate(raw, masks, may_be_absent=True).presence_threshold == 0


def test_a_structure_that_was_never_seen_is_absent_where_that_is_allowed():
    raw, masks = cases(3, [False] * 3)
    assert calibrate(raw, masks, may_be_absent=True).presence_threshold > 1
    assert calibrate(raw, masks, may_be_absent=False).presence_threshold == 0

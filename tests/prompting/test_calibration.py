from __future__ import annotations

import numpy as np
from scipy.special import expit

from samdpo.plans import StructurePlan
from samdpo.prompting.calibration import calibrate, calibrate_structures, coarse_truth, presence_score


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


def test_a_small_false_slice_is_worth_a_large_true_one_of_the_same_score():
    # The smallest true slice scores below a false one: whether to keep both depends on what they hold.
    def slices(true_pixels: int, false_pixels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        raw, masks = [], []
        for height, pixels, true in ((9.0, 900, True), (9.0, 900, True), (4.0, true_pixels, True),
                                     (6.0, false_pixels, False), (-20.0, 1, False)):
            mask = np.zeros(4096, bool)
            mask[:pixels] = True
            raw.append(np.where(mask, height, -9.0).reshape(64, 64))
            masks.append(mask.reshape(64, 64) if true else np.zeros((64, 64), bool))
        return raw, masks

    kept = calibrate(*slices(true_pixels=800, false_pixels=50), may_be_absent=True)
    assert (kept.presence_missed, kept.presence_false) == ((0, 3), (1, 2))
    dropped = calibrate(*slices(true_pixels=50, false_pixels=800), may_be_absent=True)
    assert (dropped.presence_missed, dropped.presence_false) == ((1, 3), (0, 2))


def test_a_gland_smaller_than_half_a_pixel_is_there_all_the_same():
    shares = np.zeros((3, 4, 4))
    shares[0, 1, 1:3] = 0.1, 0.3
    shares[1, 2, 2:4] = 0.5, 0.4
    truth = coarse_truth(shares)
    assert np.argwhere(truth).tolist() == [[0, 1, 2], [1, 2, 2]]


def test_a_threshold_of_the_plan_wins_and_the_numbers_are_logged(caplog):
    raw, masks = cases(8, [True, False] * 4)
    stacked, truth = [one[None] for one in raw], np.stack(masks)[:, None]
    with caplog.at_level("INFO"):
        found = calibrate_structures({"liver": StructurePlan(1, "liver", may_be_absent=True)}, stacked, truth, None)
    assert "missed on 0 of 4, found on 0 of 4" in caplog.text
    set_by_hand = {"liver": StructurePlan(1, "liver", may_be_absent=True, presence_threshold=0.7)}
    assert calibrate_structures(set_by_hand, stacked, truth, None)["liver"].presence_threshold == 0.7
    assert 0 < found["liver"].presence_threshold < 1

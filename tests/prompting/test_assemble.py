from __future__ import annotations

import numpy as np

from samdpo.plans import CrfPlan
from samdpo.prompting.assemble import refine


def blurred_square() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = np.zeros((96, 96), bool)
    truth[30:66, 24:60] = True
    image = np.repeat(np.where(truth, 0.8, 0.2)[None], 3, 0).astype(np.float32)
    y, x = np.mgrid[:96, :96]
    distance = np.maximum(abs(y - 46), abs(x - 40))  # a little off and too soft
    return image, 1 / (1 + np.exp((distance - 17) / 3)), truth


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_crf_moves_the_mask_to_the_images_edges():
    image, probability, truth = blurred_square()
    refined = refine(image, probability, CrfPlan())
    assert refined.shape == truth.shape and refined.dtype == np.float32
    assert dice(refined > 0.5, truth) > dice(probability > 0.5, truth) + 0.02


def test_a_crf_that_is_switched_off_changes_nothing():
    image, probability, _ = blurred_square()
    np.testing.assert_allclose(refine(image, probability, CrfPlan(enabled=False)), probability, rtol=1e-6)


def test_probabilities_of_zero_and_one_stay_finite():
    image, _, truth = blurred_square()
    assert np.isfinite(refine(image, truth.astype(np.float32), CrfPlan())).all()

"""Dense CRF over one structure's saliency (Krähenbühl & Koltun 2011), with the constants of the plan."""

from __future__ import annotations

import numpy as np

from samdpo.plans import CrfPlan

_EPSILON = 1e-8  # MedCLIP-SAM's guard of the logarithm


def refine(image: np.ndarray, probability: np.ndarray, plan: CrfPlan) -> np.ndarray:
    """Sharpen a saliency along the image's edges.

    The unaries are MedCLIP-SAM's, U(a) = -log(a + e) / (tau sigmoid(a)), from the raw map: a coloured overlay
    would mix the image into the unary.

    Args:
        image: (3, H, W) in [0, 1].
        probability: (H, W) foreground probability.
        plan: constants; with ``enabled`` false the input comes back.

    Returns:
        (H, W) float32 foreground probability.
    """
    probability = np.clip(probability.astype(np.float32), 0.0, 1.0)
    if not plan.enabled:
        return probability
    import pydensecrf.densecrf as dense_crf

    height, width = probability.shape
    both = np.stack([1 - probability, probability])
    unary = -np.log(both + _EPSILON) / (plan.tau / (1 + np.exp(-both)))
    picture = np.ascontiguousarray((image.transpose(1, 2, 0) * 255).clip(0, 255).astype(np.uint8))
    crf = dense_crf.DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(2, -1), dtype=np.float32))
    crf.addPairwiseGaussian(sxy=plan.gaussian_sxy, compat=plan.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=plan.bilateral_sxy, srgb=plan.bilateral_srgb, rgbim=picture, compat=plan.bilateral_compat
    )
    return np.asarray(crf.inference(plan.iterations), np.float32).reshape(2, height, width)[1]

"""Shapes and random fields that the phantoms are built from. Arrays are (Y, X) or (Z, Y, X) float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def smooth_field(rng: np.random.Generator, shape: Sequence[int], sigma: float | Sequence[float]) -> np.ndarray:
    """Gaussian random field of zero mean and unit variance, correlated over ``sigma`` pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def smooth_curve(rng: np.random.Generator, length: int, sigma: float) -> np.ndarray:
    """One-dimensional :func:`smooth_field`: the waviness of a tissue boundary."""
    return smooth_field(rng, (length,), sigma)


def step(value: np.ndarray, softness: float) -> np.ndarray:
    """Soft step: 0 far below zero, 1 far above, over a width of ``softness``."""
    return 0.5 * (1.0 + np.tanh(value / max(softness, 1e-6)))


def dome(inside: np.ndarray) -> np.ndarray:
    """Thickness in [0, 1] of a rounded body with the implicit function ``inside`` (1 at its middle, 0 at its edge)."""
    inside = np.clip(inside, 0.0, 1.0)
    return np.sqrt(inside * (2.0 - inside))


def rotated(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates about ``centre`` (x, y), turned by ``angle`` in radians."""
    dx, dy = x - centre[0], y - centre[1]
    return np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy


def ellipse(
    x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> np.ndarray:
    """Implicit ellipse: 1 at the centre, 0 on the outline, negative outside."""
    u, v = rotated(x, y, centre, angle)
    return 1.0 - np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)


def tube(distance: np.ndarray, half_width: float, hollow: float = 0.0) -> np.ndarray:
    """Thickness in [0, 1] of a round tube at ``distance`` from its axis; ``hollow`` is the share of marrow."""
    outer = np.sqrt(np.clip(1.0 - (distance / half_width) ** 2, 0.0, None))
    if hollow <= 0.0:
        return outer
    inner = np.sqrt(np.clip(hollow**2 - (distance / half_width) ** 2, 0.0, None))
    return outer - 0.8 * inner


def to_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] to uint8, clipped and rounded."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)

"""Breast-ultrasound-like phantoms: a map of echogenicity seen through a point spread function.

Depth runs down the rows. Speckle is the envelope of a complex Gaussian scatter field after the point spread
function (Wagner et al. 1983); brightness is its logarithm.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from samdpo.dataset.phantom_shapes import ellipse, rotated, smooth_curve, smooth_field, step, to_bytes


def ultrasound_phantom(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scan: image (Y, X) uint8 and label (Y, X) uint8 with 1 on the tumour."""
    height, width = size
    aspect = width / height
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / (height - 1), x / (width - 1) * aspect  # both in units of the depth shown
    echo, borders = _layers(rng, x, y, size)
    attenuation = np.zeros_like(echo)  # dB, gathered along the beam
    for _ in range(int(rng.integers(1, 5))):
        echo = _fat_lobule(rng, x, y, echo, borders, aspect)
    inside, malignant = _tumour(rng, x, y, borders, aspect, size)
    mask = inside > 0
    echo = _draw_tumour(rng, echo, inside, malignant, size)
    echo, attenuation = _shadows(rng, x, y, echo, attenuation, mask, malignant, aspect)
    return _scan(rng, echo, attenuation, y, size), mask.astype(np.uint8)


def _layers(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Echogenicity in dB of skin, fat, gland, fascia, muscle and chest wall; and the gland's depths."""
    width = size[1]
    wave = lambda amount, smooth: amount * smooth_curve(rng, width, width / smooth)[None]  # noqa: E731
    skin = rng.uniform(0.025, 0.05) + wave(0.003, 6)
    fat = rng.uniform(0.14, 0.30) + wave(0.028, 9)
    gland = rng.uniform(0.58, 0.80) + wave(0.022, 6)
    muscle = gland + rng.uniform(0.10, 0.18) + wave(0.012, 5)
    fine, coarse = max(size) / 110, max(size) / 28
    texture = smooth_field(rng, size, (fine, 2.2 * fine))
    streaks = smooth_field(rng, size, (coarse / 3, coarse * rng.uniform(0.7, 1.6)))
    patches = smooth_field(rng, size, (1.5 * coarse, 2 * coarse))
    echo = np.full(size, -6.0, np.float32) + 3.0 * texture  # skin
    fat_echo = rng.uniform(-22, -17) + 2.0 * texture + 2.5 * streaks
    gland_echo = rng.uniform(-12, -8) + 3.0 * texture + 3.5 * streaks + rng.uniform(1.5, 4.5) * patches
    muscle_echo = -17.0 + 5.0 * np.sin(2 * np.pi * (y - gland) / 0.035 + 3.0 * streaks) + 2.0 * texture
    deep_echo = rng.uniform(-30, -22) + 3.0 * texture + 4.0 * streaks
    for border, below in ((skin, fat_echo), (fat, gland_echo), (gland, muscle_echo), (muscle, deep_echo)):
        weight = step(y - border, 0.006)
        echo = echo * (1 - weight) + below * weight
    # Cooper's ligaments: bright arcs that wall the fat lobules off from each other.
    for _ in range(int(rng.integers(3, 7))):
        u, v = rotated(x, y, (rng.uniform(0, x.max()), float(np.mean(fat)) * rng.uniform(0.6, 1.1)), rng.normal(0, 0.7))
        line = v - rng.uniform(-0.4, 0.4) * u**2
        echo = np.maximum(echo, -7.0 - (line / 0.0055) ** 2 * 3 - (u / rng.uniform(0.12, 0.3)) ** 2 * 8)
    for border, bright in ((skin, -8.0), (gland, -8.0), (muscle, -5.0)):
        echo = np.maximum(echo, bright - ((y - border) / 0.006) ** 2 * 4 + 2.5 * texture + 3.0 * streaks)
    return echo, (float(np.mean(fat)), float(np.mean(gland)))


def _fat_lobule(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    echo: np.ndarray,
    borders: tuple[float, float],
    aspect: float,
) -> np.ndarray:
    """A flat dark lobule with a bright capsule: it looks like a tumour, but is as bright as the fat above it."""
    top, bottom = borders
    centre = (rng.uniform(0.05, 0.95) * aspect, rng.uniform(top, top + 0.7 * (bottom - top)))
    radii = (rng.uniform(0.05, 0.17), rng.uniform(0.02, 0.06))
    shape = ellipse(x, y, centre, radii, rng.normal(0, 0.25))
    weight = step(shape, 0.12)
    echo = echo * (1 - weight) + rng.uniform(-23.0, -17.0) * weight
    return np.maximum(echo, rng.uniform(-14, -7) - (shape / 0.09) ** 2 * 4)


def _tumour(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    borders: tuple[float, float],
    aspect: float,
    size: tuple[int, int],
) -> tuple[np.ndarray, bool]:
    """Implicit function of the tumour (positive inside) and whether it is of the irregular, shadowing sort."""
    top, bottom = borders
    malignant = bool(rng.random() < 0.4)
    radius = rng.uniform(0.055, 0.18) * (1.35 if malignant else 1.0)
    flat = rng.uniform(0.8, 1.25) if malignant else rng.uniform(0.5, 0.85)  # height over width
    radii = (radius, min(radius * flat, 0.55 * (bottom - top)))
    room = max(0.5 * (bottom - top) - radii[1], 0.0)
    centre = (rng.uniform(radii[0] + 0.04, aspect - radii[0] - 0.04), 0.5 * (top + bottom) + rng.uniform(-room, room))
    u, v = rotated(x, y, centre, rng.normal(0, 0.30))
    distance = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)
    angle = np.arctan2(v / radii[1], u / radii[0])
    outline = np.ones_like(distance)
    for order in range(2, 11):
        strength = (0.24 if malignant else 0.09) / order**0.8 * (1.0 if order < 6 or malignant else 0.3)
        outline += strength * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.clip(outline, 0.55, 1.5) - distance, malignant


def _draw_tumour(
    rng: np.random.Generator, echo: np.ndarray, inside: np.ndarray, malignant: bool, size: tuple[int, int]
) -> np.ndarray:
    """Hypoechoic inside with some texture; a sharp capsule, or a blurred echogenic halo."""
    level = rng.uniform(-29, -22) if malignant else rng.uniform(-34, -22)
    texture = smooth_field(rng, size, max(size) / rng.uniform(25, 60))
    content = level + rng.uniform(1.5, 4.5) * texture
    weight = step(inside, 0.22 if malignant else 0.09)
    echo = echo * (1 - weight) + content * weight
    rim = -7.0 - ((inside + 0.05) / (0.16 if malignant else 0.07)) ** 2 * 5 + 2.0 * texture
    return np.where(inside < 0, np.maximum(echo, rim - (5.0 if malignant else rng.uniform(1.5, 8.0))), echo)


def _shadows(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    echo: np.ndarray,
    attenuation: np.ndarray,
    mask: np.ndarray,
    malignant: bool,
    aspect: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Attenuation in dB along each beam: behind the tumour, from its edges, and stray shadows elsewhere."""
    path = np.cumsum(mask, axis=0) / mask.shape[0]  # depth of tumour above each pixel
    soft = ndimage.gaussian_filter1d(path, mask.shape[1] / 90, axis=1)
    strength = rng.uniform(15, 90) if malignant else -rng.uniform(5, 45)
    behind = np.where(mask, 0.35, 1.0)
    attenuation = attenuation + strength * soft * behind
    if not malignant and mask.any():
        columns = np.flatnonzero(mask.any(axis=0))
        for edge in (columns[0], columns[-1]):  # refraction at the tangent
            row = np.flatnonzero(mask[:, edge])[0] / mask.shape[0]
            beam = np.exp(-(((x - edge / (mask.shape[1] - 1) * aspect) / 0.012) ** 2))
            attenuation = attenuation + rng.uniform(2, 7) * beam * step(y - row, 0.03)
    for _ in range(int(rng.integers(1, 5))):
        start, width = rng.uniform(0.0, 0.6), rng.uniform(0.01, 0.055)
        centre = rng.uniform(0, aspect) + rng.normal(0, 0.12) * (y - start)
        beam = np.exp(-(((x - centre) / (width * (1 + 0.5 * (y - start)))) ** 2))
        attenuation = attenuation + rng.uniform(4, 13) * beam * step(y - start, 0.08)
    return echo, attenuation


def _scan(
    rng: np.random.Generator, echo: np.ndarray, attenuation: np.ndarray, y: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Scatterers, point spread function, envelope, log compression. uint8 (Y, X)."""
    unit = max(size) / 320  # the kernels are given for 320 pixels
    amplitude = 10 ** ((echo - attenuation) / 20)
    field = (rng.standard_normal(size) + 1j * rng.standard_normal(size)) * amplitude

    def seen(lateral: float) -> np.ndarray:
        sigma = (0.75 * unit, lateral * unit)
        blurred = ndimage.gaussian_filter(field.real, sigma) + 1j * ndimage.gaussian_filter(field.imag, sigma)
        return np.abs(blurred) * np.sqrt(4 * np.pi * sigma[0] * sigma[1])  # unit mean power for white scatter

    # The beam is narrowest at the focus and widens above and below it.
    focus = rng.uniform(0.3, 0.6)
    wide = np.clip(np.abs(y - focus) / 0.6, 0.0, 1.0)
    envelope = (1 - wide) * seen(1.5) + wide * seen(3.0)
    envelope = ndimage.gaussian_filter(envelope, 0.7 * unit)  # compounding and display smoothing
    decibel = 20 * np.log10(envelope + 1e-4) - rng.uniform(4, 20) * np.clip(y - focus, 0, None) / 0.5
    floor = rng.uniform(-46, -38)
    image = np.clip((decibel - floor) / (2.0 - floor), 0.0, 1.0) ** rng.uniform(1.0, 1.5)
    noise = 0.012 * rng.standard_normal(size)
    return to_bytes(image * rng.uniform(0.85, 1.0) + noise)

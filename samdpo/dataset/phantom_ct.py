"""CT-like phantoms: soft-edged ellipsoid organs in Hounsfield units, anisotropic voxels, correlated noise.

Coordinates in mm: x from the patient's right (image left) to left, y from front to back, z from the pelvis up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from samdpo.dataset.phantom_shapes import smooth_field, step

Paint = Callable[[np.ndarray, np.ndarray, "float | np.ndarray"], np.ndarray]  # volume, distance, HU -> volume

ORGANS = ("spleen", "liver", "right kidney", "left kidney", "aorta")


def ct_phantom(
    rng: np.random.Generator, size: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Draw one abdomen: HU (Z, Y, X) int16, label (Z, Y, X) uint8 with ORGANS as 1 …, spacing (z, y, x) in mm."""
    field_of_view = rng.uniform(335, 365)
    length = rng.uniform(230, 270)
    spacing = (round(length / size[0], 3), round(field_of_view / size[1], 3), round(field_of_view / size[2], 3))
    z, y, x = np.meshgrid(
        *((np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(size, spacing)), indexing="ij"
    )
    z, y, x = (c + 4.0 * smooth_field(rng, size, [40 / s for s in spacing]) for c in (z, y, x))
    scale = rng.uniform(0.9, 1.08)
    x, y = x / scale, y / scale
    z = z + rng.normal(0, 12)  # the scanned range differs between patients
    edge = 1.5  # mm over which partial volume blurs an in-plane border

    def paint(volume: np.ndarray, distance: np.ndarray, value: float | np.ndarray) -> np.ndarray:
        weight = step(distance, edge)
        return volume * (1 - weight) + value * weight

    def wobble(*numbers: float, by: float = 5.0) -> tuple[float, ...]:
        return tuple(n + rng.normal(0, by) for n in numbers)

    def stretch(*numbers: float) -> tuple[float, ...]:
        factor = rng.uniform(0.88, 1.12)
        return tuple(n * factor * rng.uniform(0.94, 1.06) for n in numbers)

    volume = np.full(size, -1000.0, np.float32)
    girth = stretch(150, 108)
    body = _ellipsoid(x, y, z, (0, 0, 0), (*girth, 1e4))
    volume = paint(volume, body, -100 + 8 * smooth_field(rng, size, 3))  # fat
    rind = rng.uniform(12, 26)
    cavity = _ellipsoid(x, y, z, (0, 0, 0), (girth[0] - rind, girth[1] - rind, 1e4))
    volume = paint(volume, cavity, 50.0)  # muscle wall
    volume = paint(volume, cavity - 10, -95 + 10 * smooth_field(rng, size, 4))  # fat of the belly
    volume = paint(volume, np.minimum(_ellipsoid(x, y, z, (0, 50, 0), (62, 34, 1e4)), cavity - 2), 52.0)  # psoas, back
    volume = _bowel(rng, volume, x, y, z, cavity, paint)
    # Lungs reach down behind the liver in the upper slices.
    for side in (-1, 1):
        lung = _ellipsoid(x, y, z, (side * 68, 6, 150), (58, 78, rng.uniform(72, 95)))
        volume = paint(volume, np.minimum(lung, cavity - 8), -860 + 30 * smooth_field(rng, size, 2))
    contrast = rng.uniform(0.2, 1.0)  # phase of the contrast agent
    organs: dict[str, np.ndarray] = {
        "liver": np.maximum(
            _ellipsoid(x, y, z, wobble(-72, 0, 55), stretch(52, 66, 66)),
            _ellipsoid(x, y, z, wobble(-25, -38, 64), stretch(55, 28, 32)),
        ),
        "spleen": _ellipsoid(x, y, z, wobble(92, 30, 58), stretch(27, 44, 48)),
        "right kidney": _ellipsoid(x, y, z, wobble(-56, 46, -18, by=4), stretch(25, 28, 52)),
        "left kidney": _ellipsoid(x, y, z, wobble(58, 44, 2, by=4), stretch(26, 29, 52)),
    }
    bend = 8 * np.sin(z / 60 + rng.uniform(0, 6))
    radius = rng.uniform(9.5, 13)
    aorta = np.minimum(radius - np.hypot(x - 12 - bend, y - 32), z + rng.uniform(60, 85))  # ends where it divides
    organs["aorta"] = aorta
    values = {
        "liver": 58 + 50 * contrast,
        "spleen": 50 + 70 * contrast,
        "right kidney": 35 + 130 * contrast,
        "left kidney": 35 + 130 * contrast,
        "aorta": 45 + 190 * contrast,
    }
    limit = cavity - 9
    stomach = np.minimum(_ellipsoid(x, y, z, wobble(46, -38, 42), stretch(44, 36, 46)), limit)
    volume = paint(volume, stomach, rng.uniform(10, 45))
    volume = paint(volume, np.minimum(stomach - 6, -40 - y), -900.0)  # its air rises to the front
    label = np.zeros(size, np.uint8)
    for name in ("liver", "spleen", "right kidney", "left kidney", "aorta"):
        distance = np.minimum(organs[name], limit) if name != "aorta" else organs[name]
        texture = 5 * smooth_field(rng, size, 3)
        volume = paint(volume, distance, values[name] + texture)
        if "kidney" in name:
            volume = paint(volume, distance - 12, values[name] - 45 - 30 * contrast)  # medulla, pelvis
        label[distance > 0] = ORGANS.index(name) + 1
    volume = _bones(volume, x, y, z, cavity, paint)
    label[_spine(x, y) > 0] = 0
    cava = 10 - np.hypot((x + 18) / 1.2, y - 30)
    free = label == 0
    volume = np.where(free, paint(volume, cava, 45 + 90 * contrast), volume)
    volume = ndimage.gaussian_filter(volume, (0.35, 0.5, 0.5))  # slice profile and in-plane kernel
    noise = smooth_field(rng, size, (0.0, 0.7, 0.7)) * rng.uniform(9, 22)
    return np.clip(np.rint(volume + noise), -1024, 3071).astype(np.int16), label, spacing


def _ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    """About the distance in mm to the surface, positive inside."""
    r = np.sqrt(sum(((c - m) / s) ** 2 for c, m, s in zip((x, y, z), centre, radii)))
    return (1.0 - r) * min(radii)


def _spine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1.0 * (21 - np.hypot(x / 1.15, y - 62))


def _bones(
    volume: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, cavity: np.ndarray, paint: Paint
) -> np.ndarray:
    disc = step(np.abs(np.mod(z, 34) - 17) - 13.5, 1.0)  # bodies 27 mm high, discs between
    volume = paint(volume, _spine(x, y), 420.0 * (1 - disc) + 90.0 * disc)
    volume = paint(volume, _spine(x, y) - 4, 190.0 * (1 - disc) + 90.0 * disc)
    volume = paint(volume, 8 - np.hypot(x, (y - 86) / 1.3), 30.0)  # canal
    volume = paint(volume, 5 - np.hypot(x / 1.5, (y - 100) / 1.5), 450.0)  # spinous process
    # Ribs run obliquely through the wall, so that a slice cuts them into short pieces.
    turn = np.arctan2(y, np.abs(x))
    rib = np.minimum(5 - np.abs(cavity - 5), 6 - np.abs(np.mod(z - 30 * turn, 30) - 15))
    return paint(volume, np.minimum(rib, z + 30), 420.0)


def _bowel(
    rng: np.random.Generator,
    volume: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    cavity: np.ndarray,
    paint: Paint,
) -> np.ndarray:
    """Loops in front and below: soft tissue, some with gas."""
    for _ in range(int(rng.integers(14, 24))):
        centre = (rng.uniform(-90, 90), rng.uniform(-70, 15), rng.uniform(-130, 20))
        radius = rng.uniform(12, 24)
        loop = np.minimum(_ellipsoid(x, y, z, centre, (radius, radius * 0.8, radius * 1.2)), cavity - 8)
        volume = paint(volume, loop, rng.uniform(15, 60))
        if rng.random() < 0.3:
            volume = paint(volume, np.minimum(loop - 4, centre[1] - y), -850.0)
    return volume

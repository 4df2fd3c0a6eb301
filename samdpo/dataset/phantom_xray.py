"""Chest-X-ray-like phantoms: tissue thicknesses of a parametric chest, projected by Beer-Lambert's law.

The body's coordinates are x in [-0.5, 0.5] (image left is the patient's right) and y in [0, 1] from the neck down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from samdpo.dataset.phantom_shapes import dome, ellipse, rotated, smooth_field, step, to_bytes, tube

# Effective linear attenuation at about 60 keV in 1/cm (order of magnitude of NIST XCOM, rounded).
MU_SOFT, MU_LUNG, MU_BONE = 0.20, 0.055, 0.50


@dataclass(frozen=True)
class _Chest:
    """The measures that differ between patients."""

    lung_top: float
    lung_bottom: tuple[float, float]  # of the right and left diaphragm's dome
    lung_lateral: tuple[float, float]  # half width of the chest at the lungs, right and left
    lung_medial: tuple[float, float]
    dome_height: float
    heart_centre: tuple[float, float]
    heart_radii: tuple[float, float]
    heart_angle: float
    depth: float  # cm of body from front to back
    n_ribs: int


def xray_phantom(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one chest: image (Y, X) uint8 and label (Y, X) uint8 with 1 on both lungs, also behind the heart."""
    chest = _draw_chest(rng)
    x, y = _coordinates(rng, size)
    lungs = [_lung(chest, x, y, side) for side in (0, 1)]
    label = np.maximum(*(_largest_part(lung > 0) for lung in lungs)).astype(np.uint8)
    thickness = _attenuation(rng, chest, x, y, lungs, size)
    return _exposure(rng, thickness, size), label


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """Without the slivers that a crooked body leaves at the image's border."""
    parts, count = ndimage.label(mask)
    return mask if count < 2 else parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _draw_chest(rng: np.random.Generator) -> _Chest:
    inspiration = rng.uniform(-1, 1)  # a deep breath lowers the diaphragm and narrows the heart
    bottom = 0.70 + 0.07 * inspiration + rng.normal(0, 0.015)
    width = rng.uniform(0.36, 0.43)
    heart = rng.uniform(0.14, 0.20) * (1 - 0.08 * inspiration)
    return _Chest(
        lung_top=rng.uniform(0.10, 0.16),
        lung_bottom=(bottom, bottom + rng.uniform(0.0, 0.035)),
        lung_lateral=(width * rng.uniform(0.95, 1.03), width * rng.uniform(0.93, 1.02)),
        lung_medial=(rng.uniform(0.045, 0.07), rng.uniform(0.045, 0.075)),
        dome_height=rng.uniform(0.06, 0.13),
        heart_centre=(rng.uniform(0.045, 0.085), bottom - rng.uniform(0.04, 0.08)),
        heart_radii=(heart, heart * rng.uniform(0.78, 1.0)),
        heart_angle=rng.uniform(0.3, 0.8),
        depth=rng.uniform(17, 25),
        n_ribs=int(rng.integers(9, 12)),
    )


def _coordinates(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates of each pixel: the patient's position, tilt and slight crookedness, and the collimation."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    scale = rng.uniform(0.82, 1.04)
    x = (columns / (width - 1) - 0.5) * scale + rng.normal(0, 0.02)
    y = (rows / (height - 1) - 0.5) * scale + rng.uniform(0.46, 0.52)
    x, y = rotated(x, y, (0.0, 0.5), np.deg2rad(rng.normal(0, 2.5)))
    y = y + 0.5
    bend = max(size) / 6
    x = x + 0.006 * smooth_field(rng, size, bend)
    y = y + 0.006 * smooth_field(rng, size, bend)
    return x.astype(np.float32), y.astype(np.float32)


def _lung(chest: _Chest, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """Implicit function of one lung: positive inside, about 1 in its middle. ``side`` 0 is the patient's right."""
    sign = -1.0 if side == 0 else 1.0
    across = sign * x
    top, lateral, medial = chest.lung_top, chest.lung_lateral[side], chest.lung_medial[side]
    bottom = chest.lung_bottom[side]
    widest = bottom - 0.10
    # Lateral wall: a superellipse from the apex down to the widest level, then almost straight.
    rise = np.clip((widest - y) / (widest - top), 0.0, 1.0)
    wall = 0.05 + (lateral - 0.05) * np.clip(1.0 - rise**3.2, 0.0, None) ** (1 / 2.3)
    wall = wall - 0.10 * np.clip(y - widest, 0.0, None)
    # The diaphragm: highest in the middle of the lung, falling steeply to the costophrenic angle.
    relative = (across - medial) / (lateral - medial)
    floor = bottom + chest.dome_height * (
        1.5 * np.clip(relative - 0.42, 0, None) ** 2 / 0.34 + 0.25 * np.clip(0.35 - relative, 0, None)
    )
    # Towards the heart the medial border gives way on the left, since most of the heart lies there.
    notch = 0.022 * np.exp(-(((y - chest.heart_centre[1]) / 0.12) ** 2)) * (1.2 if side == 1 else 0.3)
    apex_bow = 0.03 * np.exp(-((y - top) / 0.06))
    inner = medial + notch + np.clip(apex_bow, 0, 0.06)
    distance = np.minimum.reduce([wall - across, across - inner, floor - y, y - top])
    return distance / (0.5 * (lateral - medial))


def _attenuation(
    rng: np.random.Generator,
    chest: _Chest,
    x: np.ndarray,
    y: np.ndarray,
    lungs: list[np.ndarray],
    size: tuple[int, int],
) -> np.ndarray:
    """Line integral of attenuation along the beam (no unit)."""
    outline = 0.16 + (rng.uniform(0.49, 0.60) - 0.16) * step(y - rng.uniform(0.02, 0.08) - 0.10 * np.abs(x), 0.03)
    body = chest.depth * np.sqrt(np.clip(1.0 - (np.abs(x) / outline) ** 2.4, 0.0, None))
    body = body * (1.0 + 0.18 * step(y - chest.lung_bottom[0], 0.08))
    air = np.zeros_like(body)
    for lung in lungs:
        air = np.maximum(air, 0.72 * chest.depth * dome(lung / 0.55) ** 0.8)
    heart = dome(ellipse(x, y, chest.heart_centre, chest.heart_radii, chest.heart_angle))
    knob = dome(ellipse(x, y, (rng.uniform(0.03, 0.055), chest.lung_top + 0.21), (0.045, 0.05)))
    hila = sum(
        dome(ellipse(x, y, (s * rng.uniform(0.085, 0.11), chest.lung_top + rng.uniform(0.27, 0.32)), (0.045, 0.07)))
        for s in (-1, 1)
    )
    solid = 0.62 * heart + 0.35 * knob + 0.14 * hila
    air = air * (1.0 - np.clip(solid, 0.0, 0.9))
    inside = air > 0
    density = MU_LUNG * (1.0 + 0.10 * smooth_field(rng, size, max(size) / 60))
    density = density + MU_SOFT * (_vessels(rng, chest, x, y) + _opacities(rng, chest, x, y, size)) * inside
    density = np.minimum(density, MU_SOFT)
    total = MU_SOFT * np.clip(body - air, 0.0, None) + density * air
    total = total * (1.0 + 0.02 * smooth_field(rng, size, max(size) / 12))
    total = total + (MU_BONE - MU_SOFT) * _bones(rng, chest, x, y, body)
    return np.clip(total - _stomach_gas(rng, chest, x, y), 0.0, None) + _devices(rng, chest, x, y)


def _vessels(rng: np.random.Generator, chest: _Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of soft tissue along the beam: branches from each hilum, thinner and fainter outwards."""
    share = np.zeros_like(x)
    for side in (-1.0, 1.0):
        for _ in range(int(rng.integers(9, 14))):
            px, py = side * 0.10, chest.lung_top + rng.uniform(0.26, 0.36)
            angle, length = rng.uniform(-1.45, 1.45), rng.uniform(0.10, 0.26)
            u, v = rotated(side * x, y, (side * px, py), angle)
            along = np.clip(u / length, 0.0, 1.0)
            bent = v - rng.normal(0, 0.02) * np.sin(np.pi * along)
            width = 0.008 * (1.0 - 0.75 * along)
            share += 0.22 * (1 - 0.6 * along) * np.exp(-((bent / width) ** 2)) * step(u, 0.01) * step(length - u, 0.02)
    return share


def _opacities(
    rng: np.random.Generator, chest: _Chest, x: np.ndarray, y: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Patches of denser lung in about half of the patients: what makes a border hard to see."""
    share = np.zeros_like(x)
    if rng.random() < 0.5:
        return share
    texture = 0.6 + 0.4 * step(smooth_field(rng, size, max(size) / 45), 0.8)
    for _ in range(int(rng.integers(1, 5))):
        side = rng.choice((-1.0, 1.0))
        centre = (side * rng.uniform(0.12, 0.30), rng.uniform(chest.lung_top + 0.2, chest.lung_bottom[0]))
        radii = (rng.uniform(0.05, 0.13), rng.uniform(0.05, 0.14))
        share += rng.uniform(0.12, 0.42) * step(ellipse(x, y, centre, radii, rng.uniform(0, 3)), 0.35) * texture
    return share


def _bones(rng: np.random.Generator, chest: _Chest, x: np.ndarray, y: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Centimetres of bone along the beam: spine, ribs from behind and from the front, clavicles, shoulder blades."""
    across = np.abs(x)
    spacing = (chest.lung_bottom[0] + 0.08 - chest.lung_top) / chest.n_ribs
    # Vertebrae: a column with darker discs between the bodies, and the pedicles' two rows.
    phase = np.mod(y - chest.lung_top, spacing) / spacing
    column = tube(across, 0.042) * (0.75 + 0.25 * step(np.abs(phase - 0.5) * -1 + 0.36, 0.06))
    bone = 2.1 * column
    half = 0.0125 * rng.uniform(0.85, 1.2)
    outer = max(chest.lung_lateral) + 0.02
    slope, bow = rng.uniform(0.35, 0.6), rng.uniform(0.9, 1.4)
    for index in range(-1, chest.n_ribs):
        origin = chest.lung_top + index * spacing
        reach = outer * np.clip(0.55 + 0.16 * index, 0.45, 1.0)
        run = np.clip((across - 0.03) / (reach - 0.03), 0.0, 1.0)
        # From behind: up and out of the spine, then down along the wall.
        back = origin - 0.10 * slope * run * (1 - run) * 4 * 0.35 + 0.12 * bow * run**2.6
        tilt = np.sqrt(1.0 + (0.7 * run) ** 2 + 6 * run**6)
        ends = step(across - 0.035, 0.006) * step(reach - across, 0.006)
        bone = bone + 1.7 * tube((y - back) / tilt, half, 0.62) * ends
        if index < 0 or index > 6:
            continue
        # From the front: down and inwards, ending in cartilage, which does not show.
        start = origin + 0.10 + 0.02 * index
        front = start + 0.16 * (1.0 - run) - 0.05 * run
        ends = step(across - (0.13 + 0.012 * index), 0.015) * step(reach - across, 0.006)
        bone = bone + 0.8 * tube((y - front) / 1.15, 1.15 * half, 0.5) * ends
    for side in (-1.0, 1.0):
        rise, tilt = rng.uniform(-0.015, 0.02), rng.uniform(0.10, 0.22)
        u, v = rotated(side * x, y, (0.035, chest.lung_top + 0.065 + rise), -tilt)
        bent = v - 0.012 * np.sin(2 * np.pi * np.clip(u / 0.34, 0, 1))
        bone = bone + 2.2 * tube(bent, 0.0165, 0.5) * step(u, 0.006) * step(0.34 - u, 0.008)
        blade = ellipse(side * x, y, (max(chest.lung_lateral) + 0.045, chest.lung_top + 0.22), (0.075, 0.19), -0.22)
        bone = bone + 0.28 * step(blade, 0.02) + 0.30 * np.exp(-((blade / 0.05) ** 2))
        shaft = ellipse(side * x, y, (max(chest.lung_lateral) + 0.15, chest.lung_top + 0.06), (0.06, 0.07))
        bone = bone + 1.6 * dome(shaft)
    return bone * (body > 0.5)


def _stomach_gas(rng: np.random.Generator, chest: _Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Attenuation missing under the left diaphragm: a dark bubble that is no lung."""
    if rng.random() < 0.35:
        return np.zeros_like(x)
    centre = (rng.uniform(0.12, 0.2), chest.lung_bottom[1] + chest.dome_height + rng.uniform(0.035, 0.07))
    bubble = dome(ellipse(x, y, centre, (rng.uniform(0.05, 0.09), rng.uniform(0.025, 0.05)), rng.normal(0, 0.2)))
    return MU_SOFT * rng.uniform(4, 9) * bubble


def _devices(rng: np.random.Generator, chest: _Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Attenuation of electrodes and cables in some patients."""
    total = np.zeros_like(x)
    if rng.random() < 0.65:
        return total
    for _ in range(int(rng.integers(1, 4))):
        cx, cy = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.7)
        total += 0.5 * step(ellipse(x, y, (cx, cy), (0.014, 0.014)), 0.15)
        u, v = rotated(x, y, (cx, cy), rng.uniform(0.6, 2.5))
        wire = v - rng.uniform(0.02, 0.06) * np.sin(3.0 * u + rng.uniform(0, 3)) * np.clip(u * 4, 0, 1)
        total += 0.30 * np.exp(-((wire / 0.0032) ** 2)) * step(u, 0.005)
    return total


def _exposure(rng: np.random.Generator, integral: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Beer-Lambert, focal spot, scatter, photon noise, then the film's curve: dense is bright. uint8 (Y, X)."""
    unit = max(size) / 320  # the kernels are given for 320 pixels
    primary = ndimage.gaussian_filter(np.exp(-integral), 0.6 * unit)
    scatter = rng.uniform(0.1, 0.4) * ndimage.gaussian_filter(primary, 22 * unit)
    photons = rng.uniform(2.5e3, 1.2e4) / np.percentile(primary + scatter, 60)
    counts = rng.poisson((primary + scatter) * photons).astype(np.float32)
    film = -np.log(np.maximum(counts, 1.0) / photons)
    film = ndimage.gaussian_filter(film, 0.45 * unit)
    # Radiography stations lift local contrast, else bones drown in the range between lung and belly.
    film = film + rng.uniform(0.3, 1.1) * (film - ndimage.gaussian_filter(film, 14 * unit))
    low, high = np.percentile(film, (rng.uniform(1.0, 4.0), rng.uniform(98.5, 99.9)))
    film = np.clip((film - low) / (high - low), 0.0, 1.0) ** rng.uniform(0.8, 1.45)
    return to_bytes(rng.uniform(0.0, 0.05) + film * rng.uniform(0.88, 1.0))

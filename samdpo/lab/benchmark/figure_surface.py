"""Surfaces of masks as shaded pictures: a signed distance field seen from the front, ray by ray.

Marching cubes would give the same surface as triangles, which matplotlib sorts back to front by their centres and so
draws through one another; a field sampled along rays has no such order to get wrong, and its gradient is the normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, distance_transform_edt, gaussian_filter, map_coordinates, spline_filter

AZIMUTH, ELEVATION = 20.0, 15.0  # degrees: the viewer stands to the patient's right and looks down a little
_LIGHT = np.array([-0.75, -0.55, -0.45])  # (depth, down, right) of the camera: from the viewer, above, from the left
_AMBIENT, _SHINE = 0.38, 0.12
_SMOOTHING = 0.7  # voxels, of the distance field: hides the steps between slices
_SOFTENING = 1.2  # of the finest voxel, of the normals alone: facets between voxels would look like anatomy


@dataclass(frozen=True)
class Surface:
    """What a camera sees of a mask: arrays (rows, columns), NaN where it sees none of it.

    Attributes:
        shade: light that the surface throws back, 0 to 1.
        distance: mm from the surface seen to the surface of the truth; above 0 outside of the truth.
        pixel: side of a pixel in mm.
    """

    shade: np.ndarray
    distance: np.ndarray
    pixel: float

    @property
    def seen(self) -> np.ndarray:
        """(rows, columns) bool: pixels that show the surface."""
        return np.isfinite(self.shade)


def crop(surfaces: Sequence[Surface], margin: int = 4) -> list[Surface]:
    """Surfaces of one size, cut to the rectangle in which any of them is seen, with ``margin`` pixels around it."""
    rows, columns = np.nonzero(np.any([one.seen for one in surfaces], axis=0))
    if not len(rows):
        return list(surfaces)
    window = tuple(slice(max(0, at.min() - margin), at.max() + 1 + margin) for at in (rows, columns))
    return [Surface(one.shade[window], one.distance[window], one.pixel) for one in surfaces]


def signed_distance(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Distance in mm of every voxel of a mask (Z, Y, X) to its surface, above 0 inside.

    Args:
        mask: bool; -infinity everywhere where it is empty.
        spacing: (z, y, x) in mm.
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return np.full(mask.shape, -np.inf, np.float32)
    inside = distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    outside = distance_transform_edt(~mask, sampling=spacing)
    return (inside - outside).astype(np.float32)


def render(
    mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float], pixels: int = 200
) -> Surface:
    """Look at ``mask`` from the front.

    Args:
        mask: (Z, Y, X) bool; Z to the head, Y to the back, X to the patient's left.
        truth: as ``mask``; distances are measured to its surface.
        spacing: (z, y, x) in mm.
        pixels: of the picture's longer side, into which the whole array of ``mask`` fits.
    """
    axes = _camera(AZIMUTH, ELEVATION)
    extent = np.abs(axes) @ np.multiply(mask.shape, spacing)  # of the turned box: depth, down, right
    pixel = float(extent[1:].max()) / pixels
    shape = tuple(int(n) for n in np.ceil(extent / pixel) + 2)
    nothing = np.full(shape[1:], np.nan, np.float32)
    if not np.any(mask):
        return Surface(nothing, nothing, pixel)
    field = _smooth_field(mask, spacing)
    matrix = pixel * axes.T / np.asarray(spacing)[:, None]
    offset = (np.asarray(mask.shape) - 1) / 2 - matrix @ ((np.asarray(shape) - 1) / 2)
    along = affine_transform(field, matrix, offset, shape, order=1, mode="constant", cval=float(field.min()))
    hit = along > 0
    rows, columns = np.nonzero(hit.any(0))
    if not len(rows):  # thinner than what smoothing leaves of it
        return Surface(nothing, nothing, pixel)
    first = hit.argmax(0)[rows, columns]
    behind, before = along[first, rows, columns], along[np.maximum(first - 1, 0), rows, columns]
    depth = first - behind / np.maximum(behind - before, 1e-6)
    voxels = matrix @ np.stack([depth, rows, columns]) + offset[:, None]
    shade, distance = nothing.copy(), nothing.copy()
    shade[rows, columns] = _shade(field, voxels, matrix * min(spacing) / pixel, spacing)
    if np.any(truth):
        distance[rows, columns] = -map_coordinates(_smooth_field(truth, spacing), voxels, order=1, mode="nearest")
    return Surface(shade, distance, pixel)


def _smooth_field(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    return gaussian_filter(signed_distance(mask, spacing), _SMOOTHING)


def _camera(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vectors (3, 3) in (z, y, x): the camera's depth, down and right."""
    a, e = np.deg2rad([-azimuth, elevation])
    return np.array([
        [-np.sin(e), np.cos(e) * np.cos(a), -np.cos(e) * np.sin(a)],
        [-np.cos(e), -np.sin(e) * np.cos(a), np.sin(e) * np.sin(a)],
        [0.0, np.sin(a), np.cos(a)],
    ])


def _shade(field: np.ndarray, voxels: np.ndarray, steps: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Lambert's and Blinn's light on points of the field's surface.

    Args:
        field: (Z, Y, X) mm.
        voxels: (3, N) the points.
        steps: (3, 3) voxels, a column for each of the camera's axes (depth, down, right): all of one length in mm.
        spacing: (z, y, x) in mm.
    """
    softened = gaussian_filter(field, _SOFTENING * min(spacing) / np.asarray(spacing))
    spline = spline_filter(softened, order=3, output=np.float32)  # normals without a jump from voxel to voxel

    def at(points: np.ndarray) -> np.ndarray:
        return map_coordinates(spline, points, order=3, mode="nearest", prefilter=False)

    normal = np.stack([at(voxels - step[:, None]) - at(voxels + step[:, None]) for step in steps.T])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
    light = _LIGHT / np.linalg.norm(_LIGHT)
    half = light + np.array([-1.0, 0, 0])
    half /= np.linalg.norm(half)
    diffuse = np.clip(light @ normal, 0, None)
    shine = np.clip(half @ normal, 0, None) ** 24
    return np.clip(_AMBIENT + (1 - _AMBIENT - _SHINE) * diffuse + _SHINE * shine, 0, 1)

"""From a volume to square slices and exactly back: the one place that knows about axes and sizes.

Slices are squashed to a square, not padded: every pixel of the network's input carries image, and the way back is one
resize. Pixel centres are aligned (the corner of the image stays its corner), in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

_FAR = 4.0  # times the plan's distance to the neighbours
_IN_PLANE = np.zeros((3, 3, 3), bool)  # pixels of a slice that touch, at a corner too, are one object
_IN_PLANE[1] = True


@dataclass(frozen=True)
class SliceGeometry:
    """How a native volume was cut.

    Attributes:
        axis: of (Z, Y, X), along which slices were cut.
        native_shape: (Z, Y, X); Z = 1 for a picture.
        image_size: side of the square slices, pixels.
    """

    axis: int
    native_shape: tuple[int, int, int]
    image_size: int = 256

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0, 1 or 2 of (Z, Y, X), found {self.axis}")

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.native_shape[self.axis]

    @property
    def slice_shape(self) -> tuple[int, int]:
        """(rows, columns) of a native slice."""
        rows, columns = (n for i, n in enumerate(self.native_shape) if i != self.axis)
        return rows, columns

    def to_slices(self, array: np.ndarray) -> np.ndarray:
        """Images (C, Z, Y, X) -> (S, C, size, size) float32; bilinear, antialiased where it shrinks."""
        self._check(array.shape[1:])
        planes = np.moveaxis(array, self.axis + 1, 0)  # (S, C, rows, columns)
        result = np.empty((*planes.shape[:2], self.image_size, self.image_size), np.float32)
        for index, channels in enumerate(planes):
            for channel, plane in enumerate(channels):
                result[index, channel] = resize_plane(plane, (self.image_size, self.image_size))
        return result

    def label_to_slices(self, label: np.ndarray) -> np.ndarray:
        """Labels (Z, Y, X) -> (S, size, size) in the same dtype; nearest neighbour."""
        self._check(label.shape)
        rows, columns = (_nearest(n, self.image_size) for n in self.slice_shape)
        return np.ascontiguousarray(np.moveaxis(label, self.axis, 0)[:, rows[:, None], columns[None]])

    def to_native(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (S, L, size, size) -> (L, Z, Y, X) float32; bilinear in native pixels."""
        n_slices, n_structures = probabilities.shape[:2]
        if n_slices != self.n_slices:
            raise ValueError(f"expected {self.n_slices} slices, found {n_slices}")
        native = np.zeros((n_structures, n_slices, *self.slice_shape), np.float32)
        for structure, index in np.ndindex(n_structures, n_slices):
            plane = probabilities[index, structure]
            if plane.any():  # most structures of a volume are absent from most slices
                native[structure, index] = resize_plane(plane, self.slice_shape)
        return np.ascontiguousarray(np.moveaxis(native, 1, self.axis + 1))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "axis": self.axis,
            "native_shape": list(self.native_shape),
            "n_slices": self.n_slices,
            "image_size": self.image_size,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SliceGeometry:
        """The inverse of :meth:`to_dict`."""
        z, y, x = (int(n) for n in data["native_shape"])
        return cls(int(data["axis"]), (z, y, x), int(data["image_size"]))

    def _check(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != tuple(self.native_shape):
            raise ValueError(f"expected an array of native shape {self.native_shape}, found {tuple(shape)}")


def cut_axis(planned: int, shape: tuple[int, int, int]) -> int:
    """Axis of (Z, Y, X) along which a volume of ``shape`` is cut: the plan's, or that of its only slice."""
    return shape.index(1) if 1 in shape and shape[planned] > 1 else planned


def neighbour_step(mm: float, spacing: float) -> int:
    """How many slices away those are that the encoder sees beside a slice: nearest to ``mm``, at least one.

    None where the next slice is more than :data:`_FAR` times as far: it shows another part of the body.

    Args:
        mm: ``preprocessing.neighbours`` of the plan; 0 is none.
        spacing: mm from one slice to the next.

    Returns:
        0 where no neighbours are seen.
    """
    return max(1, round(mm / spacing)) if mm > 0 and spacing <= _FAR * mm else 0


def with_neighbours(index: int, n_slices: int, step: int) -> list[int]:
    """The slice before, the slice, the slice after; the first and the last slice stand for those that are not there."""
    return [max(index - step, 0), index, min(index + step, n_slices - 1)]


def resize_plane(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) -> ``shape`` float32, bilinear; a triangle filter as wide as the step where it shrinks.

    PIL, since its filter is separable C on float32: three times as fast as skimage here, and no torch to import.
    """
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def keep_small_objects(
    geometry: SliceGeometry, native: np.ndarray, slices: np.ndarray, labels: Mapping[str, int], ignored: int
) -> dict[str, list[int]]:
    """Give each object that lies between the pixels of the smaller grid one pixel there, so that it is not lost.

    The pixel under the object's centre, or another one that it covers, becomes the object's where it is background or
    ignored. Where other structures have them all, one becomes ignored: nothing is taught about it.

    Args:
        geometry: by which the label was cut.
        native: (Z, Y, X) label.
        slices: (S, size, size), of :meth:`SliceGeometry.label_to_slices`; changed in place, only where an object is
            lost.
        labels: structure -> value.
        ignored: value of pixels of which nothing is known.

    Returns:
        Structure -> [objects, those without a pixel of their own on the grid, those that could not be given one]. An
        object is what is connected in one slice. {} where the grid is no smaller than a slice: nothing is lost then.
    """
    if max(geometry.slice_shape) <= geometry.image_size:
        return {}
    planes = np.moveaxis(native, geometry.axis, 0)
    sampled = [_nearest(n, geometry.image_size) for n in geometry.slice_shape]
    counts = {}
    for name, box in _boxes(planes, labels).items():
        value = labels[name]
        numbered, n = ndimage.label(planes[box] == value, structure=_IN_PLANE)
        first = [side.start for side in box]
        rows, columns = (s[(s >= side.start) & (s < side.stop)] - side.start for s, side in zip(sampled, box[1:]))
        seen = np.zeros(n + 1, bool)
        seen[numbered[:, rows[:, None], columns[None]]] = True
        lost = np.flatnonzero(~seen[1:])
        places = ndimage.find_objects(numbered) if len(lost) else []
        kept = 0
        for index in lost:
            pixels = np.argwhere(numbered[places[index]] == index + 1)
            pixels += [side.start + start for side, start in zip(places[index], first)]
            kept += _give_a_pixel(geometry, slices[pixels[0, 0]], pixels[:, 1:], value, ignored)
        counts[name] = [n, len(lost), len(lost) - kept]
    return counts


def slices_with(geometry: SliceGeometry, native: np.ndarray, labels: Mapping[str, int]) -> dict[str, list[int]]:
    """Structure -> indices of the slices whose native (Z, Y, X) label shows it, be it too small for the grid or not."""
    planes = np.moveaxis(native, geometry.axis, 0)
    shown: dict[str, list[int]] = {name: [] for name in labels}
    for name, box in _boxes(planes, labels).items():
        found = np.flatnonzero((planes[box] == labels[name]).any(axis=(1, 2))) + box[0].start
        shown[name] = found.tolist()
    return shown


def _boxes(planes: np.ndarray, labels: Mapping[str, int]) -> dict[str, tuple[slice, slice, slice]]:
    """Structure -> box around it; a structure fills a small part of a volume."""
    boxes = ndimage.find_objects(planes)
    return {n: boxes[v - 1] for n, v in labels.items() if 0 < v <= len(boxes) and boxes[v - 1] is not None}


def _give_a_pixel(
    geometry: SliceGeometry, plane: np.ndarray, pixels: np.ndarray, value: int, ignored: int
) -> bool:
    """Whether an object of native ``pixels`` (n, 2) has a pixel of ``plane`` (size, size) now."""
    scale = geometry.image_size / np.array(geometry.slice_shape)
    centre = pixels.mean(0) + 0.5
    covered = {tuple(cell) for cell in ((pixels + 0.5) * scale).astype(int).tolist()}
    if (pixels == centre.astype(int)).all(1).any():  # a ring's centre is none of its own
        covered.add(tuple((centre * scale).astype(int).tolist()))
    cells = sorted(covered, key=lambda cell: (float(np.abs(np.add(cell, 0.5) - centre * scale).max()), cell))
    for cell in cells:
        if plane[cell] in (0, ignored, value):
            plane[cell] = value
            return True
    if (plane == plane[cells[0]]).sum() > 1:  # the other structure keeps a pixel too
        plane[cells[0]] = ignored
    return False


def _nearest(source: int, target: int) -> np.ndarray:
    """Index of the source pixel whose area holds the centre of each of ``target`` pixels."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.intp), source - 1)

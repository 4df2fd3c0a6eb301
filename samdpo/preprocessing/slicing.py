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

    def label_to_native(self, label: np.ndarray) -> np.ndarray:
        """Labels (S, size, size) -> (Z, Y, X) in the same dtype; nearest neighbour."""
        rows, columns = (_nearest(self.image_size, n) for n in self.slice_shape)
        return np.ascontiguousarray(np.moveaxis(label[:, rows[:, None], columns[None]], 0, self.axis))

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


def resize_plane(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(rows, columns) -> ``shape`` float32, bilinear; a triangle filter as wide as the step where it shrinks.

    PIL, since its filter is separable C on float32: three times as fast as skimage here, and no torch to import.
    """
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _nearest(source: int, target: int) -> np.ndarray:
    """Index of the source pixel whose area holds the centre of each of ``target`` pixels."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.intp), source - 1)

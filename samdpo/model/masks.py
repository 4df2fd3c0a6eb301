"""From probabilities to a mask in native pixels, put together some slices at a time.

A 512 x 512 x 600 CT with 15 structures has 9 GiB of probabilities; its label map has 0.3. Only the probabilities of the
slices at hand are in memory, unless somebody asks for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from scipy import ndimage

from samdpo.preprocessing.slicing import SliceGeometry


class NativeCollector:
    """Label map, confidence and, if wanted, probabilities of one case.

    Args:
        geometry: way back to native pixels.
        labels: id of each structure.
        cut: probability from which a pixel is foreground.
        keep_probabilities: whether all of them are wanted.

    Attributes:
        segmentation: (Z, Y, X) int16; 0 where no slice was added yet.
        probabilities: (L, Z, Y, X) float32, or None.
    """

    def __init__(
        self, geometry: SliceGeometry, labels: Sequence[int], cut: float, keep_probabilities: bool = True
    ) -> None:
        self.geometry, self.labels, self.cut = geometry, labels, cut
        self.segmentation = np.zeros(geometry.native_shape, np.int16)
        self.probabilities: np.ndarray | None = None
        if keep_probabilities:
            self.probabilities = np.zeros((len(labels), *geometry.native_shape), np.float32)
        self._inside, self._all, self._pixels = (np.zeros(len(labels)) for _ in range(3))

    def add(self, start: int, probabilities: np.ndarray) -> None:
        """Take in slices.

        Args:
            start: index of the first one.
            probabilities: (s, L, size, size) of slices ``start`` to ``start + s``; s may be 0.
        """
        axis, count = self.geometry.axis, len(probabilities)
        if count == 0:
            return
        shape = list(self.geometry.native_shape)
        shape[axis] = count
        native = dataclasses.replace(self.geometry, native_shape=tuple(shape)).to_native(probabilities)
        where = [slice(None)] * 3
        where[axis] = slice(start, start + count)
        self.segmentation[tuple(where)] = label_map(native, self.cut, self.labels)
        if self.probabilities is not None:
            self.probabilities[(slice(None), *where)] = native
        for row, probability in enumerate(native):
            mask = probability > self.cut
            self._inside[row] += probability[mask].sum()
            self._all[row] += probability.sum()
            self._pixels[row] += mask.sum()

    def confidence(self, row: int) -> float:
        """Of one structure over all slices; see :func:`confidence_of`."""
        if self._pixels[row] == 0:
            return 0.0
        return float(2 * self._inside[row] / (self._all[row] + self._pixels[row]))


def label_map(probabilities: np.ndarray, cut: float, labels: Sequence[int]) -> np.ndarray:
    """Probabilities (L, Z, Y, X) -> label ids (Z, Y, X) int16; where structures overlap the more probable one wins."""
    best = probabilities.argmax(0)
    foreground = np.take_along_axis(probabilities, best[None], 0)[0] > cut
    return np.where(foreground, np.asarray(labels, np.int16)[best], 0).astype(np.int16)


def keep_largest_components(segmentation: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Remove, in place, all but the largest connected part (26 neighbours) of some structures.

    Args:
        segmentation: (Z, Y, X) label ids; changed.
        labels: of the structures.

    Returns:
        ``segmentation``.
    """
    boxes = ndimage.find_objects(segmentation)
    for label in labels:
        box = boxes[label - 1] if 0 < label <= len(boxes) else None
        if box is None:
            continue
        part = segmentation[box]  # a structure fills a small part of a volume
        mask = part == label
        part[mask & ~remove_all_but_largest_component(mask, connectivity=3).astype(bool)] = 0
    return segmentation


def confidence_of(probabilities: np.ndarray, cut: float) -> float:
    """The Dice a mask expects of itself: 2 sum(p y) / (sum(p) + sum(y)) with y = p > cut; 1 is certain.

    Args:
        probabilities: of one structure, any shape.
        cut: probability at which a pixel is foreground.

    Returns:
        a number in [0, 1]; 0 for an empty mask.
    """
    mask = probabilities > cut
    if not mask.any():
        return 0.0
    return float(2 * probabilities[mask].sum() / (probabilities.sum() + mask.sum()))

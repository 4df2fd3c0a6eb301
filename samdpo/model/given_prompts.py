"""A person's prompts, as SAM 2 takes them: checked, and brought from pixels of the image to those of a slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from samdpo.dataset.orientation import Turn
from samdpo.errors import ConfigurationError
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.preprocessing.slicing import SliceGeometry, resize_plane


@dataclass(frozen=True)
class Plane:
    """Where the pixels of one slice of the image as it was given lie in the square slice that the network sees.

    Of a volume the plane is that of the two axes of (Z, Y, X) along which it is not cut: y is the first of them, x the
    second.

    Attributes:
        geometry: how the turned image was cut.
        turn: how the image was turned before.
    """

    geometry: SliceGeometry
    turn: Turn

    @property
    def axis(self) -> int:
        """Axis of the image's (Z, Y, X) that runs across its slices."""
        return self.turn.order[self.geometry.axis]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the image's slice."""
        sizes = {of: self.geometry.native_shape[axis] for axis, of in enumerate(self.turn.order)}
        rows, columns = (sizes[of] for of in sorted(sizes) if of != self.axis)
        return rows, columns

    def cut_index(self, index: int) -> int:
        """Number of a slice of the image among those that were cut; the turn may have reversed them."""
        return self.geometry.n_slices - 1 - index if self.geometry.axis in self.turn.flips else index

    def to_slice(self, corners: np.ndarray) -> np.ndarray:
        """(N, 2) x, y in the image, where the first pixel's outer corner is (0, 0) -> the same in the square slice."""
        by_axis = dict(zip((axis for axis in range(3) if axis != self.axis), (corners[:, 1], corners[:, 0])))
        rows, columns = (
            self._along(axis, by_axis[self.turn.order[axis]]) for axis in range(3) if axis != self.geometry.axis
        )
        return np.stack([columns, rows], 1).astype(np.float32)

    def map_to_slice(self, values: np.ndarray) -> np.ndarray:
        """(h, w) over the whole slice of the image, of any resolution -> (size, size) float32, bilinear."""
        turned = self.turn.apply(np.expand_dims(values, self.axis))
        return resize_plane(np.squeeze(turned, self.geometry.axis), (self.geometry.image_size,) * 2)

    def _along(self, axis: int, values: np.ndarray) -> np.ndarray:
        size = self.geometry.native_shape[axis]
        values = size - values if axis in self.turn.flips else values
        return values * (self.geometry.image_size / size)


@dataclass(frozen=True)
class GivenPrompts:
    """Prompts of one structure on one slice, in pixels of the square slice.

    Attributes:
        points: (N, 2) float32 x, y, pixel indices.
        inside: (N,) bool, whether each point is on the structure.
        boxes: (M, 4) float32 x0, y0, x1, y1.
        mask: (size, size) float32 logits, or None.
    """

    points: np.ndarray
    inside: np.ndarray
    boxes: np.ndarray
    mask: np.ndarray | None

    def batch(self, size: int, text: np.ndarray | None, text_dim: int) -> PromptBatch:
        """One prompt of one image; ``text`` (D,) is the embedding of what is said of the structure, or None."""
        n, m = len(self.points), max(1, len(self.boxes))  # SAM pads points without a box with one token
        boxes = np.zeros((1, m, 4), np.float32)
        boxes[0, : len(self.boxes)] = self.boxes
        embedding = np.zeros(text_dim, np.float32) if text is None else np.asarray(text, np.float32)
        return PromptBatch(
            image_index=torch.zeros(1, dtype=torch.long),
            boxes=torch.from_numpy(boxes),
            boxes_valid=torch.full((1, m), len(self.boxes) > 0),
            points=torch.from_numpy(self.points)[None],
            points_valid=torch.ones(1, n, dtype=torch.bool),
            text=torch.from_numpy(embedding)[None],
            text_valid=torch.tensor([text is not None]),
            mask_logits=torch.zeros(1, size, size) if self.mask is None else torch.tensor(self.mask)[None],
            mask_valid=torch.tensor([self.mask is not None]),
            points_inside=torch.from_numpy(self.inside)[None],
        )

    def report(self, index: int, text: str) -> dict[str, Any]:
        """As a report lists prompts; boxes and points in pixels of the square slice."""
        return {
            "slice": index, "boxes": self.boxes.tolist(), "points": self.points.tolist(),
            "labels": self.inside.astype(int).tolist(), "mask": self.mask is not None, "text": text,
        }


def read_prompts(points: Any, labels: Any, boxes: Any, mask: Any, plane: Plane) -> GivenPrompts:
    """Check a person's prompts and bring them to the slice.

    Args:
        points: (N, 2) x, y, pixel indices of the image, or None.
        labels: (N,) 1 for a point on the structure, 0 for one beside it; by default all are on it.
        boxes: (M, 4) or (4,) x0, y0, x1, y1 in pixels of the image, or None; x1 and y1 lie just outside.
        mask: (h, w) logits over the whole slice, of any resolution, or None.
        plane: of the slice.

    Raises:
        ConfigurationError: what is not such a prompt, or lies outside of the image.
    """
    rows, columns = plane.shape
    found_points = _numbers(points, 2, "points", "x, y")
    found_boxes = _numbers(boxes, 4, "boxes", "x0, y0, x1, y1")
    inside = np.ones(len(found_points), bool) if labels is None else _labels(labels, len(found_points))
    of_image = f"the image, whose slice has {columns} x {rows} pixels (x, y)"
    for x, y in found_points:
        if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
            raise ConfigurationError(f"The point ({x:g}, {y:g}) lies outside of {of_image}.")
    for box in found_boxes:
        x0, y0, x1, y1 = box
        said = f"The box ({', '.join(f'{side:g}' for side in box)})"
        if x1 <= x0 or y1 <= y0:
            raise ConfigurationError(f"{said} has no area; expected x0 < x1 and y0 < y1.")
        if x0 < 0 or y0 < 0 or x1 > columns or y1 > rows:
            raise ConfigurationError(f"{said} lies outside of {of_image}.")
    logits = None
    if mask is not None:
        logits = np.asarray(mask, np.float32)
        if logits.ndim != 2 or not logits.size or not np.isfinite(logits).all():
            raise ConfigurationError(
                f"The mask must be (h, w) finite logits over the whole slice, before the sigmoid; found the shape "
                f"{np.shape(mask)}{'' if logits.ndim != 2 or not logits.size else ' with infinite values'}."
            )
        logits = plane.map_to_slice(logits)
    corners = plane.to_slice(found_boxes.reshape(-1, 2)).reshape(-1, 2, 2)  # a flip swaps a box's corners
    return GivenPrompts(
        points=plane.to_slice(found_points + 0.5) - np.float32(0.5),
        inside=inside,
        boxes=np.concatenate([corners.min(1), corners.max(1)], 1),
        mask=logits,
    )


def _numbers(given: Any, width: int, what: str, order: str) -> np.ndarray:
    try:
        found = np.zeros((0, width)) if given is None else np.atleast_2d(np.asarray(given, np.float64))
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.ndim != 2 or found.shape[1] != width or not np.isfinite(found).all():
        raise ConfigurationError(f"{what} must be (N, {width}) numbers, {order} each; found {given!r}.")
    return found


def _labels(given: Any, n_points: int) -> np.ndarray:
    found: Sequence[Any] = np.atleast_1d(np.asarray(given)).tolist()
    if len(found) != n_points or not all(label in (0, 1) for label in found):
        raise ConfigurationError(
            f"labels must say of each of the {n_points} points 1 (on the structure) or 0 (beside it); found {given!r}."
        )
    return np.array(found, bool)

"""Probabilities smoothed across slices, while slices come a few at a time.

Slices are segmented one by one, so a structure may flicker: missed on a slice between two that show it, or found on a
single one. A Gaussian along the slicing axis lets neighbours vote.
"""

from __future__ import annotations

import math

import numpy as np

_TRUNCATE = 2.0  # standard deviations that a slice sees on either side


class SliceSmoother:
    """Gaussian smoothing along the first axis of a stream; at the ends of a volume only the slices there are count.

    Example:
        >>> smoother = SliceSmoother(sigma=1.0, n_slices=40)
        >>> for chunk in chunks:  # (s, L, H, W), in order
        ...     start, smoothed = smoother.push(chunk)

    Args:
        sigma: standard deviation in slices; 0 passes everything through as it is.
        n_slices: of the whole volume.
    """

    def __init__(self, sigma: float, n_slices: int) -> None:
        self.radius = math.ceil(_TRUNCATE * sigma)
        distances = np.arange(-self.radius, self.radius + 1)
        self.weights = np.exp(-0.5 * (distances / sigma) ** 2) if sigma > 0 else np.ones(1)
        self.n_slices = n_slices
        self._kept: np.ndarray | None = None  # slices that later ones still need, and those not given out yet
        self._first, self._given = 0, 0  # index of the first kept slice; how many were given out

    def push(self, probabilities: np.ndarray) -> tuple[int, np.ndarray]:
        """Take the next slices in.

        Args:
            probabilities: (s, L, H, W), the slices after those pushed before.

        Returns:
            index of the first slice that is ready, and (t, L, H, W) the ready ones; t may be 0. With the volume's last
            slice all that are left come out.
        """
        if self.radius == 0:  # nothing to wait for, nothing to copy
            start, self._given = self._given, self._given + len(probabilities)
            return start, probabilities
        kept = probabilities if self._kept is None else np.concatenate([self._kept, probabilities])
        seen = self._first + len(kept)
        ready = seen if seen == self.n_slices else max(self._given, seen - self.radius)
        start = self._given
        smoothed = np.zeros((ready - start, *probabilities.shape[1:]), np.float32)
        for row, index in enumerate(range(start, ready)):
            total = 0.0
            for offset, weight in zip(range(-self.radius, self.radius + 1), self.weights):
                if 0 <= index + offset < self.n_slices:
                    smoothed[row] += weight * kept[index + offset - self._first]
                    total += weight
            smoothed[row] /= total
        self._given = ready
        needed = max(self._first, ready - self.radius)
        self._kept, self._first = kept[needed - self._first :], needed
        return start, smoothed

"""An image as every reader returns it: values with the size of their voxels and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

PICTURE_SPACING = (999.0, 1.0, 1.0)  # nnU-Net's convention for a single slice without spacing
UNKNOWN_SPACING = (1.0, 1.0, 1.0)  # of a stack of pictures beside which none is written


@dataclass(frozen=True)
class Volume:
    """An image as read.

    Attributes:
        data: (C, Z, Y, X) float32, intensities as stored.
        spacing: (z, y, x) in mm.
        properties: JSON-able geometry that :func:`samdpo.dataset.images.write_label` needs to write beside this image.
    """

    data: np.ndarray
    spacing: tuple[float, float, float]
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def ndim(self) -> int:
        """2 for a picture or a medical file of two axes, 3 for a volume, be it of one slice."""
        geometry = self.properties.get("sitk_stuff")
        return len(geometry["spacing"]) if geometry else 2 if self.data.shape[1] == 1 else 3


def has_colours(data: np.ndarray) -> bool:
    """Whether (C, Z, Y, X) has three channels that are not all the same."""
    return len(data) == 3 and bool((data != data[:1]).any())

"""From slices to what an image encoder was pretrained on: its input size and its normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# SAM's mean and standard deviation of R, G, B in [0, 255] (segment_anything/build_sam.py); MobileSAM's and
# SAM-Med2D's too.
SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)


class SliceInput(nn.Module):
    """Resamples slices and normalises them; nothing of it is in the state dict.

    Args:
        size: side of the encoder's input in pixels.
        mean: of each channel on the scale [0, 255]; None leaves values in [0, 1], as MedSAM and LiteMedSAM want them.
        std: of each channel on the same scale.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.normalizes = mean is not None and std is not None
        if self.normalizes:
            for name, values in (("mean", mean), ("std", std)):
                self.register_buffer(name, torch.tensor(values).view(3, 1, 1) / 255, persistent=False)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> (B, 3, size, size)."""
        images = resampled(slices, (self.size, self.size))
        return (images - self.mean) / self.std if self.normalizes else images


def resampled(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear, smoothed where it shrinks; as it is where the size is right."""
    if images.shape[-2:] == torch.Size(size):
        return images
    shrinks = images.shape[-1] > size[1]
    # Not every version of mps has antialiased interpolation.
    at = torch.device("cpu") if shrinks and images.device.type == "mps" else images.device
    return F.interpolate(images.to(at), size=size, mode="bilinear", align_corners=False, antialias=shrinks).to(
        images.device
    )

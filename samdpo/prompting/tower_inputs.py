"""What the image tower sees of a slice: frozen features in a small basis, and the image's brightness at many scales."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

SCALES = (1.0, 2.0, 4.0, 8.0, 14.0)  # standard deviations in pixels of the feature grid
BRIGHTNESS_CHANNELS = 1 + len(SCALES) + len(SCALES) * (len(SCALES) - 1) // 2 + 2


def brightness_scales(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Brightness at several scales, the differences between them, and the local contrast.

    A dark mass on brighter tissue is a difference of two scales whatever the encoder makes of it; with ten labelled
    images these few channels find a tumour better than a pixel's 256 features do.

    Args:
        images: (B, 3, H, W) in [0, 1]; channels are averaged.
        size: (h, w) of the feature grid.

    Returns:
        (B, 18, h, w): brightness, 5 smoothed, their 10 differences (fine minus coarse), contrast at 2 scales.
    """
    grey = images.float().mean(1, keepdim=True)
    small = functional.adaptive_avg_pool2d(grey, size)
    variance = functional.adaptive_avg_pool2d(grey.square(), size) - small.square()
    deviation = variance.clamp(min=0).sqrt()
    smooth = [_blur(small, sigma) for sigma in SCALES]
    differences = [a - b for i, a in enumerate(smooth) for b in smooth[i + 1 :]]
    return torch.cat([small, *smooth, *differences, _blur(deviation, 2.0), _blur(deviation, 5.0)], dim=1)


def _blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = min(round(2.5 * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    at = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-at.square() / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = functional.pad(images, (radius, radius, radius, radius), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, weights[None, None, None]), weights[None, None, :, None])


def principal_basis(features: torch.Tensor, components: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and whitening basis of features.

    Args:
        features: (N, C, h, w).
        components: directions kept; fewer where there are fewer.

    Returns:
        mean (C,) and basis (C, components): (x - mean) @ basis has unit variance in each direction.
    """
    pixels = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    # On the CPU, since not every device computes in double precision.
    pixels = pixels[:: max(1, len(pixels) // 20_000)].cpu().double()
    mean = pixels.mean(0)
    pixels -= mean
    covariance = pixels.T @ pixels / max(1, len(pixels) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
    basis = vectors / values.clamp(min=1e-8 * float(values[0]) + 1e-12).sqrt()
    return mean.float().to(features.device), basis.float().to(features.device)

"""From one click to a whole structure: windows that follow the mask through the volume."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import product

import torch
from torch import nn

from samdpo.lab.sam_med3d.clicks import innermost
from samdpo.lab.sam_med3d.cubes import cut_patch, overlap
from samdpo.networks.precision import autocast


@torch.no_grad()
def segment_from_click(
    network: nn.Module, volume: torch.Tensor, click: Sequence[int], device: torch.device, precision: str,
    cut: float = 0.5,
) -> torch.Tensor:
    """Probabilities of the structure that is clicked on.

    The first window is centred on the click, as published. Where the mask reaches a side of a window and the volume
    goes on, the window slides on by half its side, and is clicked on in the middle of what of the mask it shares with
    the one before. Windows are averaged; a voxel that none has seen is 0.

    Args:
        network: in eval mode, on ``device``.
        volume: (X, Y, Z) in [0, 1].
        click: voxel of the volume.
        device: of the network.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the encoder.
        cut: probability from which a voxel belongs to the mask.

    Returns:
        (X, Y, Z) float32 on the CPU.
    """
    half = network.size // 2
    total, seen = torch.zeros(volume.shape), torch.zeros(volume.shape)
    first = tuple(place - half for place in click)
    waiting, visited = deque([(first, tuple(click))]), {first}
    while waiting:
        start, at = waiting.popleft()
        window = _window(network, volume, start, at, device, precision)
        inner, outer = overlap(volume.shape, start, network.size)
        total[outer] += window[inner]
        seen[outer] += 1
        mask = window > cut
        for axis, forward in product(range(3), (False, True)):
            following = tuple(s + (half if forward else -half) * (axis == a) for a, s in enumerate(start))
            goes_on = start[axis] + network.size < volume.shape[axis] if forward else start[axis] > 0
            if following in visited or not goes_on or not mask.select(axis, -1 if forward else 0).any():
                continue
            visited.add(following)
            shared = mask.narrow(axis, half if forward else 0, network.size - half)
            middle = list(innermost(shared.numpy()))
            middle[axis] += half if forward else 0
            waiting.append((following, tuple(s + m for s, m in zip(start, middle))))
    return total / seen.clamp(min=1)


def _window(
    network: nn.Module, volume: torch.Tensor, start: Sequence[int], click: Sequence[int], device: torch.device,
    precision: str,
) -> torch.Tensor:
    """Probabilities (s, s, s) of the window that begins at ``start``; 0 outside the volume."""
    patch = cut_patch(volume, start, network.size).float()[None, None].to(device)
    points = torch.tensor([[[float(c - s) for c, s in zip(click, start)]]], device=device)
    with autocast(device, precision):
        embedding = network.encode_image(patch).float()
    inside = torch.ones(1, 1, dtype=torch.bool, device=device)
    probability = network.enlarged(network.decode(embedding, points, inside)).sigmoid()[0, 0].cpu()
    within = torch.zeros_like(probability)
    inner, _ = overlap(volume.shape, start, network.size)
    within[inner] = probability[inner]
    return within

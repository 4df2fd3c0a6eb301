"""The lite image-text model: an image tower on frozen SAM features and a text tower on MiniLM, fitted to few labels.

Both towers end in one 128-d space; pixels of a structure are drawn to its phrases and away from background
phrases. Fitted in under a minute on the labelled part, always the same for the same seed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import nn

log = logging.getLogger(__name__)

_LOCAL_MEAN = 7  # side of the neighbourhood mean, in feature pixels
_COARSE = 4  # side of the coarse pooled map
_POSITIONS = 6  # x, y, x^2, y^2, xy, |x|
_PIXELS_PER_STEP = 1024
_BACKGROUND_PER_STEP = 2  # background phrases contrasted in a step
_CHUNK = 16  # images whose context is computed at once


def with_context(features: torch.Tensor) -> torch.Tensor:
    """Give each pixel its surroundings and place.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, 3C + 6, h, w): features, their 7x7 mean, their 4x4 pooled map upsampled, x, y, x^2, y^2, xy, |x|.
    """
    batch, _, height, width = features.shape
    mean = functional.avg_pool2d(features, _LOCAL_MEAN, stride=1, padding=_LOCAL_MEAN // 2, count_include_pad=False)
    coarse = functional.adaptive_avg_pool2d(features, _COARSE)
    coarse = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=features.device),
        torch.linspace(-1, 1, width, device=features.device),
        indexing="ij",
    )
    position = torch.stack([x, y, x * x, y * y, x * y, x.abs()]).to(features.dtype)
    return torch.cat([features, mean, coarse, position.expand(batch, -1, -1, -1)], dim=1)


class Towers(nn.Module):
    """Image tower (1x1 MLP on pixels with context) and text tower (linear) into one space of ``dim``."""

    def __init__(self, feature_channels: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.feature_channels, self.text_dim, self.dim = feature_channels, text_dim, dim
        self.norm = nn.LayerNorm(3 * feature_channels + _POSITIONS)
        self.hidden = nn.Linear(3 * feature_channels + _POSITIONS, dim)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(dim, dim)
        self.text = nn.Linear(text_dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # exp = 10, CLIP's start is 14

    def activations(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hidden activations (..., dim) of pixels with context (..., 3C + 6): gScoreCAM's target layer."""
        return functional.gelu(self.hidden(self.norm(pixels)))

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (..., dim) of pixels with context (..., 3C + 6)."""
        return self.embed_activations(self.activations(pixels))

    def embed_activations(self, activations: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (..., dim) of hidden activations (..., dim)."""
        return functional.normalize(self.out(self.dropout(activations)), dim=-1)

    def embed_text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (T, dim) of MiniLM embeddings (T, text_dim)."""
        return functional.normalize(self.text(embeddings), dim=-1)

    def similarity(self, pixels: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scaled cosine (..., T) of unit pixel and text embeddings."""
        return self.log_scale.clamp(max=4.6).exp() * pixels @ texts.T


@dataclass(frozen=True)
class TowerTexts:
    """MiniLM embeddings of every phrase.

    Attributes:
        structures: one (P, text_dim) tensor a structure, its wordings.
        background: (B, text_dim) the background phrases.
    """

    structures: list[torch.Tensor]
    background: torch.Tensor


def structure_logits(towers: Towers, features: torch.Tensor, texts: TowerTexts) -> torch.Tensor:
    """Similarity maps as logits: each structure against the background and the other structures.

    Args:
        towers: fitted towers.
        features: (B, C, h, w) of the frozen encoder.
        texts: phrases; their embeddings are averaged a structure.

    Returns:
        (B, S, h, w) float32 logits before calibration.
    """
    anchors = torch.stack([functional.normalize(towers.embed_text(t).mean(0), dim=0) for t in texts.structures])
    every_text = torch.cat([anchors, towers.embed_text(texts.background)])
    maps = []
    for part in features.float().split(_CHUNK):
        pixels = towers.embed_pixels(with_context(part).permute(0, 2, 3, 1))
        maps.append(_against_rest(towers.similarity(pixels, every_text), len(anchors)).permute(0, 3, 1, 2))
    return torch.cat(maps)


def _against_rest(similarity: torch.Tensor, n_structures: int) -> torch.Tensor:
    """(..., S + B) similarities -> (..., S) log-odds of each structure against all the rest."""
    collapsed = collapse_background(similarity, n_structures)
    rest = [
        torch.cat([collapsed[..., :s], collapsed[..., s + 1 :]], dim=-1).logsumexp(-1) for s in range(n_structures)
    ]
    return collapsed[..., :n_structures] - torch.stack(rest, dim=-1)


def collapse_background(similarity: torch.Tensor, n_structures: int) -> torch.Tensor:
    """(..., S + B) -> (..., S + 1): background phrases become one by their mean likelihood."""
    background = similarity[..., n_structures:]
    n_background = torch.tensor(background.shape[-1], dtype=similarity.dtype, device=similarity.device)
    merged = background.logsumexp(-1, keepdim=True) - n_background.log()
    return torch.cat([similarity[..., :n_structures], merged], dim=-1)


def fit_towers(
    features: torch.Tensor,
    labels: torch.Tensor,
    texts: TowerTexts,
    *,
    dim: int,
    steps: int,
    lr: float,
    seed: int,
) -> Towers:
    """Fit both towers.

    Args:
        features: (N, C, h, w) of the labelled slices, any float type.
        labels: (N, h, w) long: 0 background, s + 1 for the s-th of ``texts.structures``, -1 not to be learned.
        texts: phrases.
        dim: width of the shared space.
        steps: gradient steps of 1,024 pixels, half of them background, the rest evenly over the structures.
        lr: AdamW's, falling along a cosine.
        seed: of weights, pixels and phrases; the global random state is left as it was.

    Returns:
        Towers in eval mode, without gradients.
    """
    device = features.device
    pixels = torch.cat([with_context(part.float()).half() for part in features.split(_CHUNK)])
    pixels = pixels.permute(0, 2, 3, 1).reshape(-1, pixels.shape[1])  # (N h w, 3C + 6)
    flat = labels.reshape(-1)
    pools = [torch.nonzero(flat == value)[:, 0] for value in range(len(texts.structures) + 1)]
    present = [value for value in range(1, len(pools)) if len(pools[value])]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        towers = Towers(features.shape[1], texts.background.shape[1], dim).to(device).train()
        optimizer = torch.optim.AdamW(towers.parameters(), lr=lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            index = _balanced(pools, present, generator)
            similarity = towers.similarity(
                towers.embed_pixels(pixels[index].float()), towers.embed_text(_draw_phrases(texts, generator))
            )
            collapsed = collapse_background(similarity, len(texts.structures))
            # The background is the last column there and 0 in the labels.
            target = (flat[index] - 1) % collapsed.shape[-1]
            loss = functional.cross_entropy(collapsed, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return towers.eval().requires_grad_(False)


def _balanced(pools: Sequence[torch.Tensor], present: list[int], generator: torch.Generator) -> torch.Tensor:
    half = _PIXELS_PER_STEP // 2
    counts = [(0, half)] + [(value, max(1, half // len(present))) for value in present]
    drawn = [
        pools[value][torch.randint(len(pools[value]), (count,), generator=generator).to(pools[value].device)]
        for value, count in counts
        if len(pools[value])
    ]
    return torch.cat(drawn)


def _draw_phrases(texts: TowerTexts, generator: torch.Generator) -> torch.Tensor:
    """One wording of each structure, then two background phrases: (S + 2, text_dim)."""
    rows = [wordings[int(torch.randint(len(wordings), (1,), generator=generator))] for wordings in texts.structures]
    order = torch.randperm(len(texts.background), generator=generator)[:_BACKGROUND_PER_STEP]
    return torch.cat([torch.stack(rows), texts.background[order.to(texts.background.device)]])

"""The lite image-text model: an image tower on frozen SAM features and a text tower on MiniLM, fitted to few labels.

Both towers end in one space; pixels of a structure are drawn to its phrases and away from background phrases and
the other structures. The image tower has context (dilated convolutions): a pixel alone does not tell a tumour from
a shadow. Fitted in seconds on the labelled part, always the same for the same seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import nn

from samdpo.errors import TrainingError

COMPONENTS = 64  # of the features' basis
_WIDTH = 48
_DILATIONS = (1, 2, 4, 8)  # at half the feature grid: the last sees the whole slice
_FEATURE_DROPOUT = 0.2
_BACKGROUND_PER_STEP = 2  # background phrases contrasted in a step
_WARM_UP = 0.1  # share of the steps
_CHUNK = 8  # images of a pass without gradients
_EVERY = 2  # rows and columns from one that a step's loss looks at to the next: neighbours say nearly the same
_SMOOTH = 1 / _EVERY**2  # one pixel of the feature grid, in pixels that a step looks at

Pixels = tuple[slice, slice]
"""Rows and columns of the feature grid."""

ALL_PIXELS: Pixels = (slice(None), slice(None))
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



def tower_size(features: Sequence[int], grid: int) -> tuple[int, int]:
    """(h', w') of the grid that towers work on: that of the features (h, w), but no side shorter than ``grid``."""
    height, width = features
    return max(height, grid), max(width, grid)


def resize_maps(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (..., h, w) to (..., *size), bilinear; returned as they are where the size fits."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return functional.interpolate(flat, size=size, mode="bilinear", align_corners=False).reshape(
        *maps.shape[:-2], *size
    )


class Pointwise(nn.Linear):
    """A 1x1 convolution as one matrix product: on a CPU twice as fast as torch's own at these widths."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, in, h, w) -> (B, out, h, w)."""
        weight = self.weight.expand(len(maps), -1, -1)  # matmul would fold the batch into a copy
        return torch.baddbmm(self.bias[None, :, None], weight, maps.flatten(2)).unflatten(2, maps.shape[-2:])


class Towers(nn.Module):
    """Image tower (context from dilated convolutions) and text tower (linear) into one space of ``dim``.

    Args:
        feature_channels: C of the frozen encoder.
        text_dim: of the sentence embeddings.
        dim: of the shared space.
        components: of the features' basis.
        grid: sides that the features are brought to where theirs are smaller; 0 takes them as they are. A gland of a
            few millimetres is less than a pixel of what SAM's encoder gives of 512 pixels.
    """

    def __init__(
        self, feature_channels: int, text_dim: int, dim: int, components: int = COMPONENTS, grid: int = 0
    ) -> None:
        super().__init__()
        components, self.grid = min(components, feature_channels), grid
        self.register_buffer("feature_mean", torch.zeros(feature_channels))
        self.register_buffer("feature_basis", torch.zeros(feature_channels, components))
        self.register_buffer("brightness_mean", torch.zeros(BRIGHTNESS_CHANNELS))
        self.register_buffer("brightness_std", torch.ones(BRIGHTNESS_CHANNELS))
        self.drop = nn.Dropout2d(_FEATURE_DROPOUT)
        self.from_features = Pointwise(components, _WIDTH)
        self.from_brightness = Pointwise(BRIGHTNESS_CHANNELS, _WIDTH)
        self.norm = nn.GroupNorm(8, _WIDTH)
        self.context = nn.ModuleList(
            nn.Sequential(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=d, dilation=d), nn.GroupNorm(8, _WIDTH), nn.GELU())
            for d in _DILATIONS
        )
        self.merge = Pointwise(2 * _WIDTH, _WIDTH)
        self.out = Pointwise(_WIDTH, dim)
        self.text = nn.Linear(text_dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # exp = 10

    def inputs(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """To the tower's standardised input.

        Args:
            features: (B, C, h, w) of the frozen encoder.
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, 64 + 18, h', w') on the grid of :func:`tower_size`.
        """
        size = tower_size(features.shape[-2:], self.grid)
        centred = features.float().flatten(2) - self.feature_mean[:, None]
        basis = self.feature_basis.T.expand(len(features), -1, -1)
        projected = resize_maps(torch.bmm(basis, centred).unflatten(2, features.shape[-2:]), size)
        brightness = brightness_scales(images.to(features.device), size)
        brightness = (brightness - self.brightness_mean[None, :, None, None]) / self.brightness_std[None, :, None, None]
        return torch.cat([projected, brightness], dim=1)

    def activations(self, inputs: torch.Tensor, pixels: Pixels = ALL_PIXELS) -> torch.Tensor:
        """Hidden activations of :meth:`inputs`: gScoreCAM's target layer.

        Args:
            inputs: (B, 64 + 18, h, w), of whatever grid.
            pixels: rows and columns that are wanted; the context is that of the whole slice whichever they are.

        Returns:
            (B, 48, h, w), or as many rows and columns as are wanted.
        """
        local = functional.gelu(self.norm(self._first(inputs)))
        coarse = _halved(local)
        if coarse.device.type == "cpu":  # where dilated convolutions are a third faster so
            coarse = coarse.contiguous(memory_format=torch.channels_last)
        for block in self.context:
            coarse = coarse + block(coarse)
        rows, columns = (_interpolation(*sizes).to(coarse) for sizes in zip(coarse.shape[-2:], local.shape[-2:]))
        rows, columns = rows[pixels[0]], columns[pixels[1]]
        coarse = _interpolated(coarse, rows, columns)
        local = local[..., pixels[0], pixels[1]]
        return functional.gelu(self.merge(torch.cat([local, coarse], dim=1)))

    def _first(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 48, h, w): both kinds of input through their layers, added; dropped components are dropped weights."""
        kept = self.drop(inputs.new_ones(len(inputs), self.feature_basis.shape[1], 1, 1)).flatten(1)
        weight = torch.cat(
            [
                self.from_features.weight * kept[:, None],
                self.from_brightness.weight.expand(len(inputs), -1, -1),
            ],
            dim=2,
        )
        bias = (self.from_features.bias + self.from_brightness.bias)[None, :, None]
        return torch.baddbmm(bias, weight, inputs.flatten(2)).unflatten(2, inputs.shape[-2:])

    def embed(self, activations: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, dim, h, w) of hidden activations, of any length."""
        return self.out(activations)

    def embed_text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (T, dim) of sentence embeddings (T, text_dim)."""
        return functional.normalize(self.text(embeddings), dim=-1)

    def similarity(self, pixels: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scaled cosine (B, T, h, w) of pixel embeddings (B, dim, h, w) and unit texts (T, dim)."""
        # Dividing the few products is much cheaper than normalising every pixel's embedding.
        length = pixels.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        product = torch.bmm(texts.expand(len(pixels), -1, -1), pixels.flatten(2)).unflatten(2, pixels.shape[-2:])
        return self.log_scale.clamp(max=4.6).exp() * product / length


def _halved(maps: torch.Tensor) -> torch.Tensor:
    """Means of 2x2 pixels (B, C, h // 2, w // 2): on a CPU twice as fast as torch's own pooling and its gradient."""
    height, width = (2 * (side // 2) for side in maps.shape[-2:])
    rows = maps[:, :, 0:height:2] + maps[:, :, 1:height:2]
    return 0.25 * (rows[..., 0:width:2] + rows[..., 1:width:2])


def _interpolated(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Maps (B, C, h, w) by matrices of :func:`_interpolation` (h', h) and (w', w) to (B, C, h', w')."""
    # The gradient leaves with channels last, as the context's layers had them: a mixture of layouts is slow.
    tall = (rows @ maps.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (maps.shape[3], maps.shape[1]))
    wide = columns @ tall.permute(2, 0, 1, 3).flatten(1)
    return wide.unflatten(1, (len(maps), len(rows), maps.shape[1])).permute(1, 3, 2, 0)


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept for a fit as well, whoever asks first
def _interpolation(coarse: int, fine: int) -> torch.Tensor:
    """Matrix (fine, coarse) of linear interpolation; two products with such are thrice as fast as torch's own."""
    return functional.interpolate(torch.eye(coarse)[None], size=fine, mode="linear", align_corners=False)[0].T


@dataclass(frozen=True)
class TowerTexts:
    """Sentence embeddings of every phrase.

    Attributes:
        structures: one (P, text_dim) tensor a structure, its wordings.
        background: (B, text_dim) the background phrases.
    """

    structures: list[torch.Tensor]
    background: torch.Tensor


@torch.no_grad()
def structure_logits(
    towers: Towers, features: torch.Tensor, images: torch.Tensor, texts: TowerTexts
) -> torch.Tensor:
    """Similarity maps as logits: each structure against the background and the other structures.

    Args:
        towers: fitted towers.
        features: (B, C, h, w) of the frozen encoder.
        images: (B, 3, H, W) in [0, 1].
        texts: phrases; the embeddings of a structure's wordings are averaged.

    Returns:
        (B, S, h', w') float32 logits before calibration, on the grid of :func:`tower_size`.
    """
    anchors = torch.stack([functional.normalize(towers.embed_text(t).mean(0), dim=0) for t in texts.structures])
    every_text = torch.cat([anchors, towers.embed_text(texts.background)])
    maps = []
    for part, image in zip(features.split(_CHUNK), images.split(_CHUNK)):
        pixels = towers.embed(towers.activations(towers.inputs(part, image)))
        scores = merge_background(towers.similarity(pixels, every_text), len(anchors))
        rest = [torch.cat([scores[:, :s], scores[:, s + 1 :]], dim=1).logsumexp(1) for s in range(len(anchors))]
        maps.append(scores[:, : len(anchors)] - torch.stack(rest, dim=1))
    return torch.cat(maps)


def merge_background(similarity: torch.Tensor, n_structures: int) -> torch.Tensor:
    """(B, S + P, h, w) -> (B, S + 1, h, w): the P background phrases become one by their mean likelihood."""
    background = similarity[:, n_structures:]
    n_phrases = torch.tensor(background.shape[1], dtype=similarity.dtype, device=similarity.device)
    merged = background.logsumexp(1, keepdim=True) - n_phrases.log()
    return torch.cat([similarity[:, :n_structures], merged], dim=1)


def fit_towers(
    features: torch.Tensor,
    images: torch.Tensor,
    shares: torch.Tensor,
    texts: TowerTexts,
    *,
    dim: int,
    steps: int,
    lr: float,
    seed: int,
    known: torch.Tensor | None = None,
    grid: int = 0,
    batch_size: int = 4,
) -> Towers:
    """Fit both towers.

    Args:
        features: (N, C, h, w) of the labelled slices, any float type.
        images: (N, 3, H, W) in [0, 1].
        shares: (N, S, h', w') share of each pixel of :func:`tower_size` that a structure covers, in [0, 1].
        texts: phrases of the S structures and of the background.
        dim: width of the shared space.
        steps: gradient steps; the loss looks at a quarter of the pixels.
        lr: peak of AdamW's learning rate, reached after a tenth of the steps.
        seed: of weights, slices, views and phrases; the global random state is left as it was.
        known: (N, h', w') share of each pixel of which the labels say anything; None for all.
        grid: see :class:`Towers`.
        batch_size: slices a step, each under a random affine map.

    Returns:
        Towers in eval mode, without gradients.

    Raises:
        TrainingError: a weight has become infinite or no number.
    """
    device = features.device
    # Pixels are drawn apart: slices, views and phrases are the same however many pixels a step looks at.
    generator, of_pixels = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        towers = Towers(features.shape[1], texts.background.shape[1], dim, grid=grid).to(device)
        inputs = _standardise(towers, features, images)
        whole = 1 if known is None else known[:, None]
        target = torch.cat([shares, (whole - shares.sum(1, keepdim=True)).clamp(min=0)], dim=1).float()
        towers.train()
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(towers.parameters(), lr=lr, weight_decay=0.05, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for _ in range(steps):
            index = torch.randint(len(inputs), (batch_size,), generator=generator)
            grid = _random_grid(batch_size, tuple(inputs.shape[-2:]), generator).to(device)
            view = functional.grid_sample(inputs[index].float(), grid, padding_mode="reflection", align_corners=False)
            seen = _draw_pixels(of_pixels)
            truth = functional.grid_sample(
                target[index], grid[:, seen[0], seen[1]], padding_mode="reflection", align_corners=False
            )
            pixels = towers.embed(towers.activations(view, seen))
            similarity = towers.similarity(pixels, towers.embed_text(_draw_phrases(texts, generator)))
            loss = _loss(merge_background(similarity, len(texts.structures)), truth, known is not None)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    if not all(bool(torch.isfinite(parameter).all()) for parameter in towers.parameters()):
        raise TrainingError(
            f"Fitting the image-text model has ended without numbers at prompting.tower_lr={lr:g}. Try a tenth of it: "
            f"--set prompting.tower_lr={lr / 10:g}; if that does not help, look for images with infinite values: "
            "samdpo_plan_and_preprocess --verify_dataset_integrity"
        )
    return towers.eval().requires_grad_(False)


@torch.no_grad()
def _standardise(towers: Towers, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Set the towers' input statistics from the labelled slices; return their inputs as float16."""
    mean, basis = principal_basis(features, towers.feature_basis.shape[1])
    towers.feature_mean.copy_(mean)
    towers.feature_basis.copy_(basis)
    brightness = brightness_scales(images.to(features.device), tower_size(features.shape[-2:], towers.grid))
    towers.brightness_mean.copy_(brightness.mean((0, 2, 3)))
    towers.brightness_std.copy_(brightness.std((0, 2, 3)) + 1e-6)
    parts = zip(features.split(_CHUNK), images.split(_CHUNK))
    return torch.cat([towers.inputs(part, image).half() for part, image in parts])


def _loss(scores: torch.Tensor, truth: torch.Tensor, partly_known: bool = False) -> torch.Tensor:
    """Cross-entropy with soft targets (B, S + 1, h, w), plus the Dice loss of the structures that are there.

    Where labels are known in part, the targets of a pixel sum to the share of it that is known.
    """
    cross_entropy = -(truth * scores.log_softmax(1)).sum(1).mean()
    probability = scores.softmax(1)[:, :-1]
    if partly_known:
        known = truth.sum(1, keepdim=True)
        cross_entropy, probability = cross_entropy / known.mean().clamp(min=1e-6), probability * known
    truth = truth[:, :-1]
    overlap = 2 * (probability * truth).sum((2, 3)) + _SMOOTH
    dice = 1 - overlap / ((probability + truth).sum((2, 3)) + _SMOOTH)
    shown = (truth.sum((2, 3)) > 0).float()
    return cross_entropy + (dice * shown).sum() / shown.sum().clamp(min=1)


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise over the first tenth of the steps, then half a cosine to 0."""
    rise = max(1.0, _WARM_UP * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, steps - rise))))


def _random_grid(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Sampling grids (count, h, w, 2) of random affine maps.

    Rotation +-0.25 rad, scale +-25%, aspect +-15%, shift +-12% of the slice.
    """

    def uniform(limit: float) -> torch.Tensor:
        return torch.empty(count).uniform_(-limit, limit, generator=generator)

    angle, scale = uniform(0.25), uniform(0.25).exp()
    other = scale * uniform(0.15).exp()
    rows = [
        torch.stack([scale * angle.cos(), -scale * angle.sin(), uniform(0.25)], dim=1),
        torch.stack([other * angle.sin(), other * angle.cos(), uniform(0.25)], dim=1),
    ]
    return functional.affine_grid(torch.stack(rows, dim=1), [count, 1, *size], align_corners=False)


def _draw_pixels(generator: torch.Generator) -> Pixels:
    """Every ``_EVERY``-th row and column, from a random one."""
    row, column = torch.randint(_EVERY, (2,), generator=generator).tolist()
    return slice(row, None, _EVERY), slice(column, None, _EVERY)


def _draw_phrases(texts: TowerTexts, generator: torch.Generator) -> torch.Tensor:
    """One wording of each structure, then two background phrases: (S + 2, text_dim)."""
    rows = [wordings[int(torch.randint(len(wordings), (1,), generator=generator))] for wordings in texts.structures]
    order = torch.randperm(len(texts.background), generator=generator)[:_BACKGROUND_PER_STEP]
    return torch.cat([torch.stack(rows), texts.background[order.to(texts.background.device)]])

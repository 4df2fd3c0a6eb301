"""Candidates: the segmentation proposals of one image that an annotator ranks (paper Sec. 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from samdpo.errors import PlansError
from samdpo.plans import CandidatePlan
from samdpo.prompting.regions import mask_iou

DUPLICATE_IOU = 0.95  # two candidates that overlap more than this look the same to an annotator
TRIES = 8  # draws in place of near-duplicates; what is still one after them stays
_CELLS_PER_SIGMA = 2.0  # noise is drawn on a grid of sigma / 2 and upsampled: 16 to 256 times fewer numbers


def cut_at_thresholds(logits: Tensor, plan: CandidatePlan) -> Tensor:
    """Probabilities cut at the plan's values (the paper): candidates that differ in size.

    Args:
        logits: (N, H, W), before sigmoid.
        plan: ``count`` and ``thresholds``.

    Returns:
        (N, count, H, W) bool, on the device of ``logits``.

    Raises:
        PlansError: fewer than two candidates, or thresholds that are none or do not fit ``count``.
    """
    _check_count(plan)
    if len(plan.thresholds) != plan.count:
        raise PlansError(
            f"candidates.thresholds has {len(plan.thresholds)} values and candidates.count is {plan.count}; "
            "they must be the same number."
        )
    if not all(0 < t < 1 for t in plan.thresholds):
        raise PlansError(f"candidates.thresholds is {list(plan.thresholds)}; expected probabilities between 0 and 1.")
    logits = logits.detach().float()
    cuts = logits.new_tensor([math.log(t / (1 - t)) for t in plan.thresholds])
    return logits[:, None] > cuts[None, :, None, None]


def draw_fields(logits: Tensor, plan: CandidatePlan, generator: torch.Generator) -> Tensor:
    """Logits plus a smooth random field and an offset, cut at 0: candidates that differ in outline and size.

    Args:
        logits: (N, H, W), before sigmoid.
        plan: ``count`` and the constants of the fields.
        generator: a CPU generator; the same state gives the same candidates.

    Returns:
        (N, count, H, W) bool, on the device of ``logits``.

    Raises:
        PlansError: fewer than two candidates, or fields that cannot be drawn.
    """
    _check_count(plan)
    logits = logits.detach().float()
    n, height, width = logits.shape
    low, high = plan.field_amplitude
    shape = (n, plan.count, 1, 1)
    amplitude = low + (high - low) * torch.rand(shape, generator=generator)
    offset = plan.offset_std * torch.randn(shape, generator=generator)
    fields = smooth_fields(n * plan.count, height, width, plan.field_sigmas, generator)
    change = fields.view(n, plan.count, height, width).mul_(amplitude).add_(offset)
    return logits[:, None] + change.to(logits.device) > 0


def distinct_first(masks: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of some masks first, others in the slots that are left.

    Args:
        masks: (N, M, H, W) bool, best first; of those that overlap by more than 95% (IoU) the first one counts.
        drawn: (N, count, H, W) bool, for the slots left.

    Returns:
        (N, count, H, W) bool, and (N, count) long: which of ``masks`` each one is, -1 where it is drawn.
    """
    count, taken = drawn.shape[1], min(masks.shape[1], drawn.shape[1])
    index = torch.full(drawn.shape[:2], -1, dtype=torch.long, device=drawn.device)
    if taken == 0:
        return drawn, index
    repeats = torch.tril(pairwise_iou(masks) > DUPLICATE_IOU, diagonal=-1).any(2)  # like an earlier one
    order = torch.argsort(repeats.int(), dim=1, stable=True)[:, :count]
    rows = torch.arange(len(masks), device=masks.device)[:, None]
    keep = ~repeats[rows, order]
    result = drawn.clone()
    result[:, :taken] = torch.where(keep[:, :, None, None], masks[rows, order], drawn[:, :taken])
    index[:, :taken] = torch.where(keep, order, -1)
    return result, index


def without_near_duplicates(masks: Tensor, draw: Callable[[], Tensor], tries: int = TRIES) -> Tensor:
    """Draw anew what overlaps an earlier candidate by more than 95% (IoU): to a person they look the same.

    Args:
        masks: (K, H, W) bool.
        draw: gives (K, H, W) other candidates each time.
        tries: draws at most.

    Returns:
        (K, H, W) bool, the first of each kind where it was.
    """
    masks = masks.clone()
    for _ in range(tries):
        repeats = torch.tril(pairwise_iou(masks) > DUPLICATE_IOU, diagonal=-1).any(1)
        if not repeats.any():
            break
        masks[repeats] = draw()[repeats]
    return masks


def pairwise_iou(masks: Tensor) -> Tensor:
    """(..., K, H, W) bool -> (..., K, K) IoU of every pair; 1 where both are empty."""
    return mask_iou(masks, masks, both_empty=1.0)


def disagreement(masks: Tensor) -> float:
    """1 - mean IoU over the pairs of K >= 2 masks (K, H, W) bool: 0 where all are equal, 1 where all are disjoint."""
    k = len(masks)
    first, second = torch.triu_indices(k, k, offset=1)
    return float(1 - pairwise_iou(masks)[first, second].mean())


def smooth_fields(n: int, height: int, width: int, sigmas: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Gaussian random fields of zero mean and unit variance, each as smooth as one of ``sigmas`` (drawn evenly).

    White noise filtered by a Gaussian of standard deviation sigma; made on a grid of sigma / 2 pixels and upsampled
    bicubically, which cannot be told from filtering at full size and takes a hundredth of the time.

    Returns:
        (n, height, width) float32 on the CPU.
    """
    if not sigmas or min(sigmas) <= 0:
        raise PlansError(f"candidates.field_sigmas is {list(sigmas)}; expected pixels above 0, such as [8, 16, 32].")
    choice = torch.randint(len(sigmas), (n,), generator=generator)
    fields = torch.empty(n, height, width)
    for index, sigma in enumerate(sigmas):
        chosen = choice == index
        if chosen.any():
            fields[chosen] = _fields_of_sigma(int(chosen.sum()), height, width, sigma, generator)
    return fields


def _fields_of_sigma(n: int, height: int, width: int, sigma: float, generator: torch.Generator) -> Tensor:
    cell = max(sigma / _CELLS_PER_SIGMA, 1.0)
    sigma_cells = sigma / cell
    radius = math.ceil(3 * sigma_cells)
    # Two more cells than the image on each axis, so that its border is interpolated like its inside.
    rows, columns = math.ceil(height / cell) + 2, math.ceil(width / cell) + 2
    noise = torch.randn(n, 1, rows + 2 * radius, columns + 2 * radius, generator=generator)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma_cells) ** 2)
    kernel = kernel / kernel.norm()  # unit L2 norm: filtered white noise keeps unit variance
    noise = F.conv2d(F.conv2d(noise, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    size = (round(rows * cell), round(columns * cell))
    fine = F.interpolate(noise, size=size, mode="bicubic", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return fine[:, 0, top : top + height, left : left + width]


def _check_count(plan: CandidatePlan) -> None:
    if plan.count < 2:
        raise PlansError(f"candidates.count is {plan.count}; a preference needs at least 2 candidates.")

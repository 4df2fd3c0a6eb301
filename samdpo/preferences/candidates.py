"""Candidates: the segmentation proposals of one image that an annotator ranks (paper Sec. 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from samdpo.errors import PlansError
from samdpo.plans import CandidatePlan

DUPLICATE_IOU = 0.95  # two hypotheses that overlap more than this look the same to an annotator
_CELLS_PER_SIGMA = 2.0  # noise is drawn on a grid of sigma / 2 and upsampled: 16 to 256 times fewer numbers


def make_candidates(
    logits: Tensor,
    plan: CandidatePlan,
    generator: torch.Generator,
    hypotheses: Tensor | None = None,
) -> Tensor:
    """Draw ``plan.count`` masks for each image.

    ``thresholds`` cuts the probabilities at the plan's values (the paper). ``fields`` adds a smooth random field and
    an offset to the logits and cuts at 0, so that candidates differ in place and not only in size. ``hypotheses``
    takes the masks decoded from several boxes, which say *where*, and fills up with fields where there are too few
    or where two are the same.

    Args:
        logits: (N, H, W), before sigmoid, of the current policy.
        plan: kind, number and constants.
        generator: a CPU generator; the same state gives the same candidates.
        hypotheses: (N, M, H, W) logits, best first; only for ``kind='hypotheses'``. Images with fewer than M
            hypotheses repeat one of theirs: repetitions are replaced by fields.

    Returns:
        (N, count, H, W) bool, on the device of ``logits``.

    Raises:
        PlansError: fewer than two candidates, or thresholds that do not fit ``count``.
    """
    if plan.count < 2:
        raise PlansError(f"candidates.count is {plan.count}; a preference needs at least 2 candidates.")
    logits = logits.detach().float()
    if plan.kind == "thresholds":
        return _thresholds(logits, plan)
    drawn = _fields(logits, plan, generator)
    if plan.kind == "fields" or hypotheses is None or hypotheses.shape[1] == 0:
        return drawn
    return _hypotheses(hypotheses.detach().float() > 0, drawn)


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


def _thresholds(logits: Tensor, plan: CandidatePlan) -> Tensor:
    if len(plan.thresholds) != plan.count:
        raise PlansError(
            f"candidates.thresholds has {len(plan.thresholds)} values and candidates.count is {plan.count}; "
            "they must be the same number."
        )
    if not all(0 < t < 1 for t in plan.thresholds):
        raise PlansError(f"candidates.thresholds is {list(plan.thresholds)}; expected probabilities between 0 and 1.")
    cuts = logits.new_tensor([math.log(t / (1 - t)) for t in plan.thresholds])
    return logits[:, None] > cuts[None, :, None, None]


def _fields(logits: Tensor, plan: CandidatePlan, generator: torch.Generator) -> Tensor:
    n, height, width = logits.shape
    low, high = plan.field_amplitude
    shape = (n, plan.count, 1, 1)
    amplitude = low + (high - low) * torch.rand(shape, generator=generator)
    offset = plan.offset_std * torch.randn(shape, generator=generator)
    fields = smooth_fields(n * plan.count, height, width, plan.field_sigmas, generator)
    change = fields.view(n, plan.count, height, width).mul_(amplitude).add_(offset)
    return logits[:, None] + change.to(logits.device) > 0


def _hypotheses(masks: Tensor, drawn: Tensor) -> Tensor:
    """(N, M, H, W) and (N, count, H, W) bool -> the distinct hypotheses first, ``drawn`` in the slots left."""
    n, m = masks.shape[:2]
    count = drawn.shape[1]
    flat = masks.flatten(2).float()
    inside = flat @ flat.transpose(1, 2)  # (N, M, M) pixels in both
    area = flat.sum(2)
    union = area[:, :, None] + area[:, None, :] - inside
    same = (inside > DUPLICATE_IOU * union) | (union == 0)
    repeats = torch.tril(same, diagonal=-1).any(2)  # like an earlier one
    order = torch.argsort(repeats.int(), dim=1, stable=True)[:, :count]
    taken = min(m, count)
    rows = torch.arange(n, device=masks.device)[:, None]
    keep = ~repeats[rows, order]
    result = drawn.clone()
    result[:, :taken] = torch.where(keep[:, :, None, None], masks[rows, order], drawn[:, :taken])
    return result

r"""Eq. 5 of the paper and its variants, its metrics, the segmentation loss, and the targets of the two controls.

With a mask as independent pixels, log pi(Y|I) = sum_i [Y_i log p_i + (1 - Y_i) log(1 - p_i)]
= sum_i [Y_i z_i - softplus(z_i)] for logits z. Eq. 5's coefficients sum to 0, so the softplus terms cancel and the
term inside its sigmoid is

    r = sum_i c_i (z_i - z_i^ref),    c = beta1 (Y1 - Y4) + beta2 (Y2 - Y3).

Only pixels on which candidates differ get a gradient; at z = z^ref the loss is ln 2.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from samdpo.errors import PlansError
from samdpo.plans import PreferenceLossPlan, SegmentationLossPlan
from samdpo.preferences.annotators import Ranking

Reduction = Literal["sum", "mean", "disagreement"]
REWARD_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
"""What alignment logs about rewards, under the names every preference method of TRL uses."""


def candidate_weights(ranking: Ranking, plan: PreferenceLossPlan) -> Tensor:
    """Weight of each candidate's log-ratio in Eq. 5: (N, K) float in candidate order; every row sums to 0.

    - ``ranking``: beta1, beta2, -beta2, -beta1 from best to worst for four candidates. For K candidates the weights
      lie on the line through these four points (and 0 in the middle): 2 -> beta1, -beta1; 3 -> beta1, 0, -beta1.
      Candidates of equal score share the mean of their weights: an annotator prefers neither.
    - ``rating``: the same from the best to the worst rating; candidates of equal rating share the mean of their
      weights, which is the mean over all ways of breaking the tie.
    - ``best``: beta1 for the best candidate and -beta1 / (K - 1) for each other one: all that is known is that it
      beats the rest.

    A ranking that brings weights of its own keeps them.
    """
    if ranking.weights is not None:
        return ranking.weights
    order = ranking.order
    n, k = order.shape
    if ranking.scoring == "best":
        by_rank = torch.full((k,), -plan.beta1 / (k - 1), device=order.device)
        by_rank[0] = plan.beta1
        in_order = by_rank.expand(n, k)
    else:
        key = (ranking.rating if ranking.scoring == "rating" else ranking.score).gather(1, order)
        tied = (key[:, :, None] == key[:, None, :]).float()
        in_order = tied @ _rank_weights(k, plan).to(order.device) / tied.sum(2)
    return torch.zeros(n, k, device=order.device).scatter(1, order, in_order)


def preference_weights(candidates: Tensor, ranking: Ranking, plan: PreferenceLossPlan) -> Tensor:
    """The map c of Eq. 5: candidates (N, K, H, W) bool and their ranking -> (N, H, W) float.

    Zero where the candidates agree, and everywhere in images that are not valid.
    """
    weights = candidate_weights(ranking, plan) * ranking.valid[:, None]
    c = torch.einsum("nk,nkhw->nhw", weights, candidates.to(weights.dtype))
    return c * disagreement_region(candidates)  # rounding must not leave 1e-8 where all candidates agree


def disagreement_region(candidates: Tensor) -> Tensor:
    """(N, K, H, W) bool -> (N, H, W) bool: pixels on which not all candidates say the same."""
    return candidates.any(1) & ~candidates.all(1)


def preference_reward(
    logits: Tensor,
    ref_logits: Tensor,
    c: Tensor,
    reduction: Reduction,
    region: Tensor | None = None,
) -> Tensor:
    """The implicit reward margin r of Eq. 5.

    Args:
        logits: (N, H, W) of the policy, before sigmoid.
        ref_logits: (N, H, W) of the frozen reference model.
        c: (N, H, W) from :func:`preference_weights`.
        reduction: ``sum`` as in Eq. 5; ``mean`` over all pixels, which is ``sum`` with beta / (H W) and hardly
            moves; ``disagreement``: mean over the pixels of ``region``, so that large and small disagreements weigh
            the same (also arXiv:2601.23222).
        region: (N, H, W) bool, :func:`disagreement_region`; by default the pixels where c is not 0, which leaves out
            those where the candidates differ but their weights cancel.

    Returns:
        (N,) float32; 0 where the candidates agree everywhere.
    """
    difference = logits.float() - ref_logits.float()
    return reduce_map(c * difference, c != 0 if region is None else region, reduction)


def preference_loss(reward: Tensor, plan: PreferenceLossPlan) -> Tensor:
    """Loss of the reward margins (N,) -> (N,); types and formulas as TRL's DPO trainer, where reward = beta * logits.

    IPO's beta is ``beta1``: its target for the unweighted log-ratio margin is 1 / (2 beta).
    """
    reward = reward.float()
    if plan.type == "sigmoid":  # DPO, Rafailov et al. 2023, arXiv:2305.18290; Eq. 5 of the paper
        return -F.logsigmoid(reward)
    if plan.type == "hinge":  # SLiC, Zhao et al. 2023, arXiv:2305.10425; RSO, Liu et al. 2023, arXiv:2309.06657
        return F.relu(1 - reward)
    if plan.type == "ipo":  # Azar et al. 2023, arXiv:2310.12036, Eq. 17
        return ((reward - 0.5) / plan.beta1) ** 2
    # Chowdhury et al. 2024, arXiv:2403.00409: unbiased when a share `label_smoothing` of the preferences is flipped
    smoothing = plan.label_smoothing
    if not 0 <= smoothing < 0.5:
        raise PlansError(f"loss.label_smoothing is {smoothing}; the robust loss expects a share from 0 to below 0.5.")
    return ((1 - smoothing) * -F.logsigmoid(reward) + smoothing * F.logsigmoid(-reward)) / (1 - 2 * smoothing)


@torch.no_grad()
def preference_metrics(
    logits: Tensor,
    ref_logits: Tensor,
    candidates: Tensor,
    ranking: Ranking,
    plan: PreferenceLossPlan,
    region: Tensor | None = None,
) -> dict[str, Tensor]:
    """Reward metrics of each image; average them over ``ranking.valid``.

    ``rewards/chosen`` is the weighted log-ratio of the candidates that Eq. 5 rewards, beta1 log(pi/pi_ref)(Y1) +
    beta2 log(pi/pi_ref)(Y2); ``rewards/rejected`` that of Y3 and Y4; ``rewards/margins`` their difference, which is
    the reward inside the loss; ``rewards/accuracies`` 1 where it is positive. All with the loss's reduction.

    Args:
        logits: (N, H, W) of the policy, before sigmoid.
        ref_logits: (N, H, W) of the reference model.
        candidates: (N, K, H, W) bool.
        ranking: of these candidates.
        plan: betas and reduction.
        region: (N, H, W) bool as given to :func:`preference_reward`; by default where
            the candidates disagree.

    Returns:
        four (N,) float32 tensors without gradient.
    """
    logits, ref_logits = logits.float(), ref_logits.float()
    weights = candidate_weights(ranking, plan)
    masks = candidates.float()
    if region is None:
        region = disagreement_region(candidates)
    normaliser = F.softplus(logits) - F.softplus(ref_logits)

    def weighted_log_ratio(weight: Tensor) -> Tensor:
        chosen = torch.einsum("nk,nkhw->nhw", weight, masks)
        return reduce_map(
            chosen * (logits - ref_logits) - weight.sum(1)[:, None, None] * normaliser, region, plan.reduction
        )

    chosen = weighted_log_ratio(weights.clamp(min=0))
    rejected = weighted_log_ratio((-weights).clamp(min=0))
    margins = chosen - rejected
    return dict(zip(REWARD_METRICS, (chosen, rejected, margins, (margins > 0).float())))


def segmentation_loss(
    logits: Tensor,
    truth: Tensor,
    plan: SegmentationLossPlan,
    counted: Tensor | None = None,
) -> Tensor:
    """Focal and Dice loss of each image (20:1 in the paper, Sec. 4).

    Args:
        logits: (N, H, W), before sigmoid.
        truth: (N, H, W) bool or {0, 1}.
        plan: weights; focal alpha is the foreground's weight, 1 - alpha the background's (Lin et al. 2017,
            arXiv:1708.02002).
        counted: (N, H, W) bool, pixels that count (not of the ignore label); by default all.

    Returns:
        (N,) float32: focal_weight * mean focal over pixels + dice_weight * (1 - soft Dice). Nothing is shared
        between the images of a batch.
    """
    logits, truth = logits.float(), truth.float()
    counted = torch.ones_like(truth) if counted is None else counted.to(truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    alpha = plan.focal_alpha * truth + (1 - plan.focal_alpha) * (1 - truth)
    miss = -torch.expm1(-entropy)  # 1 - p of the true class
    pixels = counted.sum((1, 2)).clamp(min=1)
    focal = (alpha * miss**plan.focal_gamma * entropy * counted).sum((1, 2)) / pixels
    probability = torch.sigmoid(logits) * counted
    inside = (probability * truth).sum((1, 2))
    total = probability.sum((1, 2)) + (truth * counted).sum((1, 2))
    # + 1 pixel: defined where prediction and truth are both empty (V-Net's Dice, Milletari et al. 2016, smoothed)
    dice = 1 - (2 * inside + 1) / (total + 1)
    return plan.focal_weight * focal + plan.dice_weight * dice


def self_training_target(ref_logits: Tensor, cut: float = 0.5) -> Tensor:
    """Control: the reference model's own mask as label. (N, H, W) logits, probability cut -> (N, H, W) bool."""
    return torch.sigmoid(ref_logits.float()) > cut


def best_candidate_target(candidates: Tensor, ranking: Ranking) -> Tensor:
    """Control: the best candidate's mask as label (SAM-like). (N, K, H, W) bool and its ranking -> (N, H, W) bool."""
    rows = torch.arange(len(candidates), device=candidates.device)
    return candidates[rows, ranking.order[:, 0]]


def _rank_weights(k: int, plan: PreferenceLossPlan) -> Tensor:
    """(K,) weights from best to worst, antisymmetric; see :func:`candidate_weights`."""
    if k < 2:
        raise PlansError(f"Eq. 5 compares candidates; found {k} of them, expected at least 2 (candidates.count).")
    weights = []
    for place in range(k):
        position = (k - 1 - 2 * place) / (k - 1)  # from 1 (best) to -1 (worst)
        size = abs(position)
        if size < 1 / 3:  # from 0 in the middle to beta2 at 1/3, where the inner two of four candidates stand
            weight = 3 * size * plan.beta2
        else:
            weight = plan.beta2 + 1.5 * (size - 1 / 3) * (plan.beta1 - plan.beta2)
        weights.append(weight if position > 0 else -weight)
    return torch.tensor(weights)


def reduce_map(values: Tensor, region: Tensor, reduction: Reduction) -> Tensor:
    """Reduce a map (N, H, W) to (N,); ``region`` (N, H, W) bool matters to ``disagreement`` only."""
    if reduction == "sum":
        return values.sum((1, 2))
    if reduction == "mean":
        return values.mean((1, 2))
    return (values * region).sum((1, 2)) / region.sum((1, 2)).clamp(min=1)

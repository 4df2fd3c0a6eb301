"""What alignment logs about rewards, under the names every preference method of TRL uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samdpo.plans import PreferenceLossPlan
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.losses import candidate_weights, disagreement_region, reduce_map

REWARD_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


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
        region: (N, H, W) bool as given to :func:`samdpo.preferences.losses.preference_reward`; by default where
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

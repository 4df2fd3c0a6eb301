from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from samdpo.errors import PlansError
from samdpo.plans import AnnotatorPlan, CandidatePlan, PreferenceLossPlan, SegmentationLossPlan
from samdpo.preferences.annotators import Ranking, VirtualAnnotator
from samdpo.preferences.candidates import draw_fields
from samdpo.preferences.losses import (
    REWARD_METRICS,
    best_candidate_target,
    candidate_weights,
    disagreement_region,
    preference_loss,
    preference_metrics,
    preference_reward,
    preference_weights,
    segmentation_loss,
    self_training_target,
)

SUM = PreferenceLossPlan(reduction="sum")


@pytest.fixture
def scene() -> dict[str, torch.Tensor]:
    """Three images of 24 x 20 pixels, policy unlike reference, four ranked candidates each."""
    generator = torch.Generator().manual_seed(3)
    ref_logits = torch.randn(3, 24, 20, generator=generator)
    logits = ref_logits + 0.3 * torch.randn(3, 24, 20, generator=generator)
    truth = torch.rand(3, 24, 20, generator=generator) > 0.5
    plan = CandidatePlan(kind="fields", field_sigmas=(2.0, 4.0))
    candidates = draw_fields(ref_logits, plan, generator)
    ranking = VirtualAnnotator(AnnotatorPlan(), generator).rank(candidates, truth)
    assert ranking.valid.all()
    return {"logits": logits, "ref": ref_logits, "candidates": candidates, "ranking": ranking, "truth": truth}


def ranked(candidates: torch.Tensor, order: list[int], scoring: str = "ranking", rating=None) -> Ranking:
    k = len(order)
    score = torch.zeros(1, k)
    score[0, torch.tensor(order)] = torch.linspace(1, 0, k)
    rating = torch.ones(1, k, dtype=torch.long) if rating is None else torch.tensor([rating])
    return Ranking(torch.tensor([order]), score, rating, torch.tensor([True]), scoring)


def log_likelihood(mask: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """log pi(Y|I) of independent Bernoulli pixels, (H, W), (H, W) -> scalar, in double precision."""
    p = torch.sigmoid(logits.double())
    return torch.where(mask, torch.log(p), torch.log1p(-p)).sum()


def test_the_c_form_is_equation_5_computed_from_whole_bernoulli_likelihoods(scene):
    c = preference_weights(scene["candidates"], scene["ranking"], SUM)
    reward = preference_reward(scene["logits"], scene["ref"], c, "sum")
    for n in range(3):
        ordered = scene["candidates"][n, scene["ranking"].order[n]]
        ratio = [log_likelihood(y, scene["logits"][n]) - log_likelihood(y, scene["ref"][n]) for y in ordered]
        expected = 1.0 * ratio[0] + 0.5 * ratio[1] - 0.5 * ratio[2] - 1.0 * ratio[3]
        assert reward[n].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
        loss = preference_loss(reward[n : n + 1], SUM)
        assert loss.item() == pytest.approx(-F.logsigmoid(expected).item(), rel=1e-5, abs=1e-5)


def test_the_gradient_is_minus_sigma_of_minus_r_times_c(scene):
    logits = scene["logits"].clone().requires_grad_()
    c = preference_weights(scene["candidates"], scene["ranking"], SUM)
    reward = preference_reward(logits, scene["ref"], c, "sum")
    preference_loss(reward, SUM).sum().backward()
    expected = -torch.sigmoid(-reward)[:, None, None] * c
    assert torch.allclose(logits.grad, expected.detach(), atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean", "disagreement"])
def test_the_loss_starts_at_ln_2_and_only_pixels_on_which_candidates_disagree_get_a_gradient(scene, reduction):
    logits = scene["ref"].clone().requires_grad_()
    c = preference_weights(scene["candidates"], scene["ranking"], SUM)
    loss = preference_loss(preference_reward(logits, scene["ref"], c, reduction), SUM)
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)
    loss.sum().backward()
    agree = ~disagreement_region(scene["candidates"])
    assert agree.any() and (logits.grad[agree] == 0).all()
    assert (logits.grad != 0).any()


def test_equal_candidates_carry_no_signal():
    candidates = (torch.rand(1, 1, 8, 8) > 0.5).expand(-1, 4, -1, -1)
    ranking = VirtualAnnotator(AnnotatorPlan(), torch.Generator()).rank(candidates, candidates[:, 0])
    c = preference_weights(candidates, ranking, SUM)
    assert not ranking.valid.any() and (c == 0).all()
    logits = torch.randn(1, 8, 8, requires_grad=True)
    for reduction in ("sum", "mean", "disagreement"):
        reward = preference_reward(logits, torch.zeros(1, 8, 8), c, reduction)
        assert reward.tolist() == [0.0]
        (gradient,) = torch.autograd.grad(preference_loss(reward, SUM).sum(), logits)
        assert (gradient == 0).all()


def test_reductions_are_the_sum_and_its_means_over_all_pixels_and_over_the_disagreement(scene):
    c = preference_weights(scene["candidates"], scene["ranking"], SUM)
    total = preference_reward(scene["logits"], scene["ref"], c, "sum")
    mean = preference_reward(scene["logits"], scene["ref"], c, "mean")
    region = disagreement_region(scene["candidates"])
    local = preference_reward(scene["logits"], scene["ref"], c, "disagreement", region)
    assert torch.allclose(mean * 24 * 20, total, atol=1e-5)
    assert torch.allclose(local * region.sum((1, 2)), total, atol=1e-5)
    spoken = preference_reward(scene["logits"], scene["ref"], c, "disagreement")
    assert torch.allclose(spoken * (c != 0).sum((1, 2)), total, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (2, [1, -1]),
        (3, [1, 0, -1]),
        (4, [1, 0.5, -0.5, -1]),
        (5, [1, 0.625, 0, -0.625, -1]),
        (7, [1, 0.75, 0.5, 0, -0.5, -0.75, -1]),
    ],
)
def test_weights_of_any_number_of_candidates_lie_on_the_papers_line(k, expected):
    order = list(range(k))[::-1]
    weights = candidate_weights(ranked(torch.zeros(1, k, 1, 1), order), SUM)
    assert weights[0, order].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_betas_of_the_plan_are_the_weights():
    plan = PreferenceLossPlan(beta1=2.0, beta2=1.0)
    assert candidate_weights(ranked(torch.zeros(1, 4, 1, 1), [2, 0, 3, 1]), plan).tolist() == [[1.0, -2.0, 2.0, -1.0]]


def test_candidates_of_equal_score_share_their_weights():
    ranking = Ranking(
        torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0.9, 0.0, 0.0, 0.0]]), torch.ones(1, 4, dtype=torch.long),
        torch.tensor([True]), "ranking",
    )
    assert candidate_weights(ranking, SUM)[0].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


def test_candidates_of_equal_rating_share_their_weights():
    ranking = ranked(torch.zeros(1, 4, 1, 1), [1, 2, 0, 3], "rating", rating=[2, 4, 4, 1])
    assert candidate_weights(ranking, SUM)[0].tolist() == pytest.approx([-0.5, 0.75, 0.75, -1.0])
    distinct = ranked(torch.zeros(1, 4, 1, 1), [3, 2, 1, 0], "rating", rating=[1, 2, 3, 4])
    assert candidate_weights(distinct, SUM)[0].tolist() == pytest.approx([-1, -0.5, 0.5, 1])


def test_best_is_the_best_candidate_against_the_mean_of_the_others():
    weights = candidate_weights(ranked(torch.zeros(1, 4, 1, 1), [2, 0, 1, 3], "best"), SUM)
    assert weights[0].tolist() == pytest.approx([-1 / 3, -1 / 3, 1, -1 / 3])


def test_loss_types_have_the_values_computed_by_hand():
    reward = torch.tensor([2.0, 0.0, -0.5])
    log_sigmoid = [math.log(1 / (1 + math.exp(-r))) for r in (2.0, 0.0, -0.5)]
    assert preference_loss(reward, PreferenceLossPlan(type="sigmoid")).tolist() == pytest.approx(
        [-x for x in log_sigmoid]
    )
    assert preference_loss(reward, PreferenceLossPlan(type="hinge")).tolist() == pytest.approx([0.0, 1.0, 1.5])
    # beta 0.5: log-ratio margins 4, 0, -1 against the target 1 / (2 beta) = 1
    ipo = preference_loss(reward, PreferenceLossPlan(type="ipo", beta1=0.5))
    assert ipo.tolist() == pytest.approx([9.0, 1.0, 4.0])
    # -0.9 log sigma(2) + 0.1 log sigma(-2) over 0.8: (0.9 * 0.126928 - 0.1 * 2.126928) / 0.8
    robust = preference_loss(reward, PreferenceLossPlan(type="robust", label_smoothing=0.1))
    assert robust[0].item() == pytest.approx((0.9 * 0.126928 - 0.1 * 2.126928) / 0.8, abs=1e-5)
    assert robust[1].item() == pytest.approx(math.log(2))


def test_the_robust_loss_without_smoothing_is_the_sigmoid_loss_and_half_is_refused():
    reward = torch.randn(5)
    robust = preference_loss(reward, PreferenceLossPlan(type="robust", label_smoothing=0.0))
    assert torch.allclose(robust, preference_loss(reward, SUM))
    with pytest.raises(PlansError, match="label_smoothing"):
        preference_loss(reward, PreferenceLossPlan(type="robust", label_smoothing=0.5))


def test_a_gradient_step_moves_the_policy_towards_the_better_candidate():
    candidates = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    candidates[0, 0, :2] = True
    candidates[0, 1, 2:] = True
    c = preference_weights(candidates, ranked(candidates, [1, 0]), SUM)
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    preference_loss(preference_reward(logits, torch.zeros(1, 4, 4), c, "sum"), SUM).sum().backward()
    assert torch.equal(-logits.grad > 0, candidates[:, 1])


def test_reward_metrics_have_trls_names_and_their_margin_is_the_reward_of_the_loss(scene):
    for reduction in ("sum", "mean", "disagreement"):
        plan = PreferenceLossPlan(reduction=reduction)
        c = preference_weights(scene["candidates"], scene["ranking"], plan)
        region = disagreement_region(scene["candidates"])
        metrics = preference_metrics(scene["logits"], scene["ref"], scene["candidates"], scene["ranking"], plan)
        assert tuple(metrics) == REWARD_METRICS
        reward = preference_reward(scene["logits"], scene["ref"], c, reduction, region)
        assert torch.allclose(metrics["rewards/margins"], reward, atol=1e-4)
        assert torch.equal(metrics["rewards/accuracies"], (reward > 0).float())


def test_the_chosen_reward_is_the_weighted_log_ratio_of_the_two_best(scene):
    metrics = preference_metrics(scene["logits"], scene["ref"], scene["candidates"], scene["ranking"], SUM)
    ordered = scene["candidates"][0, scene["ranking"].order[0]]
    ratio = [log_likelihood(y, scene["logits"][0]) - log_likelihood(y, scene["ref"][0]) for y in ordered]
    assert metrics["rewards/chosen"][0].item() == pytest.approx((ratio[0] + 0.5 * ratio[1]).item(), abs=1e-4)
    assert metrics["rewards/rejected"][0].item() == pytest.approx((ratio[3] + 0.5 * ratio[2]).item(), abs=1e-4)


def test_the_segmentation_loss_is_20_focal_and_one_dice_of_each_image_alone():
    plan = SegmentationLossPlan(focal_alpha=0.25)
    logits = torch.tensor([[[2.0, -1.0]], [[0.0, 3.0]]])
    truth = torch.tensor([[[True, False]], [[True, True]]])
    p = torch.sigmoid(logits[0, 0]).tolist()
    focal = (0.25 * (1 - p[0]) ** 2 * -math.log(p[0]) + 0.75 * p[1] ** 2 * -math.log(1 - p[1])) / 2
    dice = 1 - (2 * p[0] + 1) / (p[0] + p[1] + 1 + 1)
    loss = segmentation_loss(logits, truth, plan)
    assert loss[0].item() == pytest.approx(20 * focal + dice, rel=1e-5)
    assert loss[1].item() == pytest.approx(segmentation_loss(logits[1:], truth[1:], plan).item())


def test_the_segmentation_loss_is_small_for_the_truth_and_finite_for_empty_and_extreme_input():
    plan = SegmentationLossPlan()
    truth = torch.zeros(2, 16, 16, dtype=torch.bool)
    truth[0, 4:9, 4:9] = True
    logits = (truth.float() * 2 - 1) * 1000
    loss = segmentation_loss(logits.bfloat16(), truth, plan)
    assert loss.tolist() == pytest.approx([0.0, 0.0], abs=1e-3)
    wrong = (-logits).requires_grad_()
    value = segmentation_loss(wrong, truth, plan)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(wrong.grad).all()


def test_pixels_that_do_not_count_change_neither_loss_nor_gradient():
    plan = SegmentationLossPlan()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 6, 6, generator=generator, requires_grad=True)
    truth = torch.rand(1, 6, 6, generator=generator) > 0.5
    counted = torch.ones(1, 6, 6, dtype=torch.bool)
    counted[:, 3:] = False
    loss = segmentation_loss(logits, truth, plan, counted)
    assert loss.item() == pytest.approx(segmentation_loss(logits[:, :3], truth[:, :3], plan).item())
    loss.sum().backward()
    assert (logits.grad[:, 3:] == 0).all()


def test_control_targets_are_the_models_own_mask_and_the_best_candidate(scene):
    assert torch.equal(self_training_target(scene["ref"]), scene["ref"] > 0)
    assert self_training_target(torch.zeros(1, 1, 1), cut=0.4).all()
    best = best_candidate_target(scene["candidates"], scene["ranking"])
    for n in range(3):
        assert torch.equal(best[n], scene["candidates"][n, scene["ranking"].score[n].argmax()])

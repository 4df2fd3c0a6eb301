from __future__ import annotations

import pytest
import torch

from samdpo.errors import PlansError
from samdpo.plans import CandidatePlan
from samdpo.preferences.candidates import cut_at_thresholds, distinct_first, draw_fields, smooth_fields


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(row: float, column: float, radius: float = 12.0, size: int = 64) -> torch.Tensor:
    """Logits of a soft disc, (size, size): positive inside."""
    axis = torch.arange(size, dtype=torch.float32)
    distance = torch.sqrt((axis[:, None] - row) ** 2 + (axis[None] - column) ** 2)
    return (radius - distance) / 2


def test_thresholds_are_the_papers_cuts_of_the_probabilities():
    logits = disc(30, 30)[None]
    candidates = cut_at_thresholds(logits, CandidatePlan(kind="thresholds"))
    assert candidates.shape == (1, 4, 64, 64) and candidates.dtype == torch.bool
    for k, cut in enumerate((0.3, 0.4, 0.5, 0.6)):
        assert torch.equal(candidates[0, k], torch.sigmoid(logits[0]) > cut)


def test_fields_differ_between_candidates_and_images_and_never_between_equal_generators():
    logits = disc(30, 30).repeat(2, 1, 1)
    plan = CandidatePlan(kind="fields", field_sigmas=(4.0, 8.0))
    first, again, other = (draw_fields(logits, plan, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert len({tuple(c.flatten().tolist()) for c in first[0]}) == 4


def test_fields_leave_certain_pixels_alone():
    logits = torch.full((1, 64, 64), -100.0)
    logits[:, :32] = 100.0
    candidates = draw_fields(logits, CandidatePlan(kind="fields"), generator())
    assert (candidates == (logits > 0)[:, None]).all()


@pytest.mark.parametrize("sigma", [1.5, 3.0, 8.0, 16.0])
def test_fields_have_unit_variance_and_the_correlation_of_a_gaussian_filter(sigma):
    fields = smooth_fields(200, 96, 80, (sigma,), generator())
    assert fields.shape == (200, 96, 80)
    assert fields.var().item() == pytest.approx(1.0, abs=0.1)
    assert fields.mean().item() == pytest.approx(0.0, abs=0.1)
    lag = max(round(sigma), 1)
    correlation = (fields[:, :, lag:] * fields[:, :, :-lag]).mean() / fields.var()
    assert correlation.item() == pytest.approx(torch.exp(torch.tensor(-((lag / sigma) ** 2) / 4)).item(), abs=0.06)


def test_hypotheses_come_first_and_fields_fill_the_slots_of_missing_and_repeated_ones():
    left, right = disc(30, 18), disc(30, 46)
    logits = disc(30, 30)[None]
    hypotheses = torch.stack([left, left + 0.01, right])[None]
    fields = draw_fields(logits, CandidatePlan(count=4), generator())
    candidates, taken = distinct_first(hypotheses > 0, fields)
    assert torch.equal(candidates[0, 0], left > 0)
    assert torch.equal(candidates[0, 1], right > 0)
    assert torch.equal(candidates[0, 2:], fields[0, 2:])
    assert taken.tolist() == [[0, 2, -1, -1]]


def test_more_hypotheses_than_candidates_keep_the_best_distinct_ones():
    hypotheses = torch.stack([disc(30, c) for c in (10, 10.05, 25, 40, 50)])[None]
    fields = draw_fields(disc(30, 30)[None], CandidatePlan(count=3), generator())
    candidates, taken = distinct_first(hypotheses > 0, fields)
    assert torch.equal(candidates[0], (hypotheses[0] > 0)[[0, 2, 3]]) and taken.tolist() == [[0, 2, 3]]


def test_without_hypotheses_fields_take_their_place():
    logits = disc(30, 30)[None]
    fields = draw_fields(logits, CandidatePlan(), generator())
    candidates, taken = distinct_first(logits[:, None][:, :0] > 0, fields)
    assert torch.equal(candidates, fields) and (taken == -1).all()


def test_half_precision_logits_and_logits_with_gradient_are_accepted():
    logits = disc(30, 30)[None].bfloat16().requires_grad_()
    assert not draw_fields(logits, CandidatePlan(), generator()).requires_grad


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (CandidatePlan(kind="thresholds", thresholds=(0.3, 0.5)), "candidates.thresholds has 2 values"),
        (CandidatePlan(kind="thresholds", count=2, thresholds=(0.3, 1.5)), "between 0 and 1"),
        (CandidatePlan(count=1), "at least 2"),
        (CandidatePlan(field_sigmas=()), "field_sigmas"),
    ],
)
def test_plans_that_cannot_be_drawn_get_a_sentence(plan, words):
    with pytest.raises(PlansError, match=words):
        if plan.kind == "thresholds":
            cut_at_thresholds(torch.zeros(1, 8, 8), plan)
        else:
            draw_fields(torch.zeros(1, 8, 8), plan, generator())

from __future__ import annotations

import pytest
import torch

from samdpo.errors import PlansError
from samdpo.plans import AnnotatorPlan
from samdpo.preferences.annotators import VirtualAnnotator, iou


def annotator(seed: int = 0, **plan) -> VirtualAnnotator:
    return VirtualAnnotator(AnnotatorPlan(**plan), torch.Generator().manual_seed(seed))


def strips(*widths: int) -> torch.Tensor:
    """One candidate a width: the first ``width`` of ten columns. -> (1, K, 4, 10) bool."""
    return torch.stack([(torch.arange(10) < w).expand(4, 10) for w in widths])[None]


TRUTH = strips(10)[:, 0]


def test_overlap_is_iou_and_one_where_both_are_empty():
    assert iou(strips(10, 5, 0), TRUTH).tolist() == [[1.0, 0.5, 0.0]]
    assert iou(strips(0, 3), strips(0)[:, 0]).tolist() == [[1.0, 0.0]]


def test_without_noise_the_order_is_the_order_of_overlap():
    ranking = annotator().rank(strips(3, 9, 1, 6), TRUTH)
    assert ranking.order.tolist() == [[1, 3, 0, 2]]
    assert ranking.score[0].tolist() == pytest.approx([0.3, 0.9, 0.1, 0.6])
    assert ranking.valid.tolist() == [True]


def test_ratings_are_the_papers_bins():
    ranking = annotator(scoring="rating").rank(strips(3, 4, 6, 8), TRUTH)
    assert ranking.rating.tolist() == [[1, 2, 3, 4]]
    assert ranking.order.tolist() == [[3, 2, 1, 0]]


def test_tied_ratings_keep_the_order_in_which_they_were_proposed():
    ranking = annotator(scoring="rating").rank(strips(8, 10, 1, 9), TRUTH)
    assert ranking.rating.tolist() == [[4, 4, 1, 4]]
    assert ranking.order.tolist() == [[0, 1, 3, 2]]


@pytest.mark.parametrize("scoring", ["ranking", "rating", "best"])
def test_equal_candidates_are_not_valid(scoring):
    candidates = torch.cat([strips(5, 5, 5, 5), strips(5, 9, 5, 5)])
    ranking = annotator(scoring=scoring).rank(candidates, TRUTH.repeat(2, 1, 1))
    assert ranking.valid.tolist() == [False, True]


def test_candidates_that_all_miss_the_truth_are_not_valid():
    candidates = strips(2, 3, 4, 1)
    truth = torch.zeros(1, 4, 10, dtype=torch.bool)
    truth[..., 9] = True
    assert annotator().rank(candidates, truth).valid.tolist() == [False]


def test_equal_ratings_are_not_valid_though_the_overlaps_differ():
    candidates = strips(8, 9, 10, 7)
    assert annotator(scoring="rating").rank(candidates, TRUTH).valid.tolist() == [False]
    assert annotator(scoring="ranking").rank(candidates, TRUTH).valid.tolist() == [True]


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_noise_flips_every_adjacent_pair_of_ranks_with_its_probability_and_no_other(noise):
    n = 4000
    candidates = strips(9, 7, 5, 3).expand(n, -1, -1, -1)
    order = annotator(noise=noise).rank(candidates, TRUTH.expand(n, -1, -1)).order
    places = torch.argsort(order, dim=1)
    assert (places - torch.arange(4)).abs().max() == 1
    for i in range(3):
        flipped = (places[:, i] == i + 1).float().mean().item()
        assert flipped == pytest.approx(noise, abs=0.03)


def test_noise_moves_ratings_by_one_and_keeps_them_in_range():
    n = 4000
    candidates = strips(8, 6, 4, 1).expand(n, -1, -1, -1)
    clean = torch.tensor([4, 3, 2, 1])
    rating = annotator(scoring="rating", noise=0.2).rank(candidates, TRUTH.expand(n, -1, -1)).rating
    change = rating - clean
    assert change.abs().max() == 1 and rating.min() == 1 and rating.max() == 4
    assert (change != 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_the_same_generator_gives_the_same_noise():
    candidates = strips(9, 7, 5, 3).expand(50, -1, -1, -1)
    truth = TRUTH.expand(50, -1, -1)
    first, again, other = (annotator(seed, noise=0.3).rank(candidates, truth).order for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("plan", "words"), [({"noise": 0.7}, "noise"), ({"rating_bins": (0.7, 0.4)}, "rating_bins")])
def test_impossible_plans_get_a_sentence(plan, words):
    with pytest.raises(PlansError, match=words):
        annotator(**plan)

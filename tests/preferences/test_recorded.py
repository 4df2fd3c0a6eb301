"""People's judgements as weights of Eq. 5, and how far people agree."""

from __future__ import annotations

import math
import uuid
from datetime import datetime, timezone

import numpy as np
import pytest
import torch

from samdpo.plans import PreferenceLossPlan
from samdpo.preferences.agreement import kendall_tau, krippendorff_alpha, mean_tau, pairwise_tau, scores_of
from samdpo.preferences.losses import candidate_weights, preference_weights
from samdpo.preferences.recorded import consensus, ranking_of
from samdpo.preferences.records import Judgement

PLAN = PreferenceLossPlan()  # beta1 1, beta2 0.5


def said(ranks=None, ratings=None, best=None, verdict="ranked", annotator="ann", item=1) -> Judgement:
    mode = "rating" if ratings else "best" if best is not None else "ranking"
    return Judgement(item, annotator, mode, ranks, ratings, best, verdict, 1.0, str(uuid.uuid4()),
                     datetime.now(timezone.utc))


NONE_ACCEPTABLE, SKIPPED = said(verdict="none_acceptable"), said(verdict="skipped")


@pytest.mark.parametrize(
    ("judgements", "weights"),
    [
        ([said(ranks=(1, 2, 3, 4))], [1, 0.5, -0.5, -1]),
        ([said(ranks=(4, 1, 3, 2))], [-1, 1, -0.5, 0.5]),
        ([said(ranks=(1, 1, 3, 4))], [0.75, 0.75, -0.5, -1]),
        ([said(ranks=(1, 2, 2, 2))], [1, -1 / 3, -1 / 3, -1 / 3]),
        ([said(ranks=(1, 5, 9, 20))], [1, 0.5, -0.5, -1]),
        ([said(ratings=(4, 2, 2, 1))], [1, 0, 0, -1]),
        ([said(best=2)], [-1 / 3, -1 / 3, 1, -1 / 3]),
        ([said(ranks=(1, 1, 1, 1))], [0, 0, 0, 0]),
        ([NONE_ACCEPTABLE], [0, 0, 0, 0]), ([SKIPPED], [0, 0, 0, 0]),
        ([said(ranks=(1, 2, 3, 4)), said(ranks=(4, 3, 2, 1))], [0, 0, 0, 0]),
        ([said(ranks=(1, 2, 3, 4)), said(ranks=(2, 1, 3, 4))], [0.75, 0.75, -0.5, -1]),
        ([said(ranks=(1, 2, 3, 4)), said(best=0)], [1, 1 / 12, -5 / 12, -2 / 3]),
        ([said(ranks=(1, 2, 3, 4)), NONE_ACCEPTABLE, SKIPPED], [1, 0.5, -0.5, -1]),
    ],
)
def test_the_weights_are_those_of_each_person_averaged(judgements, weights):
    assert consensus(judgements, 4, PLAN).tolist() == pytest.approx(weights, abs=1e-6)


def test_people_who_contradict_each_other_cancel_exactly():
    people = [said(ranks=ranks) for ranks in [(1, 2, 3, 4), (4, 3, 2, 1), (2, 3, 1, 4), (3, 2, 4, 1)]]
    assert not consensus(people, 4, PLAN).any()


def test_a_ranking_that_brings_weights_keeps_them():
    ranking = ranking_of(said(ranks=(1, 2, 3, 4)), 4)
    own = torch.tensor([[0.2, 0.0, 0.1, -0.3]])
    ranking = type(ranking)(**{**vars(ranking), "weights": own})
    assert torch.equal(candidate_weights(ranking, PLAN), own)
    masks = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    masks[0, 0, 0], masks[0, 3, 1] = True, True
    assert torch.allclose(preference_weights(masks, ranking, PLAN), torch.tensor([[[0.2, 0.2], [-0.3, -0.3]]]))


def test_tau_is_one_for_the_same_order_and_minus_one_for_the_opposite():
    assert kendall_tau([4, 3, 2, 1], [9, 8, 7, 1]) == pytest.approx(1)
    assert kendall_tau([4, 3, 2, 1], [1, 2, 3, 4]) == pytest.approx(-1)
    assert kendall_tau([4, 3, 2, 1], [4, 3, 1, 2]) == pytest.approx(4 / 6)  # 5 of 6 pairs agree, 1 does not
    assert math.isnan(kendall_tau([1, 1, 1, 1], [1, 2, 3, 4]))


def test_tau_is_kendalls_tau_b():
    from scipy.stats import kendalltau

    generator = np.random.default_rng(0)
    for count in (2, 3, 5, 8):
        for first, second in generator.integers(0, 4, (12, 2, count)).tolist():
            expected = kendalltau(first, second, variant="b").statistic
            assert kendall_tau(first, second) == pytest.approx(expected, nan_ok=True)


def test_the_mean_over_all_pairs_is_that_of_the_pairs():
    generator = np.random.default_rng(0)
    given = {(item, f"person {who}"): generator.integers(1, 4, 4).tolist()
             for item in range(20) for who in range(9) if generator.random() < 0.6}
    pairs = pairwise_tau(given).values()
    compared = sum(count for _, count in pairs)
    mean = sum(tau * count for tau, count in pairs) / compared
    assert mean_tau(given) == (pytest.approx(mean), compared)


def test_thousands_of_people_on_one_item_are_compared_without_going_through_the_pairs():
    """There are four million pairs of 3,000 people."""
    generator = np.random.default_rng(0)
    given = {(1, f"person {who:05d}"): generator.permutation(8).tolist() for who in range(3000)}
    tau, compared = mean_tau(given)
    assert compared == 3000 * 2999 // 2 and abs(tau) < 0.02
    assert abs(krippendorff_alpha(given)) < 0.02
    pairs = pairwise_tau(given, most=30)
    assert len(pairs) == 30 * 29 // 2 and all(count == 1 for _, count in pairs.values())


def scored(*judgements: Judgement):
    return scores_of(judgements, {1: 4, 2: 4, 3: 4})


def test_pairs_are_compared_on_the_items_they_share():
    given = scored(
        said(ranks=(1, 2, 3, 4), item=1), said(ranks=(1, 2, 3, 4), item=1, annotator="bob"),
        said(ranks=(1, 2, 3, 4), item=2), said(ranks=(4, 3, 2, 1), item=2, annotator="bob"),
        said(best=0, item=3), said(item=3, annotator="bob", verdict="none_acceptable"),
        said(ranks=(1, 2, 3, 4), item=2, annotator="cy"), said(ranks=(1, 1, 1, 1), item=1, annotator="cy"),
    )
    pairs = pairwise_tau(given)
    assert pairs["ann", "bob"] == (pytest.approx(0), 2)
    assert pairs["ann", "cy"] == (pytest.approx(1), 1) and pairs["bob", "cy"] == (pytest.approx(-1), 1)
    assert mean_tau(given) == (pytest.approx(0), 4)


def test_nobody_to_compare_with_is_no_number():
    given = scored(said(ranks=(1, 2, 3, 4)), SKIPPED)
    assert math.isnan(mean_tau(given)[0]) and math.isnan(krippendorff_alpha(given))
    ties = scored(said(ranks=(1, 1, 1, 1)), said(ranks=(1, 1, 1, 1), annotator="bob"))
    assert math.isnan(krippendorff_alpha(ties))


def test_alpha_is_one_for_full_agreement_and_falls_with_every_contradiction():
    def of_bob(second, third):
        return scored(
            *(said(ranks=(1, 2, 3, 4), item=item) for item in (1, 2, 3)),
            said(ranks=(1, 2, 3, 4), annotator="bob"), said(ranks=second, item=2, annotator="bob"),
            said(ranks=third, item=3, annotator="bob"),
        )

    same, swapped, opposite = (1, 2, 3, 4), (2, 1, 3, 4), (4, 3, 2, 1)
    values = [krippendorff_alpha(of_bob(*two)) for two in
              [(same, same), (same, swapped), (swapped, swapped), (same, opposite), (opposite, opposite)]]
    assert values[0] == pytest.approx(1) and values == sorted(values, reverse=True) and values[-1] < 0


def test_alpha_is_that_of_the_coincidences_counted_by_hand():
    """Ranks (1 2 3 4) and (2 1 3 4): n = 8 values, each rank twice. Ordinal distance of neighbours c, c+1 is
    (n_c + n_c+1 - (n_c + n_c+1) / 2)^2 = 2^2, of c, c+2 4^2, of c, c+3 6^2. Observed: the pair (1, 2) twice of four.
    """
    observed = 2 * 2 * 4  # coincidences o_12 = o_21 = 2
    expected = sum(2 * 2 * (2 * abs(a - b)) ** 2 for a in range(4) for b in range(4)) / 7
    alpha = krippendorff_alpha(scored(said(ranks=(1, 2, 3, 4)), said(ranks=(2, 1, 3, 4), annotator="bob")))
    assert alpha == pytest.approx(1 - observed / expected)

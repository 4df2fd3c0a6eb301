"""The virtual annotator in front of the page: what it answers, how it errs, what it costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from samdpo.plans import PlacesPlan
from samdpo.preferences.page_annotator import PageAnnotator
from samdpo.preferences.records import Item, Judgement, checked, item_id

EXACT = PlacesPlan(errs=(0.0, 0.0, 0.0), box_error=0.0)
WIDTH = 100


def item(number: int = 0, candidates: int = 3) -> Item:
    place = (f"case_{number}", 0, "mass")
    return Item(item_id("set", *place), "set", *place, 0.5, candidates)


def strips(*widths: int) -> np.ndarray:
    """One mask a width: its overlap with the truth of all 100 columns is width / 100. -> (K, 10, 100) bool."""
    return np.stack([np.tile(np.arange(WIDTH) < width, (10, 1)) for width in widths])


TRUTH = strips(WIDTH)[0]


def answer(*widths: int, plan: PlacesPlan = EXACT, noise: float = 0.0, number: int = 0, seed: int = 0,
           truth: np.ndarray = TRUTH, has_box: bool = True) -> Judgement:
    masks = strips(*widths)
    return PageAnnotator(plan, noise, seed).answer(item(number, len(masks)), masks, truth, has_box)


# ---- what it says ---------------------------------------------------------------------------------------------------


def test_a_mask_that_is_right_is_accepted_the_first_one_in_less_time():
    first, third = answer(90, 40, 10), answer(10, 40, 90)
    assert (first.verdict, first.best, first.seconds) == ("accepted", 0, EXACT.seconds_accept)
    assert (third.verdict, third.best, third.seconds) == ("accepted", 2, EXACT.seconds_choose)
    assert EXACT.seconds_accept < EXACT.seconds_choose


def test_where_none_is_right_it_draws_a_box_around_the_structure():
    truth = np.zeros((10, WIDTH), bool)
    truth[3:7, 20:50] = True
    said = answer(10, 20, 30, truth=truth)
    assert (said.verdict, said.box, said.best, said.ranks) == ("none_acceptable", (20, 3, 50, 7), None, None)
    assert said.seconds == EXACT.seconds_box


def test_acceptance_begins_at_the_overlap_of_the_plan():
    assert answer(79, 10).verdict == "none_acceptable" and answer(80, 10).verdict == "accepted"
    assert answer(79, 10, plan=replace(EXACT, accept_from=0.7)).verdict == "accepted"


def test_what_has_no_one_box_is_ordered_and_what_is_far_off_is_none():
    said = answer(60, 70, 55, has_box=False)
    assert (said.verdict, said.ranks, said.seconds) == ("ranked", (2, 1, 3), EXACT.seconds_order)
    assert answer(60, 90, has_box=False).verdict == "accepted"
    none = answer(10, 40, has_box=False)
    assert (none.verdict, none.box, none.seconds) == ("none_acceptable", None, EXACT.seconds_choose)


def test_one_kind_of_answer_may_be_all_that_is_asked():
    orders, boxes, outlines = (replace(EXACT, asks=asks) for asks in ("orders", "boxes", "outlines"))
    assert answer(90, 95, plan=orders).ranks == (2, 1)
    assert answer(90, 95, plan=boxes).box == (0, 0, WIDTH, 10)
    drawn = answer(90, 95, plan=outlines)
    assert drawn.box == (0, 0, WIDTH, 10) and drawn.seconds == outlines.seconds_outline > EXACT.seconds_order
    assert answer(60, 70, plan=boxes, has_box=False).verdict == "ranked", "two lungs have no one box"


@pytest.mark.parametrize("asks", ["mixture", "orders", "boxes", "outlines"])
def test_a_structure_that_is_not_there_is_none(asks):
    said = answer(10, 20, plan=replace(EXACT, asks=asks), truth=np.zeros((10, WIDTH), bool))
    assert (said.verdict, said.box, said.seconds) == ("none_acceptable", None, EXACT.seconds_choose)


# ---- how it errs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "which"), [((92, 90), 0), ((90, 75), 1), ((90, 40), 2)])
def test_two_masks_are_mistaken_for_each_other_by_the_gap_of_their_overlaps(widths, which):
    plan, draws = PlacesPlan(asks="orders", none_below=0.0), 2000
    wrong = sum(answer(*widths, plan=plan, number=number).ranks == (2, 1) for number in range(draws))
    expected = plan.errs[which]
    assert abs(wrong / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_no_mask_moves_more_than_one_place():
    plan = PlacesPlan(asks="orders", errs=(1.0, 1.0, 1.0))
    assert answer(90, 80, 70, 60, plan=plan).ranks == (2, 1, 4, 3)


def test_the_sides_of_a_box_are_off_by_a_share_of_it():
    plan, draws = PlacesPlan(asks="boxes"), 1500
    truth = np.zeros((200, 400), bool)
    truth[80:120, 100:300] = True
    annotator = PageAnnotator(plan, 0.0, 0)
    boxes = np.array([annotator.answer(item(number), truth[None], truth).box for number in range(draws)])
    off = (boxes - [100, 80, 300, 120]) / [200, 40, 200, 40]
    assert np.abs(off.mean(0)).max() < 4 * plan.box_error / math.sqrt(draws)
    np.testing.assert_allclose(off.std(0), plan.box_error, rtol=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_a_share_of_the_answers_is_drawn_at_random(noise):
    draws = 1000
    right = sum(answer(90, 20, 10, noise=noise, number=number).best == 0 for number in range(draws))
    expected = 1 - noise + noise / 2 / 3  # half of the random ones accept one of three
    assert abs(right / draws - expected) <= 4 * math.sqrt(expected * (1 - expected) / draws)


def test_random_orders_have_every_mask_first_equally_often():
    plan, draws = replace(EXACT, asks="orders"), 900
    firsts = [answer(90, 50, 10, plan=plan, noise=1.0, number=number).ranks.index(1) for number in range(draws)]
    assert abs(np.bincount(firsts, minlength=3) / draws - 1 / 3).max() < 4 * math.sqrt(2 / 9 / draws)


@pytest.mark.parametrize("asks", ["mixture", "orders", "boxes", "outlines"])
@pytest.mark.parametrize("has_box", [True, False])
def test_every_answer_is_one_that_the_database_takes(asks, has_box):
    generator = np.random.default_rng(0)
    for number in range(200):
        truth = np.zeros((10, WIDTH), bool)
        x, y = generator.integers(0, (WIDTH, 10))
        truth[y : y + generator.integers(0, 4), x : x + generator.integers(0, 40)] = True  # cut at the border, or none
        masks = strips(*generator.integers(0, WIDTH, 4))
        plan = PlacesPlan(asks=asks, box_error=0.5)
        said = PageAnnotator(plan, 0.5, 3).answer(item(number, 4), masks, truth, has_box)
        assert checked(said) == said
        said.check_candidates(4)
        said.check_where(10, WIDTH)
        assert said.seconds > 0


# ---- the same answers -----------------------------------------------------------------------------------------------


def test_an_answer_is_the_same_whatever_was_asked_before_and_another_for_another_seed():
    plan = PlacesPlan(asks="orders", errs=(0.5, 0.5, 0.5))
    widths = {number: tuple(np.random.default_rng(number).permutation([90, 70, 50, 30]).tolist())
              for number in range(20)}
    one, other = PageAnnotator(plan, 0.3, 7), PageAnnotator(plan, 0.3, 7)
    forward = {n: one.answer(item(n, 4), strips(*widths[n]), TRUTH) for n in range(20)}
    backward = {n: other.answer(item(n, 4), strips(*widths[n]), TRUTH) for n in reversed(range(20))}
    assert forward == backward
    again = [PageAnnotator(plan, 0.3, 8).answer(item(n, 4), strips(*widths[n]), TRUTH) for n in range(20)]
    assert [said.ranks for said in again] != [said.ranks for said in forward.values()]
    assert not {said.client_key for said in again} & {said.client_key for said in forward.values()}
    assert len({said.client_key for said in forward.values()}) == 20

"""What is stored, and what is refused."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from judged_items import SET, judge, make_items, skip

from samdpo.preferences.database.errors import AlreadyJudgedError, ClientKeyError, UnknownItemError
from samdpo.preferences.database.records import OverlapRule, item_id

NONE = {"ranks": None, "ratings": None, "best": None}


def test_a_judgement_comes_back_as_it_was(database, items):
    given = [
        judge(items[0]), judge(items[1], mode="rating", ranks=None, ratings=(4, 1, 1, 2)),
        judge(items[2], mode="best", ranks=None, best=3), judge(items[3], **NONE, verdict="none_acceptable"),
        skip(items[4]),
    ]
    assert all(database.record(one) for one in given)
    assert database.judgements() == database.judgements(SET.id) == given


def test_sets_and_items_come_back_as_they_were(database, items):
    assert database.candidate_sets() == [SET] and database.candidate_set(SET.id) == SET
    assert database.items(SET.id) == items and database.item(items[3].id) == items[3]
    assert database.candidate_set("other") is None and database.item(1) is None


def test_adding_a_set_again_adds_only_new_items(database, items):
    database.record(judge(items[0]))
    more = make_items(8)
    database.add_candidate_set(dataclasses.replace(SET, folder="elsewhere"), [*items, *more])
    assert len(database.items(SET.id)) == 8 and database.candidate_set(SET.id) == SET
    assert database.progress("ann", SET.id, OverlapRule()).left == 7


def test_the_same_key_twice_is_one_judgement(database, items):
    one = judge(items[0])
    assert database.record(one) is True
    assert database.record(one) is False
    assert database.judgements() == [one]


def test_a_key_that_comes_late_again_does_not_undo_an_undo(database, items):
    one = judge(items[0])
    database.record(one)
    database.undo_last("ann", SET.id)
    assert database.record(one) is False
    assert database.judgements() == []


def test_a_key_belongs_to_one_item_and_person(database, items):
    one = judge(items[0])
    database.record(one)
    for other in (dataclasses.replace(one, item=items[1].id), dataclasses.replace(one, annotator="bob")):
        with pytest.raises(ClientKeyError, match=one.client_key):
            database.record(other)
    assert database.judgements() == [one]


def test_a_person_judges_an_item_once(database, items):
    database.record(judge(items[0]))
    with pytest.raises(AlreadyJudgedError, match="'ann' has judged"):
        database.record(judge(items[0], ranks=(4, 3, 2, 1)))
    assert database.record(judge(items[0], "bob"))
    assert len(database.judgements()) == 2


def test_an_undone_judgement_stays_in_the_history(database, items):
    first = judge(items[0])
    database.record(first)
    undone = database.undo_last("ann", SET.id)
    second = judge(items[0], ranks=(4, 3, 2, 1))
    database.record(second)
    assert undone == dataclasses.replace(first, undone=undone.undone) and undone.undone is not None
    assert database.judgements() == [second]
    assert database.judgements(undone=True) == [undone, second]


def test_there_is_nothing_to_undo_at_the_beginning(database):
    assert database.undo_last("ann", SET.id) is None


def test_an_unknown_item_is_refused(database):
    stranger = make_items(1, "another set")[0]
    with pytest.raises(UnknownItemError, match=str(stranger.id)):
        database.record(judge(stranger))


def test_an_answer_about_another_number_of_candidates_is_refused(database, items):
    with pytest.raises(ValueError, match="4 candidates.*about 3"):
        database.record(judge(items[0], ranks=(1, 2, 3)))
    with pytest.raises(ValueError, match="from 0 to 3"):
        database.record(judge(items[0], mode="best", ranks=None, best=4))
    assert database.judgements() == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"ranks": None}, "holds the answer of ranking; found that of no mode"),
        ({"best": 1}, "found that of ranking and best"), ({"mode": "rating"}, "the answer of rating"),
        ({"verdict": "skipped"}, "the answer of no mode"), ({"ranks": (0, 1, 2, 3)}, "from 1"),
        ({"mode": "rating", "ranks": None, "ratings": (5, 1, 1, 1)}, "1 to 4"), ({"mode": "stars"}, "mode is 'stars'"),
        ({"verdict": "good"}, "verdict is 'good'"), ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"), ({"client_key": "7"}, "UUID"),
    ],
)
def test_an_answer_that_contradicts_itself_is_none(answer, said):
    with pytest.raises(ValueError, match=said):
        judge(make_items(1)[0], **answer)


def test_a_judgement_has_a_name_and_a_time_zone():
    one = judge(make_items(1)[0])
    with pytest.raises(ValueError, match="expected a name"):
        dataclasses.replace(one, annotator=" ")
    with pytest.raises(ValueError, match="time zone"):
        dataclasses.replace(one, time=one.time.replace(tzinfo=None))


def test_item_ids_are_numbers_a_browser_holds_exactly_and_depend_on_all_that_an_item_is():
    ids = {item_id(*place) for place in [("s", "c", 0, "lung"), ("t", "c", 0, "lung"), ("s", "d", 0, "lung"),
                                         ("s", "c", 1, "lung"), ("s", "c", 0, "heart")]}
    assert len(ids) == 5 and all(0 <= one < 2**53 for one in ids)
    assert uuid.UUID(judge(make_items(1)[0]).client_key)

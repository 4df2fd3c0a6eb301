"""What is stored, and what is refused."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from judged_items import SET, judge, make_items, skip
from sqlalchemy import text

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.errors import (
    AlreadyJudgedError,
    ClientKeyError,
    EnoughJudgedError,
    NotHandedOutError,
    UnknownItemError,
)
from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.preferences.records import item_id

NONE = {"ranks": None, "ratings": None, "best": None}
PLACED = {**NONE, "verdict": "none_acceptable"}


def test_a_judgement_comes_back_as_it_was(database, items):
    given = [
        judge(items[0]), judge(items[1], mode="rating", ranks=None, ratings=(4, 1, 1, 2)),
        judge(items[2], mode="best", ranks=None, best=3), judge(items[3], **NONE, verdict="none_acceptable"),
        skip(items[4]), judge(items[5], ranks=None, verdict="accepted", best=2),
        judge(items[0], "bob", mode="rating", ranks=None, verdict="accepted", best=0),
        judge(items[1], "bob", **NONE, verdict="none_acceptable", box=(0.0, 1.5, 32.0, 40.25)),
        judge(items[2], "bob", **NONE, verdict="none_acceptable", point=(0.0, 7.5)),
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
        ({"verdict": "accepted"}, "the answer of best; found that of ranking"),
        ({"verdict": "accepted", "ranks": None}, "the answer of best; found that of no mode"),
        ({"box": (0, 0, 1, 1)}, "'ranked' has a box or a point"),
        ({**PLACED, "verdict": "skipped", "point": (0, 0)}, "'skipped' has a box or a point"),
        ({**PLACED, "box": (0, 0, 1, 1), "point": (0, 0)}, "both a box and a point"),
        ({**PLACED, "box": (2, 0, 2, 1)}, "x0 < x1"), ({**PLACED, "box": (0, 3, 2, 1)}, "x0 < x1 and y0 < y1"),
        ({**PLACED, "box": (0, 0, 1)}, "4 numbers"), ({**PLACED, "point": (0, 0, 1)}, "2 numbers"),
        ({**PLACED, "box": (0, 0, float("inf"), 1)}, "numbers from 0 to"), ({**PLACED, "point": (-1, 0)}, "from 0 to"),
        ({**PLACED, "point": (float("nan"), 0)}, "from 0 to"),
    ],
)
def test_an_answer_that_contradicts_itself_is_none(answer, said):
    with pytest.raises(ValueError, match=said):
        judge(make_items(1)[0], **answer)


def test_a_key_sent_again_with_another_place_is_another_answer(database, items):
    one = judge(items[0], **PLACED, box=(0.0, 0.0, 9.0, 9.0))
    database.record(one)
    for other in ({"box": (0.0, 0.0, 9.0, 8.0)}, {"box": None}, {"box": None, "point": (1.0, 1.0)}):
        with pytest.raises(ClientKeyError, match="another answer"):
            database.add_all([SET], items, [dataclasses.replace(one, **other)])
    assert database.judgements() == [one]
    assert database.undo_last("ann", SET.id).box == one.box


def test_a_place_lies_inside_its_slice():
    item = make_items(1)[0]
    judge(item, **PLACED, box=(0.0, 0.0, 30.0, 20.0)).check_where(20, 30)
    judge(item, **PLACED, point=(29.9, 19.9)).check_where(20, 30)
    judge(item).check_where(20, 30)
    for where in ({"box": (0.0, 0.0, 20.0, 30.0)}, {"point": (30.0, 1.0)}, {"point": (1.0, 20.0)}):
        with pytest.raises(ValueError, match="30 x 20 pixels"):
            judge(item, **PLACED, **where).check_where(20, 30)


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


# ---- whose turn it is -----------------------------------------------------------------------------------------------

ONE = OverlapRule()


def handed(database, name, **more):
    return database.next_item(name, SET.id, ONE, **more)


def test_an_item_is_judged_by_whom_it_was_handed_to(database, items):
    assert handed(database, "ann") == items[0]
    for one in (judge(items[0], "bob"), skip(items[0], "bob"), judge(items[1], "ann")):
        with pytest.raises(NotHandedOutError, match="not handed to you"):
            database.record(one, ONE)
    assert database.record(judge(items[0], "ann"), ONE)
    assert [one.annotator for one in database.judgements()] == ["ann"]


def test_a_late_answer_is_taken_while_the_item_needs_one(database, items):
    assert handed(database, "ann", lease_seconds=0) == handed(database, "bob") == items[0]
    assert database.record(judge(items[0], "ann"), ONE), "bob is at it, and has said nothing yet"
    with pytest.raises(EnoughJudgedError, match="already judged"):
        database.record(judge(items[0], "bob"), ONE)
    assert handed(database, "bob") == items[1], "what is not needed any more is not handed out again"
    assert database.progress("bob", SET.id, ONE).left == 5
    assert len(database.judgements()) == 1


def test_a_late_answer_on_an_item_that_is_done_is_refused_and_earlier_ones_can_be_undone(database, items):
    first = judge(handed(database, "ann"), "ann")
    database.record(first, ONE)
    assert handed(database, "ann", lease_seconds=0) == items[1]
    assert database.record(judge(handed(database, "bob"), "bob"), ONE)
    with pytest.raises(EnoughJudgedError):
        database.record(judge(items[1], "ann"), ONE)
    assert database.record(skip(items[1], "ann"), ONE), "a skip needs nothing"
    assert [database.undo_last("ann", SET.id).item for _ in range(2)] == [items[1].id, items[0].id]
    assert handed(database, "ann") == items[0]


def test_an_undone_item_is_its_authors_to_judge_again(database, items):
    database.record(judge(handed(database, "ann"), "ann"), ONE)
    database.undo_last("ann", SET.id)
    assert database.record(judge(items[0], "ann", ranks=(4, 3, 2, 1)), ONE)


def test_with_overlap_an_item_is_judged_as_often_as_it_needs(database, items):
    two = OverlapRule(1.0, 2)
    people = ("ann", "bob", "cy")
    for name in people:
        assert database.next_item(name, SET.id, two, lease_seconds=0) == items[0]
    assert [database.record(judge(items[0], name), two) for name in people[:2]] == [True, True]
    with pytest.raises(EnoughJudgedError):
        database.record(judge(items[0], "cy"), two)


def test_a_judgement_sent_again_is_known_whoever_has_the_item_now(database, items):
    one = judge(handed(database, "ann"), "ann")
    database.record(one, ONE)
    assert database.record(one, ONE) is False


def test_a_lease_is_a_week_at_most(database, items):
    for endless in (float("inf"), 1e18):
        assert handed(database, "ann", lease_seconds=endless) == items[0]


# ---- undo -----------------------------------------------------------------------------------------------------------


def test_an_undo_sent_again_takes_back_nothing_more_also_from_another_server(database, url, items):
    for _ in range(3):
        database.record(judge(handed(database, "ann"), "ann"), ONE)
    key, other = str(uuid.uuid4()), str(uuid.uuid4())
    undone = database.undo_last("ann", SET.id, undo_key=key)
    restarted = PreferenceDatabase.open(url)
    assert restarted.undo_last("ann", SET.id, undo_key=key) == undone
    assert restarted.undo_last("bob", SET.id, undo_key=key) is None, "a key belongs to its person"
    restarted.record(judge(items[2], "ann"), ONE)
    assert database.undo_last("ann", SET.id, undo_key=key) == undone, "also after it was judged again"
    assert len(database.judgements()) == 3
    assert restarted.undo_last("ann", SET.id, undo_key=other).item == items[2].id
    restarted.close()


def test_an_undo_of_nothing_stays_one(database, items):
    key = str(uuid.uuid4())
    assert database.undo_last("ann", SET.id, undo_key=key) is None
    database.record(judge(handed(database, "ann"), "ann"), ONE)
    assert database.undo_last("ann", SET.id, undo_key=key) is None
    assert len(database.judgements()) == 1


def test_an_undo_is_never_before_what_it_undoes(database, items):
    later = datetime.now(timezone.utc) + timedelta(hours=1)  # the clock was set back since
    database.record(judge(items[0], "ann", time=later))
    assert database.undo_last("ann", SET.id).undone == later


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_an_ended_session_is_known_to_every_server_until_it_would_have_ended(database, url):
    now = datetime.now(timezone.utc).timestamp()
    for _ in range(2):
        database.end_session("a" * 64, now + 60)
    database.end_session("b" * 64, now - 60)
    other = PreferenceDatabase.open(url)
    assert other.has_ended("a" * 64) and not other.has_ended("c" * 64)
    other.end_session("d" * 64, now + 60)
    assert [other.has_ended(name * 64) for name in "abd"] == [True, False, True]
    other.close()


# ---- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [
    {"ranks": (True, True, True, True)}, {"ranks": (1.5, 2.5, 3.5, 4.5)}, {"ranks": (1, 2, 3, 9)},
    {"ranks": (2, 3, 4, 5)}, {"seconds": True}, {"seconds": 1e9}, {"annotator": "a\nb"}, {"annotator": "<b>"},
])
def test_programs_are_held_to_the_same_kinds_and_ranges(database, items, answer):
    with pytest.raises(ValueError):
        database.record(judge(items[0], **answer))
    assert database.judgements() == []


def test_programs_may_give_lists(database, items):
    database.record(judge(items[0], ranks=[1, 2, 2, 4]))
    assert database.judgements()[0].ranks == (1, 2, 2, 4)


def test_what_an_older_version_has_let_in_can_still_be_read(database, items):
    database.record(judge(items[0]))
    with database._engine.begin() as connection:
        connection.execute(text("UPDATE judgement SET annotator = :name, ranks = '[1, 5, 9, 20]', seconds = 1e9"),
                           {"name": "a\n</script>"})
    (one,) = database.judgements()
    assert (one.annotator, one.ranks, one.seconds) == ("a\n</script>", (1, 5, 9, 20), 1e9)

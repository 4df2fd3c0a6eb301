"""Who gets which item next."""

from __future__ import annotations

import pytest
from judged_items import SET, judge, make_items, skip

from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.annotate.database.tables import overlap_draw
from samdpo.errors import ConfigurationError

ONE = OverlapRule()


def following(database, annotator="ann", overlap=ONE, lease_seconds=600.0):
    return database.next_item(annotator, SET.id, overlap, lease_seconds)


def work_through(database, annotator, overlap=ONE):
    """Judge until nothing comes; the items in the order they came."""
    done = []
    while (item := following(database, annotator, overlap)) is not None:
        database.record(judge(item, annotator))
        done.append(item)
    return done


def test_the_item_on_which_candidates_differ_most_comes_first(database, items):
    assert work_through(database, "ann") == items


def test_a_reloaded_page_shows_the_same_item(database, items):
    assert following(database) == following(database) == items[0]


def test_two_people_get_two_items(database, items):
    assert [following(database, name) for name in ("ann", "bob", "cy")] == items[:3]


def test_what_is_done_by_one_person_is_done(database, items):
    work_through(database, "ann")
    assert following(database, "bob") is None


def test_a_lease_expires(database, items):
    assert following(database, "ann", lease_seconds=0) == items[0]
    assert following(database, "bob") == items[0]


def test_work_that_comes_after_its_lease_still_counts(database, items):
    late = following(database, "ann", lease_seconds=0)
    database.record(judge(following(database, "bob"), "bob"))
    assert database.record(judge(late, "ann"))
    assert [j.annotator for j in database.judgements()] == ["bob", "ann"]


def test_a_skipped_item_goes_to_somebody_else_and_never_comes_back(database, items):
    database.record(skip(following(database, "ann"), "ann"))
    assert following(database, "ann") == items[1]
    assert following(database, "bob") == items[0]
    assert items[0] not in work_through(database, "ann")


def test_overlap_gives_every_item_to_so_many_people(database, items):
    overlap = OverlapRule(share=1.0, people=2)
    assert following(database, "ann", overlap) == following(database, "bob", overlap) == items[0]
    assert following(database, "cy", overlap) == items[1], "two people are at the first one"
    assert work_through(database, "ann", overlap) == items
    assert set(work_through(database, "cy", overlap)) == set(items[1:])
    assert work_through(database, "bob", overlap) == items[:1], "bob had only the lease of the first"
    assert following(database, "dee", overlap) is None


def test_the_share_of_overlapping_items_is_the_same_in_every_session(empty):
    items = make_items(100)
    empty.add_candidate_set(SET, items)
    overlap = OverlapRule(share=0.25, people=3)
    shared = [item for item in items if overlap.needed(item) == 3]
    assert len(shared) == pytest.approx(25, abs=12)
    assert set(shared) == {item for item in make_items(100) if overlap_draw(item.id) < 0.25}
    for item in items:
        empty.record(judge(item, "ann"))
    assert [following(empty, "bob", overlap), following(empty, "cy", overlap)] == [shared[0]] * 2
    assert following(empty, "dee", overlap) == shared[1]
    assert set(work_through(empty, "bob", overlap)) == set(shared)


def test_an_undone_item_comes_next_and_then_the_one_that_was_open(database, items):
    database.record(judge(following(database)))
    open_one = following(database)
    database.undo_last("ann", SET.id)
    assert following(database) == items[0]
    database.record(judge(items[0]))
    assert following(database) == open_one == items[1]


def test_undoing_twice_takes_back_the_last_two(database, items):
    for _ in range(3):
        database.record(judge(following(database)))
    assert [database.undo_last("ann", SET.id).item for _ in range(2)] == [items[2].id, items[1].id]
    assert [item.id for item in work_through(database, "ann")] == [item.id for item in items[1:]]


def test_an_undone_skip_comes_back(database, items):
    database.record(skip(following(database)))
    assert database.undo_last("ann", SET.id).verdict == "skipped"
    assert following(database) == items[0]


def test_nothing_left_is_nothing_handed_out(database, items):
    for name in ("ann", "bob"):
        left = database.progress(name, SET.id, ONE).left
        assert left == len(items) - (name == "bob")
        following(database, name)
    while database.progress("ann", SET.id, ONE).left:
        database.record(judge(following(database, "ann"), "ann"))
    assert following(database, "ann") is None
    assert database.progress("bob", SET.id, ONE).left == 1, "what bob has open"


def test_progress_counts_what_a_person_did(database, items):
    assert database.progress("ann", SET.id, ONE).median_seconds is None
    for seconds in (1.0, 9.0, 2.0):
        database.record(judge(following(database), seconds=seconds))
    database.record(skip(following(database)))
    progress = database.progress("ann", SET.id, ONE)
    assert (progress.judged, progress.skipped, progress.left, progress.median_seconds) == (3, 1, 2, 2.0)
    database.undo_last("ann", SET.id)
    database.undo_last("ann", SET.id)
    progress = database.progress("ann", SET.id, ONE)
    assert (progress.judged, progress.skipped, progress.left, progress.median_seconds) == (2, 0, 4, 5.0)


def test_sets_do_not_mix(database, items):
    other = make_items(2, "ffff")
    database.add_candidate_set(SET.__class__(**{**vars(SET), "id": "ffff"}), other)
    assert database.next_item("ann", "ffff", ONE, 600) == other[0]
    assert following(database) == items[0]
    database.record(judge(other[0]))
    assert database.undo_last("ann", SET.id) is None
    assert database.judgements(SET.id) == [] and len(database.judgements("ffff")) == 1


@pytest.mark.parametrize(("share", "people"), [(-0.1, 2), (1.1, 2), (0.5, 0)])
def test_an_overlap_that_makes_no_sense_is_refused(share, people):
    with pytest.raises(ConfigurationError, match="overlap"):
        OverlapRule(share, people)

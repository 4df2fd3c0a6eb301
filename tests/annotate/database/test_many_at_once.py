"""Threads and processes that work at the same time, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from judged_items import SET, judge, make_items
from sqlalchemy import text
from waiting import PATIENCE

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.errors import DatabaseError, EnoughJudgedError
from samdpo.annotate.database.handing_out import OverlapRule

HERE = Path(__file__).parent

WORKER = """
import sys
from judged_items import SET, judge
from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.handing_out import OverlapRule

url, name, share, people = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
database = PreferenceDatabase.open(url)
while (item := database.next_item(name, SET.id, OverlapRule(share, people), 600)) is not None:
    one = judge(item, name)
    assert database.record(one)
    print(one.client_key, flush=True)
"""


def start(url: str, name: str, overlap: OverlapRule) -> subprocess.Popen:
    """A person in a process of its own, who judges until nothing is left and says what was acknowledged."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, name, str(overlap.share), str(overlap.people)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=HERE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def work(database: PreferenceDatabase, name: str, overlap: OverlapRule) -> list[int]:
    done = []
    while (item := database.next_item(name, SET.id, overlap, 600)) is not None:
        database.record(judge(item, name))
        done.append(item.id)
    return done


@pytest.mark.parametrize("overlap", [OverlapRule(), OverlapRule(0.5, 3)])
def test_twenty_people_get_every_item_as_often_as_it_needs(empty, overlap):
    items = make_items(60)
    empty.add_candidate_set(SET, items)
    people = [f"person {i}" for i in range(20)]
    with ThreadPoolExecutor(len(people)) as pool:
        done = list(pool.map(lambda name: work(empty, name, overlap), people))
    counted = Counter(item for of_person in done for item in of_person)
    assert counted == {item.id: overlap.needed(item) for item in items}
    stored = Counter(judgement.item for judgement in empty.judgements())
    assert stored == counted


def test_twenty_people_who_only_look_get_twenty_items(empty):
    empty.add_candidate_set(SET, make_items(20))
    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(lambda i: empty.next_item(f"person {i}", SET.id, OverlapRule(), 600), range(20)))
    assert len({item.id for item in got}) == 20


def test_processes_that_open_a_new_database_together_lose_and_double_nothing(url):
    """Each makes the schema if it is the first."""
    items = make_items(40)
    workers = [start(url, name, OverlapRule()) for name in ("ann", "bob")]
    database = PreferenceDatabase.open(url)
    database.add_candidate_set(SET, items)
    workers += [start(url, name, OverlapRule()) for name in ("cy", "dee")]
    keys = []
    for worker in workers:
        said, errors = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, errors
        keys += said.split()
    work(database, "last", OverlapRule())
    stored = database.judgements()
    assert Counter(one.item for one in stored) == {item.id: 1 for item in items}
    assert set(keys) <= {one.client_key for one in stored}
    database.close()


def test_two_clicks_at_once_are_one_judgement(database, items):
    one = judge(items[0])
    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(database.record, [one] * 8))
    assert sorted(new) == [False] * 7 + [True]
    assert database.judgements() == [one]


def test_late_answers_at_once_are_taken_as_often_as_the_item_needs(database, items):
    """The rule is checked in the transaction that stores."""
    two, people = OverlapRule(1.0, 2), [f"person {i}" for i in range(8)]
    for name in people:
        assert database.next_item(name, SET.id, two, lease_seconds=0) == items[0]

    def answer(name: str) -> bool:
        try:
            return database.record(judge(items[0], name), two)
        except EnoughJudgedError:
            return False

    with ThreadPoolExecutor(len(people)) as pool:
        assert sum(pool.map(answer, people)) == 2
    assert len(database.judgements()) == 2


def test_one_undo_that_reaches_two_servers_at_once_takes_back_one_judgement(database, url, items):
    for item in items[:4]:
        database.record(judge(item))
    other = PreferenceDatabase.open(url)
    for taken_back in range(1, 3):
        key = str(uuid.uuid4())
        with ThreadPoolExecutor(6) as pool:
            undone = list(pool.map(
                lambda one, key=key: one.undo_last("ann", SET.id, undo_key=key), [database, other] * 3
            ))
        assert len({one.item for one in undone}) == 1
        assert len(database.judgements()) == 4 - taken_back
    other.close()


def test_while_somebody_else_writes_requests_wait_together_and_not_one_after_the_other(url, items):
    database = PreferenceDatabase.open(url, patience=1.0)
    database.add_candidate_set(SET, items)
    with database._engine.begin() as holding, ThreadPoolExecutor(8) as pool:
        holding.execute(text("UPDATE item SET judged = 0"))  # and does not end
        began = time.monotonic()
        answers = [pool.submit(database.record, judge(item)) for item in [*items, *items][:8]]
        for answer in answers:
            with pytest.raises(DatabaseError, match="did not do its work"):
                answer.result()
        waited = time.monotonic() - began
        if database._one_writer is not None:
            for item in [*items, *items]:
                with pytest.raises(DatabaseError, match="did not do its work"):
                    database.record(judge(item))
            waited = max(waited, time.monotonic() - began)
    assert waited < 8 * 1.0, "each has waited for those before"
    assert database.record(judge(items[0])), "and then work goes on"
    database.close()


def test_what_was_acknowledged_before_a_kill_is_there(url):
    database = PreferenceDatabase.open(url)
    database.add_candidate_set(SET, make_items(3000))
    worker = start(url, "ann", OverlapRule())
    keys = [worker.stdout.readline().strip() for _ in range(25)]
    time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    said, _ = worker.communicate(timeout=PATIENCE)
    keys += [line for line in said.splitlines() if len(line) == 36]  # the last line may be half
    assert worker.returncode == -signal.SIGKILL
    database.close()
    reopened = PreferenceDatabase.open(url)
    stored = [one.client_key for one in reopened.judgements()]
    assert keys == stored[: len(keys)] and len(stored) - len(keys) in (0, 1)
    assert reopened.progress("ann", SET.id, OverlapRule()).judged == len(stored)
    work_goes_on = reopened.next_item("ann", SET.id, OverlapRule(), 600)
    assert reopened.record(judge(work_goes_on, "ann"))
    reopened.close()

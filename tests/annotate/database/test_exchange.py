"""JSON lines: out and in again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from judged_items import SET, judge, make_items, skip

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.exchange import Imported, export_jsonl, import_jsonl
from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.errors import ConfigurationError
from samdpo.preferences import as_json
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates


@pytest.fixture
def judged(database, items):
    """With judgements of every kind, one of them undone."""
    for one in [
        judge(items[0]), judge(items[0], "bob", mode="rating", ranks=None, ratings=(4, 3, 3, 1), seconds=0.1 + 0.2),
        skip(items[1]), judge(items[2], mode="best", ranks=None, best=2),
    ]:
        database.record(one)
    database.undo_last("ann", SET.id)
    database.record(judge(items[2], verdict="none_acceptable", ranks=None, box=(3.0, 4.5, 20.0, 31.0)))
    database.record(judge(items[3], verdict="accepted", ranks=None, best=0))
    database.record(judge(items[3], "bob", verdict="none_acceptable", ranks=None, point=(7.0, 9.25)))
    return database


@pytest.fixture
def other(tmp_path):
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    yield database
    database.close()


def everything(database):
    return database.candidate_sets(), database.items(SET.id), database.judgements(undone=True)


def test_another_database_holds_the_same_afterwards(judged, other, tmp_path):
    assert export_jsonl(judged, tmp_path / "all.jsonl", [SET]) == 7
    assert import_jsonl(other, tmp_path / "all.jsonl") == Imported(new=7, known=0, refused=0)
    assert everything(other) == everything(judged)
    export_jsonl(other, tmp_path / "again.jsonl", [SET])
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "all.jsonl").read_bytes()
    for name in ("ann", "bob"):
        assert other.progress(name, SET.id, OverlapRule()) == judged.progress(name, SET.id, OverlapRule())


def test_importing_again_changes_nothing(judged, other, tmp_path):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    import_jsonl(other, tmp_path / "all.jsonl")
    before = everything(other)
    assert import_jsonl(other, tmp_path / "all.jsonl") == Imported(new=0, known=7, refused=0)
    assert everything(other) == before


def test_what_a_person_has_judged_here_differently_is_left_out(judged, other, items, tmp_path, caplog):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    other.add_candidate_set(SET, items)
    mine = judge(items[0], "ann", ranks=(4, 3, 2, 1))
    other.record(mine)
    assert import_jsonl(other, tmp_path / "all.jsonl") == Imported(new=6, known=0, refused=1)
    assert mine in other.judgements()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:40]], r"Line 15 of .*broken\.jsonl"),
        (lambda lines: [lines[0], "[1, 2]", *lines[1:]], "Line 2"),
        (lambda lines: [*lines, '{"kind": "comment"}'], "'comment' is none of"),
        (lambda lines: [line.replace('"annotator"', '"reader"') for line in lines], "missing or not known.*annotator"),
        (lambda lines: [line.replace('"case_0001"', '"case_7"') for line in lines], "the id of the item"),
        (lambda lines: lines[2:], "but not the set itself"),
        (lambda lines: [line for line in lines if '"case_0000"' not in line], "but not the item itself"),
        (lambda lines: [line.replace("[1, 2, 2, 4]", "[1, 2, 2]") for line in lines], "4 candidates"),
    ],
)
def test_a_broken_file_adds_nothing(judged, other, tmp_path, change, said):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    (tmp_path / "broken.jsonl").write_text("\n".join(change(lines)))
    with pytest.raises(ConfigurationError, match=said):
        import_jsonl(other, tmp_path / "broken.jsonl")
    assert other.candidate_sets() == [] and other.judgements() == []


def test_a_missing_file_is_a_sentence(other, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        import_jsonl(other, tmp_path / "none.jsonl")


def test_every_line_says_what_it_is(judged, tmp_path):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert kinds == ["export", "candidate_set"] + ["item"] * len(make_items(6)) + ["judgement"] * 7


def test_a_file_of_an_older_version_is_read_and_one_of_a_later_version_is_not(judged, other, tmp_path):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key not in ("box", "point")} for line in lines[1:]]
    old = [line for line in old if line.get("verdict") != "accepted"]
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, old)))
    assert import_jsonl(other, tmp_path / "old.jsonl") == Imported(new=6, known=0, refused=0)
    assert all((one.box, one.point) == (None, None) for one in other.judgements())
    for version, said in [(3, "pip install --upgrade samdpo"), ("2", "whole number from 1"), (True, "whole number")]:
        changed = [{**lines[0], "version": version}, *lines[1:]]
        (tmp_path / "later.jsonl").write_text("\n".join(map(json.dumps, changed)))
        with pytest.raises(ConfigurationError, match=f"Line 1 of .*{said}"):
            import_jsonl(other, tmp_path / "later.jsonl")


def test_a_place_outside_its_slice_is_refused_where_the_candidates_are_at_hand(other, roots, tmp_path):
    masks = np.zeros((2, 20, 30), bool)
    writer = CandidateWriter(tmp_path / "set")
    writer.put("case", "key", {0: np.zeros((20, 30), np.float32)},
               [ItemCandidates(0, "lung", masks, np.zeros((1, 4), np.float32), 0.5)])
    described = dataclasses.replace(SET, folder=str(tmp_path / "set"))
    writer.finish(described, {})
    item = StoredCandidates.open(tmp_path / "set").items[0]
    none = {"verdict": "none_acceptable", "ranks": None}

    def write(**where) -> Path:
        lines = [{"kind": "candidate_set", **as_json.set_to_json(described)},
                 {"kind": "item", **as_json.item_to_json(item)},
                 {"kind": "judgement", **as_json.judgement_to_json(judge(item, **none, **where))}]
        (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return tmp_path / "in.jsonl"

    for where in ({"box": (0.0, 0.0, 30.0, 21.0)}, {"box": (0.0, 0.0, 31.0, 20.0)}, {"point": (30.0, 5.0)},
                  {"point": (5.0, 20.0)}):
        with pytest.raises(ConfigurationError, match="30 x 20 pixels.*Nothing is imported"):
            import_jsonl(other, write(**where))
    assert other.judgements() == []
    assert import_jsonl(other, write(box=(0.0, 0.0, 30.0, 20.0))).new == 1

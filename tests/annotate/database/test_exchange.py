"""JSON lines: out and in again."""

from __future__ import annotations

import json

import pytest
from judged_items import SET, judge, make_items, skip

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.exchange import Imported, export_jsonl, import_jsonl
from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.errors import ConfigurationError


@pytest.fixture
def judged(database, items):
    """With judgements of every kind, one of them undone."""
    for one in [
        judge(items[0]), judge(items[0], "bob", mode="rating", ranks=None, ratings=(4, 3, 3, 1), seconds=0.1 + 0.2),
        skip(items[1]), judge(items[2], mode="best", ranks=None, best=2),
    ]:
        database.record(one)
    database.undo_last("ann", SET.id)
    database.record(judge(items[2], verdict="none_acceptable", ranks=None))
    return database


@pytest.fixture
def other(tmp_path):
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    yield database
    database.close()


def everything(database):
    return database.candidate_sets(), database.items(SET.id), database.judgements(undone=True)


def test_another_database_holds_the_same_afterwards(judged, other, tmp_path):
    assert export_jsonl(judged, tmp_path / "all.jsonl", [SET]) == 5
    assert import_jsonl(other, tmp_path / "all.jsonl") == Imported(new=5, known=0, refused=0)
    assert everything(other) == everything(judged)
    export_jsonl(other, tmp_path / "again.jsonl", [SET])
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "all.jsonl").read_bytes()
    for name in ("ann", "bob"):
        assert other.progress(name, SET.id, OverlapRule()) == judged.progress(name, SET.id, OverlapRule())


def test_importing_again_changes_nothing(judged, other, tmp_path):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    import_jsonl(other, tmp_path / "all.jsonl")
    before = everything(other)
    assert import_jsonl(other, tmp_path / "all.jsonl") == Imported(new=0, known=5, refused=0)
    assert everything(other) == before


def test_what_a_person_has_judged_here_differently_is_left_out(judged, other, items, tmp_path, caplog):
    export_jsonl(judged, tmp_path / "all.jsonl", [SET])
    other.add_candidate_set(SET, items)
    mine = judge(items[0], "ann", ranks=(4, 3, 2, 1))
    other.record(mine)
    assert import_jsonl(other, tmp_path / "all.jsonl") == Imported(new=4, known=0, refused=1)
    assert mine in other.judgements()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:40]], r"Line 12 of .*broken\.jsonl"),
        (lambda lines: [lines[0], "[1, 2]", *lines[1:]], "Line 2"),
        (lambda lines: [*lines, '{"kind": "comment"}'], "'comment' is none of"),
        (lambda lines: [line.replace('"annotator"', '"reader"') for line in lines], "missing or not known.*annotator"),
        (lambda lines: [line.replace('"case_0001"', '"case_7"') for line in lines], "the id of the item"),
        (lambda lines: lines[1:], "but not the set itself"),
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
    assert kinds == ["candidate_set"] + ["item"] * len(make_items(6)) + ["judgement"] * 5

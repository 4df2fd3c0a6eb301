"""What an import refuses, and that it then adds nothing."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from judged_items import SET, judge, make_items, skip
from sqlalchemy import text

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.exchange import Imported, export_jsonl, import_jsonl
from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.errors import ConfigurationError
from samdpo.preferences.as_json import judgement_to_json
from samdpo.preferences.records import item_id

KEYS = [str(uuid.UUID(int=number)) for number in range(1, 9)]
NOW = datetime.now(timezone.utc)


@pytest.fixture
def lines(tmp_path) -> list[dict]:
    """What an export of three items and four judgements holds, without the line of its version."""
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'from.sqlite'}")
    items = make_items(3)
    database.add_candidate_set(SET, items)
    database.record(judge(items[0], client_key=KEYS[0]))
    database.record(judge(items[0], "bob", mode="rating", ranks=None, ratings=(4, 3, 3, 1), client_key=KEYS[1]))
    database.record(judge(items[1], mode="best", ranks=None, best=1, client_key=KEYS[2]))
    database.record(skip(items[2], "bob"))
    export_jsonl(database, tmp_path / "all.jsonl", [SET])
    database.close()
    return [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()][1:]


@pytest.fixture
def write(tmp_path):
    def _write(lines: list, encoding: str = "utf-8", end: str = "\n") -> Path:
        file = tmp_path / "in.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file.write_bytes(end.join(texts).encode(encoding))
        return file

    return _write


def rows(database: PreferenceDatabase) -> dict[str, list]:
    """Every row of every table."""
    tables = ("candidate_set", "item", "judgement", "lease", "undo", "ended_session")
    with database._engine.connect() as connection:
        return {name: sorted(map(repr, connection.execute(text(f"SELECT * FROM {name}")))) for name in tables}


# ---- one transaction ------------------------------------------------------------------------------------------------


def test_whichever_line_fails_the_database_is_as_it_was(empty, lines, write):
    items = make_items(3)
    empty.add_candidate_set(SET, items)
    empty.record(judge(items[2], "cy", client_key=KEYS[7]))
    before = rows(empty)
    for place, line in enumerate(lines):
        wrong = {"candidate_set": {"dataset": "Dataset902_Other"}, "item": {"candidates": 3},
                 "judgement": {"client_key": KEYS[7]}}[line["kind"]]
        for broken in ("{", "[1]", {**line, **wrong}, {**line, "kind": "x"}, {**line, "extra": 1}):
            with pytest.raises(ConfigurationError, match="Nothing is imported"):
                import_jsonl(empty, write([*lines[:place], broken, *lines[place + 1:]]))
            assert rows(empty) == before, f"line {place + 1} as {broken}"
    assert import_jsonl(empty, write(lines)) == Imported(new=4, known=0, refused=0)


def test_what_contradicts_the_database_is_refused_whole(empty, lines, write):
    import_jsonl(empty, write(lines))
    before = rows(empty)
    judgements = [line for line in lines if line["kind"] == "judgement"]
    items = [line for line in lines if line["kind"] == "item"]
    fresh = {**judgements[0], "annotator": "cy", "client_key": KEYS[5]}
    head = [line for line in lines if line["kind"] != "judgement"]
    for contents, said in [
        ([*head, fresh, {**judgements[0], "item": items[1]["id"]}], "was used for item"),
        ([*head, fresh, {**judgements[0], "annotator": "dee"}], "was used for item"),
        ([*head, fresh, {**judgements[0], "ranks": [4, 3, 2, 1]}], "another answer"),
        ([*head, fresh, {**fresh, "annotator": "dee"}], "Two different Judgement"),
        ([*head, {**items[0], "position": 0.25}, fresh], "Two different Item"),
        ([head[0], {**items[0], "candidates": 3}], "3 candidates, and .* has 4"),
        ([{**lines[0], "dataset": "Dataset902_Other"}], "it is known as"),
        ([{**lines[0], "fold": "1"}], "it is known as"),
    ]:
        with pytest.raises(ConfigurationError, match=said) as error:
            import_jsonl(empty, write(contents))
        assert "Nothing is imported" in str(error.value)
        assert rows(empty) == before


def test_a_file_that_holds_everything_twice_adds_it_once(empty, lines, write):
    assert import_jsonl(empty, write([*lines, *lines])) == Imported(new=4, known=4, refused=0)
    assert len(empty.judgements()) == 4


def test_a_known_set_stays_as_it_is(empty, lines, write):
    import_jsonl(empty, write(lines))
    import_jsonl(empty, write([{**lines[0], "folder": "elsewhere", "plan_hash": "q"}]))
    assert empty.candidate_sets() == [SET]


def test_an_imported_judgement_counts_as_one_given_here(empty, lines, write):
    items = make_items(3)
    empty.add_candidate_set(SET, items)
    for name in ("ann", "bob"):
        empty.next_item(name, SET.id, OverlapRule())
    import_jsonl(empty, write(lines))
    assert empty.progress("ann", SET.id, OverlapRule()).left == 1
    assert empty.next_item("bob", SET.id, OverlapRule()) is None, "bob held the second item, which is done now"
    assert empty.next_item("ann", SET.id, OverlapRule()) == items[2]


def test_a_large_file_is_read_in_parts(tmp_path, write):
    items = make_items(1200)  # more than one IN takes
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'large.sqlite'}")
    other = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.add_candidate_set(SET, items)
    export_jsonl(other, tmp_path / "items.jsonl", [SET])
    head = (tmp_path / "items.jsonl").read_text().splitlines()
    said = [{"kind": "judgement", **judgement_to_json(judge(item))} for item in items]
    assert import_jsonl(database, write([*head, *said])) == Imported(new=1200, known=0, refused=0)
    assert [one.item for one in database.judgements()] == [item.id for item in items]
    assert database.next_item("bob", SET.id, OverlapRule()) is None
    for opened in (database, other):
        opened.close()


# ---- kinds and ranges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("item", "position", [float("nan"), float("inf"), "0.5", True, None, -1, 10**30, [0.5]]),
        ("item", "candidates", [-1, 0, 9, 2.5, 4.0, "4", True, None, 10**30]),
        ("item", "slice_index", [-1, "0", 0.0, False, 2**31, 10**30]),
        ("item", "case", ["../x", "/abs", "a/b", "", ".", "a\nb", 5, "x" * 1000]),
        ("item", "structure", ["", "a\x00", "x" * 10**6, 5]),
        ("judgement", "ranks", [
            [True, True, True, True], ["1", "2", "3", "4"], [1.5, 2.5, 3.5, 4.5], [1, 2, 3, 10**40], [2, 3, 4, 5],
            [1, 2, 3, 5], [0, 1, 2, 3], [1, 2, 3], [1, 2, 3, 4, 5], "1234", {"0": 1}, 1, None, [[1], 2, 3, 4],
        ]),
        ("judgement", "seconds", [-1, float("nan"), float("inf"), "2", True, 1e9, 10**400, None]),
        ("judgement", "annotator", [
            "", " ", "a\nb", "</script>", "x" * 65, "x" * 10**6, "a\u200bb", "a\u202eb", "\u0301a", 5, None, ["ann"],
        ]),
        ("judgement", "client_key", ["7", "", "g" * 32, 7, None, "x" * 10**6]),
        ("judgement", "verdict", ["good", 1, None, ["ranked"]]),
        ("judgement", "box", [
            [1, 2, 3, 4], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 4.0], "1234", 1, [True, 2, 3, 4], [0, 0, 1e9, 1e9],
            [0, 0, float("nan"), 1], [0, 0, float("inf"), 1], ["0", "0", "1", "1"], {}, [[0, 0, 1, 1]],
        ]),
        ("judgement", "point", [[1.0, 2.0], [1.0], [-1.0, 2.0], "12", [None, 1.0], [1e9, 1.0]]),
        ("judgement", "mode", ["stars", 0, None, {}]),
        ("judgement", "time", [
            "yesterday", 0, None, "2024-05-01T12:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
            (NOW + timedelta(days=3)).isoformat(),
        ]),
        ("judgement", "undone", ["never", 0, "2024-05-01T12:00:00", "2010-01-01T00:00:00+00:00", True]),
        ("judgement", "item", [True, "1", 1.0, -1, 2**53, 10**30, None]),
        ("candidate_set", "id", ["", "*", "../x", "a/b", "x" * 65, 5]),
        ("candidate_set", "dataset", ["../x", "", 5, "a\nb"]),
        ("candidate_set", "fold", ["*", "..", 0, "", "0/1"]),
        ("candidate_set", "stage", ["../x", None]),
        ("candidate_set", "plans_name", ["/abs", ""]),
        ("candidate_set", "model_hash", [None, "x" * 1000]),
        ("candidate_set", "created", ["0001-01-01T00:00:00+14:00", "2024-05-01T12:00:00", 1.5e9]),
        ("candidate_set", "folder", ["a\x00b", "x" * 10**5, 5]),
    ],
)
def test_a_field_of_a_wrong_kind_or_range_is_named_and_nothing_is_added(tmp_path, lines, write, kind, field, values):
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    place = next(number for number, line in enumerate(lines) if line["kind"] == kind)
    for value in values:
        wrong = {**lines[place], field: value}
        if kind == "item":
            wrong["id"] = item_id(wrong["candidate_set"], str(wrong["case"]), wrong["slice_index"],
                                  str(wrong["structure"]))
        with pytest.raises(ConfigurationError, match=f"{field}|4 candidates|holds the answer of") as error:
            import_jsonl(database, write([*lines[:place], wrong, *lines[place + 1:]]))
        assert len(str(error.value)) < 1000 and "Nothing is imported" in str(error.value), value
    assert not any(rows(database).values())
    database.close()


@pytest.mark.parametrize(
    ("field", "value"), [("mode", "rating"), ("best", True), ("best", 4), ("best", "1"), ("ratings", [5, 1, 1, 1])]
)
def test_an_answer_that_does_not_fit_its_mode_or_item_is_refused(empty, lines, write, field, value):
    place = next(number for number, line in enumerate(lines) if line.get("best") == 1)
    with pytest.raises(ConfigurationError, match="Nothing is imported"):
        import_jsonl(empty, write([*lines[:place], {**lines[place], field: value}, *lines[place + 1:]]))
    assert empty.candidate_sets() == []


@pytest.mark.parametrize("line", [
    "[" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, "9" * 5000, '{"kind": ' + "9" * 5000 + "}", "null", "7",
    '{"kind": ["item"]}', '{"kind": {}}', "\x00", '{"kind": "item", "kind": "item"}',
])
def test_json_that_is_no_line_of_an_export_is_a_sentence(empty, lines, write, line):
    with pytest.raises(ConfigurationError, match="Line 2 of"):
        import_jsonl(empty, write([lines[0], line]))
    assert empty.candidate_sets() == []


def test_lone_surrogates_are_a_sentence(empty, lines, write):
    for name in ("structure", "annotator"):
        changed = [json.dumps({**line, name: "SURROGATE"} if name in line else line) for line in lines]
        with pytest.raises(ConfigurationError, match=r"Line \d"):
            import_jsonl(empty, write([line.replace("SURROGATE", "\\ud800") for line in changed]))
    assert empty.candidate_sets() == []


# ---- what people's editors and other programs make of a file --------------------------------------------------------


@pytest.mark.parametrize(("encoding", "end"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8", "\n\n")])
def test_a_byte_order_mark_and_other_ends_of_lines_are_read(empty, lines, write, encoding, end):
    assert import_jsonl(empty, write(lines, encoding, end)).new == 4


def test_a_character_that_ends_lines_elsewhere_may_stand_in_a_text(empty, lines, write):
    changed = [json.dumps({**line, "folder": "a\u2028b"} if "folder" in line else line, ensure_ascii=False)
               for line in lines]
    assert import_jsonl(empty, write(changed)).new == 4
    assert empty.candidate_sets()[0].folder == "a\u2028b"


def test_one_key_in_several_forms_is_one_key(empty, lines, write):
    key = "0f0e0d0c-0b0a-4a3b-8c2d-1e0f0a0b0c0d"
    place = next(number for number, line in enumerate(lines) if line["kind"] == "judgement")
    for number, form in enumerate([key, "{" + key.upper() + "}", f"urn:uuid:{key}", key.replace("-", "")]):
        found = import_jsonl(empty, write([*lines[: place], {**lines[place], "client_key": form}]))
        assert found == Imported(new=int(number == 0), known=int(number > 0), refused=0)
    assert [one.client_key for one in empty.judgements()] == [key]


def test_a_name_is_imported_in_the_form_in_which_the_page_stores_it(empty, lines, write):
    changed = [{**line, "annotator": "Zoe\u0308  O\u2019Neill"} if line.get("annotator") == "ann" else line
               for line in lines]
    import_jsonl(empty, write(changed))
    assert {one.annotator for one in empty.judgements()} == {"Zoë O'Neill", "bob"}


def test_times_of_other_zones_and_with_z_are_read(empty, lines, write):
    changed = [{**line, "time": "2024-05-01T12:30:15Z"} if "time" in line else line for line in lines]
    import_jsonl(empty, write(changed))
    assert {one.time for one in empty.judgements()} == {datetime(2024, 5, 1, 12, 30, 15, tzinfo=timezone.utc)}

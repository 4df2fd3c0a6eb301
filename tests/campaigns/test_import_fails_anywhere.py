"""An import whose n-th line is wrong, for every n and in every way of being wrong, leaves the database as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from judged_items import SET, judge, make_items

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.exchange import export_jsonl, import_jsonl
from samdpo.errors import SamdpoError

pytestmark = pytest.mark.slow

WRONG: dict[str, Callable[[dict], str]] = {
    "cut": lambda line: json.dumps(line)[:-9],
    "deep": lambda line: "[" * 100_000,
    "deep objects": lambda line: '{"a":' * 50_000,
    "other kind": lambda line: json.dumps({**line, "kind": "comment"}),
    "a key less": lambda line: json.dumps({k: v for k, v in line.items() if k != list(line)[1]}),
    "a key more": lambda line: json.dumps({**line, "more": 1}),
    "a number of thousands of digits": lambda line: json.dumps(line).replace(":", ":" + "1" * 5000 + ",", 1),
    "a lone surrogate": lambda line: json.dumps({**line, list(line)[1]: "\ud800"}),
    "null": lambda line: json.dumps({**line, list(line)[1]: None}),
    "10^30": lambda line: json.dumps({**line, list(line)[-1]: 10**30}),
    "a list": lambda line: json.dumps({**line, list(line)[-1]: ["x"]}),
    "no candidates": lambda line: json.dumps({**line, **({"candidates": -1} if line["kind"] == "item" else
                                                         {"seconds": "nan"} if line["kind"] == "judgement" else
                                                         {"created": "0001-01-01T00:00:00"})}),
}


@pytest.fixture
def lines(tmp_path: Path) -> list[dict]:
    """What it is, a set, three items, three judgements."""
    made = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'source.sqlite'}")
    items = make_items(3)
    made.add_candidate_set(SET, items)
    for item in items:
        made.record(judge(item))
    export_jsonl(made, tmp_path / "all.jsonl", [SET])
    made.close()
    return [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("known", [0, 3], ids=["empty", "known"])
def test_a_wrong_line_adds_nothing(
    lines: list[dict], known: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    database = PreferenceDatabase.open(f"sqlite:///{tmp_path / 'here.sqlite'}")
    if known:
        database.add_candidate_set(SET, make_items(3)[:2])
        database.record(judge(make_items(3)[0], "ben"))

    def everything() -> tuple:
        return database.candidate_sets(), database.items(SET.id), database.judgements(undone=True)

    before, tried, failures, file = everything(), 0, [], tmp_path / "broken.jsonl"
    for number in range(len(lines)):
        for name, wrong in WRONG.items():
            texts = [json.dumps(line) for line in lines]
            texts[number] = wrong(lines[number])
            file.write_text("\n".join(texts))
            tried += 1
            try:
                import_jsonl(database, file)
                failures.append(f"line {number + 1}, {name}: accepted")
            except SamdpoError as error:
                if not str(error):
                    failures.append(f"line {number + 1}, {name}: no sentence")
            except Exception as error:
                failures.append(f"line {number + 1}, {name}: {type(error).__name__}: {str(error)[:80]}")
            if everything() != before:
                failures.append(f"line {number + 1}, {name}: the database has changed")
                before = everything()
    for name, texts in _clashes(lines, database).items():
        file.write_text("\n".join(map(json.dumps, texts)))
        tried += 1
        try:
            import_jsonl(database, file)
            failures.append(f"{name}: accepted")
        except SamdpoError:
            pass
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:80]}")
        if everything() != before:
            failures.append(f"{name}: the database has changed")
            before = everything()
    database.close()
    tell(f"import: {tried} wrong files, {len(failures)} failed")
    assert tried == len(lines) * len(WRONG) + 2
    assert not failures, "\n".join(failures)


def _clashes(lines: list[dict], database: PreferenceDatabase) -> dict[str, list[dict]]:
    """Files that are sound line by line: the last judgement has the client key of another one, in the file or here."""
    last = {**lines[-1], "annotator": "eve"}
    in_file = [*lines, {**last, "client_key": lines[-2]["client_key"]}]
    here = [one.client_key for one in database.judgements()]
    other = here[0] if here else lines[-3]["client_key"]
    return {"a key twice": in_file, "a key of another item": [*lines[:-1], {**last, "client_key": other}]}

"""What ``samdpo_preferences`` says, writes and reads."""

from __future__ import annotations

import dataclasses
import json
import logging
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from ranking_people import judgement
from sqlalchemy import text

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.locate import VARIABLE, default_database_url
from samdpo.annotate.report import report, report_of_set
from samdpo.cli.preferences import main
from samdpo.errors import ModelFolderError
from samdpo.preferences.agreement import kendall_tau, scores_of
from samdpo.preferences.records import CandidateSet
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates
from samdpo.preprocessing.store import SliceStore

DATASET, SIZE = "Dataset902_Squares", 32
SIDES = {"a": (10, 12, 16, 20), "b": (20, 10, 14, 18), "c": (16, 12, 10, 20), "unlabelled": (10, 12, 16, 20)}
TRUTH = 16  # side of the true square
MADE = datetime(2024, 1, 2, 3, 4, 5, 678, timezone.utc)


def square(side: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:side, :side] = True
    return mask


@pytest.fixture
def stored(roots, monkeypatch) -> StoredCandidates:
    """Candidates of four cases, squares of other sizes; three of them with a hidden truth."""
    monkeypatch.delenv(VARIABLE, raising=False)
    slices = SliceStore(roots.preprocessed / DATASET / "slices")
    folder = roots.results / DATASET / "T__P__finetune" / "fold_0" / "candidates" / "s"
    described = CandidateSet("s", DATASET, "0", "align", "samdpoPlans", "m", "p", MADE, str(folder))
    writer = CandidateWriter(folder)
    for case, sides in SIDES.items():
        label = None if case == "unlabelled" else 3 * square(TRUTH)[None].astype(np.uint8)
        slices.put(case, np.zeros((1, 1, SIZE, SIZE)), label,
                   {"geometry": {"n_slices": 1}, "labelled": label is not None, "channels": [0, 0, 0]})
        masks = np.stack([square(side) for side in sides])
        writer.put(case, "", {0: np.zeros((SIZE, SIZE))}, [ItemCandidates(0, "square", masks, np.zeros((1, 4)), 0.5)])
    writer.finish(described, {"labels": {"square": 3}, "data_identifier": "slices"})
    return StoredCandidates.open(folder)


@pytest.fixture
def judged(stored) -> StoredCandidates:
    """'ann' ranks as the truth would, 'bob' the other way round but for one item; some skips."""
    items = {item.case: item for item in stored.items}
    database = PreferenceDatabase.open(default_database_url(DATASET))
    database.add_candidate_set(stored.candidate_set, stored.items)
    for one in [
        *(judgement(items[case], "ann", ranks=by_truth(SIDES[case]), seconds=seconds)
          for case, seconds in (("a", 1.0), ("b", 2.0), ("c", 30.0))),
        judgement(items["unlabelled"], "ann", verdict="skipped"),
        judgement(items["a"], "bob", ranks=by_truth(SIDES["a"])),
        judgement(items["b"], "bob", ranks=tuple(5 - rank for rank in by_truth(SIDES["b"]))),
        judgement(items["c"], "bob", verdict="none_acceptable"),
        judgement(items["unlabelled"], "bob", mode="best", best=2),
    ]:
        database.record(one)
    database.close()
    return stored


def by_truth(sides: tuple[int, ...]) -> tuple[int, ...]:
    """Ranks by overlap with the true square."""
    ious = [min(side, TRUTH) ** 2 / max(side, TRUTH) ** 2 for side in sides]
    return tuple(1 + sum(other > iou for other in ious) for iou in ious)


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["samdpo_preferences", *words])
    main()


def test_people_are_counted_timed_and_compared(judged):
    database = PreferenceDatabase.open(default_database_url(DATASET))
    (one,) = report(database, DATASET)
    database.close()
    ann, bob = one["annotators"]["ann"], one["annotators"]["bob"]
    assert (ann["ranked"], ann["none_acceptable"], ann["skipped"], ann["median_seconds"]) == (3, 0, 1, 2.0)
    assert (bob["ranked"], bob["none_acceptable"], bob["skipped"]) == (3, 1, 0)
    assert (one["items"], one["judged_items"]) == (4, 4)
    assert (ann["virtual_tau"], ann["virtual_best"], ann["virtual_items"]) == (pytest.approx(1), 1.0, 3)
    assert (bob["virtual_tau"], bob["virtual_best"], bob["virtual_items"]) == (pytest.approx(0), 0.5, 2)
    assert one["pairs"] == [{"annotators": ["ann", "bob"], "tau": pytest.approx(0), "items": 2}]
    assert one["tau"] == pytest.approx(0) and one["compared"] == 2 and -1 < one["alpha"] < 1
    assert kendall_tau(by_truth(SIDES["a"]), by_truth(SIDES["a"])) == pytest.approx(1)


def test_accepted_and_placed_answers_are_counted_and_accepting_prefers_one_candidate(judged):
    items = {item.case: item for item in judged.items}
    answers = [
        judgement(items["a"], "cy", verdict="accepted", best=1),
        judgement(items["b"], "cy", verdict="none_acceptable", point=(1.0, 1.0)),
        judgement(items["c"], "cy", verdict="none_acceptable"),
    ]
    cy = report_of_set(judged.candidate_set, judged.items, answers)["annotators"]["cy"]
    assert (cy["accepted"], cy["none_acceptable"], cy["placed"], cy["ranked"]) == (1, 2, 1, 0)
    assert scores_of(answers, {item.id: item.candidates for item in judged.items}) == {
        (items["a"].id, "cy"): [0.0, 1.0, 0.0, 0.0],
    }


def test_the_command_prints_a_table_and_writes_json(judged, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "160")
    run(monkeypatch, "report", "902", "--json", str(tmp_path / "report.json"))
    said = capsys.readouterr().out
    assert "4 of 4 items judged" in said and "ann and bob: Kendall's tau 0.00 over 2 items" in said
    (row,) = [line for line in said.splitlines() if line.split("│")[1:2] == [" ann       "]]
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["3", "0", "0", "1", "2.0", "1.00", "100%"]
    (written,) = json.loads((tmp_path / "report.json").read_text())
    assert written["annotators"]["bob"]["none_acceptable"] == 1 and written["alpha"] is not None


def test_any_name_and_many_people_are_reported(judged, monkeypatch, capsys, tmp_path):
    """An older version's import has let any text in."""
    monkeypatch.setenv("COLUMNS", "160")
    database = PreferenceDatabase.open(default_database_url(DATASET))
    item = judged.items[0]
    for number in range(110):
        database.record(judgement(item, f"person {number}", ranks=(1, 2, 3, 4)))
    with database._engine.begin() as connection:
        for number, name in enumerate(["[/bold]", "[red]x", "a\nb\x1b[2J", "x" * 10**6]):
            connection.execute(text("UPDATE judgement SET annotator = :name WHERE annotator = :was"),
                               {"name": name, "was": f"person {number}"})
    database.close()
    run(monkeypatch, "report", "902", "--json", str(tmp_path / "report.json"))
    said = capsys.readouterr().out
    assert "[/bold]" in said and "[red]x" in said and "a\\nb\\x1b[2J" in said and "\x1b" not in said
    assert len(said) < 200_000 and "more pairs" in said
    assert len(json.loads((tmp_path / "report.json").read_text())[0]["annotators"]) == 112


def test_candidates_of_another_set_are_not_taken_for_these(judged, caplog):
    wrong = dataclasses.replace(judged.candidate_set, id="t")
    with pytest.raises(ModelFolderError, match="holds the candidates s, expected t"):
        StoredCandidates.find(wrong)


@pytest.mark.parametrize("case", ["../../outside", "/etc/x", "", 5])
def test_stored_candidates_name_cases_and_no_paths(judged, case):
    content = json.loads((judged.folder / "candidates.json").read_text())
    content["items"][0]["case"] = case
    (judged.folder / "candidates.json").write_text(json.dumps(content))
    with pytest.raises(ModelFolderError, match="'case'"):
        StoredCandidates.open(judged.folder)


def test_without_the_candidates_the_rest_is_still_reported(judged, monkeypatch, capsys, caplog):
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    (judged.folder / "candidates.json").unlink()
    run(monkeypatch, "report", "902")
    assert "not compared with the virtual annotator" in caplog.text
    assert "Kendall's tau 0.00" in capsys.readouterr().out


def test_export_and_import_move_judgements_to_another_database(judged, monkeypatch, capsys, tmp_path):
    file, other = tmp_path / "all.jsonl", f"sqlite:///{tmp_path / 'other.sqlite'}"
    run(monkeypatch, "export", "902", str(file))
    run(monkeypatch, "import", "902", str(file), "--database", other)
    run(monkeypatch, "import", DATASET, str(file), "--database", other)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Wrote 8 judgements of 1 candidate sets")
    assert said[1].startswith("Imported 8 judgements") and said[1].endswith("0 were there, 0 left out")
    assert said[2].startswith("Imported 0 judgements") and said[2].endswith("8 were there, 0 left out")
    run(monkeypatch, "export", "902", str(tmp_path / "again.jsonl"), "--database", other)
    assert (tmp_path / "again.jsonl").read_text() == file.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "902", "x.jsonl"], "expects no FILE"), (["export", "902"], "expects a FILE"),
        (["import", "902"], "expects a FILE"), (["export", "902", "x", "--json", "y"], "--json belongs to report"),
        (["report", "902"], "There is no preference database"), (["import", "902", "none.jsonl"], "cannot be read"),
    ],
)
def test_a_mistake_is_a_sentence(stored, monkeypatch, caplog, words, said):
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *words)
    assert stopped.value.code == 2 and said in caplog.text


def test_judgements_of_another_dataset_are_not_imported(judged, roots, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    run(monkeypatch, "export", "902", str(tmp_path / "all.jsonl"))
    Path(roots.raw / "Dataset903_Other").mkdir()
    with pytest.raises(SystemExit):
        run(monkeypatch, "import", "903", str(tmp_path / "all.jsonl"))
    assert f"has judgements of {DATASET}, expected Dataset903_Other" in caplog.text

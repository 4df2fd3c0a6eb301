"""How much of the error lies in the cases that the reports doubt most."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from samdpo.cli import evaluate_folder as command
from samdpo.evaluation.doubt import confidence_of
from samdpo.evaluation.summary import evaluate_folder

# Rows of the 10 of the structure that the prediction has, and the confidence of its report, case by case.
ROWS = [10, 10, 10, 10, 10, 10, 5, 10, 2, 10]
CONFIDENCE = [0.9, 0.95, 0.92, 0.97, 0.91, 0.96, 0.7, 0.93, 0.99, 0.94]
FLAGGED = 2  # a right one


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Ten pictures: of two the mask is wrong, one of which is doubted; one that is right is flagged."""
    for name in ("ref", "pred"):
        (tmp_path / name).mkdir()
    for case, (rows, confidence) in enumerate(zip(ROWS, CONFIDENCE)):
        ref, pred = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
        ref[10:20, 10:20] = 1
        pred[10 : 10 + rows, 10:20] = 1
        iio.imwrite(tmp_path / "ref" / f"case_{case}.png", ref)
        iio.imwrite(tmp_path / "pred" / f"case_{case}.png", pred)
        said = {"structures": {"disc": {"pixels": 10 * rows, "confidence": confidence}}, "look_at": case == FLAGGED}
        (tmp_path / "pred" / f"case_{case}.json").write_text(json.dumps(said))
    (tmp_path / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "X-ray"}, "labels": {"background": 0, "disc": 1}, "numTraining": 10,
        "file_ending": ".png"}))
    return tmp_path


def run(folders: Path) -> dict:
    return evaluate_folder(folders / "ref", folders / "pred", folders / "dataset.json")["samdpo"]


def test_flagged_cases_come_first_then_the_least_confident(folders: Path) -> None:
    half, fifth = 1 / 3, 2 / 3  # errors: 1 - Dice of masks of 5 and of 2 rows of 10
    doubt = run(folders)["doubt"]
    assert doubt["cases"] == 10
    assert doubt["flagged"] == {"cases": 1, "error": 0.0, "best": pytest.approx(fifth / (half + fifth)),
                                "by_chance": 0.1}
    assert doubt["shares"]["0.1"]["error"] == 0
    assert doubt["shares"]["0.2"] == {"cases": 2, "error": pytest.approx(half / (half + fifth)),
                                      "best": pytest.approx(1), "by_chance": 0.2}
    assert json.loads((folders / "pred" / "summary.json").read_text())["samdpo"]["doubt"] == doubt


def test_a_line_each_says_so(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(folders / "ref"), str(folders / "pred"), "-djfile", str(folders / "dataset.json"), "-np", "1"])
    said = capsys.readouterr().out
    assert "Cases flagged to be looked at: 1 of 10, with 0% of the error (by chance 10%, at best 67%)" in said
    assert "Cases doubted most, 20%: 2 of 10, with 33% of the error (by chance 20%, at best 100%)" in said


def test_few_reports_or_masks_without_an_error_say_nothing(folders: Path) -> None:
    (folders / "pred" / "case_0.json").unlink()
    assert "doubt" not in run(folders)
    (folders / "pred" / "case_0.json").write_text(json.dumps({"structures": {}, "look_at": False}))
    assert run(folders)["doubt"]["cases"] == 10
    (folders / "pred" / "case_0.json").write_text(json.dumps({"spacing": [1, 1]}))
    for case in range(len(ROWS)):
        (folders / "pred" / f"case_{case}.png").write_bytes((folders / "ref" / f"case_{case}.png").read_bytes())
    assert "doubt" not in run(folders)


@pytest.mark.parametrize("content", ["[1, 2]", '{"structures": {"disc": {"confidence": "high"}}}', "{"])
def test_a_file_that_is_no_report_is_named_and_left_out(
    folders: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (folders / "pred" / "case_3.json").write_text(content)
    assert "doubt" not in run(folders)
    assert "case_3.json are no reports of predictions, and are left out of the measure of doubt" in caplog.text


def test_images_that_are_rightly_empty_have_no_error_and_are_not_doubted_unless_flagged(folders: Path) -> None:
    for case in range(len(ROWS), 2 * len(ROWS)):
        for name in ("ref", "pred"):
            iio.imwrite(folders / name / f"case_{case}.png", np.zeros((30, 30), np.uint8))
        said = {"structures": {"disc": {"pixels": 0, "confidence": 0.0}}, "look_at": case % 2 == 0}
        (folders / "pred" / f"case_{case}.json").write_text(json.dumps(said))
    doubt = run(folders)["doubt"]
    assert doubt["cases"] == 20 and doubt["flagged"]["cases"] == 6 and doubt["flagged"]["error"] == 0
    assert doubt["shares"]["0.2"]["error"] == 0, "four of the five that are flagged for nothing"
    for case in range(len(ROWS), 2 * len(ROWS)):
        said = {"structures": {"disc": {"pixels": 0, "confidence": 0.0}}, "look_at": False}
        (folders / "pred" / f"case_{case}.json").write_text(json.dumps(said))
    assert run(folders)["doubt"]["shares"]["0.1"]["error"] == pytest.approx(1 / 3), "after the flagged one"


def test_a_structure_is_as_sure_as_its_mask_and_its_place() -> None:
    found = {"pixels": 5, "confidence": 0.9}
    assert confidence_of({"structures": {"a": found, "b": {**found, "place_confidence": 0.4}}}) == pytest.approx(0.65)
    assert confidence_of({"structures": {"a": found, "b": {"pixels": 0, "confidence": 0.0}}}) == 0.9
    nothing = {"structures": {"a": {"pixels": 0, "confidence": 0.0}}}
    assert confidence_of(nothing) == 1 and confidence_of({**nothing, "look_at": True}) == 0

"""Images without the structure: how often it was found there, and what another presence threshold would do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import samdpo
from samdpo.cli import evaluate_folder as command
from samdpo.errors import DatasetError
from samdpo.evaluation.presence import presence_curve
from samdpo.evaluation.summary import evaluate_folder

SCORES = [0.9, 0.8, 0.3, 0.7, 0.35, 0.2, 0.1]  # the first three show a tumour
SHOWN, THRESHOLD = 3, 0.33


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """dataset.json, ref/ and pred/ with reports: 3 pictures with a tumour, one missed, and 4 without, of which 2 found.

    Of the other structure, the rib, there is one everywhere.
    """
    for name in ("ref", "pred"):
        (tmp_path / name).mkdir()
    for case, score in enumerate(SCORES):
        label = np.zeros((30, 40), np.uint8)
        label[20:25] = 2
        ref, pred = label.copy(), label.copy()
        ref[5:15, 5:15] = 1 if case < SHOWN else 0
        pred[6:15, 5:15] = 1 if score >= THRESHOLD else 0
        iio.imwrite(tmp_path / "ref" / f"case_{case}.png", ref)
        iio.imwrite(tmp_path / "pred" / f"case_{case}.png", pred)
        report = {"case": f"case_{case}", "structures": {
            "tumour": {"pixels": 0, "presence": [score], "presence_threshold": THRESHOLD, "prompts": []},
            "rib": {"pixels": 200, "prompts": []}}}
        (tmp_path / "pred" / f"case_{case}.json").write_text(json.dumps(report))
    (tmp_path / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "ultrasound"}, "labels": {"background": 0, "tumour": 1, "rib": 2}, "numTraining": 7,
        "file_ending": ".png"}))
    return tmp_path


def run(folders: Path, **options) -> dict:
    return evaluate_folder(folders / "ref", folders / "pred", folders / "dataset.json", **options)


def test_false_alarms_are_counted_of_a_hundred_images_without_the_structure(folders: Path) -> None:
    presence = run(folders)["samdpo"]["presence"]
    assert presence["1"] == {"cases_with": 3, "missed": 1, "cases_without": 4, "false_alarms": 2,
                             "false_alarms_per_hundred": 50.0}
    assert presence["2"]["cases_without"] == 0 and math.isnan(presence["2"]["false_alarms_per_hundred"])
    assert json.loads((folders / "pred" / "summary.json").read_text())["samdpo"]["presence"]["1"] == presence["1"]


def test_a_line_says_so_where_a_structure_is_absent_anywhere(folders, capsys) -> None:
    words = [str(folders / "ref"), str(folders / "pred"), "-djfile", str(folders / "dataset.json"), "-np", "1"]
    command.main(words)
    said = capsys.readouterr().out
    assert "tumour: false alarms on 2 of 4 cases without it (50.0 of 100), missed in 1 of 3" in said
    assert "rib: " not in said
    for case in range(SHOWN, len(SCORES)):
        (folders / "ref" / f"case_{case}.png").unlink()
    command.main(words)
    assert "false alarms" not in capsys.readouterr().out


def test_the_curve_says_what_each_threshold_does() -> None:
    points = presence_curve(SCORES, [i < SHOWN for i in range(len(SCORES))])
    of = {round(p.threshold, 3): (round(p.found), round(p.false_alarms)) for p in points}
    assert of == {0.1: (100, 100), 0.2: (100, 75), 0.3: (100, 50), 0.35: (67, 50), 0.7: (67, 25), 0.8: (67, 0),
                  0.9: (33, 0)} | {0.9: (0, 0)}  # the last is a hair above the highest score
    assert points[-2].found == pytest.approx(100 / 3) and points[-1].threshold > 0.9


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    scores = np.linspace(0, 1, 5001)
    points = presence_curve(scores, scores > 0.5)
    assert len(points) == 201 and (points[0].found, points[0].false_alarms) == (100, 100)
    assert (points[-1].found, points[-1].false_alarms) == (0, 0)


def test_the_trade_off_is_drawn_and_written(folders: Path) -> None:
    figure = folders / "presence.png"
    thresholds = run(folders, presence_figure=figure)["samdpo"]["presence"]["1"]["thresholds"]
    assert iio.imread(figure).shape[:2] > (300, 800)
    assert {"threshold": 0.3, "found": 100.0, "false_alarms": 50.0} in thresholds
    written = json.loads((folders / "pred" / "summary.json").read_text())["samdpo"]["presence"]
    assert written["1"]["thresholds"] == thresholds and "thresholds" not in written["2"]


def test_the_command_and_python_draw_it(folders, capsys) -> None:
    figure = folders / "a" / "presence.pdf"
    command.main([str(folders / "ref"), str(folders / "pred"), "-djfile", str(folders / "dataset.json"), "-np", "1",
                  "--presence_figure", str(figure)])
    assert figure.stat().st_size > 1000 and f"Wrote {figure}" in capsys.readouterr().out.replace("\n", "")
    samdpo.evaluate(folders / "ref", folders / "pred", folders / "dataset.json", presence_figure=folders / "b.png")
    assert (folders / "b.png").is_file()


def test_where_there_is_nothing_to_draw_a_sentence_says_so_and_the_summary_is_written(folders: Path) -> None:
    for file in (folders / "pred").glob("case_*.json"):
        file.unlink()
    with pytest.raises(DatasetError, match="presence.png is not drawn.*may_be_absent"):
        run(folders, presence_figure=folders / "presence.png")
    assert (folders / "pred" / "summary.json").is_file() and not (folders / "presence.png").exists()


def test_a_damaged_report_is_named(folders: Path) -> None:
    (folders / "pred" / "case_2.json").write_text('{"structures": {"tumour": {"presence": ["high"]}}}')
    with pytest.raises(DatasetError, match=r"case_2\.json.*structures\.tumour\.presence.*--presence_figure"):
        run(folders, presence_figure=folders / "presence.png")


def test_a_figure_among_label_maps_is_refused_before_the_work(folders: Path) -> None:
    with pytest.raises(DatasetError, match="would be taken for a label map"):
        run(folders, presence_figure=folders / "pred" / "presence.png")
    assert not (folders / "pred" / "summary.json").exists()

from __future__ import annotations

import json
import logging
import math
import unicodedata
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from samdpo.cli import evaluate_folder as command
from samdpo.errors import DatasetError
from samdpo.evaluation.summary import evaluate_folder

LABELS = {"background": 0, "left lung": 1, "right lung": 2, "heart": 3}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folder with dataset.json, ref/ and pred/: three PNG label maps each; nobody has a heart."""
    generator = np.random.default_rng(0)
    for name in ("ref", "pred"):
        (tmp_path / name).mkdir()
    for case in range(3):
        ref = np.zeros((50, 60), np.uint8)
        ref[10:30, 5:20] = 1
        ref[12:40, 35:55] = 2
        pred = np.roll(ref, int(generator.integers(1, 5)), axis=1)
        if case == 2:
            ref[ref == 2] = 0
        iio.imwrite(tmp_path / "ref" / f"case_{case}.png", ref)
        iio.imwrite(tmp_path / "pred" / f"case_{case}.png", pred)
    dataset = {"channel_names": {"0": "X-ray"}, "labels": LABELS, "numTraining": 3, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    return tmp_path


def run(folders: Path, **options) -> dict:
    return evaluate_folder(folders / "ref", folders / "pred", folders / "dataset.json", **options)


def test_the_summary_is_read_by_nnunet_and_its_overlap_metrics_are_nnunets(folders):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics, load_summary_json
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    run(folders)
    summary = load_summary_json(str(folders / "pred" / "summary.json"))
    assert set(summary["mean"]) == {1, 2, 3}
    theirs = [
        compute_metrics(str(folders / "ref" / n), str(folders / "pred" / n), NaturalImage2DIO(), [1, 2, 3])
        for n in ("case_0.png", "case_1.png", "case_2.png")
    ]
    for ours, their in zip(summary["metric_per_case"], theirs):
        assert (ours["reference_file"], ours["prediction_file"]) == (their["reference_file"], their["prediction_file"])
        for label in (1, 2, 3):
            for metric, value in their["metrics"][label].items():
                assert ours["metrics"][label][metric] == pytest.approx(float(value), nan_ok=True), metric
    for label in (1, 2):
        for metric in ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"):
            expected = np.nanmean([their["metrics"][label][metric] for their in theirs])
            assert summary["mean"][label][metric] == pytest.approx(float(expected))


def test_the_summary_of_nnunets_own_command_is_the_same(folders):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    theirs = compute_metrics_on_folder(
        str(folders / "ref"), str(folders / "pred"), None, NaturalImage2DIO(), ".png", [1, 2], num_processes=1
    )
    ours = run(folders)
    for label in (1, 2):
        for metric, value in theirs["mean"][label].items():
            assert ours["mean"][str(label)][metric] == pytest.approx(value)


def test_the_summary_names_labels_unit_and_tolerance(folders):
    summary = run(folders)
    assert summary["samdpo"]["labels"] == {"1": "left lung", "2": "right lung", "3": "heart"}
    assert summary["samdpo"]["surface"] == [{"unit": "px", "tolerance": 2.0}]


def test_a_structure_that_no_case_has_stays_nan_and_does_not_spoil_the_foreground_mean(folders):
    summary = run(folders)
    assert math.isnan(summary["mean"]["3"]["Dice"])
    both = [summary["mean"][label]["Dice"] for label in ("1", "2")]
    assert summary["foreground_mean"]["Dice"] == pytest.approx(np.mean(both))
    assert summary["metric_per_case"][2]["metrics"]["2"]["Dice"] == 0.0  # predicted where there is none


def test_missing_predictions_are_listed_and_chill_evaluates_the_others(folders):
    (folders / "pred" / "case_1.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 references.*case_1\.png.*--chill"):
        run(folders)
    assert not (folders / "pred" / "summary.json").exists()
    assert len(run(folders, chill=True)["metric_per_case"]) == 2


def test_predictions_without_reference_are_named_and_left_out(folders, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)  # a command that ran before turns it off
    (folders / "ref" / "case_1.png").unlink()
    with caplog.at_level("WARNING", logger="samdpo"):
        assert len(run(folders)["metric_per_case"]) == 2
    assert "case_1.png" in caplog.text


def test_only_the_cases_asked_for_are_evaluated(folders):
    (folders / "pred" / "case_1.png").unlink()
    summary = run(folders, cases=["case_0", "case_2"])
    assert [Path(c["reference_file"]).stem for c in summary["metric_per_case"]] == ["case_0", "case_2"]
    with pytest.raises(DatasetError, match=r"lacks the references case_9\.png"):
        run(folders, cases=["case_9"])


def test_a_prediction_of_another_size_is_named(folders):
    iio.imwrite(folders / "pred" / "case_0.png", np.zeros((10, 12), np.uint8))
    with pytest.raises(DatasetError, match=r"case_0\.png has the size 12 x 10, but its reference .* has 60 x 50"):
        run(folders)


@pytest.mark.parametrize("folder", ["ref", "pred"])
def test_a_folder_that_is_missing_or_empty_is_named(folders, folder):
    for file in (folders / folder).iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=folder):
        run(folders, chill=True)
    (folders / folder).rmdir()
    with pytest.raises(DatasetError, match=f"{folder} is not a folder"):
        run(folders)


@pytest.mark.parametrize("folder", ["ref", "pred"])
def test_values_that_dataset_json_does_not_list_are_refused_as_in_training(folders, folder):
    file = folders / folder / "case_1.png"
    iio.imwrite(file, np.where(iio.imread(file) > 0, np.uint8(255), np.uint8(0)))
    with pytest.raises(DatasetError, match=rf"{folder}/case_1\.png holds the value\(s\) 255, which dataset\.json"):
        run(folders)
    assert not (folders / "pred" / "summary.json").exists()


def test_fractions_are_no_labels(folders):
    import tifffile

    content = json.loads((folders / "dataset.json").read_text())
    (folders / "dataset.json").write_text(json.dumps({**content, "file_ending": ".tif"}))
    for name in ("ref", "pred"):
        tifffile.imwrite(folders / name / "a.tif", np.full((9, 9), 1.0 if name == "ref" else 0.5, np.float32))
    with pytest.raises(DatasetError, match=r"pred/a\.tif holds fractions"):
        run(folders)


def test_the_file_of_labels_is_the_one_that_is_named(folders):
    other = json.loads((folders / "dataset.json").read_text())
    other["labels"] = {"background": 0, "first": 1, "second": 2}
    (folders / "dataset_of_two.json").write_text(json.dumps(other))
    summary = evaluate_folder(folders / "ref", folders / "pred", folders / "dataset_of_two.json")
    assert list(summary["samdpo"]["labels"].values()) == ["first", "second"]
    assert list(evaluate_folder(folders / "ref", folders / "pred", folders)["samdpo"]["labels"].values())[2] == "heart"
    with pytest.raises(DatasetError, match=r"nowhere\.json is missing"):
        evaluate_folder(folders / "ref", folders / "pred", folders / "nowhere.json")


def test_names_are_compared_as_text_and_two_of_one_name_are_refused(folders):
    name = "M\u00fcller.png"
    (folders / "ref" / "case_0.png").rename(folders / "ref" / name)
    (folders / "pred" / "case_0.png").rename(folders / "pred" / unicodedata.normalize("NFD", name))
    assert len(run(folders)["metric_per_case"]) == 3
    assert len(run(folders, cases=[unicodedata.normalize("NFD", "M\u00fcller")])["metric_per_case"]) == 1
    iio.imwrite(folders / "pred" / name, np.zeros((50, 60), np.uint8))
    with pytest.raises(DatasetError, match="one name to a person"):
        run(folders)


def test_a_link_that_leads_nowhere_is_called_that(folders):
    (folders / "pred" / "case_1.png").unlink()
    (folders / "pred" / "case_1.png").symlink_to("/mnt/gone/case_1.png")
    with pytest.raises(DatasetError, match=r"case_1\.png is a link to /mnt/gone/case_1\.png, which is not there"):
        run(folders)


def test_processes_and_a_cluster_cannot_both_be_asked_for(folders, monkeypatch, caplog):
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    words = [str(folders / "ref"), str(folders / "pred"), "-djfile", str(folders), "-np", "2", "--dask", "tcp://x:1"]
    monkeypatch.setattr("sys.argv", ["samdpo_evaluate_folder", *words])
    with pytest.raises(SystemExit):
        command.main()
    assert "-np and --dask are both given" in caplog.text


def test_several_processes_give_the_same_summary(folders, monkeypatch):
    from samdpo.evaluation import summary as module

    alone = run(folders)
    real = module.map_cases
    monkeypatch.setattr(module, "map_cases", lambda f, items, n, text: real(f, items, n, text, per_process=1))
    assert json.dumps(run(folders, processes=2)) == json.dumps(alone)


def test_the_command_prints_a_table_and_what_it_wrote(folders, capsys, monkeypatch):
    output = folders / "out.json"
    monkeypatch.setattr("sys.argv", [
        "samdpo_evaluate_folder", str(folders / "ref"), str(folders / "pred"),
        "-djfile", str(folders / "dataset.json"), "-pfile", "plans.json", "-o", str(output), "--chill", "-np", "1",
    ])
    command.main()
    printed = capsys.readouterr().out
    assert output.is_file() and not (folders / "pred" / "summary.json").exists()
    assert "left lung" in printed and "3 cases" in printed and str(output) in printed.replace("\n", "")
    assert "(px)" in printed and "(voxels)" not in printed


def test_the_command_measures_in_voxels_where_it_is_told_to(folders, capsys):
    command.main([str(folders / "ref"), str(folders / "pred"), "-djfile", str(folders / "dataset.json"), "--voxels"])
    assert "(voxels)" in capsys.readouterr().out
    written = json.loads((folders / "pred" / "summary.json").read_text())
    assert written["samdpo"]["surface"] == [{"unit": "voxels", "tolerance": 2.0}]
    assert {"IoU", "HD95", "ASD", "ASSD"} <= written["foreground_mean"].keys()

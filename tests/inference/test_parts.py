"""``samdpo_predict`` in parts, as nnU-Net's, and through an executor."""

from __future__ import annotations

import numpy as np
import pytest

from samdpo.dataset.images import read_label
from samdpo.errors import DatasetError
from samdpo.files import read_json
from samdpo.inference.predict_folder import predict_folder
from samdpo.parallel import Processes

CASES = ["xray_ts_001", "xray_ts_002", "xray_ts_003"]


def masks(folder) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.png"))


def test_each_part_predicts_every_nth_case(aligned, predict, tmp_path):
    images = aligned.raw / "imagesTs"
    predict("-i", images, "-o", tmp_path / "one", "-num_parts", 2, "-part_id", 0)
    assert masks(tmp_path / "one") == [CASES[0], CASES[2]]
    predict("-i", images, "-o", tmp_path / "other", "-num_parts", 2, "-part_id", 1)
    assert masks(tmp_path / "other") == [CASES[1]]


def test_parts_share_a_folder_and_each_keeps_what_it_was_asked(aligned, tmp_path):
    images, output = aligned.raw / "imagesTs", tmp_path / "out"
    words = ["-i", str(images), "-o", str(output), "-m", str(aligned.aligned), "-device", "cpu"]
    parts = [aligned.start("predict", *words, "-num_parts", "2", "-part_id", part) for part in ("0", "1")]
    for part in parts:
        said = part.communicate(timeout=300)[1]
        assert part.returncode == 0, said
    assert masks(output) == CASES
    asked = [read_json(output / f"predict_from_raw_data_args_part_{part}_of_2.json") for part in (0, 1)]
    assert [one["part_id"] for one in asked] == [0, 1]
    assert {file.name for file in output.iterdir() if not file.name.startswith("xray")} == {
        "plans.json", "dataset.json",
        "predict_from_raw_data_args_part_0_of_2.json", "predict_from_raw_data_args_part_1_of_2.json",
    }, "no temporary file is left"


@pytest.mark.parametrize(("words", "sentence"), [
    (("-num_parts", 0), "-num_parts is 0; expected 1 or more"),
    (("-num_parts", 3, "-part_id", 3), "-part_id is 3; expected 0 to 2, since -num_parts is 3"),
    (("-num_parts", 3, "-part_id", -1), "-part_id is -1; expected 0 to 2"),
    (("-part_id", 1), "-part_id is 1; expected 0, since -num_parts is 1"),
])
def test_a_part_that_there_is_not_is_a_sentence(aligned, fails, tmp_path, words, sentence):
    assert sentence in fails("-i", aligned.raw / "imagesTs", "-o", tmp_path / "out", *words)


def test_an_executor_s_processes_predict_the_same_and_a_case_that_cannot_be_read_does_not_stop_them(
    aligned, predict, tmp_path
):
    predict("-i", aligned.raw / "imagesTs", "-o", tmp_path / "here")
    images = tmp_path / "images"
    images.mkdir()
    for file in (aligned.raw / "imagesTs").iterdir():
        (images / file.name).write_bytes(file.read_bytes())
    (images / f"{CASES[1]}_0000.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=rf"1 cases could not be predicted(.|\n)*{CASES[1]}"):
        predict_folder(images, tmp_path / "there", aligned.aligned, device="cpu", executor=Processes(2))
    assert masks(tmp_path / "there") == [CASES[0], CASES[2]]
    for mask in (tmp_path / "there").glob("*.png"):
        np.testing.assert_array_equal(read_label(mask), read_label(tmp_path / "here" / mask.name))
        assert read_json(mask.with_suffix(".json")) == read_json(tmp_path / "here" / f"{mask.stem}.json")

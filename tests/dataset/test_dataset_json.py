from __future__ import annotations

import json
from pathlib import Path

import pytest

from samdpo.dataset.dataset_json import load_dataset_json, modality_of
from samdpo.errors import DatasetError

GOOD = {
    "channel_names": {"0": "X-ray"},
    "labels": {"background": 0, "lung": 1},
    "numTraining": 2,
    "file_ending": ".png",
}


def write(folder: Path, **changes) -> Path:
    (folder / "dataset.json").write_text(json.dumps({**GOOD, **changes}))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset_json(folder)
    assert str(folder / "dataset.json") in str(caught.value)
    return str(caught.value)


def test_a_good_file_gives_typed_content(tmp_path):
    hints = {"structures": {"lung": {"phrase": "lungs", "components": 2, "may_be_absent": False}}}
    dataset = load_dataset_json(write(tmp_path, samdpo=hints, licence="mine"))
    assert dataset.structures == {"lung": 1}
    assert dataset.n_channels == 1
    assert dataset.hints["lung"].components == 2
    assert dataset.hints["lung"].question is None
    assert dataset.raw["licence"] == "mine"


def test_ignore_label_is_no_structure(tmp_path):
    dataset = load_dataset_json(write(tmp_path, labels={"background": 0, "b": 2, "a": 1, "ignore": 3}))
    assert dataset.ignore_label == 3
    assert list(dataset.structures) == ["a", "b"]


def test_labels_may_have_gaps_and_keep_their_values(tmp_path):
    dataset = load_dataset_json(write(tmp_path, labels={"background": 0, "c": 7, "a": 1, "b": 3, "ignore": 9}))
    assert dataset.structures == {"a": 1, "b": 3, "c": 7}
    assert dataset.ignore_label == 9


def test_regions_are_refused_in_one_sentence_with_both_keys_and_what_to_do(tmp_path):
    regions = {"background": 0, "whole": [1, 2], "core": [2], "other": 3}
    text = refusal(write(tmp_path, labels=regions, regions_class_order=[1, 2, 3]))
    assert len(text.splitlines()) == 1
    assert all(word in text for word in ("'labels'", "'regions_class_order'", '"whole": [1, 2]', '"core": [2]'))
    assert "give every structure one whole number" in text


def test_labels_are_checked_though_channels_are_wrong(tmp_path):
    text = refusal(write(tmp_path, channel_names="CT", labels={"background": 0, "lung": -1}))
    assert "'channel_names'" in text and "found [-1, 0]" in text


def test_missing_file_names_it_and_shows_how_to_write_it(tmp_path):
    text = refusal(tmp_path)
    assert "is missing" in text
    assert "numTraining" in text


def test_broken_json_names_the_line(tmp_path):
    (tmp_path / "dataset.json").write_text('{"labels": {,}}')
    assert "line 1" in refusal(tmp_path)


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text("[1, 2]")
    assert "one JSON object" in refusal(tmp_path)


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}, "numTraining": 1}))
    text = refusal(tmp_path)
    assert "'channel_names'" in text
    assert "'file_ending'" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": {"0": "background", "1": "lung"}}, '"lung": 1'),
        ({"labels": {"lung": 1}}, '"background": 0'),
        ({"labels": {"background": 0, "lung": 1, "heart": 1}}, "different whole numbers from 0 to 32767"),
        ({"labels": {"background": 0, "lung": -1}}, "found [-1, 0]"),
        ({"labels": {"background": 0, "lung": 40000}}, "found [0, 40000]"),
        ({"labels": {"background": 0, "lung": "1"}}, "whole number"),
        ({"labels": {"background": 0}}, "no structure"),
        ({"labels": {"background": 0, "lung": 2.5}}, "whole number, found 2.5"),
        ({"labels": {"background": 0, "ignore": 1, "lung": 2}}, "highest value"),
        ({"labels": ["lung"]}, "'labels' must be an object"),
        ({"channel_names": {"1": "X-ray"}}, 'channels "0"'),
        ({"channel_names": "X-ray"}, "'channel_names'"),
        ({"numTraining": "two"}, "'numTraining'"),
        ({"numTraining": True}, "'numTraining'"),
        ({"file_ending": ".jpg"}, "lossy"),
        ({"file_ending": "png"}, "dot"),
        ({"file_ending": ".dcm"}, "supported are"),
        ({"file_ending": ".NII.GZ"}, "lower case"),
        ({"samdpo": {"structures": {"liver": {}}}}, "'liver'"),
        ({"samdpo": {"structures": {"lung": {"phrse": "x"}}}}, "'phrase'"),
        ({"samdpo": {"structures": {"lung": {"components": "two"}}}}, "samdpo.structures.lung.components"),
        ({"samdpo": {"structures": {"lung": {"components": 0}}}}, "1 or more"),
        ({"samdpo": {"lung": {"phrase": "x"}}}, "unknown key 'lung'"),
        ({"samdpo": {"distances": "px"}}, "'samdpo.distances' must be \"mm\" or \"voxels\", found 'px'"),
        ({"samdpo": {"distances": ["mm"]}}, "'samdpo.distances' must be"),
    ],
)
def test_each_wrong_key_gets_its_sentence(tmp_path, changes, expected):
    assert expected in refusal(write(tmp_path, **changes))


def test_all_problems_of_the_file_are_told_at_once(tmp_path):
    text = refusal(write(tmp_path, numTraining=-1, file_ending=".gif", labels={"background": 0, "lung": -4}))
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "modality"),
    [("CT", "ct"), ("X-ray", "xray"), ("chest xray", "xray"), ("ultrasound", "ultrasound"), ("US", "ultrasound"),
     ("T1_weighted", "mr"), ("FLAIR", "mr"), ("microscopy", "other"), ("intact", "other"), ("B-mode US", "ultrasound")],
)  # fmt: skip
def test_modality_is_read_from_the_channel_name(name, modality):
    assert modality_of(name) == modality

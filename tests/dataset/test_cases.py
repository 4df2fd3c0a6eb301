from __future__ import annotations

import json
import shutil

import pytest

from samdpo.dataset.cases import input_cases, labelled_cases, load_groups, unlabelled_cases
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.errors import DatasetError


def change_json(folder, **changes):
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return load_dataset_json(folder)


def test_cases_are_found_and_sorted(tiny_dataset):
    dataset = load_dataset_json(tiny_dataset)
    labelled, unlabelled = labelled_cases(tiny_dataset, dataset), unlabelled_cases(tiny_dataset, dataset)
    assert [c.identifier for c in labelled] == [f"xray_tr_{n:03d}" for n in range(1, 9)]
    assert len(unlabelled) == 4
    assert all(c.label is None for c in unlabelled)
    assert labelled[0].images[0].name == "xray_tr_001_0000.png"
    assert labelled[0].label.name == "xray_tr_001.png"


def test_without_groups_every_case_is_its_own(tiny_dataset):
    cases = labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))
    assert all(c.group == c.identifier for c in cases)


def test_groups_of_the_file_are_taken_over(tiny_dataset):
    (tiny_dataset / "case_groups.json").write_text('{"xray_tr_001": "p", "xray_tr_002": "p", "xray_ul_001": 7}')
    dataset = load_dataset_json(tiny_dataset)
    assert [c.group for c in labelled_cases(tiny_dataset, dataset)][:3] == ["p", "p", "xray_tr_003"]
    assert unlabelled_cases(tiny_dataset, dataset)[0].group == "7"


@pytest.mark.parametrize("text", ["{", '["a"]', '{"a": ["b"]}'])
def test_groups_file_that_cannot_be_used_gets_a_sentence(tiny_dataset, text):
    (tiny_dataset / "case_groups.json").write_text(text)
    with pytest.raises(DatasetError, match=r"case_groups\.json"):
        load_groups(tiny_dataset)


@pytest.mark.parametrize("group", [None, True, ["a"], 1.5, "", "  "])
def test_a_group_that_is_no_name_is_told_with_its_case(tiny_dataset, group):
    (tiny_dataset / "case_groups.json").write_text(json.dumps({"a": "p", "b": group}))
    with pytest.raises(DatasetError, match=r"case_groups\.json.*group of 'b'"):
        load_groups(tiny_dataset)


def test_groups_are_the_same_however_they_are_typed(tiny_dataset):
    (tiny_dataset / "case_groups.json").write_text(json.dumps({"a": 7, "b": "7", "c": " 7 ", "Pe\u0301": "x"}))
    assert load_groups(tiny_dataset) == {"a": "7", "b": "7", "c": "7", "P\u00e9": "x"}


def test_image_without_label_points_to_the_unlabelled_folder(tiny_dataset):
    (tiny_dataset / "labelsTr" / "xray_tr_003.png").unlink()
    with pytest.raises(DatasetError, match=r"xray_tr_003_0000\.png has no label.*imagesUl"):
        labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_label_without_image_is_named(tiny_dataset):
    shutil.copy(tiny_dataset / "labelsTr" / "xray_tr_003.png", tiny_dataset / "labelsTr" / "lonely.png")
    with pytest.raises(DatasetError, match=r"lonely\.png has no image"):
        labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_label_with_a_channel_number_is_told_to_lose_it(tiny_dataset):
    label = tiny_dataset / "labelsTr" / "xray_tr_003.png"
    label.rename(label.with_name("xray_tr_003_0000.png"))
    with pytest.raises(DatasetError, match=r"rename it to xray_tr_003\.png"):
        labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_image_without_channel_number_is_told_its_name(tiny_dataset):
    image = tiny_dataset / "imagesTr" / "xray_tr_003_0000.png"
    image.rename(image.with_name("xray_tr_003.png"))
    with pytest.raises(DatasetError, match=r"xray_tr_003_0000\.png"):
        labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_missing_folder_is_named(tiny_dataset):
    shutil.rmtree(tiny_dataset / "labelsTr")
    with pytest.raises(DatasetError, match="labelsTr is missing"):
        labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_the_same_name_labelled_and_unlabelled_is_refused(tiny_dataset):
    shutil.copy(tiny_dataset / "imagesTr" / "xray_tr_001_0000.png", tiny_dataset / "imagesUl")
    with pytest.raises(DatasetError, match="name of a labelled case"):
        unlabelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_names_that_differ_by_case_only_are_refused(tiny_dataset):
    for folder, end in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        shutil.copy(tiny_dataset / folder / f"xray_tr_001{end}", tiny_dataset / folder / f"XRAY_tr_001{end}")
    with pytest.raises(DatasetError, match="differ by case only"):
        labelled_cases(tiny_dataset, load_dataset_json(tiny_dataset))


def test_missing_channel_is_named(tiny_dataset):
    dataset = change_json(tiny_dataset, channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(DatasetError, match="lacks the channel _0001"):
        labelled_cases(tiny_dataset, dataset)


def test_a_single_picture_may_hold_three_channels(tiny_dataset):
    dataset = change_json(tiny_dataset, channel_names={"0": "R", "1": "G", "2": "B"})
    assert len(labelled_cases(tiny_dataset, dataset)[0].images) == 1


def test_dataset_key_names_files_anywhere(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("elsewhere", str(tmp_path / "else"))
    shutil.copytree(tiny_dataset / "labelsTr", tmp_path / "else")
    entry = {"images": ["imagesTr/xray_tr_002_0000.png"], "label": "$elsewhere/xray_tr_002.png"}
    cases = labelled_cases(tiny_dataset, change_json(tiny_dataset, dataset={"two": entry}))
    assert [c.identifier for c in cases] == ["two"]
    assert cases[0].label.is_file()
    entry["label"] = "gone.png"
    with pytest.raises(DatasetError, match=r"gone\.png, which is not there"):
        labelled_cases(tiny_dataset, change_json(tiny_dataset, dataset={"two": entry}))


PICTURE = {"images": ["imagesTr/xray_tr_002_0000.png"], "label": "labelsTr/xray_tr_002.png"}


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../../x", "/abs/x", "a/b", "a\\b", "C:x", ".x", "a\nb", "a\0", "x" * 300]
)
def test_a_case_of_the_dataset_key_has_a_name_that_files_may_have(tiny_dataset, name):
    dataset = change_json(tiny_dataset, dataset={"whole": PICTURE, name: PICTURE})
    with pytest.raises(DatasetError, match=r"json: 'dataset' names a case .* give it a plain name like case_01"):
        labelled_cases(tiny_dataset, dataset)


@pytest.mark.parametrize(("one", "other"), [("Case", "case"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")])
def test_two_names_that_a_disk_may_take_for_one_are_refused(tiny_dataset, one, other):
    dataset = change_json(tiny_dataset, dataset={one: PICTURE, other: PICTURE})
    with pytest.raises(DatasetError, match="which some disks take for one"):
        labelled_cases(tiny_dataset, dataset)


def test_a_case_of_the_dataset_key_may_be_named_in_any_script(tiny_dataset):
    dataset = change_json(tiny_dataset, dataset={"cafe\u0301": PICTURE, "\u80f8\u90e8 1": PICTURE, "a-b_c.d": PICTURE})
    found = [case.identifier for case in labelled_cases(tiny_dataset, dataset)]
    assert found == ["a-b_c.d", "caf\u00e9", "\u80f8\u90e8 1"], "in composed form"


@pytest.mark.parametrize("entry", [
    5, None, [], "x", {}, {"images": "imagesTr/xray_tr_002_0000.png", "label": PICTURE["label"]},
    {"images": [5], "label": PICTURE["label"]}, {"images": PICTURE["images"], "label": None},
    {"images": {"0": "x"}, "label": "x"},
])
def test_an_entry_of_the_dataset_key_of_a_wrong_kind_is_told_its_form(tiny_dataset, entry):
    with pytest.raises(DatasetError, match=r"'dataset\.two' must be written like"):
        labelled_cases(tiny_dataset, change_json(tiny_dataset, dataset={"two": entry}))


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_inputs_are_found_with_and_without_channel_number(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.png", "b.png", "scan_2024.nii.gz", "notes.txt", "._a_0000.png")
    assert [c.identifier for c in input_cases(folder, None, 1)] == ["a", "b", "scan_2024"]
    assert [c.identifier for c in input_cases(folder, ".png", 1)] == ["a", "b"]
    assert [c.identifier for c in input_cases(folder / "b.png", None, 1)] == ["b"]


def test_inputs_with_several_channels_are_grouped(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.nii.gz", "a_0001.nii.gz")
    (case,) = input_cases(folder, ".nii.gz", 2)
    assert [f.name for f in case.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_two_files_of_one_input_case_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="both channel 0 of the case 'a'"):
        input_cases(touch(tmp_path / "in", "a_0000.png", "a.png"), None, 1)


def test_a_folder_named_like_an_image_is_no_input(tmp_path):
    folder = touch(tmp_path / "in", "b_0000.nii.gz")
    touch(folder / "a_0000.nii.gz", "scan.nii.gz")
    with pytest.raises(DatasetError, match=r"a_0000\.nii\.gz is a folder .*\(scan\.nii\.gz\)"):
        input_cases(folder, None, 1)


def test_nothing_to_predict_says_what_was_found(tmp_path):
    with pytest.raises(DatasetError, match="found: nothing"):
        input_cases(touch(tmp_path / "in"), None, 1)
    with pytest.raises(DatasetError, match=r"(?s)found: \.jpg.*save as PNG"):
        input_cases(touch(tmp_path / "in", "a.jpg"), None, 1)
    with pytest.raises(DatasetError, match="does not exist"):
        input_cases(tmp_path / "nowhere", None, 1)

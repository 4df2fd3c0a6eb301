from __future__ import annotations

import json
import os
import shutil
import unicodedata

import imageio.v3 as iio
import numpy as np
import pytest

from samdpo.dataset.cases import find_inputs, input_cases
from samdpo.dataset.raw_dataset import RawDataset, load_groups
from samdpo.errors import DatasetError


def change_json(folder, **changes):
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return RawDataset.open(folder)


def labelled_cases(folder):
    return RawDataset.open(folder).labelled


def unlabelled_cases(folder):
    return RawDataset.open(folder).unlabelled


def test_cases_are_found_and_sorted(tiny_dataset):
    labelled, unlabelled = labelled_cases(tiny_dataset), unlabelled_cases(tiny_dataset)
    assert [c.identifier for c in labelled] == [f"xray_tr_{n:03d}" for n in range(1, 9)]
    assert len(unlabelled) == 4
    assert all(c.label is None for c in unlabelled)
    assert labelled[0].images[0].name == "xray_tr_001_0000.png"
    assert labelled[0].label.name == "xray_tr_001.png"


def test_without_groups_every_case_is_its_own(tiny_dataset):
    cases = labelled_cases(tiny_dataset)
    assert all(c.group == c.identifier for c in cases)


def test_groups_of_the_file_are_taken_over(tiny_dataset):
    (tiny_dataset / "case_groups.json").write_text('{"xray_tr_001": "p", "xray_tr_002": "p", "xray_ul_001": 7}')
    assert [c.group for c in labelled_cases(tiny_dataset)][:3] == ["p", "p", "xray_tr_003"]
    assert unlabelled_cases(tiny_dataset)[0].group == "7"


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
        labelled_cases(tiny_dataset)


def test_label_without_image_is_named(tiny_dataset):
    shutil.copy(tiny_dataset / "labelsTr" / "xray_tr_003.png", tiny_dataset / "labelsTr" / "lonely.png")
    with pytest.raises(DatasetError, match=r"lonely\.png has no image"):
        labelled_cases(tiny_dataset)


def test_label_with_a_channel_number_is_told_to_lose_it(tiny_dataset):
    label = tiny_dataset / "labelsTr" / "xray_tr_003.png"
    label.rename(label.with_name("xray_tr_003_0000.png"))
    with pytest.raises(DatasetError, match=r"rename it to xray_tr_003\.png"):
        labelled_cases(tiny_dataset)


def test_image_without_channel_number_is_told_its_name(tiny_dataset):
    image = tiny_dataset / "imagesTr" / "xray_tr_003_0000.png"
    image.rename(image.with_name("xray_tr_003.png"))
    with pytest.raises(DatasetError, match=r"xray_tr_003_0000\.png"):
        labelled_cases(tiny_dataset)


def test_missing_folder_is_named(tiny_dataset):
    shutil.rmtree(tiny_dataset / "labelsTr")
    with pytest.raises(DatasetError, match="labelsTr is missing"):
        labelled_cases(tiny_dataset)


def test_the_same_name_labelled_and_unlabelled_is_refused(tiny_dataset):
    shutil.copy(tiny_dataset / "imagesTr" / "xray_tr_001_0000.png", tiny_dataset / "imagesUl")
    with pytest.raises(DatasetError, match="name of a labelled case"):
        unlabelled_cases(tiny_dataset)


def test_names_that_differ_by_case_only_are_refused(tiny_dataset):
    for folder, end in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        shutil.copy(tiny_dataset / folder / f"xray_tr_001{end}", tiny_dataset / folder / f"XRAY_tr_001{end}")
    with pytest.raises(DatasetError, match="differ by case only"):
        labelled_cases(tiny_dataset)


def test_missing_channel_is_named(tiny_dataset):
    change_json(tiny_dataset, channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(DatasetError, match="lacks the channel _0001"):
        labelled_cases(tiny_dataset)


def test_a_single_picture_may_hold_three_channels(tiny_dataset):
    change_json(tiny_dataset, channel_names={"0": "R", "1": "G", "2": "B"})
    assert len(labelled_cases(tiny_dataset)[0].images) == 1


def test_dataset_key_names_files_anywhere(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("elsewhere", str(tmp_path / "else"))
    shutil.copytree(tiny_dataset / "labelsTr", tmp_path / "else")
    entry = {"images": ["imagesTr/xray_tr_002_0000.png"], "label": "$elsewhere/xray_tr_002.png"}
    cases = change_json(tiny_dataset, dataset={"two": entry}).labelled
    assert [c.identifier for c in cases] == ["two"]
    assert cases[0].label.is_file()
    entry["label"] = "gone.png"
    with pytest.raises(DatasetError, match=r"gone\.png, which is not there"):
        assert change_json(tiny_dataset, dataset={"two": entry}).labelled


PICTURE = {"images": ["imagesTr/xray_tr_002_0000.png"], "label": "labelsTr/xray_tr_002.png"}


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../../x", "/abs/x", "a/b", "a\\b", "C:x", ".x", "a\nb", "a\0", "x" * 300]
)
def test_a_case_of_the_dataset_key_has_a_name_that_files_may_have(tiny_dataset, name):
    change_json(tiny_dataset, dataset={"whole": PICTURE, name: PICTURE})
    with pytest.raises(DatasetError, match=r"json: 'dataset' names a case .* give it a plain name like case_01"):
        labelled_cases(tiny_dataset)


@pytest.mark.parametrize(("one", "other"), [("Case", "case"), ("caf\u00e9", "cafe\u0301"), ("stra\u00dfe", "STRASSE")])
def test_two_names_that_a_disk_may_take_for_one_are_refused(tiny_dataset, one, other):
    change_json(tiny_dataset, dataset={one: PICTURE, other: PICTURE})
    with pytest.raises(DatasetError, match="which some disks take for one"):
        labelled_cases(tiny_dataset)


def test_a_case_of_the_dataset_key_may_be_named_in_any_script(tiny_dataset):
    change_json(tiny_dataset, dataset={"cafe\u0301": PICTURE, "\u80f8\u90e8 1": PICTURE, "a-b_c.d": PICTURE})
    found = [case.identifier for case in labelled_cases(tiny_dataset)]
    assert found == ["a-b_c.d", "caf\u00e9", "\u80f8\u90e8 1"], "in composed form"


@pytest.mark.parametrize("entry", [
    5, None, [], "x", {}, {"images": "imagesTr/xray_tr_002_0000.png", "label": PICTURE["label"]},
    {"images": [5], "label": PICTURE["label"]}, {"images": PICTURE["images"], "label": None},
    {"images": {"0": "x"}, "label": "x"},
])
def test_an_entry_of_the_dataset_key_of_a_wrong_kind_is_told_its_form(tiny_dataset, entry):
    with pytest.raises(DatasetError, match=r"'dataset\.two' must be written like"):
        assert change_json(tiny_dataset, dataset={"two": entry}).labelled


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


# ---- what belongs to no case ----------------------------------------------------------------------------------------


def left_out(folder, n_channels=1, **options):
    found = find_inputs(folder, None, n_channels, **options)
    return [c.identifier for c in found.cases], "\n".join(found.left_out)


def test_images_of_other_formats_links_that_lead_nowhere_and_sub_folders_are_named(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.png", "notes.txt", "table.csv", "a.json", ".hidden.jpg", "b.jpg", "c.GIF",
                   "d.mhd", "movie.mp4", "scans.zip")
    iio.imwrite(folder / "page", np.zeros((4, 4), np.uint8), extension=".png")
    touch(folder / "site2", "e_0000.png")
    touch(folder / "series", "IM1.dcm")
    touch(folder / "texts", "readme.md")
    (folder / "f_0000.png").symlink_to("/mnt/gone/f.png")
    (folder / "patient7").symlink_to("/mnt/gone/patient7")
    (folder / "g_0000.png").symlink_to("g_0000.png")
    os.mkfifo(folder / "h_0000.png")
    cases, said = left_out(folder)
    assert cases == ["a"]
    for name, why in (
        ("b.jpg", "is lossy"), ("c.GIF", "not read"), ("d.mhd", "not read"), ("movie.mp4", "not read"),
        ("scans.zip", "not read"), ("page", "not read"), ("site2", "sub-folder with images, such as e_0000.png"),
        ("series", "such as IM1.dcm"), ("f_0000.png", "is a link to /mnt/gone/f.png, which is not there"),
        ("patient7", "is a link to /mnt/gone/patient7"), ("g_0000.png", "cannot be followed"),
        ("h_0000.png", "neither a file nor a folder"),
    ):
        assert any(f"/{name} " in line and why in line for line in said.splitlines()), name
    for name in ("notes", "table", "a.json", "hidden", "texts"):
        assert name not in said


def test_a_folder_of_links_that_all_lead_nowhere_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a_0000.png").symlink_to("/mnt/gone/a.png")
    with pytest.raises(DatasetError, match=r"(?s)holds no image.*a_0000\.png is a link to /mnt/gone/a\.png"):
        find_inputs(tmp_path / "in", None, 1)
    (tmp_path / "link").symlink_to("/mnt/gone")
    with pytest.raises(DatasetError, match="is a link to /mnt/gone, which is not there"):
        find_inputs(tmp_path / "link", None, 1)


def test_a_case_whose_other_channels_lead_nowhere_is_not_taken_for_one_of_a_single_file(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.png", "b_0000.png")
    for channel in (1, 2):
        (folder / f"a_000{channel}.png").symlink_to(f"/mnt/gone/a_000{channel}.png")
    cases, said = left_out(folder, 3)
    assert cases == ["b"] and said.count("is a link to /mnt/gone/a_000") == 2


def test_cases_that_are_in_question_do_not_hide_the_others(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "C_0000.nii.gz", "C_0001.nii.gz",
                   "c_0000.nii.gz", "c_0001.nii.gz")
    cases, said = left_out(folder, 2)
    assert cases == ["a"] and "'b'" in said and "differ by case only" in said


@pytest.mark.parametrize("name", ["dataset", "Plans", "summary", "predict_from_raw_data_args", "ensemble_args",
                                  "predict_from_raw_data_args_part_0_of_2", "postprocessing"])
def test_a_case_called_like_a_file_of_ours_is_told_and_left_out(tiny_dataset, tmp_path, name):
    cases, said = left_out(touch(tmp_path / "in", "a.png", f"{name}.png"))
    assert cases == ["a"] and f"cannot be called '{name}'" in said
    for folder, end in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        (tiny_dataset / folder / f"xray_tr_001{end}").rename(tiny_dataset / folder / f"{name}{end}")
    with pytest.raises(DatasetError, match=f"cannot be called '{name}'") as raised:
        labelled_cases(tiny_dataset)
    assert len(str(raised.value).splitlines()) == 1


def test_a_broken_link_of_a_dataset_is_the_only_thing_that_is_told(tiny_dataset):
    for folder, name in (("imagesTr", "xray_tr_001_0000.png"), ("labelsTr", "xray_tr_001.png"),
                         ("labelsTr", "xray_tr_002.png")):
        (tiny_dataset / folder / name).unlink()
        (tiny_dataset / folder / name).symlink_to(f"/mnt/gone/{name}")
    with pytest.raises(DatasetError) as raised:
        labelled_cases(tiny_dataset)
    said = str(raised.value).splitlines()
    assert len(said) == 3 and all("is a link to /mnt/gone/xray_tr_00" in line for line in said)
    image = tiny_dataset / "imagesUl" / "xray_ul_001_0000.png"
    image.unlink()
    image.symlink_to("/mnt/gone/u.png")
    with pytest.raises(DatasetError, match="is a link to /mnt/gone/u.png, which is not there"):
        unlabelled_cases(tiny_dataset)


def test_results_below_the_images_are_nobodys_input(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.png")
    touch(touch(folder / "masks") / "today", "a.png")
    for output in (folder / "masks", folder / "masks" / "today"):
        assert left_out(folder, output=output) == (["a"], "")
    assert "masks is a sub-folder with images" in left_out(folder, output=tmp_path / "out")[1]


def test_digits_that_are_no_decimal_ones_number_no_channel(tmp_path):
    folder = touch(tmp_path / "in", "scan_²²²².png")
    for n_channels in (1, 3):
        assert [c.identifier for c in find_inputs(folder, None, n_channels).cases] == ["scan_²²²²"]


@pytest.mark.parametrize(("name", "why"), [("x" * 205, "longer than 200 bytes"), ("C:x", "a path on a drive")])
def test_a_case_after_which_no_file_can_be_called_is_told_where_cases_are_found(tiny_dataset, name, why):
    (tiny_dataset / "imagesTr" / "xray_tr_001_0000.png").rename(tiny_dataset / "imagesTr" / f"{name}_0000.png")
    (tiny_dataset / "labelsTr" / "xray_tr_001.png").rename(tiny_dataset / "labelsTr" / f"{name}.png")
    with pytest.raises(DatasetError, match=why) as error:
        labelled_cases(tiny_dataset)
    assert len(str(error.value).splitlines()) == 1


def test_a_sub_folder_of_a_dataset_is_named_and_harms_nobody(tiny_dataset, caplog):
    touch(tiny_dataset / "imagesTr" / "site2", "x_0000.png")
    touch(tiny_dataset / "imagesTr" / "@eaDir", "thumbnail.jpg")
    assert len(labelled_cases(tiny_dataset)) == 8
    labelled_cases(tiny_dataset)
    assert caplog.text.count("site2 is a sub-folder with images") == 1 and "eaDir" not in caplog.text


# ---- one name, one meaning ------------------------------------------------------------------------------------------


def frames(folder, numbers, shape):
    folder.mkdir()
    for number in numbers:
        iio.imwrite(folder / f"frame_{number:04d}.png", np.random.default_rng(number).integers(0, 255, shape, np.uint8))
    return folder


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_frames_numbered_beyond_the_channels_are_a_case_each(tmp_path, shape):
    cases, said = left_out(frames(tmp_path / "in", range(5), shape), 3)
    assert cases == [f"frame_{number:04d}" for number in range(5)] and not said


def test_three_frames_are_a_case_each_where_training_had_one_file_a_case_or_where_they_have_colours(tmp_path, caplog):
    grey, coloured = (frames(tmp_path / name, range(3), shape) for name, shape in (("g", (8, 8)), ("c", (8, 8, 3))))
    names = [f"frame_{number:04d}" for number in range(3)]
    assert left_out(grey, 3, files_per_case=1)[0] == names
    assert left_out(coloured, 3)[0] == names
    assert left_out(grey, 3, files_per_case=3)[0] == ["frame"], "R, G and B in files of their own"
    assert "taken as" not in caplog.text
    assert left_out(grey, 3)[0] == ["frame"] and "taken as the 3 channels of one case 'frame'" in caplog.text


def test_volumes_numbered_beyond_the_channels_are_told_and_none_is_mixed(tmp_path):
    folder = touch(tmp_path / "in", *(f"scan_{number:04d}.nii.gz" for number in range(4)), "b_0000.nii.gz",
                   "b_0001.nii.gz")
    cases, said = left_out(folder, 2)
    assert cases == ["b"] and "scan_0000.nii.gz is numbered like a channel" in said


def spelled(form):
    return unicodedata.normalize(form, "P\u00e9rez 1")


@pytest.mark.parametrize(("image", "label"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_compared_as_text_however_they_are_encoded(tiny_dataset, image, label):
    (tiny_dataset / "imagesTr" / "xray_tr_001_0000.png").rename(
        tiny_dataset / "imagesTr" / f"{spelled(image)}_0000.png")
    (tiny_dataset / "labelsTr" / "xray_tr_001.png").rename(tiny_dataset / "labelsTr" / f"{spelled(label)}.png")
    (tiny_dataset / "case_groups.json").write_text(json.dumps({spelled(label): "p"}))
    case = labelled_cases(tiny_dataset)[0]
    assert case.identifier == spelled(image) and case.label.is_file() and case.group == "p"
    shutil.copy(tiny_dataset / "imagesTr" / "xray_tr_002_0000.png",
                tiny_dataset / "imagesUl" / f"{spelled(label)}_0000.png")
    with pytest.raises(DatasetError, match="name of a labelled case"):
        unlabelled_cases(tiny_dataset)


def test_two_files_of_one_name_are_a_sentence(tiny_dataset, tmp_path):
    folder = touch(tmp_path / "in", *(f"{spelled(form)}.png" for form in ("NFC", "NFD")), "a.png")
    cases, said = left_out(folder)
    assert cases == ["a"] and "differ by their encoding only" in said
    touch(tiny_dataset / "labelsTr", *(f"{spelled(form)}.png" for form in ("NFC", "NFD")))
    with pytest.raises(DatasetError, match="which are one name to a person"):
        labelled_cases(tiny_dataset)

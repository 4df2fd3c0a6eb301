from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError

IMAGE, LABEL = "imagesTr/xray_tr_002_0000.png", "labelsTr/xray_tr_002.png"


def refusal(folder, processes=1) -> str:
    with pytest.raises(DatasetError) as caught:
        verify_dataset_integrity(folder, processes)
    return str(caught.value)


@pytest.fixture
def messages(caplog):
    """What is logged, also where a command has switched propagation off."""
    logger = logging.getLogger("samdpo.dataset.integrity")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_sound_dataset_passes(tiny_dataset, messages):
    verify_dataset_integrity(tiny_dataset, 1)
    assert "8 labelled and 4 unlabelled cases are in order" in messages.text


def test_several_processes_find_the_same(tiny_dataset):
    (tiny_dataset / IMAGE).write_bytes((tiny_dataset / IMAGE).read_bytes()[:200])
    assert refusal(tiny_dataset, 2) == refusal(tiny_dataset, 1)


def test_a_truncated_png_is_named(tiny_dataset):
    file = tiny_dataset / "imagesUl" / "xray_ul_001_0000.png"
    file.write_bytes(file.read_bytes()[:500])
    assert f"{file} cannot be read" in refusal(tiny_dataset)


def test_wrong_num_training_is_told_with_the_right_number(tiny_dataset):
    file = tiny_dataset / "dataset.json"
    file.write_text(file.read_text().replace('"numTraining": 8', '"numTraining": 9'))
    text = refusal(tiny_dataset)
    assert "'numTraining' is 9" in text
    assert '"numTraining": 8' in text


def test_image_and_label_of_different_size_are_named_with_their_sizes(tiny_dataset):
    label = np.asarray(Image.open(tiny_dataset / LABEL))
    Image.fromarray(label[:, 5:]).save(tiny_dataset / LABEL)
    text = refusal(tiny_dataset)
    assert LABEL in text
    assert "75 x 96" in text
    assert "80 x 96" in text


def test_label_values_outside_the_list_are_named(tiny_dataset):
    label = np.array(Image.open(tiny_dataset / LABEL))
    label[0, 0] = 7
    Image.fromarray(label).save(tiny_dataset / LABEL)
    text = refusal(tiny_dataset)
    assert "value(s) 7" in text
    assert "0 = background, 1 = lung" in text


def test_a_mask_of_0_and_255_is_not_remapped_but_explained(tiny_dataset):
    label = np.array(Image.open(tiny_dataset / LABEL))
    Image.fromarray(label * 255).save(tiny_dataset / LABEL)
    said = refusal(tiny_dataset)
    assert LABEL in said and "write 1 for lung in place of 255" in said
    assert "samdpo_convert_folder IMAGES MASKS -n NAME -d ID --labels background lung" in said


def test_a_colour_picture_where_grey_is_declared_is_named(tiny_dataset):
    grey = np.asarray(Image.open(tiny_dataset / IMAGE))
    Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=-1)).save(tiny_dataset / IMAGE)
    assert f"{IMAGE} is a colour image" in refusal(tiny_dataset)


@pytest.mark.parametrize("folder", ["imagesTr", "imagesUl"])
def test_a_name_without_channel_number_is_told_its_right_form(tiny_dataset, folder):
    file = sorted((tiny_dataset / folder).iterdir())[1]
    bare = file.rename(file.with_name(file.name.replace("_0000", "")))
    said = refusal(tiny_dataset)
    assert f"{bare} has no channel number" in said and f"expected a name like {file.name}" in said


def test_one_empty_mask_is_a_warning(tiny_dataset, messages):
    Image.fromarray(np.zeros((96, 80), np.uint8)).save(tiny_dataset / LABEL)
    verify_dataset_integrity(tiny_dataset, 1)
    assert "1 of 8 masks are empty" in messages.text
    assert LABEL in messages.text


def test_only_empty_masks_are_an_error(tiny_dataset):
    for file in (tiny_dataset / "labelsTr").iterdir():
        Image.fromarray(np.zeros((96, 80), np.uint8)).save(file)
    assert "All 8 masks" in refusal(tiny_dataset)


def test_an_all_black_image_is_named(tiny_dataset):
    Image.fromarray(np.zeros((96, 80), np.uint8)).save(tiny_dataset / IMAGE)
    assert f"{IMAGE} is all black" in refusal(tiny_dataset)


def test_a_jpeg_among_the_images_is_named(tiny_dataset):
    picture = Image.open(tiny_dataset / IMAGE)
    picture.save(tiny_dataset / "imagesTr" / "more_0000.jpg")
    assert "more_0000.jpg is a JPEG" in refusal(tiny_dataset)


def test_a_jpeg_called_png_is_named(tiny_dataset):
    picture = Image.open(tiny_dataset / IMAGE)
    picture.load()
    picture.save(tiny_dataset / IMAGE, format="JPEG")
    assert f"{IMAGE} is a JPEG under another name" in refusal(tiny_dataset)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16"])
def test_grey_images_in_other_png_modes_pass(tiny_dataset, mode):
    picture = Image.open(tiny_dataset / IMAGE)
    picture.load()
    deep = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    (deep if mode == "I;16" else picture.convert(mode)).save(tiny_dataset / IMAGE)
    verify_dataset_integrity(tiny_dataset, 1)


def test_duplicate_names_are_told(tiny_dataset):
    shutil.copy(tiny_dataset / IMAGE, tiny_dataset / "imagesUl")
    assert "name of a labelled case" in refusal(tiny_dataset)


def test_groups_of_unknown_cases_are_told(tiny_dataset):
    (tiny_dataset / "case_groups.json").write_text('{"nobody": "p1", "xray_tr_001": "p1"}')
    text = refusal(tiny_dataset)
    assert "case_groups.json" in text
    assert "nobody" in text


def test_all_problems_come_in_one_message(tiny_dataset):
    (tiny_dataset / IMAGE).write_bytes(b"")
    Image.fromarray(np.full((96, 80), 9, np.uint8)).save(tiny_dataset / "labelsTr" / "xray_tr_005.png")
    (tiny_dataset / "labelsTr" / "xray_tr_007.png").unlink()
    text = refusal(tiny_dataset)
    assert "has 3 problems" in text
    assert all(name in text for name in (IMAGE, "xray_tr_005.png", "xray_tr_007"))


def test_many_problems_are_counted_after_the_twentieth(tiny_dataset):
    for number in range(30):
        (tiny_dataset / "imagesUl" / f"broken{number:02d}_0000.png").write_bytes(b"no picture")
    text = refusal(tiny_dataset)
    assert "has 30 problems" in text
    assert "and 10 more" in text


def test_volumes_with_another_origin_are_told(tmp_path):
    import SimpleITK as sitk  # noqa: N813

    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    label = sitk.GetImageFromArray((np.arange(60).reshape(3, 4, 5) > 30).astype(np.uint8))
    label.SetOrigin((0, 0, 40))
    sitk.WriteImage(image, str(tmp_path / "imagesTr" / "a_0000.nii.gz"))
    sitk.WriteImage(label, str(tmp_path / "labelsTr" / "a.nii.gz"))
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 1}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    assert "a.nii.gz has the origin" in refusal(tmp_path)


def test_a_stack_among_pictures_is_named(tiny_dataset):
    import tifffile

    for file in list(tiny_dataset.rglob("*.png")):
        tifffile.imwrite(file.with_suffix(".tif"), np.asarray(Image.open(file)))
        file.unlink()
    content = (tiny_dataset / "dataset.json").read_text().replace(".png", ".tif")
    (tiny_dataset / "dataset.json").write_text(content)
    verify_dataset_integrity(tiny_dataset)
    file = sorted((tiny_dataset / "imagesUl").iterdir())[0]
    tifffile.imwrite(file, np.stack([np.asarray(Image.open(file))] * 4), photometric="minisblack")
    assert f"{file} has 3 dimensions" in refusal(tiny_dataset)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["Dataset101_LungXray", "Dataset102_BreastUS", "Dataset103_AbdomenCT"])
def test_the_real_datasets_pass(real_data, name):
    verify_dataset_integrity(real_data / name, 2)

"""What nnU-Net reads is what we read, whatever the files are like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.images import read_image, read_label
from samdpo.files import read_json
from samdpo.lab.baselines.nnunet_files import RawForm, write_raw_dataset

LUNG = {"background": 0, "lung": 1}
PIXELS = np.arange(30, dtype=np.uint8).reshape(5, 6)


def case(folder: Path, pixels: np.ndarray, label: np.ndarray, name: str = "a") -> Case:
    image, mask = folder / f"{name}_0000.png", folder / f"{name}.png"
    Image.fromarray(pixels).save(image)
    Image.fromarray(label).save(mask)
    return Case(name, (image,), mask, name)


def dataset(labels: dict[str, int], channels: int = 1) -> DatasetJson:
    names = {str(i): f"channel {i}" for i in range(channels)}
    return DatasetJson(names, labels, 1, ".png", labels.get("ignore"))


def handed_over(folder: Path, data: DatasetJson, one: Case) -> tuple[RawForm, Path]:
    form = RawForm.of(data, [one], [one])
    write_raw_dataset(folder, data, [one], form)
    return RawForm.from_dict(form.to_dict()), folder


def test_pictures_that_both_read_alike_are_linked(tmp_path):
    one = case(tmp_path, PIXELS, (PIXELS > 9).astype(np.uint8))
    form, raw = handed_over(tmp_path / "raw", dataset(LUNG), one)
    assert form.linked and (raw / "imagesTr" / "a_0000.png").resolve() == one.images[0].resolve()
    assert (raw / "labelsTr" / "a.png").resolve() == one.label.resolve()
    assert read_json(raw / "dataset.json")["file_ending"] == ".png"


def test_a_colour_picture_in_one_file_is_linked_where_three_channels_are_declared(tmp_path):
    colours = np.stack([PIXELS, PIXELS + 1, PIXELS + 2], -1)
    form, raw = handed_over(tmp_path / "raw", dataset(LUNG, 3), case(tmp_path, colours, (PIXELS > 9).astype(np.uint8)))
    assert form.linked
    assert NaturalImage2DIO().read_images([str(raw / "imagesTr" / "a_0000.png")])[0].shape == (3, 1, 5, 6)


def test_a_grey_picture_stored_as_colours_becomes_nifti_with_the_same_values(tmp_path):
    one = case(tmp_path, np.stack([PIXELS] * 3, -1), (PIXELS > 9).astype(np.uint8))
    form, raw = handed_over(tmp_path / "raw", dataset(LUNG), one)
    image, properties = SimpleITKIO().read_images([str(raw / "imagesTr" / "a_0000.nii.gz")])
    assert not form.linked and np.array_equal(image, read_image(one.images, 1).data)
    assert tuple(properties["spacing"]) == (999, 1, 1), "nnU-Net's for a picture"
    assert read_json(raw / "dataset.json")["overwrite_image_reader_writer"] == "SimpleITKIO"


@pytest.mark.parametrize("labels", [{"background": 0, "lung": 100, "heart": 200},
                                    {"background": 0, "lung": 100, "heart": 200, "ignore": 255}])
def test_label_values_with_gaps_are_renumbered_and_come_back(tmp_path, labels):
    values = np.array(sorted(labels.values()), np.uint8)
    drawn = values[PIXELS % len(values)]
    one = case(tmp_path, PIXELS, drawn)
    form, raw = handed_over(tmp_path / "raw", dataset(labels), one)
    there = raw / "labelsTr" / "a.nii.gz"
    assert np.array_equal(read_label(there)[0], PIXELS % len(values))
    assert read_json(raw / "dataset.json")["labels"] == {name: index for index, name in enumerate(labels)}
    assert np.array_equal(form.read_prediction(there)[0], drawn)


def test_keys_of_our_own_do_not_reach_nnunet(tmp_path):
    _, raw = handed_over(tmp_path / "raw", dataset(LUNG), case(tmp_path, PIXELS, (PIXELS > 9).astype(np.uint8)))
    assert set(read_json(raw / "dataset.json")) == {
        "channel_names", "labels", "numTraining", "file_ending", "overwrite_image_reader_writer",
    }

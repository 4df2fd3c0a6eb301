from __future__ import annotations

import numpy as np
import pytest
from downloads import covid_download, files_of, square, zipped
from PIL import Image

from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.converters.covid_qu_ex import covid_qu_ex
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError


def test_train_and_val_are_for_training_test_for_testing_and_names_stay_apart(roots, tmp_path):
    folder = run_conversion(covid_qu_ex(covid_download(tmp_path)), 201)
    assert [f.removesuffix("_0000.png") for f in files_of(folder / "imagesTr")] == [
        "train_covid19_image_1", "train_noncovid_image_1", "train_normal_image_1",
        "val_covid19_image_1", "val_noncovid_image_1", "val_normal_image_1",
    ]
    assert files_of(folder / "labelsTs") == [
        "test_covid19_image_1.png", "test_noncovid_image_1.png", "test_normal_image_1.png",
    ]
    verify_dataset_integrity(folder)
    np.testing.assert_array_equal(
        np.asarray(Image.open(folder / "labelsTr" / "val_normal_image_1.png")), square(1)
    )


def test_the_lung_is_two_parts_and_always_there(roots, tmp_path):
    hints = load_dataset_json(run_conversion(covid_qu_ex(covid_download(tmp_path)), 201)).hints["lung"]
    assert (hints.components, hints.may_be_absent) == (2, False)
    assert hints.question == "What is the shape of the lungs and where are they located?"


def test_the_infection_part_beside_it_is_left_alone(tmp_path):
    download = tmp_path / "download"
    root = covid_download(download)
    for source in (root, root.parent, download, zipped(download, tmp_path / "archive.zip")):
        members = [task.members[0] for task in covid_qu_ex(source).tasks]
        assert len(members) == 18
        assert all("Infection" not in str(member) for member in members)


def test_the_infection_part_alone_is_refused(tmp_path):
    covid_download(tmp_path)
    with pytest.raises(DatasetError, match="does not hold COVID-QU-Ex's lung segmentation data"):
        covid_qu_ex(tmp_path / "Infection Segmentation Data")


def test_an_image_without_mask_is_named_with_its_class(tmp_path):
    root = covid_download(tmp_path)
    (root / "Val" / "Normal" / "lung masks" / "image (1).png").unlink()
    with pytest.raises(DatasetError, match=r"Val/Normal holds 1 image\(s\) without a label"):
        covid_qu_ex(root)


def test_numbers_other_than_the_published_ones_are_a_warning(tmp_path, caplog):
    covid_qu_ex(covid_download(tmp_path))
    assert "images: 9 of 33920" in caplog.text
    assert "Train and Val: 6 of 27132" in caplog.text

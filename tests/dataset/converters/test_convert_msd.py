from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from downloads import files_of, msd_download, tarred

from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.converters.msd import msd
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_image
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError


def test_a_task_of_one_channel_is_copied_under_its_own_number(roots, tmp_path):
    source = msd_download(tmp_path)
    conversion, number = msd(source)
    folder = run_conversion(conversion, number)
    assert folder.name == "Dataset009_Spleen"
    assert files_of(folder) == [
        "conversion.json", "dataset.json", "imagesTr/case_2_0000.nii.gz", "imagesTr/case_3_0000.nii.gz",
        "imagesTs/case_1_0000.nii.gz", "labelsTr/case_2.nii.gz", "labelsTr/case_3.nii.gz",
    ]
    verify_dataset_integrity(folder)
    assert (folder / "imagesTr/case_2_0000.nii.gz").read_bytes() == (source / "imagesTr/case_2.nii.gz").read_bytes()


def test_labels_are_turned_to_name_and_number_and_the_licence_is_kept(roots, tmp_path):
    conversion, number = msd(msd_download(tmp_path))
    dataset = load_dataset_json(run_conversion(conversion, number))
    assert dataset.labels == {"background": 0, "spleen": 1}
    assert dataset.raw["licence"] == "CC-BY-SA 4.0"
    hints = dataset.hints["spleen"]
    assert (hints.phrase, hints.may_be_absent, hints.components) == ("spleen in a CT scan", True, None)


def test_a_4d_image_becomes_one_file_a_channel_on_the_same_grid(roots, tmp_path):
    source = msd_download(tmp_path, channels=2)
    conversion, number = msd(source)
    folder = run_conversion(conversion, number)
    assert folder.name == "Dataset001_BrainTumour"
    whole = nib.load(source / "imagesTr" / "case_2.nii.gz")
    for channel in range(2):
        part = nib.load(folder / "imagesTr" / f"case_2_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(np.asarray(part.dataobj), np.asarray(whole.dataobj)[..., channel])
        np.testing.assert_allclose(part.affine, whole.affine, atol=1e-5)
        assert part.get_data_dtype() == whole.get_data_dtype()
    verify_dataset_integrity(folder)
    dataset = load_dataset_json(folder)
    assert dataset.channel_names == {"0": "FLAIR", "1": "T1w"}
    images = [folder / "imagesTr" / f"case_3_{channel:04d}.nii.gz" for channel in range(2)]
    assert read_image(images, 2).data.shape == (2, 4, 5, 6)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_tar_with_macs_junk_gives_the_same(roots, tmp_path, ending):
    msd_download(tmp_path / "download", channels=2)
    archive = tarred(tmp_path / "download", tmp_path / f"Task01.{ending}", "w:gz" if ending == "tar.gz" else "w")
    conversion, number = msd(archive)
    from_tar = run_conversion(conversion, number, processes=2)
    from_folder = run_conversion(msd(tmp_path / "download")[0], 4)
    assert files_of(from_tar) == files_of(from_folder)
    for name in files_of(from_tar):
        assert (from_tar / name).read_bytes() == (from_folder / name).read_bytes()


def test_another_number_of_channels_than_named_is_an_error(roots, tmp_path):
    source = msd_download(tmp_path, channels=2)
    file = source / "dataset.json"
    content = json.loads(file.read_text())
    content["modality"]["2"] = "T2w"
    file.write_text(json.dumps(content))
    conversion, number = msd(source)
    with pytest.raises(DatasetError, match=r"holds 2 channel\(s\), but its dataset.json names 3"):
        run_conversion(conversion, number)


def test_a_missing_label_and_missing_keys_are_named(tmp_path):
    source = msd_download(tmp_path)
    (source / "labelsTr" / "case_3.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"1 image\(s\) without a label.*case_3"):
        msd(source)
    (source / "dataset.json").write_text("{}")
    with pytest.raises(DatasetError, match="no dataset.json of the Decathlon"):
        msd(source)


def test_a_folder_above_several_tasks_is_not_guessed(tmp_path):
    msd_download(tmp_path)
    msd_download(tmp_path, channels=2)
    with pytest.raises(DatasetError, match=r"Task01_BrainTumour.*Task09_Spleen.*Name one"):
        msd(tmp_path)


def test_a_task_without_number_gives_no_id(tmp_path):
    source = msd_download(tmp_path)
    renamed = source.rename(tmp_path / "spleens")
    conversion, number = msd(renamed)
    assert number is None
    assert conversion.name == "Spleen"


def test_a_count_that_differs_from_the_tasks_own_is_a_warning(tmp_path, caplog):
    source = msd_download(tmp_path)
    (source / "imagesTs" / "case_1.nii.gz").unlink()
    msd(source)
    assert "imagesTs: 0 of 1" in caplog.text

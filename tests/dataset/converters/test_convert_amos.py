from __future__ import annotations

import pytest
from downloads import amos_download, files_of, zipped

from samdpo.dataset.converters.amos import STRUCTURES, amos
from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.dataset_json import load_dataset_json, modality_of
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.prompting.descriptions import is_described


def test_ct_alone_is_converted_with_the_official_split_and_passes_the_check(roots, tmp_path):
    source = amos_download(tmp_path)
    folder = run_conversion(amos(source), 203)
    assert files_of(folder) == [
        "conversion.json", "dataset.json",
        "imagesTr/amos_0001_0000.nii.gz", "imagesTr/amos_0004_0000.nii.gz", "imagesTs/amos_0008_0000.nii.gz",
        "labelsTr/amos_0001.nii.gz", "labelsTr/amos_0004.nii.gz", "labelsTs/amos_0008.nii.gz",
    ]
    verify_dataset_integrity(folder)
    copied = (folder / "imagesTr" / "amos_0001_0000.nii.gz").read_bytes()
    assert copied == (source / "imagesTr" / "amos_0001.nii.gz").read_bytes(), "nothing had to change"


def test_the_zip_as_downloaded_gives_the_same(roots, tmp_path):
    amos_download(tmp_path / "download")
    archive = zipped(tmp_path / "download", tmp_path / "amos22.zip")
    from_zip = run_conversion(amos(archive), 3)
    from_folder = run_conversion(amos(tmp_path / "download"), 4)
    assert files_of(from_zip) == files_of(from_folder)
    for name in files_of(from_zip):
        assert (from_zip / name).read_bytes() == (from_folder / name).read_bytes()


def test_the_fifteen_structures_have_their_ids_hints_and_descriptions(roots, tmp_path):
    dataset = load_dataset_json(run_conversion(amos(amos_download(tmp_path)), 203))
    assert list(dataset.structures.items()) == [(name, i) for i, name in enumerate(STRUCTURES, 1)]
    assert len(STRUCTURES) == 15
    assert (STRUCTURES[0], STRUCTURES[8], STRUCTURES[14]) == ("spleen", "postcava", "prostate/uterus")
    assert all(is_described(name) for name in STRUCTURES)
    hints = dataset.hints["postcava"]
    assert (hints.phrase, hints.components, hints.may_be_absent) == ("postcava in an abdominal CT", 1, True)


@pytest.mark.parametrize(
    ("modality", "cases", "normalised_as"),
    [("ct", ["0001", "0004"], "ct"), ("mr", ["0507"], "mr"), ("all", ["0001", "0004", "0507"], "other")],
)
def test_ids_from_500_are_mr_and_a_mixture_is_not_windowed_as_ct(roots, tmp_path, modality, cases, normalised_as):
    folder = run_conversion(amos(amos_download(tmp_path), modality), 203)
    assert [f.name for f in sorted((folder / "labelsTr").iterdir())] == [f"amos_{n}.nii.gz" for n in cases]
    assert modality_of(load_dataset_json(folder).channel_names["0"]) == normalised_as


def test_test_images_without_labels_are_unlabelled_ones_on_request_only(roots, tmp_path):
    source = amos_download(tmp_path)
    assert not (run_conversion(amos(source), 1) / "imagesUl").exists()
    folder = run_conversion(amos(source, unlabelled=True), 2)
    assert files_of(folder / "imagesUl") == ["amos_0002_0000.nii.gz"]
    verify_dataset_integrity(folder)


def test_a_download_whose_validation_labels_were_kept_back_gives_test_images_alone(roots, tmp_path):
    source = amos_download(tmp_path)
    for file in (source / "labelsVa").iterdir():
        file.unlink()
    folder = run_conversion(amos(source), 203)
    assert (folder / "imagesTs" / "amos_0008_0000.nii.gz").exists()
    assert not (folder / "labelsTs").exists()


def test_numbers_other_than_the_published_ones_are_a_warning(roots, tmp_path, caplog):
    amos(amos_download(tmp_path))
    assert "imagesTr CT: 2 of 200" in caplog.text
    assert "imagesVa MR: 1 of 20" in caplog.text
    assert "imagesTs: 1 of 120" in caplog.text


def test_an_image_without_label_is_named(tmp_path):
    source = amos_download(tmp_path)
    (source / "labelsTr" / "amos_0004.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"1 image\(s\) without a label.*amos_0004"):
        amos(source)


def test_nothing_of_the_modality_and_unknown_modalities_get_a_sentence(tmp_path):
    source = amos_download(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        (source / folder / "amos_0507.nii.gz").unlink()
    with pytest.raises(DatasetError, match="no labelled MR image"):
        amos(source, "mr")
    with pytest.raises(ConfigurationError, match="ct, mr, all"):
        amos(source, "pet")

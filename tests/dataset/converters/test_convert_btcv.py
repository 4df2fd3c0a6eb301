from __future__ import annotations

import pytest
from downloads import btcv_download, files_of, scan, segmentation, zipped

from samdpo.cli import convert
from samdpo.dataset.converters.amos import STRUCTURES as OF_AMOS
from samdpo.dataset.converters.btcv import STRUCTURES, btcv
from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.dataset_json import load_dataset_json, modality_of
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError
from samdpo.prompting.descriptions import is_described


def averaged_download(folder):
    scan(folder / "averaged-training-images" / "DET0000101_avg.nii.gz", 1)
    segmentation(folder / "averaged-training-labels" / "DET0000101_avg_seg.nii.gz", tuple(range(14)))
    scan(folder / "averaged-testing-images" / "DET0015601_avg.nii.gz", 2)
    return folder


def test_training_and_testing_become_tr_and_ts_and_pass_the_check(roots, tmp_path, caplog):
    source = btcv_download(tmp_path)
    folder = run_conversion(btcv(source), 205)
    assert files_of(folder) == [
        "conversion.json", "dataset.json", "imagesTr/btcv_0001_0000.nii.gz", "imagesTr/btcv_0010_0000.nii.gz",
        "imagesTs/btcv_0061_0000.nii.gz", "labelsTr/btcv_0001.nii.gz", "labelsTr/btcv_0010.nii.gz",
    ]
    verify_dataset_integrity(folder)
    copied = (folder / "labelsTr" / "btcv_0010.nii.gz").read_bytes()
    assert copied == next(source.rglob("label0010.nii.gz")).read_bytes()
    assert "training images: 2 of 30; testing images: 1 of 20" in caplog.text


def test_the_thirteen_structures_keep_their_ids_and_have_amos_names_where_amos_has_them(roots, tmp_path):
    dataset = load_dataset_json(run_conversion(btcv(btcv_download(tmp_path)), 205))
    assert list(dataset.structures.values()) == list(range(1, 14))
    assert {**dataset.structures}["postcava"] == 9 and {**dataset.structures}["left adrenal gland"] == 13
    assert set(STRUCTURES) - set(OF_AMOS) == {"portal vein and splenic vein"}
    assert all(is_described(name) for name in STRUCTURES)
    assert modality_of(dataset.channel_names["0"]) == "ct"


def test_the_averaged_release_gives_its_own_names(roots, tmp_path):
    folder = run_conversion(btcv(averaged_download(tmp_path)), 205)
    assert [name for name in files_of(folder) if not name.endswith(".json")] == [
        "imagesTr/btcv_DET0000101_0000.nii.gz", "imagesTs/btcv_DET0015601_0000.nii.gz",
        "labelsTr/btcv_DET0000101.nii.gz",
    ]
    verify_dataset_integrity(folder)


def test_zips_beside_each_other_give_the_same(roots, tmp_path):
    averaged_download(tmp_path / "download")
    (tmp_path / "zips").mkdir()
    for part in sorted((tmp_path / "download").iterdir()):
        holder = tmp_path / "one" / part.name
        holder.parent.mkdir(exist_ok=True)
        part.rename(holder)
        zipped(holder.parent, tmp_path / "zips" / f"{part.name}.zip")
        holder.rename(part)
    from_zips, from_folder = run_conversion(btcv(tmp_path / "zips"), 3), run_conversion(btcv(tmp_path / "download"), 4)
    assert files_of(from_zips) == files_of(from_folder)
    for name in files_of(from_zips):
        assert (from_zips / name).read_bytes() == (from_folder / name).read_bytes()


def test_testing_images_are_unlabelled_ones_on_request(roots, tmp_path):
    convert.main_btcv([str(btcv_download(tmp_path)), "--unlabelled", "-np", "1"])
    folder = roots.raw / "Dataset205_BTCV"
    assert files_of(folder / "imagesUl") == ["btcv_0061_0000.nii.gz"] and not (folder / "imagesTs").exists()


def test_what_is_missing_double_or_mixed_is_named(tmp_path):
    source = btcv_download(tmp_path / "a")
    next(source.rglob("label0010.nii.gz")).unlink()
    next(source.rglob("img0001.nii.gz")).unlink()
    with pytest.raises(DatasetError, match=r"1 image\(s\) without a label.*img0010.* 1 label\(s\) without an im"):
        btcv(source)
    btcv_download(tmp_path / "b")
    averaged_download(tmp_path / "b")
    with pytest.raises(DatasetError, match="holds two releases of BTCV"):
        btcv(tmp_path / "b")
    btcv_download(tmp_path / "c" / "1")
    btcv_download(tmp_path / "c" / "2")
    with pytest.raises(DatasetError, match="have the same name"):
        btcv(tmp_path / "c")
    scan(tmp_path / "d" / "Testing" / "img" / "img0061.nii.gz")
    with pytest.raises(DatasetError, match="holds no label"):
        btcv(tmp_path / "d")
    (tmp_path / "e").mkdir()
    with pytest.raises(DatasetError, match="does not hold BTCV.*Found: nothing"):
        btcv(tmp_path / "e")

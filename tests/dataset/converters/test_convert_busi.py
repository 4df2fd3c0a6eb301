from __future__ import annotations

import json

import numpy as np
import pytest
from downloads import busi_download, files_of, picture, rgb, save, square, udiat_download, zipped
from PIL import Image

from samdpo.dataset.converters.busi import busi
from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError

CASES = [
    "busi_benign_001", "busi_benign_002", "busi_benign_003", "busi_malignant_001", "busi_malignant_002",
    "busi_normal_001",
]


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def source(tmp_path):
    return busi_download(tmp_path / "download")


def test_busi_is_converted_and_passes_the_check(roots, source):
    folder = run_conversion(busi(source), 202)
    assert [f.stem for f in sorted((folder / "labelsTr").iterdir())] == CASES
    assert [f.stem for f in sorted((folder / "imagesTr").iterdir())] == [f"{case}_0000" for case in CASES]
    verify_dataset_integrity(folder)


def test_rgb_greys_become_one_channel_and_few_coloured_pixels_are_tolerated(roots, source):
    folder = run_conversion(busi(source), 202) / "imagesTr"
    np.testing.assert_array_equal(pixels(folder / "busi_benign_001_0000.png"), picture(1))
    assert pixels(folder / "busi_malignant_002_0000.png").ndim == 2


def test_a_coloured_image_is_averaged_with_a_warning(roots, source, caplog):
    colourful = np.random.default_rng(3).integers(0, 256, (24, 20, 3), np.uint8)
    save(colourful, source / "benign" / "benign (2).png")
    folder = run_conversion(busi(source), 202)
    written = pixels(folder / "imagesTr" / "busi_benign_002_0000.png")
    np.testing.assert_allclose(written, colourful.mean(axis=2), atol=0.5)
    assert "1 image(s) are coloured" in caplog.text
    assert "benign (2).png" in caplog.text


@pytest.mark.parametrize(("case", "kind"), [("busi_benign_001", "1 bit"), ("busi_benign_002", "RGBA"),
                                            ("busi_malignant_001", "0 to 255")])
def test_masks_of_every_kind_become_0_and_1(roots, source, case, kind):
    folder = run_conversion(busi(source), 202)
    np.testing.assert_array_equal(pixels(folder / "labelsTr" / f"{case}.png"), square(1))


def test_several_masks_of_an_image_are_united(roots, source):
    folder = run_conversion(busi(source), 202)
    np.testing.assert_array_equal(
        pixels(folder / "labelsTr" / "busi_benign_003.png"), square(1) | square(1, at=12)
    )


def test_masks_of_one_image_that_differ_in_size_are_named(roots, source):
    save(square(shape=(24, 21)), source / "benign" / "benign (3)_mask_1.png")
    with pytest.raises(DatasetError, match=r"benign \(3\)_mask_1.png has the size \(21, 24\).*\(20, 24\)"):
        run_conversion(busi(source), 202)


def test_softened_masks_are_cut_at_half(roots, source):
    soft = square()
    soft[4, 4:10], soft[9, 4:10] = 30, 200
    save(soft, source / "benign" / "benign (2)_mask.png")
    written = pixels(run_conversion(busi(source), 202) / "labelsTr" / "busi_benign_002.png")
    assert written[4].sum() == 0
    assert written[9].sum() == 6


def test_normal_images_are_kept_with_empty_masks_and_the_tumour_may_be_absent(roots, source):
    (source / "normal" / "normal (1)_mask.png").unlink()
    folder = run_conversion(busi(source), 202)
    empty = pixels(folder / "labelsTr" / "busi_normal_001.png")
    assert empty.shape == (24, 20)
    assert not empty.any()
    assert load_dataset_json(folder).hints["breast tumor"].may_be_absent


def test_normal_images_can_be_left_out(roots, source):
    folder = run_conversion(busi(source, with_normal=False), 202)
    assert [f.stem for f in sorted((folder / "labelsTr").iterdir())] == CASES[:-1]
    assert load_dataset_json(folder).hints["breast tumor"].may_be_absent is False
    verify_dataset_integrity(folder)


def test_exact_duplicates_share_a_group_and_are_reported(roots, source, caplog):
    folder = run_conversion(busi(source), 202)
    groups = json.loads((folder / "case_groups.json").read_text())
    assert groups == {"busi_benign_001": "busi_benign_001", "busi_malignant_001": "busi_benign_001"}
    assert "busi_benign_001 = busi_malignant_001" in caplog.text


def test_without_duplicates_there_is_no_groups_file(roots, source):
    save(rgb(picture(77)), source / "malignant" / "malignant (1).png")
    assert not (run_conversion(busi(source), 202) / "case_groups.json").exists()


def test_a_tumour_image_without_mask_is_named(source):
    (source / "malignant" / "malignant (2)_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"1 image\(s\) without a mask.*malignant \(2\).png"):
        busi(source)


def test_a_mask_without_image_is_named(source):
    (source / "malignant" / "malignant (2).png").unlink()
    with pytest.raises(DatasetError, match=r"1 mask\(s\) without an image.*malignant \(2\)_mask.png"):
        busi(source)


def test_udiat_joins_under_names_of_its_own(roots, source, tmp_path):
    udiat = udiat_download(tmp_path)
    folder = run_conversion(busi(source, udiat), 202)
    assert folder.name == "Dataset202_BUSI_UDIAT"
    assert "udiat_000001_0000.png" in files_of(folder / "imagesTr")
    np.testing.assert_array_equal(pixels(folder / "labelsTr" / "udiat_000002.png"), square(1))
    verify_dataset_integrity(folder)
    assert load_dataset_json(folder).num_training == 8


def test_the_zip_with_macs_junk_gives_the_same(roots, source, tmp_path):
    save(picture(), source.parent / "__MACOSX" / "Dataset_BUSI_with_GT" / "benign" / "benign (9).png")
    (source / "benign" / "._benign (1).png").write_bytes(b"junk")
    (source / "benign" / "notes.txt").write_text("not of the data set")
    archive = zipped(source.parent, tmp_path / "archive.zip")
    from_zip, from_folder = run_conversion(busi(archive), 3), run_conversion(busi(source), 4)
    assert files_of(from_zip) == files_of(from_folder)
    for name in files_of(from_zip):
        assert (from_zip / name).read_bytes() == (from_folder / name).read_bytes()


def test_numbers_other_than_the_published_ones_are_a_warning(source, tmp_path, caplog):
    busi(source, udiat_download(tmp_path))
    for text in ("benign: 3 of 437", "malignant: 2 of 210", "normal: 1 of 133", "original: 2 of 163"):
        assert text in caplog.text

"""DICOM series that are no volume, or cannot be read, are refused in sentences, before anything is predicted."""

from __future__ import annotations

import re

import imagecodecs
import numpy as np
import pytest
from dicom_series import OBLIQUE, make_series, refused, set_syntax
from pydicom import uid

from samdpo.dataset.images import read_image
from samdpo.errors import DatasetError

STORED = np.random.default_rng(0).integers(0, 3000, (5, 32, 40)).astype(np.int16)


def test_two_series_are_listed_with_the_way_to_separate_them(tmp_path):
    def other(dataset, i):
        dataset.SeriesDescription, dataset.SeriesNumber = "Lung sharp", 5

    make_series(tmp_path / "scan", STORED, series="1.2.3.4")
    make_series(tmp_path / "scan", STORED[:3], names="b{}".format, change=other, series="1.2.3.5")
    said = refused(tmp_path)
    assert re.search(r"scan holds 2 series", said)
    assert "'Phantom soft' (CT, series number 4): 5 images such as slice_0.dcm, SeriesInstanceUID 1.2.3.4" in said
    assert "'Lung sharp' (CT, series number 5): 3 images such as b0, SeriesInstanceUID 1.2.3.5" in said
    assert "Move the files of each into a folder of its own" in said


def test_all_bad_series_are_named_at_once(tmp_path):
    for name in ("a", "b", "c"):
        files = make_series(tmp_path / name, STORED)
        if name != "b":
            files[2].unlink()
    said = refused(tmp_path)
    assert str(tmp_path / "a") in said and str(tmp_path / "c") in said and str(tmp_path / "b") not in said


@pytest.mark.parametrize("gone", [[1], [2], [1, 2]])
def test_missing_slices_are_counted_and_placed(tmp_path, gone):
    files = make_series(tmp_path / "scan", STORED, direction=OBLIQUE)
    for i in gone:
        files[i].unlink()
    said = refused(tmp_path / "scan")
    assert f"{len(gone)} of 5 slices are missing at a spacing of 2.50 mm" in said
    assert f"between slice_{gone[0] - 1}.dcm and slice_{gone[-1] + 1}.dcm" in said and "Copy the series again" in said


def test_a_step_that_is_no_multiple_is_uneven(tmp_path):
    def change(dataset, i):
        dataset.ImagePositionPatient = [0, 0, (0, 1, 2, 3, 4.3)[i]]

    make_series(tmp_path / "scan", STORED, change=change)
    said = refused(tmp_path / "scan")
    assert "unevenly spaced, 1.00 to 1.30 mm" in said and "slice_3.dcm to slice_4.dcm" in said


def different(keyword, value):
    def change(dataset, i):
        if i == 3:
            setattr(dataset, keyword, value)
            if keyword == "Rows":
                dataset.PixelData = dataset.PixelData[: 8 * 40 * 2]
    return change


@pytest.mark.parametrize(("change", "words"), [
    (different("Rows", 8), "differ in size: 8 x 40 pixels in slice_3.dcm, 32 x 40 pixels in slice_"),
    (different("PixelSpacing", [0.7, 0.95]), "differ in pixel spacing: 0.7 x 0.95 mm in slice_3.dcm"),
    (different("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "differ in orientation"),
    (different("ImagePositionPatient", [-12.5, 30.25, -5]), "slice_1.dcm and slice_3.dcm lie at the same position"),
    (different("SamplesPerPixel", 3), "slice_3.dcm is a colour image"),
    (different("PhotometricInterpretation", "PALETTE COLOR"), "colour image"),
    (different("NumberOfFrames", 12), "slice_3.dcm is a multi-frame image"),
    (lambda dataset, i: setattr(dataset, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "no pair of perpendicular"),
    (lambda dataset, i: setattr(dataset, "ImagePositionPatient", [0, i, 2.5 * i]), "shifted against each other"),
], ids=lambda value: None if callable(value) else value[:30])
def test_slices_that_are_no_volume_are_refused(tmp_path, change, words):
    make_series(tmp_path / "scan", STORED, change=change)
    assert words in refused(tmp_path / "scan")


def test_phases_at_the_same_positions_are_recognised(tmp_path):
    for phase in "ab":
        make_series(tmp_path / "scan", STORED, names=(phase + "{}").format, series="1.2.3")
    said = refused(tmp_path / "scan")
    assert "a0 and b0 lie at the same position" in said and "4 further images" in said
    assert "Every position is there 2 times" in said


def test_an_enhanced_ct_is_refused_with_what_to_do(tmp_path):
    def change(dataset, i):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
        dataset.NumberOfFrames, dataset.PixelData = 5, STORED.tobytes()

    make_series(tmp_path / "scan", STORED[:1], change=change)
    assert re.search(r"Enhanced CT Image Storage.*single-frame.*dcm2niix", refused(tmp_path / "scan"))


@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.HTJ2KLossless, uid.DeflatedExplicitVRLittleEndian],
                         ids=["plain", "RLE", "HTJ2K", "deflated"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.995])
def test_a_file_that_is_cut_off_is_named_before_prediction(tmp_path, syntax, share):
    def change(dataset, i):
        if syntax == uid.HTJ2KLossless:
            set_syntax(dataset, syntax, imagecodecs.htj2k_encode(STORED[i].astype(np.uint16), reversible=True))
        elif syntax == uid.RLELossless:
            dataset.compress(syntax)
        elif syntax:
            dataset.file_meta.TransferSyntaxUID = syntax

    files = make_series(tmp_path / "scan", STORED, change=change)
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[: int(share * len(whole))])
    said = refused(tmp_path / "scan")
    assert "slice_2.dcm cannot be read" in said and "copy it again" in said


def test_an_empty_file_and_one_that_is_something_else_are_named(tmp_path):
    files = make_series(tmp_path / "scan", STORED)
    for content in (b"", b"not DICOM" * 100):
        files[1].write_bytes(content)
        assert "slice_1.dcm" in refused(tmp_path / "scan")


def test_damaged_pixels_are_a_sentence(tmp_path):
    def damage(dataset, i):
        set_syntax(dataset, uid.JPEG2000Lossless if i == 2 else uid.ExplicitVRLittleEndian, b"\xff\x4f" + b"\1" * 500)
        if i != 2:
            dataset.PixelData = STORED[i].tobytes()

    make_series(tmp_path / "scan", STORED, change=damage)
    with pytest.raises(DatasetError, match="copy"):
        read_image(tmp_path / "scan", 1)


def test_a_slice_that_may_not_be_read_is_called_that_and_a_series_beyond_the_bound_too_large(tmp_path, monkeypatch):
    from pathlib import Path

    from samdpo.dataset import decoding

    files = make_series(tmp_path / "scan", STORED, names="slice_{}".format)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "LARGEST", STORED.size - 1)
        patch.setattr(decoding, "_A_BYTE", 0)
        with pytest.raises(DatasetError, match=r"scan is too large: 5 x 32 x 40 are 6,400 values"):
            read_image(tmp_path / "scan")
    really = Path.open

    def refuse(self, *args, **kwargs):
        if self == files[2]:
            raise PermissionError(13, "Permission denied", str(self))
        return really(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert "slice_2 may not be read by you" in refused(tmp_path / "scan")

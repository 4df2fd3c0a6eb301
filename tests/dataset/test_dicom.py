"""DICOM series: read as SimpleITK reads them, whatever their names, order and compression."""

from __future__ import annotations

import logging
import shutil

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import OBLIQUE, make_series, refused, set_syntax
from pydicom import uid

from samdpo.dataset import dicom_headers
from samdpo.dataset.cases import input_cases
from samdpo.dataset.images import read_image
from samdpo.errors import DatasetError

STORED = np.random.default_rng(0).integers(0, 3000, (5, 32, 40)).astype(np.int16)


def read(folder):
    return read_image(folder, 1)


def by_simpleitk(folder) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_as_simpleitk(folder) -> None:
    volume, image = read(folder), by_simpleitk(folder)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data[0], sitk.GetArrayFromImage(image).astype(np.float32))
    assert volume.spacing == image.GetSpacing()[::-1]
    assert volume.properties["sitk_stuff"] == {
        "spacing": list(image.GetSpacing()), "origin": list(image.GetOrigin()),
        "direction": list(image.GetDirection()),
    }


# ---- volumes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [None, OBLIQUE, np.diag([1, 1, -1]), np.diag([-1, 1, 1])[:, [1, 2, 0]]],
                         ids=["axial", "oblique", "downwards", "sagittal"])
@pytest.mark.parametrize("names", ["IM{:04d}", "slice_{}.dcm"])
def test_a_series_is_read_exactly_as_simpleitk_reads_it(tmp_path, direction, names):
    make_series(tmp_path / "scan", STORED, direction=direction, names=names.format)
    assert_as_simpleitk(tmp_path / "scan")


def test_slices_are_ordered_by_position_not_by_name(tmp_path):
    names = ["z", "b", "q.dcm", "a", "1.2.840.5"]
    files = make_series(tmp_path / "scan", STORED, direction=OBLIQUE, names=names.__getitem__)
    volume = read(tmp_path / "scan")
    assert volume.properties["dicom_files"] == [str(f) for f in files]
    np.testing.assert_array_equal(volume.data[0], STORED - 1024)
    assert_as_simpleitk(tmp_path / "scan")


def test_slope_and_intercept_of_each_slice_are_applied(tmp_path):
    def change(dataset, i):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(1 + i / 2), str(-1000 - i)

    make_series(tmp_path / "scan", STORED, change=change)
    expected = np.stack([s * (1 + i / 2) - 1000 - i for i, s in enumerate(STORED.astype(float))])
    np.testing.assert_array_equal(read(tmp_path / "scan").data[0], expected.astype(np.float32))


def test_positions_that_were_rounded_are_no_gaps(tmp_path):
    def change(dataset, i):
        dataset.ImagePositionPatient = [0, 0, f"{i * 0.625:.1f}"]

    make_series(tmp_path / "scan", STORED, change=change)
    assert_as_simpleitk(tmp_path / "scan")


def test_an_x_ray_without_position_is_a_single_slice(tmp_path):
    def x_ray(dataset, i):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
        dataset.Modality, dataset.ImagerPixelSpacing = "CR", [0.2, 0.3]
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            del dataset[keyword]

    make_series(tmp_path / "one", STORED[:1], change=x_ray)
    volume = read(tmp_path / "one")
    assert volume.data.shape == (1, 1, 32, 40) and volume.spacing[1:] == (0.2, 0.3)
    make_series(tmp_path / "two", STORED[:2], change=x_ray)
    assert "Give each image a folder of its own" in refused(tmp_path / "two")


def test_what_is_stored_inverted_is_turned_so_that_air_is_dark(tmp_path):
    def inverted(dataset, i):
        dataset.PhotometricInterpretation = "MONOCHROME1"

    make_series(tmp_path / "plain", STORED)
    make_series(tmp_path / "inverted", STORED, change=inverted)
    total = read(tmp_path / "plain").data + read(tmp_path / "inverted").data
    assert total.min() == total.max()


# ---- compression ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless], ids=lambda s: s.keyword)
def test_what_pydicom_compresses_is_read(tmp_path, syntax):
    make_series(tmp_path / "scan", STORED, change=lambda dataset, i: dataset.compress(syntax))
    np.testing.assert_array_equal(read(tmp_path / "scan").data[0], STORED - 1024)


@pytest.mark.parametrize(("syntax", "encode"), [
    (uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode),
    (uid.HTJ2KLossless, lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True)),
], ids=["JPEG lossless", "HTJ2K"])
def test_other_lossless_compressions_are_read(tmp_path, syntax, encode):
    def change(dataset, i):
        dataset.PixelRepresentation = 0
        set_syntax(dataset, syntax, encode(STORED[i].astype(np.uint16)))

    make_series(tmp_path / "scan", STORED, change=change)
    np.testing.assert_array_equal(read(tmp_path / "scan").data[0], STORED - 1024)


def test_jpeg_with_losses_is_read_with_a_warning(tmp_path, caplog):
    smooth = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (5, 32, 1))

    def change(dataset, i):
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        set_syntax(dataset, uid.JPEGBaseline8Bit, imagecodecs.jpeg8_encode(smooth[i], level=95))

    make_series(tmp_path / "scan", STORED, change=change)
    assert np.abs(read(tmp_path / "scan").data[0] + 1024 - smooth).max() < 10
    assert "5 of 5 images were compressed with losses" in caplog.text


def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch):
    make_series(tmp_path / "scan", STORED, change=lambda d, i: set_syntax(d, uid.HTJ2KLossless, b"\0" * 100))

    class Missing:
        is_available = False
        missing_dependencies = ("pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-openjpeg>=2.0",)

    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda syntax: Missing())
    said = refused(tmp_path / "scan")
    assert "High-Throughput JPEG 2000" in said and said.endswith("pip install pylibjpeg pylibjpeg-openjpeg")


def test_a_syntax_without_any_decoder_is_named(tmp_path):
    make_series(tmp_path / "scan", STORED, change=lambda d, i: set_syntax(d, uid.MPEG2MPML, b"\0" * 100))
    said = refused(tmp_path / "scan")
    assert "MPEG2" in said and "no decoder" in said and "uncompressed" in said


def test_every_syntax_that_is_left_to_simpleitk_is_one_of_pydicom():
    assert len(dicom_headers._uids(dicom_headers._READ_BY_SIMPLEITK)) == 13


# ---- which cases ----------------------------------------------------------------------------------------------------


def test_a_folder_holds_a_series_for_each_sub_folder(tmp_path):
    make_series(tmp_path / "in" / "anna", STORED, names="{}".format)
    make_series(tmp_path / "in" / "bert" / "DICOM" / "S1", STORED)
    (tmp_path / "in" / "notes").mkdir()
    (tmp_path / "in" / "notes" / "read me").write_text("nothing to see")
    cases = input_cases(tmp_path / "in", None, 1)
    assert [c.identifier for c in cases] == ["anna", "bert"]
    assert read_image(cases[1].images, 1).data.shape == (1, 5, 32, 40)


def test_a_series_itself_and_a_single_file_are_cases_too(tmp_path):
    files = make_series(tmp_path / "scan.7", STORED, names="1.2.3.{}".format)
    assert [c.identifier for c in input_cases(tmp_path / "scan.7", None, 1)] == ["scan.7"]
    (case,) = input_cases(files[2], None, 1)
    assert case.identifier == "1.2.3.2" and read_image(case.images, 1).data.shape == (1, 1, 32, 40)


def test_what_is_no_image_is_skipped_with_a_debug_line(tmp_path, caplog):
    def report(dataset, i):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.BasicTextSRStorage
        dataset.SeriesInstanceUID = uid.generate_uid()
        for keyword in ("Rows", "Columns", "PixelData"):
            del dataset[keyword]

    def segmentation(dataset, i):  # has rows and pixels, but is no image
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.SegmentationStorage
        dataset.SeriesInstanceUID = uid.generate_uid()

    folder = tmp_path / "scan"
    make_series(folder, STORED)
    make_series(folder, STORED[:1], names="report{}".format, change=report)
    make_series(folder, STORED[:1], names="seg{}.dcm".format, change=segmentation)
    shutil.copyfile(folder / "report0", folder / "DICOMDIR")
    (folder / "._slice_0.dcm").write_bytes(b"of macOS")
    (folder / "notes.txt").write_text("nothing")
    with caplog.at_level(logging.DEBUG, "samdpo"):
        assert read(folder).data.shape == (1, 5, 32, 40)
    assert "report0 is skipped: Basic Text SR Storage" in caplog.text
    assert "seg0.dcm is skipped: Segmentation Storage" in caplog.text
    for file in folder.glob("slice_*"):
        file.unlink()
    assert "holds no DICOM image; its 2 DICOM files are reports" in refused(folder)


def test_dicom_is_not_mixed_with_other_images_nor_with_folders_of_dicom(tmp_path):
    make_series(tmp_path / "in" / "a", STORED)
    make_series(tmp_path / "in", STORED[:1], names="loose{}".format)
    assert "loose0" in refused(tmp_path / "in")
    (tmp_path / "in" / "shot.png").write_bytes(b"")
    assert "shot.png" in refused(tmp_path / "in") and "folder of its own" in refused(tmp_path / "in")
    (tmp_path / "in" / "loose0").unlink()
    assert [c.identifier for c in input_cases(tmp_path / "in", None, 1)] == ["shot"], "the original beside its copy"


def test_a_model_of_several_channels_cannot_read_a_series(tmp_path):
    make_series(tmp_path / "scan", STORED)
    with pytest.raises(DatasetError, match="one channel, but the model was trained with 2"):
        input_cases(tmp_path / "scan", None, 2)


# ---- real data ------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_real_series_is_read_as_simpleitk_reads_it(real_data, tmp_path):
    folder = real_data / "dicom" / "ct3slices_with_liver_seg"
    for file in folder.glob("0*.dcm"):
        shutil.copyfile(file, tmp_path / file.name)
    assert_as_simpleitk(tmp_path)
    whole = read(folder)  # with two segmentations among the slices
    np.testing.assert_array_equal(whole.data, read(tmp_path).data)
    assert -3100 < whole.data.min() < -1000 and whole.data.max() > 1000  # Hounsfield units
    assert pydicom.dcmread(whole.properties["dicom_files"][0], stop_before_pixels=True).InstanceNumber == 3

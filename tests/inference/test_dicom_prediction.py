"""``samdpo_predict`` on DICOM series, and the DICOM segmentation it writes."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import OBLIQUE, make_series
from pydicom import uid

import samdpo
from samdpo.dataset.images import read_image, read_label, read_label_with_properties
from samdpo.errors import DatasetError
from samdpo.files import read_json
from samdpo.model.dicom_seg import codes_of, write_dicom_seg
from samdpo.model.predictor import Predictor
from samdpo.plans import StructurePlan


def phantom_stack(finetuned) -> np.ndarray:
    """(3, 96, 112): three different X-ray phantoms as slices, so that a slice in the wrong place shows."""
    images = [read_image([f]).data[0, 0] for f in sorted((finetuned.raw / "imagesTs").glob("*.png"))]
    return np.stack(images).astype(np.int16)


def segments(file, series_files) -> dict[int, np.ndarray]:
    """Segment number -> (Z, Y, X) as highdicom reads it, by the instances that the frames refer to."""
    seg = hd.seg.segread(file)
    instances = [pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in series_files]
    pixels = seg.get_pixels_by_source_instance(
        instances, assert_missing_frames_are_empty=True, ignore_spatial_locations=True  # dcmqi does not say so
    )
    return {number: pixels[..., i] for i, number in enumerate(seg.segment_numbers)}


# ---- the mask -------------------------------------------------------------------------------------------------------


def test_a_series_becomes_a_nifti_in_its_own_geometry_and_a_report(finetuned, predict, tmp_path):
    make_series(tmp_path / "in" / "anna", phantom_stack(finetuned), direction=OBLIQUE,
                names=["c", "a", "b"].__getitem__)
    make_series(tmp_path / "in" / "bert", phantom_stack(finetuned)[:2])
    said = predict("-i", tmp_path / "in", "-o", tmp_path / "out")
    assert "2 cases written" in said
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "plans.json", "dataset.json", "predict_from_raw_data_args.json", "anna.nii.gz", "anna.json", "bert.nii.gz",
        "bert.json"}
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "in" / "anna")))
    source, mask = reader.Execute(), sitk.ReadImage(str(tmp_path / "out" / "anna.nii.gz"))
    assert mask.GetSize() == source.GetSize() == (112, 96, 3)
    for of in ("GetSpacing", "GetOrigin", "GetDirection"):  # NIfTI keeps 32 bits
        np.testing.assert_allclose(getattr(mask, of)(), getattr(source, of)(), rtol=1e-6, atol=1e-6)
    report = read_json(tmp_path / "out" / "anna.json")
    assert report["case"] == "anna" and report["structures"]["lung"]["volume_ml"] > 0


def test_a_slice_is_predicted_as_the_same_pixels_are_without_dicom(finetuned, predict, tmp_path):
    stack = phantom_stack(finetuned)
    make_series(tmp_path / "scan", stack, names=["c", "a", "b"].__getitem__)
    predict("-i", tmp_path / "scan", "-o", tmp_path / "out")
    predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu")
    predictor.set_image((stack - 1024.0)[None])
    expected = predictor.predict().segmentation
    assert len({int(plane.sum()) for plane in expected}) == 3, "the slices differ"
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "scan.nii.gz"), expected)


def test_a_series_is_read_from_python_as_well(finetuned, tmp_path):
    make_series(tmp_path / "scan", phantom_stack(finetuned))
    predictor = Predictor.from_model_folder(finetuned.finetuned, device="cpu")
    predictor.set_image(tmp_path / "scan")
    assert predictor.predict().segmentation.shape == (3, 96, 112)


def test_a_bad_series_stops_the_command_before_anything_is_predicted(finetuned, fails, tmp_path):
    make_series(tmp_path / "in" / "good", phantom_stack(finetuned))
    make_series(tmp_path / "in" / "gap", np.concatenate([phantom_stack(finetuned)] * 2))[2].unlink()
    said = fails("-i", tmp_path / "in", "-o", tmp_path / "out")
    assert "1 of 6 slices are missing" in said and not (tmp_path / "out").exists()


# ---- the segmentation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["axial", "oblique"])
def test_the_segmentation_equals_the_nifti_pixel_for_pixel(finetuned, predict, tmp_path, direction):
    files = make_series(tmp_path / "scan", phantom_stack(finetuned), direction=direction,
                        names=["c", "a", "b"].__getitem__, change=lambda dataset, i: dataset.compress(uid.RLELossless))
    predict("-i", tmp_path / "scan", "-o", tmp_path / "out", "--dicom_seg")
    mask, properties = read_label_with_properties(tmp_path / "out" / "scan.nii.gz")
    read = segments(tmp_path / "out" / "scan.dcm", files)
    assert list(read) == [1] and mask.any()
    np.testing.assert_array_equal(read[1], mask == 1)
    volume = hd.seg.segread(tmp_path / "out" / "scan.dcm").get_volume(combine_segments=True)
    np.testing.assert_allclose(volume.spacing, properties["spacing"], rtol=1e-5)


def test_the_segmentation_says_what_made_it_and_from_what(finetuned, predict, tmp_path):
    files = make_series(tmp_path / "scan", phantom_stack(finetuned))
    predict("-i", tmp_path / "scan", "-o", tmp_path / "out", "--dicom_seg")
    seg, source = pydicom.dcmread(tmp_path / "out" / "scan.dcm"), pydicom.dcmread(files[0])
    assert seg.SOPClassUID == uid.SegmentationStorage and seg.SegmentationType == "BINARY"
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert seg[keyword].value == source[keyword].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert [r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence] == [
        pydicom.dcmread(f).SOPInstanceUID for f in files]
    (segment,) = seg.SegmentSequence
    assert (segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType) == (1, "lung", "AUTOMATIC")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("samdpo", samdpo.__version__)
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lung"
    assert read_json(tmp_path / "out" / "predict_from_raw_data_args.json")["dicom_seg"] is True


def structures(**labels: int) -> dict[str, StructurePlan]:
    return {name.replace("_", " "): StructurePlan(label=label, phrase=name) for name, label in labels.items()}


def test_segments_follow_the_labels_and_a_structure_not_found_has_no_frames(tmp_path):
    files = make_series(tmp_path / "scan", np.zeros((4, 8, 10)), direction=OBLIQUE)
    mask = np.random.default_rng(0).choice([0, 1, 7], (4, 8, 10)).astype(np.int16)
    mask[2] = 0
    of = structures(liver=7, breast_tumor=3, left_kidney=1)  # 2, 4, 5, 6: never labelled in training
    write_dicom_seg(mask, files, of, tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [(s.SegmentNumber, s.SegmentLabel) for s in seg.SegmentSequence] == [
        (1, "left kidney"), (2, "breast tumor"), (3, "liver")]
    assert [s.SegmentDescription for s in seg.SegmentSequence][2] == "label 7 of dataset.json"
    assert seg.NumberOfFrames == 6, "two structures on three slices"
    read = segments(tmp_path / "seg.dcm", files)
    for number, label in ((1, 1), (2, 3), (3, 7)):
        np.testing.assert_array_equal(read[number], mask == label)


def test_where_nothing_was_found_each_segment_has_one_empty_frame(tmp_path):
    files = make_series(tmp_path / "scan", np.zeros((4, 8, 10)))
    write_dicom_seg(np.zeros((4, 8, 10), np.int16), files, structures(liver=1, spleen=2), tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.NumberOfFrames == 2 and not seg.pixel_array.any()
    assert {r.ReferencedSOPInstanceUID for s in seg.ReferencedSeriesSequence for r in s.ReferencedInstanceSequence} == {
        pydicom.dcmread(f).SOPInstanceUID for f in files}


def test_images_without_thickness_get_the_distance_of_the_slices(tmp_path):
    def change(dataset, i):
        dataset.SliceThickness = None

    files = make_series(tmp_path / "scan", np.zeros((3, 8, 10)), direction=OBLIQUE, change=change)
    write_dicom_seg(np.ones((3, 8, 10), np.int16), files, structures(liver=1), tmp_path / "seg.dcm")
    measures = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(2.5) and segments(tmp_path / "seg.dcm", files)[1].all()


def test_names_in_other_alphabets_survive(tmp_path):
    def change(dataset, i):
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"

    files = make_series(tmp_path / "scan", np.zeros((2, 8, 10)), change=change)
    write_dicom_seg(np.ones((2, 8, 10), np.int16), files, structures(Übergang=1), tmp_path / "seg.dcm")
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.PatientName == "Müller^Jörg" and seg.SegmentSequence[0].SegmentLabel == "Übergang"


@pytest.mark.parametrize("kept", [(), ("PixelSpacing",), ("PixelSpacing", "FrameOfReferenceUID")])
def test_a_single_x_ray_without_position_is_segmented_too(tmp_path, kept):
    def x_ray(dataset, i):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
        dataset.Modality = "CR"
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "FrameOfReferenceUID",
                        "PatientBirthDate", "AccessionNumber", "PositionReferenceIndicator", "PixelSpacing"):
            if keyword not in kept:
                del dataset[keyword]

    files = make_series(tmp_path / "scan", np.zeros((1, 8, 10)), change=x_ray)
    mask = np.zeros((1, 8, 10), np.int16)
    mask[0, 2:5, 3:9] = 1
    write_dicom_seg(mask, files, structures(lung=1), tmp_path / "seg.dcm")
    np.testing.assert_array_equal(segments(tmp_path / "seg.dcm", files)[1], mask)


def test_images_of_no_study_are_a_sentence(tmp_path):
    def change(dataset, i):
        del dataset["StudyInstanceUID"]

    files = make_series(tmp_path / "scan", np.zeros((2, 8, 10)), change=change)
    with pytest.raises(DatasetError, match="StudyInstanceUID"):
        write_dicom_seg(np.ones((2, 8, 10), np.int16), files, structures(liver=1), tmp_path / "seg.dcm")


def test_images_that_are_not_dicom_are_refused(finetuned, fails, tmp_path):
    said = fails("-i", finetuned.raw / "imagesTs", "-o", tmp_path / "out", "--dicom_seg")
    assert "--dicom_seg refers to DICOM images" in said and "Leave the flag out" in said
    assert not (tmp_path / "out").exists()


def test_images_that_nothing_can_refer_to_are_refused_before_prediction(finetuned, fails, predict, tmp_path):
    def anonymous(dataset, i):
        del dataset["FrameOfReferenceUID"]

    make_series(tmp_path / "scan", phantom_stack(finetuned), change=anonymous)
    said = fails("-i", tmp_path / "scan", "-o", tmp_path / "out", "--dicom_seg")
    assert "Frame Of Reference" in said and "leave --dicom_seg out" in said and not (tmp_path / "out").exists()
    predict("-i", tmp_path / "scan", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "scan.nii.gz").is_file()


def test_continue_prediction_counts_the_segmentation_where_it_is_asked_for(finetuned, predict, tmp_path):
    make_series(tmp_path / "in" / "a", phantom_stack(finetuned))
    make_series(tmp_path / "in" / "b", phantom_stack(finetuned))
    words = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--continue_prediction")
    predict(*words)
    assert "2 were there already" in predict(*words)
    assert "2 cases written" in predict(*words, "--dicom_seg")
    (tmp_path / "out" / "a.dcm").unlink()
    assert "1 cases written" in predict(*words, "--dicom_seg")


@pytest.mark.parametrize(("name", "category", "meaning", "side"), [
    ("LIVER", "Anatomical Structure", "Liver", None),
    ("left_kidney", "Anatomical Structure", "Kidney", "Left"),
    ("right adrenal gland", "Anatomical Structure", "Adrenal gland", "Right"),
    ("postcava", "Anatomical Structure", "Inferior vena cava", None),
    ("breast tumor", "Morphologically Abnormal Structure", "Neoplasm", None),
    ("prostate/uterus", "Anatomical Structure", "prostate/uterus", None),
])
def test_structures_are_named_by_the_standards_codes_where_they_are_known(name, category, meaning, side):
    found = codes_of(name)
    assert (found[0].meaning, found[1].meaning, found[2] and found[2].meaning) == (category, meaning, side)
    assert (found[1].scheme_designator == "99SAMDPO") == (name == meaning) and len(found[1].value) <= 16


# ---- real data ------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_real_series_is_predicted_and_its_segmentation_lies_on_that_of_the_people(
    real_data, finetuned, predict, tmp_path
):
    source = real_data / "dicom" / "ct3slices_with_liver_seg"
    predict("-i", source, "-o", tmp_path / "out", "--dicom_seg")
    case = source.name
    mask, properties = read_label_with_properties(tmp_path / "out" / f"{case}.nii.gz")
    volume = read_image(source, 1)
    assert mask.shape == volume.data.shape[1:]
    np.testing.assert_allclose(properties["spacing"], volume.spacing, rtol=1e-6)
    np.testing.assert_array_equal(segments(tmp_path / "out" / f"{case}.dcm", volume.properties["dicom_files"])[1], mask)
    # The liver as a person drew it, written by us: the same voxels at the same places as in their file.
    theirs = hd.seg.segread(source / "SEG_liver.dcm").get_volume(combine_segments=True)
    seen = volume.properties["dicom_files"]
    liver = segments(source / "SEG_liver.dcm", seen)[1]
    write_dicom_seg(liver.astype(np.int16), seen, structures(liver=1), tmp_path / "liver.dcm")
    ours = hd.seg.segread(tmp_path / "liver.dcm").get_volume(combine_segments=True)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_array_equal(ours.array, theirs.array)

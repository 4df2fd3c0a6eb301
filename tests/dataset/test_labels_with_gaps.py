"""Label values with gaps, and an ignore label, from dataset.json to the predicted mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import tiny_volumes as tiny
from dicom_series import make_series

from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_label, write_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.dataset.orientation import orientation
from samdpo.files import read_json, write_json
from samdpo.model.masks import NativeCollector
from samdpo.preprocessing.slicing import SliceGeometry

CONSECUTIVE, GAPS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}, {0: 0, 1: 1, 2: 3, 3: 7, 4: 12}


def renumber(label: np.ndarray, values: dict[int, int]) -> np.ndarray:
    """Values 0, 1, … to others."""
    return np.array([values[i] for i in sorted(values)], np.int16)[label]


def make(raw: Path, values: dict[int, int]) -> Path:
    """Volumes of 4 slices with three structures; the first slice and a corner of the others are ignored."""
    names = ("background", "liver", "spleen", "kidney", "ignore")
    tiny.make_dataset(raw, labels={name: values[i] for i, name in enumerate(names)})
    label = np.zeros(tiny.SHAPE, np.uint8)
    label[1:, 2:9, 1:4], label[2:, 7:11, 5:9], label[1:3, 1:5, 6:9], label[:, :3, :2], label[0] = 1, 2, 3, 4, 4
    for number, case in enumerate("abu"):
        folder = "imagesUl" if case == "u" else "imagesTr"
        tiny.save((tiny.image(number) // 8 + 60 * label % 240).astype(np.int16), raw / folder / f"{case}_0000.nii.gz")
        if case != "u":
            tiny.save(renumber(label, values), raw / "labelsTr" / f"{case}.nii.gz")
    return raw


def predicted(roots, number: int, values: dict[int, int]) -> np.ndarray:
    """As the commands do it, with the tiniest network there is."""
    from samdpo.inference.predict_folder import predict_folder
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess
    from samdpo.training.get_trainer import get_trainer

    raw = make(roots.raw / f"Dataset{number}_Numbers", values)
    verify_dataset_integrity(raw)
    plan_and_preprocess(number)
    file = roots.preprocessed / raw.name / "samdpoPlans.json"
    plans = read_json(file)
    plans["network"] |= {"backbone": "tiny_sam", "frozen_stages": 0}
    plans["prompting"] |= {"tower_steps": 10, "cross_fit_folds": 2}
    plans["configurations"]["finetune"] |= {"epochs": 1, "lr": 3e-3, "encoder_lr": 3e-3, "mask_cut": 0.05}
    write_json(file, plans)
    trainer = get_trainer(number, "finetune", 0, device="cpu")
    trainer.train()
    assert trainer.train_keys and all(index != 0 for _, index in trainer.train_keys), "the first slice is ignored"
    output = roots.results / f"predicted_{number}"
    (mask,) = predict_folder(raw / "imagesUl", output, trainer.folder, device="cpu")
    assert set(trainer.plans.structures) == set(load_dataset_json(raw).structures)
    validation = read_json(trainer.fold_folder / "validation" / "summary.json")
    assert set(validation["mean"]) == {str(values[i]) for i in (1, 2, 3)}
    return read_label(mask)


def test_predicted_values_are_those_of_dataset_json_and_the_numbers_themselves_change_nothing(roots) -> None:
    plain, gaps = predicted(roots, 905, CONSECUTIVE), predicted(roots, 906, GAPS)
    assert set(np.unique(plain)) - {0, 1}, "else no number is another"
    np.testing.assert_array_equal(gaps, renumber(plain, GAPS))
    assert set(np.unique(gaps)) <= {0, 1, 3, 7}


def test_a_volume_that_lies_otherwise_is_turned_and_its_mask_turned_back_or_flagged(roots, caplog) -> None:
    from samdpo.model.dicom_seg import write_dicom_seg
    from samdpo.model.predictor import Predictor

    mask = predicted(roots, 907, CONSECUTIVE)
    image = sitk.ReadImage(str(roots.raw / "Dataset907_Numbers" / "imagesUl" / "u_0000.nii.gz"))
    turned = sitk.DICOMOrient(image, "RPI")
    sitk.WriteImage(turned, str(roots.results / "turned_0000.nii.gz"))
    model = next((roots.results / "Dataset907_Numbers").glob("FinetuneTrainer__*"))
    predictor = Predictor.from_model_folder(model, device="cpu")
    assert predictor.plans.preprocessing.orientation == "LPS"
    predictor.set_image(roots.results / "turned_0000.nii.gz")
    found = predictor.predict()
    np.testing.assert_array_equal(found.segmentation, mask[::-1, :, ::-1])
    assert found.report["flipped_axes"] == [2, 0]
    assert found.probabilities[:, ::-1, :, ::-1].max(0)[mask > 0].min() > 0.05
    straight = sitk.GetImageFromArray(mask)
    straight.CopyInformation(image)
    for code in ("PLS", "SPR", "AIL"):  # the axes in another order
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(roots.results / "order_0000.nii.gz"))
        predictor.set_image(roots.results / "order_0000.nii.gz")
        again = predictor.predict()
        np.testing.assert_array_equal(
            again.segmentation, sitk.GetArrayFromImage(sitk.DICOMOrient(straight, code)).astype(np.int16)
        )
        assert again.report["structures"].keys() == found.report["structures"].keys()
        for name, entry in again.report["structures"].items():
            assert entry["volume_ml"] == pytest.approx(found.report["structures"][name]["volume_ml"])
        assert not any("axes" in reason for reason in again.report["reasons"])
    sagittal = sitk.DICOMOrient(image, "PIR")
    series = roots.results / "series"
    make_series(
        series, sitk.GetArrayFromImage(sagittal) + 1024, spacing=sagittal.GetSpacing()[::-1],
        origin=sagittal.GetOrigin(), direction=np.reshape(sagittal.GetDirection(), (3, 3)),
    )
    predictor.set_image(series)
    of_series = predictor.predict()
    as_stored = sitk.DICOMOrient(straight, orientation(of_series.properties))
    np.testing.assert_array_equal(of_series.segmentation, sitk.GetArrayFromImage(as_stored))
    frames = pydicom.dcmread(write_dicom_seg(
        of_series.segmentation, of_series.properties["dicom_files"], predictor.plans.structures, series / "seg.dcm"))
    for frame, pixels in zip(frames.PerFrameFunctionalGroupsSequence, np.atleast_3d(frames.pixel_array)):
        corner = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        index = as_stored.TransformPhysicalPointToIndex(corner)
        value = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(pixels > 0, of_series.segmentation[index[2]] == value)
    half = np.sqrt(0.5)
    image.SetDirection((half, -half, 0, half, half, 0, 0, 0, 1))
    sitk.WriteImage(image, str(roots.results / "oblique_0000.nii.gz"))
    predictor.set_image(roots.results / "oblique_0000.nii.gz")
    report = predictor.predict().report
    assert report["look_at"] and "half-way" in report["reasons"][-1]
    assert "oblique_0000.nii.gz: its axes lie half-way" in caplog.text


def test_each_structure_gets_its_own_value_and_overlaps_go_to_the_more_probable() -> None:
    collected = NativeCollector(SliceGeometry(0, (1, 256, 256)), [1, 3, 7], 0.5)
    probabilities = np.zeros((1, 3, 256, 256), np.float32)
    for row in range(3):
        probabilities[0, row, 40 * row : 40 * row + 60] = 0.6 + 0.1 * row
    collected.add(0, probabilities)
    found = collected.segmentation[0, :, 0]
    assert found[20] == 1 and found[50] == 3 and found[90] == 7 and found[130] == 7 and found[200] == 0


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".png", ".tif"])
def test_high_values_are_written_as_they_are(tmp_path: Path, ending: str) -> None:
    label = np.zeros((1, 6, 7), np.int16)
    label[0, 2], label[0, 3], label[0, 4] = 254, 255, 32767
    write_label(label, tmp_path / f"a{ending}", {})
    np.testing.assert_array_equal(read_label(tmp_path / f"a{ending}"), label)

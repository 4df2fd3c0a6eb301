"""Metrics of volumes: cubes whose distances are known, in mm, and nnU-Net's rules about NaN and the ignore label."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from samdpo.errors import DatasetError
from samdpo.evaluation.metrics import evaluate_case
from samdpo.evaluation.summary import evaluate_folder

SPACING = (5.0, 0.5, 2.0)  # (z, y, x) mm: no axis can stand for another
SHAPE = (24, 60, 40)
LABELS = {"background": 0, "liver": 2, "spleen": 5, "kidney": 6, "aorta": 9, "ignore": 11}


def cube(z: int = 8, y: int = 20, x: int = 12, value: int = 1, side: tuple[int, int, int] = (8, 16, 12)) -> np.ndarray:
    """A box of ``side`` voxels that begins at (z, y, x)."""
    labels = np.zeros(SHAPE, np.int16)
    labels[z : z + side[0], y : y + side[1], x : x + side[2]] = value
    return labels


def measured(pred: np.ndarray, ref: np.ndarray, **options) -> dict[str, float]:
    return evaluate_case(pred, ref, {"a": 1}, SPACING, **options)[1]


@pytest.mark.parametrize(("shift", "mm"), [((1, 0, 0), 5.0), ((0, 3, 0), 1.5), ((0, 0, 1), 2.0), ((0, 1, 0), 0.5)])
def test_a_shifted_box_is_as_far_away_as_it_was_shifted_in_mm(shift: tuple[int, int, int], mm: float) -> None:
    pred = cube(8 + shift[0], 20 + shift[1], 12 + shift[2])
    found = measured(pred, cube())
    assert found["HD95"] == pytest.approx(mm)
    steps, sides = max(shift), (8, 16, 12)
    length = sides[shift.index(steps)]
    assert found["Dice"] == pytest.approx((length - steps) / length)
    assert found["IoU"] == pytest.approx((length - steps) / (length + steps))


def test_the_surface_dice_is_the_share_of_the_surface_that_did_not_move() -> None:
    plate, thicker = cube(2, 20, 2, side=(20, 4, 36)), cube(2, 20, 2, side=(20, 8, 36))
    face, rim = 100.0 * 72, 2 * (100.0 + 72)  # mm², and mm around it; thick 2 mm and 4 mm
    near = (face + 2 * rim) + (face + 3 * rim)  # one face stays; of the thicker rim 1 mm is beyond the tolerance
    expected = near / ((2 * face + 2 * rim) + (2 * face + 4 * rim))
    assert measured(thicker, plate)["SurfaceDice"] == pytest.approx(expected, abs=0.02)
    assert measured(thicker, plate)["HD95"] == pytest.approx(2.0)
    assert measured(thicker, plate, tolerance=2.0)["SurfaceDice"] == pytest.approx(1.0)


@pytest.mark.parametrize(("shift", "tolerance"), [((1, 0, 0), 5.0), ((0, 3, 0), 1.5), ((0, 0, 1), 2.0)])
def test_a_shift_within_the_tolerance_costs_nothing(shift: tuple[int, int, int], tolerance: float) -> None:
    pred = cube(8 + shift[0], 20 + shift[1], 12 + shift[2])
    assert measured(pred, cube(), tolerance=tolerance)["SurfaceDice"] == pytest.approx(1.0)
    assert measured(pred, cube(), tolerance=tolerance - 0.1)["SurfaceDice"] < 0.9


def test_a_box_within_a_box_is_as_far_as_the_wider_gap() -> None:
    inner = cube(9, 24, 14, side=(6, 8, 8))  # 1 voxel less in z (5 mm), 4 in y (2 mm), 2 in x (4 mm)
    found = measured(inner, cube())
    assert found["HD95"] == pytest.approx(math.sqrt(5**2 + 4**2), abs=2.5) and found["HD95"] >= 5
    assert found["Dice"] == pytest.approx(2 * 6 * 8 * 8 / (6 * 8 * 8 + 8 * 16 * 12))
    assert (found["FN"], found["FP"]) == (8 * 16 * 12 - 6 * 8 * 8, 0)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """ref/ and pred/ of two volumes: liver in both, spleen predicted for nothing, kidney missed, aorta nowhere."""
    liver, spleen, kidney = cube(value=2), cube(1, 2, 2, 5, (3, 4, 5)), cube(1, 50, 30, 6, (3, 4, 5))
    ignored = np.zeros(SHAPE, np.int16)
    ignored[20:] = 11
    for case, moved in (("a", 0), ("b", 2)):
        pred, ref = cube(8, 20 + moved, 12, 2) + spleen, np.maximum(liver + kidney, ignored)
        pred[21:23] = 2  # where nobody knows
        for folder, values in (("ref", ref), ("pred", pred)):
            image = sitk.GetImageFromArray(values.astype(np.uint8))
            image.SetSpacing(SPACING[::-1])
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / folder / f"{case}.nii.gz"))
    content = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 2, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def run(folders: Path, **options) -> dict:
    return evaluate_folder(folders / "ref", folders / "pred", folders / "dataset.json", **options)


def test_nnunet_reads_the_summary_and_counts_nan_and_ignored_voxels_the_same(folders: Path) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    run(folders)
    ours = load_summary_json(str(folders / "pred" / "summary.json"))
    theirs = compute_metrics_on_folder(
        str(folders / "ref"), str(folders / "pred"), None, SimpleITKIO(), ".nii.gz", [2, 5, 6, 9], ignore_label=11,
        num_processes=1,
    )
    assert set(ours["mean"]) == {2, 5, 6, 9}
    for mine, their in zip(ours["metric_per_case"], theirs["metric_per_case"]):
        for value in (2, 5, 6, 9):
            for metric, number in their["metrics"][value].items():
                assert mine["metrics"][value][metric] == pytest.approx(float(number), nan_ok=True), (value, metric)
    for value in (2, 5, 6, 9):
        for metric, number in theirs["mean"][value].items():
            assert ours["mean"][value][metric] == pytest.approx(float(number), nan_ok=True), (value, metric)


def test_of_one_sided_structures_overlap_is_0_and_a_distance_no_number(folders: Path) -> None:
    mean = run(folders)["mean"]
    for only_one in ("5", "6"):
        assert mean[only_one]["Dice"] == mean[only_one]["IoU"] == mean[only_one]["SurfaceDice"] == 0
        assert math.isnan(mean[only_one]["HD95"])
    assert all(math.isnan(mean["9"][metric]) for metric in ("Dice", "IoU", "SurfaceDice", "HD95"))
    assert 0.9 < mean["2"]["Dice"] < 1 and mean["2"]["FP"] == 8 * 2 * 12 / 2, "not the ignored slices"
    assert mean["2"]["HD95"] == pytest.approx(0.5), "0 and 1 mm"


def test_the_summary_names_the_tolerance_in_mm(folders: Path) -> None:
    assert run(folders)["samdpo"]["surface"] == [{"unit": "mm", "tolerance": 1.0}]
    assert run(folders, tolerance=3.0)["samdpo"]["surface"] == [{"unit": "mm", "tolerance": 3.0}]


def test_in_voxels_the_spacing_does_not_count(folders: Path) -> None:
    found = run(folders, voxels=True)
    assert found["samdpo"]["surface"] == [{"unit": "voxels", "tolerance": 2.0}]
    assert found["mean"]["2"]["HD95"] == pytest.approx((0 + 2) / 2), "the box of b moved by 2 voxels, 1 mm"
    assert found["mean"]["2"]["Dice"] == run(folders)["mean"]["2"]["Dice"]


def test_a_dataset_whose_spacing_is_a_placeholder_is_always_measured_in_voxels(folders: Path) -> None:
    asked = run(folders, voxels=True)
    file = folders / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "samdpo": {"distances": "voxels"}}))
    assert json.dumps(run(folders)) == json.dumps(asked)


def test_endings_in_upper_case_belong_to_the_same_cases(folders: Path) -> None:
    before = run(folders)["mean"]
    (folders / "ref" / "a.nii.gz").rename(folders / "ref" / "a.NII.GZ")
    after = run(folders)
    assert json.dumps(after["mean"]) == json.dumps(before)
    assert after["metric_per_case"][0]["reference_file"].endswith("a.NII.GZ")


def rewritten(folders: Path, change) -> None:
    file = str(folders / "pred" / "a.nii.gz")
    sitk.WriteImage(change(sitk.ReadImage(file)), file)


def moved(image: sitk.Image, by: float) -> sitk.Image:
    image.SetOrigin([value + by for value in image.GetOrigin()])
    return image


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, True, False), (False, True, True)])
def test_the_same_voxels_stored_in_another_order_are_compared_where_they_lie(folders: Path, order, flips) -> None:
    before = json.dumps(run(folders)["mean"])
    rewritten(folders, lambda image: sitk.Flip(sitk.PermuteAxes(image, order), flips))
    assert json.dumps(run(folders)["mean"]) == before


@pytest.mark.parametrize(("change", "key"), [
    (lambda image: moved(image, 300), "origin"),
    (lambda image: moved(image, 0.5), "origin"),
    (lambda image: sitk.Flip(moved(image, 2), (True, False, False)), "origin"),
    (lambda image: image.SetSpacing((2.0, 0.5, 4.0)) or image, "spacing"),
    (lambda image: image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, 1)) or image, "direction"),
    (lambda image: sitk.Crop(image, (0, 0, 1)), "size"),
])
def test_a_mask_that_lies_elsewhere_is_refused(folders: Path, change, key: str) -> None:
    rewritten(folders, change)
    with pytest.raises(DatasetError, match=rf"pred/a\.nii\.gz has the {key} .* but its reference .*ref/a\.nii\.gz has"):
        run(folders)


def test_a_header_rounded_to_32_bits_is_no_difference(folders: Path) -> None:
    rewritten(folders, lambda image: moved(image, 1e-3))
    assert len(run(folders)["metric_per_case"]) == 2


def test_a_stack_of_pictures_is_measured_in_the_spacing_that_either_side_tells(tmp_path: Path) -> None:
    from samdpo.dataset.images import write_label

    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 2}, "numTraining": 1,
               "file_ending": ".tif"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    write_label(cube(value=2), tmp_path / "ref" / "a.tif", {})
    write_label(cube(9, value=2), tmp_path / "pred" / "a.tif", {"spacing": list(SPACING)})
    assert not (tmp_path / "ref" / "a.json").exists()
    assert json.loads((tmp_path / "pred" / "a.json").read_text()) == {"spacing": list(SPACING)}
    assert run(tmp_path)["mean"]["2"]["HD95"] == pytest.approx(5.0), "one slice of 5 mm"
    (tmp_path / "ref" / "a.json").write_text(json.dumps({"spacing": [4.0, 0.5, 2.0]}))
    with pytest.raises(DatasetError, match=r"a\.tif has the spacing \(5, 0\.5, 2\)"):
        run(tmp_path)

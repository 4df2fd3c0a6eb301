"""Where the axes of a volume run, and turning volumes to the orientation of the plan."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from samdpo.dataset.images import read_image
from samdpo.dataset.orientation import Turn, axial_axis, most_common, orientation, turn_to, unknown_orientation
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.preprocessing.store import SliceStore


def lying(*signs_and_order: float) -> dict:
    return {"sitk_stuff": {"direction": signs_and_order}}


IDENTITY = lying(1, 0, 0, 0, 1, 0, 0, 0, 1)
ALL_48 = ["".join(ends) for axes in permutations(("LR", "PA", "SI")) for ends in product(*axes)]


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAI", "PIR", "SRA"])
def test_the_letters_are_those_of_simpleitk(code: str, tmp_path) -> None:
    image = sitk.DICOMOrient(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.float32)), code)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert orientation(read_image([tmp_path / "a.nrrd"]).properties) == code


def test_an_oblique_volume_has_the_nearest_orientation_and_a_picture_none() -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    assert orientation(lying(c, -s, 0, s, c, 0, 0, 0, 1)) == "LPS"
    assert orientation({}) == orientation({"sitk_stuff": {"direction": (1, 0, 0, 1)}}) == ""
    assert most_common(["LPS", "", "RAS", "LPS"]) == "LPS" and most_common(["", ""]) == ""


@pytest.mark.parametrize("degrees", [44.7, 45, 45.3])
def test_axes_half_way_between_those_of_the_body_have_no_orientation_whatever_the_rounding(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    half_way = lying(c, -s, 0, s, c, 0, 0, 0, 1)
    assert orientation(half_way) == ""
    assert turn_to("", "LPS") == Turn()
    assert "half-way" in unknown_orientation(half_way, "LPS")
    assert unknown_orientation(half_way, "") == unknown_orientation(IDENTITY, "LPS") == ""


@pytest.mark.parametrize("found", ALL_48)
def test_a_volume_of_any_order_of_axes_is_turned_as_simpleitk_does_and_back_to_the_last_voxel(found: str) -> None:
    """The 48 ways to store a volume, each to two orientations of a plan."""
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    stored = sitk.GetImageFromArray(values)
    stored.SetSpacing((0.5, 0.7, 3.0))
    stored = sitk.DICOMOrient(stored, found)
    array = sitk.GetArrayFromImage(stored)
    for wanted in ("LPS", "ARI"):
        turn = turn_to(orientation(lying(*stored.GetDirection())), wanted)
        there = sitk.DICOMOrient(stored, wanted)
        np.testing.assert_array_equal(turn.apply(array), sitk.GetArrayFromImage(there))
        np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)
        channels = np.stack([array, -array])  # the axes in front stay in front, as those of probabilities
        np.testing.assert_array_equal(turn.undo(turn.apply(channels)), channels)
        assert turn.along(stored.GetSpacing()[::-1]) == there.GetSpacing()[::-1]
        assert Turn.of({"spacing": [1], **turn.to_json()}) == turn
        assert stored.GetDirection() != there.GetDirection() or turn == Turn()


def test_flips_of_a_store_that_knew_no_other_order_are_read_as_they_were_meant() -> None:
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(Turn.of({"flipped_axes": [1]}).apply(volume), volume[:, :, ::-1])
    assert Turn.of({"flipped_axes": []}) == Turn()


def test_axial_slices_are_found_in_any_order_of_axes() -> None:
    assert [axial_axis(letters) for letters in ("LPS", "PIR", "SRA", "")] == [0, 1, 2, 0]


@pytest.mark.parametrize("usual", ["LPS", "PSL"])
def test_a_dataset_whose_cases_differ_in_the_order_of_axes_trains_on_the_same_slices(roots, usual: str) -> None:
    """Most cases lie as ``usual`` says; the slices are axial ones of one orientation all the same."""
    stored: dict[int, SliceStore] = {}
    for identifier, others in ((910, ()), (911, ("PIR", "SRA"))):
        raw = roots.raw / f"Dataset{identifier}_Turned"
        make_phantom_dataset("ct", raw, n_labelled=5, size=(12, 48, 64), seed=3)
        for number, case in enumerate(sorted(file.name for file in (raw / "labelsTr").iterdir())):
            code = others[number] if number < len(others) else usual
            for file in (raw / "labelsTr" / case, raw / "imagesTr" / case.replace(".nii.gz", "_0000.nii.gz")):
                sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), code), str(file))
        plans = plan_and_preprocess(identifier)
        assert plans.preprocessing.orientation == usual
        stored[identifier] = SliceStore(
            roots.preprocessed / raw.name / plans.preprocessing.data_identifier
        )
    alike, mixed = stored.values()
    for case in alike.cases():
        assert mixed.geometry(case) == alike.geometry(case)
        assert mixed.n_slices(case) == 12, "axial, whatever axis of the file that is"
        assert mixed.properties(case)["spacing"] == alike.properties(case)["spacing"]
        for index in range(12):
            np.testing.assert_array_equal(mixed.image(case, index), alike.image(case, index))
            np.testing.assert_array_equal(mixed.label(case, index), alike.label(case, index))

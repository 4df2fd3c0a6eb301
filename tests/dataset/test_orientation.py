"""Where the axes of a volume run, and turning volumes to the orientation of the plan."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from samdpo.dataset.images import read_image
from samdpo.dataset.orientation import axes_to_flip, flipped, most_common, orientation


def lying(*signs_and_order: float) -> dict:
    return {"sitk_stuff": {"direction": signs_and_order}}


IDENTITY = lying(1, 0, 0, 0, 1, 0, 0, 0, 1)
LAS = lying(1, 0, 0, 0, -1, 0, 0, 0, 1)
SAGITTAL = lying(0, 0, 1, 1, 0, 0, 0, 1, 0)


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


def test_only_axes_that_run_the_other_way_are_flipped_and_flipping_twice_changes_nothing() -> None:
    assert axes_to_flip(IDENTITY, "LPS") == axes_to_flip(IDENTITY, "") == axes_to_flip({}, "LPS") == []
    assert axes_to_flip(LAS, "LPS") == [1] and axes_to_flip(IDENTITY, "RPI") == [2, 0]
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert np.array_equal(flipped(volume, [1]), volume[:, :, ::-1])
    assert np.array_equal(flipped(flipped(volume, [2, 0]), [2, 0]), volume)


def test_axes_in_another_order_are_left_with_a_warning(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert axes_to_flip(SAGITTAL, "LPS", "case.nii.gz") == []
    assert "case.nii.gz has its axes in another order" in caplog.text

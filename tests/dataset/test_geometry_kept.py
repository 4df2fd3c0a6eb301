"""A mask lies exactly where its image lies: spacing, origin, direction and the order of axes, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tiny_volumes as tiny
from scipy.spatial.transform import Rotation

from samdpo.dataset.images import read_image, read_label, write_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError
from samdpo.model.masks import NativeCollector
from samdpo.preprocessing.slicing import SliceGeometry

OBLIQUE = Rotation.from_euler("xyz", [17.3, -8.1, 41.9], degrees=True).as_matrix()
DIRECTIONS = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.diag([1.0, -1.0, 1.0]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "oblique": OBLIQUE,
    "oblique and left-handed": OBLIQUE * [-1, 1, 1],
}
GRID = {"spacing": (0.7421875, 0.41, 3.3), "origin": (-123.456, 78.9012, -1001.7)}
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny.make_dataset(tmp_path / "Dataset904_TinyVolumes")


def geometry(path: Path) -> tuple:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_geometry_comes_back_exactly(tmp_path: Path, ending: str, direction: str) -> None:
    source = tiny.save(tiny.image(), tmp_path / f"image{ending}", direction=DIRECTIONS[direction], **GRID)
    volume = read_image(source, 1)
    np.testing.assert_array_equal(volume.data[0], tiny.image())
    assert volume.spacing == tuple(sitk.ReadImage(str(source)).GetSpacing()[::-1])
    properties = json.loads(json.dumps(volume.properties))  # as the slice store keeps them
    write_label(tiny.label(), tmp_path / f"mask{ending}", properties)
    assert geometry(tmp_path / f"mask{ending}") == geometry(source)
    np.testing.assert_array_equal(read_label(tmp_path / f"mask{ending}"), tiny.label())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_other_readers_of_nifti_see_the_same_place_in_the_same_coordinate_system(tmp_path: Path, ending: str) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = OBLIQUE * GRID["spacing"], GRID["origin"]
    image = nibabel.Nifti1Image(tiny.as_xyz(tiny.image()), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)  # MNI152
    nibabel.save(image, tmp_path / f"image{ending}")
    write_label(tiny.label(), tmp_path / f"mask{ending}", read_image(tmp_path / f"image{ending}").properties)
    written = nibabel.load(tmp_path / f"mask{ending}")
    assert np.array_equal(written.affine, nibabel.load(tmp_path / f"image{ending}").affine)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 4)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), tiny.as_xyz(tiny.label()))


def test_nrrd_keeps_the_space_it_names(tmp_path: Path) -> None:
    source, mask = tmp_path / "image.nrrd", tmp_path / "mask.nrrd"
    tiny.write_raw(source)
    source.write_bytes(source.read_bytes().replace(b"left-posterior-superior", b"right-anterior-superior"))
    write_label(tiny.label(), mask, read_image(source).properties)
    assert geometry(mask) == geometry(source)
    assert b"space: right-anterior-superior\n" in mask.read_bytes()
    np.testing.assert_array_equal(read_label(mask), tiny.label())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_flat_file_stays_flat(tmp_path: Path, ending: str) -> None:
    source = tiny.save(tiny.image()[1], tmp_path / f"image{ending}", spacing=(0.3, 0.7), origin=(5.1, -2.3))
    write_label(tiny.label()[1:2], tmp_path / f"mask{ending}", read_image(source).properties)
    assert geometry(tmp_path / f"mask{ending}") == geometry(source)


@pytest.mark.parametrize("ending", ENDINGS)
def test_channels_in_one_file_have_the_geometry_of_one_volume(tmp_path: Path, ending: str) -> None:
    one = tiny.grid(tiny.image(), direction=OBLIQUE, **GRID)
    sitk.WriteImage(sitk.JoinSeries([one, one + 7]), str(tmp_path / f"image{ending}"))
    volume = read_image(tmp_path / f"image{ending}", 2)
    np.testing.assert_array_equal(volume.data[1], tiny.image() + 7)
    write_label(tiny.label(), tmp_path / f"mask{ending}", volume.properties)
    found = sitk.ReadImage(str(tmp_path / f"mask{ending}"))
    assert found.GetSize() == one.GetSize()
    # ITK itself rounds the axes of four dimensions to 32 bits in NIfTI.
    for ours, theirs in zip((found.GetSpacing(), found.GetOrigin(), found.GetDirection()),
                            (one.GetSpacing(), one.GetOrigin(), one.GetDirection())):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("direction", ["oblique", "left-handed"])
def test_a_voxel_found_in_a_slice_lies_at_its_place_in_the_patient(tmp_path: Path, axis: int, direction: str) -> None:
    values = np.zeros(tiny.SHAPE, np.int16)
    values[3, 10, 1] = 500  # z, y, x: no axis can stand for another
    source = tiny.save(values, tmp_path / "image.nii.gz", direction=DIRECTIONS[direction], **GRID)
    volume = read_image(source, 1)
    way = SliceGeometry(axis, volume.data.shape[1:], 48)
    slices = way.label_to_slices((volume.data[0] > 0).astype(np.uint8))
    collected = NativeCollector(way, [7], 0.5)
    collected.add(0, slices[:, None].astype(np.float32))
    assert collected.probabilities.shape == (1, *tiny.SHAPE)
    assert np.unravel_index(collected.probabilities[0].argmax(), tiny.SHAPE) == (3, 10, 1)
    write_label(collected.segmentation, tmp_path / "mask.nii.gz", volume.properties)
    mask = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert sitk.GetArrayFromImage(mask)[3, 10, 1] == 7
    there = sitk.ReadImage(str(source)).TransformIndexToPhysicalPoint((1, 10, 3))
    assert mask.TransformIndexToPhysicalPoint((1, 10, 3)) == there


def test_rounding_of_another_program_is_no_other_geometry_and_a_shift_of_a_tenth_of_a_millimetre_is(dataset) -> None:
    near = {"spacing": (0.80004, 0.79996, 3.0), "origin": (-40.004, 20.0, 5.0)}
    tiny.save(tiny.label(), dataset / "labelsTr" / "a.nii.gz", **near)
    verify_dataset_integrity(dataset)
    tiny.save(tiny.label(), dataset / "labelsTr" / "a.nii.gz", origin=(-40.1, 20.0, 5.0))
    with pytest.raises(DatasetError, match="has the origin"):
        verify_dataset_integrity(dataset)


def test_channels_on_different_grids_are_refused_and_rounding_is_not(tmp_path: Path) -> None:
    files = [tiny.save(tiny.image(), tmp_path / "a_0000.mha"), tmp_path / "a_0001.mha"]
    tiny.save(tiny.image(1), files[1], spacing=(0.80001, 0.8, 3.0), origin=(-40.001, 20, 5))
    np.testing.assert_array_equal(read_image(files, 2).data[1], tiny.image(1))
    for changed in ({"origin": (-40, 25, 5)}, {"spacing": (0.8, 0.8, 2)}, {"direction": np.diag([1, -1, 1])}):
        tiny.save(tiny.image(1), files[1], **changed)
        with pytest.raises(DatasetError, match=rf"a_0001\.mha: .* its {next(iter(changed))} is"):
            read_image(files, 2)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, np.uint16, np.float64])
def test_images_and_labels_of_any_type_are_read(tmp_path: Path, kind: type) -> None:
    for name, values in (("image", tiny.image() + 100), ("label", tiny.label())):
        tiny.save_nifti(tiny.as_xyz(values).astype(kind), tmp_path / f"{name}.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "image.nii.gz").data[0], tiny.image() + 100)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz"), tiny.label())


def test_a_scale_in_the_header_is_applied(tmp_path: Path) -> None:
    slope = 112  # bytes into the header: scl_slope, scl_inter
    tiny.save_nifti(tiny.as_xyz(tiny.image()), tmp_path / "image.nii.gz")
    tiny.patch(tmp_path / "image.nii.gz", (slope, "2f", (0.5, -1024.0)))
    np.testing.assert_array_equal(read_image(tmp_path / "image.nii.gz").data[0], tiny.image() * 0.5 - 1024)
    tiny.save_nifti(tiny.as_xyz(tiny.label() * 255), tmp_path / "label.nii.gz")
    tiny.patch(tmp_path / "label.nii.gz", (slope, "2f", (1 / 255, 0.0)))
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz"), tiny.label())

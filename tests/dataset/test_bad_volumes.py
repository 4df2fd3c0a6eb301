"""Volumes that cannot be used: each is a sentence that names its file, from the check and from the work itself."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_volumes as tiny
from tiny_volumes import DIM, PIXDIM, QFORM_CODE, QUATERN, SFORM_CODE, SROW

from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import DatasetError
from samdpo.planning.fingerprint import extract_fingerprint
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.plans import Plans
from samdpo.preprocessing.preprocess import preprocess_dataset
from samdpo.preprocessing.store import SliceStore

NAME = "Dataset904_TinyVolumes"
Damage = Callable[[Path], object]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_value(value: float, kind: type = np.float32) -> Damage:
    """One voxel of a float volume is no number; ITK would read 0."""

    def damage(path: Path) -> None:
        values = tiny.as_xyz(tiny.label()).astype(kind)
        values[5, 5, 2] = value
        tiny.save_nifti(values, path)

    return damage


def header(*changes: tuple[int, str, tuple]) -> Damage:
    return lambda path: tiny.patch(path, *changes)


def of_shape(*repeats: int) -> Damage:
    """A volume with more axes, or fewer, than (X, Y, Z)."""

    def damage(path: Path) -> None:
        values = tiny.as_xyz(tiny.image())
        values = np.broadcast_to(values.reshape(*values.shape, *[1] * len(repeats)), (*values.shape, *repeats))
        tiny.save_nifti(np.ascontiguousarray(values), path)

    return damage


def in_colour(path: Path) -> None:
    tiny.save_nifti(np.zeros(tiny.SHAPE[::-1], dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), path)


def nifti_2(path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(tiny.as_xyz(tiny.image()), np.eye(4)), path)


SHEARED = (SROW, "12f", (1, 0.2, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0))
NO_QFORM, NO_SFORM = (QFORM_CODE, "h", (0,)), (SFORM_CODE, "h", (0,))
PERPENDICULAR, SIZE = "not perpendicular", "above 0"

# Wrong in an image and in a label alike.
FILES: dict[str, tuple[Damage, str]] = {
    "truncated gzip": (cut, "damaged or cut off"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "nothing inside the gzip": (lambda path: path.write_bytes(gzip.compress(b"")), "cannot be read"),
    "no gzip": (lambda path: path.write_bytes(gzip.decompress(path.read_bytes())), "Not a gzipped file"),
    "text": (lambda path: path.write_bytes(gzip.compress(b"no image" * 99)), "begins like no format"),
    "NIfTI-2": (nifti_2, "is NIfTI-2"),
    "NaN": (with_value(np.nan), "not finite"),
    "infinity": (with_value(-np.inf), "not finite"),
    "NaN in doubles": (with_value(np.nan, np.float64), "not finite"),
    "beyond 32 bits": (with_value(1e300, np.float64), "not finite"),
    "colours": (in_colour, "3 numbers a voxel"),
    "complex numbers": (with_value(1j, np.complex64), "2 numbers a voxel"),
    "five axes": (of_shape(2, 2), "has 5 axes"),
    "an axis of length 0": (header((DIM, "4h", (3, 10, 12, 0))), "at least one voxel"),
    "an axis of negative length": (header((DIM, "4h", (3, 10, -12, 4))), "at least one voxel"),
    "spacing 0": (header((PIXDIM, "4f", (1, 0.8, 0, 3))), "spacing of 0"),
    "negative spacing": (header((PIXDIM, "4f", (1, 0.8, -0.8, 3))), SIZE),
    "spacing NaN": (header((PIXDIM, "4f", (1, 0.8, np.nan, 3))), SIZE),
    "sform with NaN": (header((SROW, "f", (np.nan,))), "not finite"),
    "origin infinite": (header((SROW + 12, "f", (np.inf,))), "not finite"),
    "qform with NaN": (header(NO_SFORM, (QUATERN, "f", (np.nan,))), "not finite"),
    "sheared": (header(NO_QFORM, SHEARED), PERPENDICULAR),
    "sheared a little": (header(NO_QFORM, (SROW, "12f", (1, 4e-4, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0))), PERPENDICULAR),
    "sheared beside a sound qform": (header(SHEARED), PERPENDICULAR),
    "an axis without direction": (header((SROW, "12f", (0,) * 12)), "without direction"),
}
IMAGES: dict[str, tuple[Damage, str]] = {
    **FILES,
    "several volumes in one": (of_shape(3), "holds 3 channel(s), but channel_names of dataset.json declares 1"),
}
LABELS: dict[str, tuple[Damage, str]] = {
    **FILES,
    "several volumes in one": (of_shape(3), "four dimensions"),
    "another shape": (lambda path: tiny.save(tiny.label()[:3], path), "10 x 12 x 3, but its image a_0000.nii.gz"),
    "another spacing": (
        lambda path: tiny.save(tiny.label(), path, spacing=(0.8, 0.8, 2.5)), "the spacing (0.8, 0.8, 2.5)"
    ),
    "another origin": (lambda path: tiny.save(tiny.label(), path, origin=(-40, 20, 8)), "the origin (-40, 20, 8)"),
    "another direction": (
        lambda path: tiny.save(tiny.label(), path, direction=np.diag([1, -1, 1])), "has the direction (1, 0, 0, 0, -1"
    ),
    "values 0 and 255": (lambda path: tiny.save(tiny.label() * 255, path), "samdpo_convert_folder"),
    "a value outside the list": (lambda path: tiny.save(tiny.label() + 1, path), "value(s) 2"),
    "a negative value": (lambda path: tiny.save(-tiny.label().astype(np.int16), path), "value(s) -1"),
    "fractions": (lambda path: tiny.save(tiny.label() * np.float32(0.5), path), "fractions such as 0.5"),
    "a value of 64 bits": (
        lambda path: tiny.save_nifti(tiny.as_xyz(tiny.label()).astype(np.int64) << 40, path), "1099511627776"
    ),
}


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(DatasetError) as caught:
        work()
    return str(caught.value)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return tiny.make_dataset(tmp_path / NAME)


@pytest.fixture(scope="module")
def _planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Plans]]:
    root = tmp_path_factory.mktemp("volumes")
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(folder, str(root / folder))
            (root / folder).mkdir()
        raw = tiny.make_dataset(root / "nnUNet_raw" / NAME)
        yield raw, plan_and_preprocess(NAME)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_is_found_by_the_check_and_named_with_or_without_it(dataset: Path, kind: str) -> None:
    damage, words = IMAGES[kind]
    file = dataset / "imagesTr" / "a_0000.nii.gz"
    damage(file)
    for work in (
        lambda: verify_dataset_integrity(dataset),
        lambda: extract_fingerprint(dataset),
        lambda: read_image(file, 1),
    ):
        said = refusal(work)
        assert str(file) in said and words in said


@pytest.mark.parametrize("kind", LABELS)
def test_a_bad_label_is_found_by_the_check_and_named_with_or_without_it(dataset: Path, kind: str) -> None:
    damage, words = LABELS[kind]
    file = dataset / "labelsTr" / "a.nii.gz"
    damage(file)
    for work in (lambda: verify_dataset_integrity(dataset), lambda: extract_fingerprint(dataset)):
        said = refusal(work)
        assert str(file) in said and words in said


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_leaves_no_half_case_in_the_store(_planned: tuple[Path, Plans], kind: str) -> None:
    raw, plans = _planned
    file = raw / "imagesUl" / "u_0000.nii.gz"
    tiny.save(tiny.image(2), file)
    store = preprocess_dataset(NAME, plans)
    store.remove("u")
    IMAGES[kind][0](file)
    assert str(file) in refusal(lambda: preprocess_dataset(NAME, plans))
    assert SliceStore(store.folder).cases() == ["a", "b"]
    left = [f"{case}{ending}" for case in "ab" for ending in (".b2nd", ".json", ".seg.b2nd")]
    assert sorted(f.name for f in store.folder.iterdir()) == left


@pytest.mark.parametrize("kind", ["another origin", "values 0 and 255", "NaN"])
def test_a_bad_label_leaves_no_half_case_in_the_store(_planned: tuple[Path, Plans], kind: str) -> None:
    raw, plans = _planned
    file = raw / "labelsTr" / "a.nii.gz"
    tiny.save(tiny.image(2), raw / "imagesUl" / "u_0000.nii.gz")
    store = preprocess_dataset(NAME, plans)
    whole = file.read_bytes()
    store.remove("a")
    LABELS[kind][0](file)
    try:
        assert str(file) in refusal(lambda: preprocess_dataset(NAME, plans))
        assert not list(store.folder.glob("a.*"))
    finally:
        file.write_bytes(whole)


def test_everything_bad_is_told_at_once_before_any_work(roots) -> None:
    raw = tiny.make_dataset(roots.raw / NAME)
    cut(raw / "imagesTr" / "a_0000.nii.gz")
    tiny.save(tiny.label() * 255, raw / "labelsTr" / "b.nii.gz")
    (raw / "imagesUl" / "u_0000.nii.gz").rename(raw / "imagesUl" / "u.nii.gz")
    said = refusal(lambda: plan_and_preprocess(NAME, verify=True))
    for words in ("3 problems", "a_0000.nii.gz", "b.nii.gz", "expected a name like u_0000.nii.gz"):
        assert words in said
    assert not [f for f in roots.preprocessed.rglob("*") if f.is_file()]


def test_a_picture_among_volumes_is_named(dataset: Path) -> None:
    for folder, name, values in (("imagesTr", "b_0000", tiny.image()), ("labelsTr", "b", tiny.label())):
        tiny.save(values[2], dataset / folder / f"{name}.nii.gz")
    for work in (lambda: verify_dataset_integrity(dataset), lambda: extract_fingerprint(dataset)):
        said = refusal(work)
        assert "b_0000.nii.gz has 2 dimensions" in said and "3. Put pictures and volumes" in said


def test_pictures_alone_and_single_slices_among_volumes_are_fine(dataset: Path) -> None:
    for folder, name, values in (("imagesTr", "b_0000", tiny.image()), ("labelsTr", "b", tiny.label())):
        tiny.save(values[2:3], dataset / folder / f"{name}.nii.gz")
    verify_dataset_integrity(dataset)
    for file in list(dataset.rglob("*.nii.gz")):
        values = (tiny.label if "labelsTr" in str(file) else tiny.image)()[2]
        tiny.save(values, file)
    verify_dataset_integrity(dataset)
    assert extract_fingerprint(dataset)["shapes"] == [[1, 12, 10]] * 2


def test_upper_case_endings_are_read_and_checked(dataset: Path) -> None:
    for file in list(dataset.rglob("*.nii.gz")):
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    verify_dataset_integrity(dataset)
    cut(dataset / "imagesTr" / "a_0000.NII.GZ")
    assert "a_0000.NII.GZ cannot be read" in refusal(lambda: verify_dataset_integrity(dataset))


def test_a_folder_named_like_an_image_is_told_apart_from_a_missing_one(dataset: Path) -> None:
    file = dataset / "imagesTr" / "a_0000.nii.gz"
    inside = file.read_bytes()
    file.unlink()
    file.mkdir()
    (file / "scan.nii.gz").write_bytes(inside)
    said = refusal(lambda: verify_dataset_integrity(dataset))
    assert f"{file} is a folder that is named like a file" in said and "(scan.nii.gz)" in said
    assert "is a folder" in refusal(lambda: read_label(file))


def test_dicom_in_a_dataset_is_told_to_be_converted(dataset: Path) -> None:
    from dicom_series import make_series

    make_series(dataset / "imagesTr" / "series", np.zeros((2, 8, 8), np.int16))
    shutil.copy(dataset / "imagesTr" / "series" / "slice_0.dcm", dataset / "imagesUl" / "loose.dcm")
    said = refusal(lambda: verify_dataset_integrity(dataset))
    assert f"{dataset / 'imagesTr' / 'series'} is a folder of DICOM files" in said
    assert f"{dataset / 'imagesUl' / 'loose.dcm'} is DICOM" in said and "dcm2niix" in said


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_are_checked_for_the_same(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    for changes, words in (
        ({"shear": 0.3}, PERPENDICULAR),
        ({"size": "10 12 0"}, "voxels large" if ending == ".mha" else "cannot be read"),
        ({"spacing": 0.0}, "spacing of 0" if ending == ".mha" else "not finite"),
    ):
        tiny.write_raw(file, **changes)
        said = refusal(lambda: read_image(file, 1))
        assert str(file) in said and words in said
    tiny.write_raw(file)
    assert read_image(file, 1).data.shape == (1, *tiny.SHAPE)
    cut(file)
    assert "damaged or cut off" in refusal(lambda: read_image(file, 1))

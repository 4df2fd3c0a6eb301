"""ACDC (Bernard et al. 2018): cardiac MR with three structures, as released, or as SSL4MIS (Luo 2020) packed it.

With it come the lists by which semi-supervised methods are compared: SSL4MIS's ``train.list``, ``val.list`` and
``test.list``, and that the first 3, 7 or 14 patients of the first are the labelled ones.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import find_files, warn_about_counts
from samdpo.dataset.converters.source import Member, local_file
from samdpo.dataset.converters.volume_files import write_image, write_volume
from samdpo.dataset.decoding import check_file, check_size, decoding
from samdpo.errors import ConfigurationError, DatasetError

log = logging.getLogger(__name__)

Split = Literal["ssl4mis", "official"]
SPLITS: tuple[Split, ...] = get_args(Split)
STRUCTURES = ("right ventricle", "myocardium", "left ventricle")  # ids 1 to 3, as in the release
# Patients in the order of SSL4MIS's data/ACDC/train.list, val.list and test.list.
TRAIN = (
    99, 38, 50, 100, 58, 21, 49, 20, 72, 40, 60, 89, 4, 56, 98, 96, 31, 18, 94, 47, 48, 55, 97, 74, 43, 41, 63, 37, 95,
    54, 26, 88, 32, 69, 6, 71, 12, 73, 61, 17, 25, 10, 57, 29, 51, 5, 36, 46, 62, 34, 76, 92, 70, 77, 67, 3, 91, 16, 14,
    44, 42, 90, 53, 27, 35, 86, 23, 9, 79, 15,
)
VAL = (28, 85, 82, 87, 19, 30, 78, 45, 2, 39)
TEST = (11, 13, 84, 33, 93, 22, 68, 24, 83, 81, 80, 1, 7, 66, 8, 65, 75, 64, 59, 52)
LABELLED = (7, 3, 14, 70)  # patients, the first ones of TRAIN: 10, 5, 20 and 100%
TRAINING_PATIENTS = 100  # of the release; those of the test part count from 101
PUBLISHED = {"patients of the training part": TRAINING_PATIENTS}
LAYOUT = (
    "training/patient001 with patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz (the release), or "
    "data/patient001_frame01.h5 (SSL4MIS)"
)
PLACEHOLDER_SPACING = (1.0, 1.0, 10.0)  # x, y, z: SSL4MIS's files have none, and its test writes this
_FILE = re.compile(
    r"patient(?P<patient>\d{3})_frame(?P<frame>\d{2})(?:(?P<truth>_gt)?\.nii(?:\.gz)?|(?:_slice_(?P<slice>\d+))?\.h5)"
)
_AGAIN = "Download it again or add what is missing."
_Case = tuple[int, int]  # patient and frame


def acdc(source: Path, split: Split = "ssl4mis") -> Conversion:
    """What becomes of ACDC.

    Args:
        source: the release (its folder, one above it, or the zip), or SSL4MIS's folder ``ACDC``.
        split: "ssl4mis" takes the release's training part alone: 70 patients for training and 10 for validation become
            imagesTr, 20 for testing imagesTs, and files of splits for ``--splits`` say which are labelled. "official"
            takes the whole training part as imagesTr and the test part as imagesTs.

    Raises:
        ConfigurationError: unknown split, or SSL4MIS's files without h5py.
        DatasetError: another folder, both forms at once, an image without its mask, a volume with a slice missing.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"The split {split!r} is unknown. Choose from {', '.join(SPLITS)}.")
    found = find_files(source, _FILE, "ACDC", LAYOUT)
    packed = [member for member, _ in found if member.name.endswith(".h5")]
    if packed and len(packed) < len(found):
        released = next(member for member, _ in found if not member.name.endswith(".h5"))
        raise DatasetError(
            f"{source} holds ACDC in two forms: {packed[0]} and {released}. Name the folder of one of them."
        )
    by_case = _packed(found) if packed else _released(found)
    patients = sorted({patient for patient, _ in by_case})
    warn_about_counts(str(source), {next(iter(PUBLISHED)): sum(p <= TRAINING_PATIENTS for p in patients)}, PUBLISHED)
    tasks: list[Task] = []
    part_of = {p: "Tr" if p in (*TRAIN, *VAL) else "Ts" if p in TEST else "" for p in patients}
    if split == "official":
        part_of = {p: "Tr" if p <= TRAINING_PATIENTS else "Ts" for p in patients}
    for case, (image, truth) in sorted(by_case.items()):
        if part := part_of[case[0]]:
            tasks.append(Task(image[0], (f"images{part}/{_name(case)}_0000.nii.gz",), image[1]))
            tasks += [Task(truth[0], (f"labels{part}/{_name(case)}.nii.gz",), truth[1])] if truth else []
    if not any(task.targets[0].startswith("labelsTr/") for task in tasks):
        raise DatasetError(
            f"{source} holds no labelled patient of ACDC's training part (patient001 to patient{TRAINING_PATIENTS}) "
            f"that the split {split!r} trains on. Name the folder of the training part, or one above it."
        )
    left_out = sum(not part for part in part_of.values())
    if left_out:
        log.info("%d patients are in no list of SSL4MIS and left out; --split official takes all.", left_out)
    return Conversion(
        command="samdpo_convert_acdc",
        name="ACDC" if split == "ssl4mis" else "ACDC_official",
        settings={"split": split, "form": "h5" if packed else "NIfTI"},
        channel_names={"0": "MR"},
        labels={"background": 0, **{name: value for value, name in enumerate(STRUCTURES, 1)}},
        hints={
            name: hint(name, f"{name} in a short-axis cardiac MR image", components=1, may_be_absent=True)
            for name in STRUCTURES
        },
        file_ending=".nii.gz",
        tasks=tasks,
        information={
            "description": "ACDC: short-axis cardiac MR at end-diastole and end-systole"
            + ("; the split of SSL4MIS, imagesTs being its test patients" if split == "ssl4mis" else "")
            + ("; intensities of each volume from 0 to 1 and no spacing, as SSL4MIS packed it" if packed else ""),
            "reference": "Bernard et al. 2018, doi:10.1109/TMI.2018.2837502"
            + ("; Luo 2020, https://github.com/HiLab-git/SSL4MIS" if packed or split == "ssl4mis" else ""),
        },
        groups={_name(case): f"patient{case[0]:03d}" for case in sorted(by_case) if part_of[case[0]] == "Tr"},
        splits=_splits(by_case, source) if split == "ssl4mis" else {},
        distances="voxels" if packed else "mm",
    )


def _name(case: _Case) -> str:
    return f"patient{case[0]:03d}_frame{case[1]:02d}"


_Step = tuple[tuple[Member, ...], Any]  # what is read, and how it is written
_Cases = dict[_Case, tuple[_Step, "_Step | None"]]  # image and mask


def _released(found: Iterable[tuple[Member, re.Match[str]]]) -> _Cases:
    """Images and masks of the release; the test part was first given out without masks."""
    parts: tuple[dict[_Case, Member], dict[_Case, Member]] = {}, {}
    for member, match in found:
        _add(parts[bool(match["truth"])], (int(match["patient"]), int(match["frame"])), member)
    images, truths = parts
    bare = [images[case] for case in images if case not in truths and case[0] <= TRAINING_PATIENTS]
    alone = [truths[case] for case in truths if case not in images]
    if bare or alone:
        told = [f"{len(bare)} image(s) without a mask, for example {bare[0]}"] if bare else []
        told += [f"{len(alone)} mask(s) without an image, for example {alone[0]}"] if alone else []
        raise DatasetError(
            f"ACDC is not whole: {' and '.join(told)}. Expected: patient001_frame01_gt.nii.gz beside "
            f"patient001_frame01.nii.gz. {_AGAIN}"
        )

    def step(member: Member) -> _Step:
        return (member,), None if member.name.endswith(".nii.gz") else write_volume

    return {case: (step(image), step(truths[case]) if case in truths else None) for case, image in images.items()}


def _packed(found: Iterable[tuple[Member, re.Match[str]]]) -> _Cases:
    """SSL4MIS's volumes; where one is missing, its slices are put together."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"SSL4MIS's files are HDF5, which needs h5py ({error}). Type: pip install samdpo[hdf5]"
        ) from error
    volumes: dict[_Case, Member] = {}
    slices: dict[_Case, dict[int, Member]] = {}
    for member, match in found:
        case = int(match["patient"]), int(match["frame"])
        if match["slice"]:
            _add(slices.setdefault(case, {}), int(match["slice"]), member)
        else:
            _add(volumes, case, member)
    members = {case: (volume,) for case, volume in volumes.items()} | {
        case: _in_order(case, numbered) for case, numbered in slices.items() if case not in volumes
    }
    return {
        case: ((several, partial(write_packed, key="image")), (several, partial(write_packed, key="label")))
        for case, several in members.items()
    }


def _add(to: dict[Any, Member], key: Any, member: Member) -> None:
    other = to.setdefault(key, member)
    if other is not member:
        raise DatasetError(f"{other} and {member} are the same file of ACDC twice. Name the folder of one of them.")


def _in_order(case: _Case, numbered: Mapping[int, Member]) -> tuple[Member, ...]:
    """Slices count from 1 in SSL4MIS's archive, from 0 with its script."""
    first = min(numbered)
    missing = sorted({*range(min(first, 1), max(numbered) + 1)} - numbered.keys())
    if missing:
        raise DatasetError(
            f"{_name(case)} lacks the slice {missing[0]}: {len(numbered)} were found, for example {numbered[first]}. "
            f"{_AGAIN}"
        )
    return tuple(numbered[number] for number in sorted(numbered))


def _splits(cases: Iterable[_Case], source: Path) -> dict[str, list[dict[str, list[str]]]]:
    """``splits_7_of_70.json`` and the others: one fold, as SSL4MIS trains and validates."""

    def of(patients: Iterable[int]) -> list[str]:
        wanted = set(patients)
        return sorted(_name(case) for case in cases if case[0] in wanted)

    missing = sorted({*TRAIN, *VAL} - {patient for patient, _ in cases})
    if missing:
        log.warning(
            "%s lacks %d patients of SSL4MIS's lists, for example patient%03d, so no file of splits is written.",
            source, len(missing), missing[0],
        )
        return {}
    return {
        f"splits_{n}_of_{len(TRAIN)}.json": [{"train": of(TRAIN), "val": of(VAL), "labelled": of(TRAIN[:n])}]
        for n in LABELLED
    }


def write_packed(members: tuple[Member, ...], targets: tuple[Path, ...], *, key: Literal["image", "label"]) -> None:
    """Write one volume of SSL4MIS, (Z, Y, X) in one file or (Y, X) in each of several, as NIfTI.

    Images stay as they are, 32-bit floats from 0 to 1; the spacing is :data:`PLACEHOLDER_SPACING`.

    Raises:
        DatasetError: a file that cannot be read, or is no such volume.
    """
    import SimpleITK as sitk  # noqa: N813

    parts = [_read_packed(member, key, 3 if len(members) == 1 else 2) for member in members]
    if len({part.shape for part in parts}) > 1:
        sizes = " and ".join(sorted({" x ".join(map(str, part.shape)) for part in parts}))
        raise DatasetError(f"{members[0]} and the other slices of its volume differ in size ({sizes}). {_AGAIN}")
    values = parts[0] if len(members) == 1 else np.stack(parts)
    if key == "label":
        known = np.isin(values, range(len(STRUCTURES) + 1))
        if not known.all():
            raise DatasetError(
                f"{members[0]} holds the label {values[~known][0]:g}; expected 0 to {len(STRUCTURES)}. {_AGAIN}"
            )
    elif not np.isfinite(values).all():
        raise DatasetError(f"{members[0]} holds intensities that are no number. {_AGAIN}")
    image = sitk.GetImageFromArray(values.astype(np.uint8 if key == "label" else np.float32))
    image.SetSpacing(PLACEHOLDER_SPACING)
    write_image(image, targets[0])


def _read_packed(member: Member, key: str, ndim: int) -> np.ndarray:
    """The array ``key`` of an HDF5 file, from this file alone: links to others are not followed."""
    import h5py

    with local_file(member) as path:
        check_file(path)
        with decoding(path), h5py.File(path, "r") as file:
            own = isinstance(file.get(key, getlink=True), h5py.HardLink)
            stored = file[key] if own else None
            if not isinstance(stored, h5py.Dataset) or stored.is_virtual or stored.external:
                there = ", ".join(list(file)[:8]) or "nothing"
                raise DatasetError(f"{path} holds no array {key!r} of its own, but {there}. {_AGAIN}")
            if stored.ndim != ndim or stored.dtype.kind not in "buif":
                shape = " x ".join(map(str, stored.shape))
                raise DatasetError(
                    f"{path}: {key!r} is {shape} of {stored.dtype}; expected numbers along {ndim} axes. {_AGAIN}"
                )
            check_size(path, stored.shape)
            return np.asarray(stored[()])

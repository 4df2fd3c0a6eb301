"""AMOS22 (Ji et al. 2022): abdominal CT and MR with 15 structures, from Zenodo's ``amos22.zip``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import Download, find_download, pairs, warn_about_counts
from samdpo.dataset.converters.source import Member
from samdpo.errors import ConfigurationError, DatasetError

Modality = Literal["ct", "mr", "all"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
STRUCTURES = (  # ids 1 to 15, as in the data set's own dataset.json
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus",
)
PUBLISHED = {
    "imagesTr CT": 200, "imagesTr MR": 40, "imagesVa CT": 100, "imagesVa MR": 20, "imagesTs": 120,
}
LAYOUT = "amos22/imagesTr, labelsTr, imagesVa, labelsVa and imagesTs with files amos_0001.nii.gz"
_FILE = re.compile(r"amos_(\d{4})\.nii\.gz")
_FIRST_MR = 500  # the data set's rule: ids below 500 are CT
_NAMES = {"ct": "AMOS22_CT", "mr": "AMOS22_MR", "all": "AMOS22"}
# The channel's name decides the normalisation, and a CT window would blind the MR images among CT.
_CHANNELS = {"ct": "CT", "mr": "MR", "all": "abdominal scan"}


def amos(source: Path, modality: Modality = "ct", unlabelled: bool = False) -> Conversion:
    """What becomes of AMOS22: Tr for training, Va for testing, Ts without labels where asked for.

    Args:
        source: ``amos22``, a folder above it, or ``amos22.zip``.
        modality: "ct", "mr" or "all".
        unlabelled: whether the images of imagesTs, which have no labels, become imagesUl.

    Raises:
        ConfigurationError: unknown modality.
        DatasetError: another folder, an image without label, nothing of this modality.
    """
    if modality not in MODALITIES:
        raise ConfigurationError(f"The modality {modality!r} is unknown. Choose from {', '.join(MODALITIES)}.")
    download = find_download(source, "AMOS22", ("imagesTr", "labelsTr"), LAYOUT, lambda d: bool(_files(d, "imagesTr")))
    _check_counts(download)
    tasks: list[Task] = []
    for part, images, labels in (("Tr", "imagesTr", "labelsTr"), ("Va", "imagesTs", "labelsTs")):
        scans = _files(download, f"images{part}", modality)
        masks = _files(download, f"labels{part}", modality)
        if part == "Va" and not masks:  # the challenge's first releases kept them back
            tasks += [_copy(scan, images, "_0000") for scan in scans]
            continue
        for scan, mask in pairs(scans, masks, f"{download} ({part})"):
            tasks += [_copy(scan, images, "_0000"), _copy(mask, labels)]
    if unlabelled:
        tasks += [_copy(scan, "imagesUl", "_0000") for scan in _files(download, "imagesTs", modality)]
    if not any(task.targets[0].startswith("labelsTr/") for task in tasks):
        raise DatasetError(
            f"{download} holds no labelled {modality.upper()} image. Expected ids "
            f"{'below' if modality == 'ct' else 'from'} {_FIRST_MR}. Try --modality all."
        )
    where = {"ct": "an abdominal CT", "mr": "an abdominal MR image", "all": "an abdominal scan"}[modality]
    return Conversion(
        command="samdpo_convert_amos",
        name=_NAMES[modality],
        settings={"modality": modality, "unlabelled": unlabelled},
        channel_names={"0": _CHANNELS[modality]},
        labels={"background": 0, **{name: value for value, name in enumerate(STRUCTURES, 1)}},
        hints={name: hint(name, f"{name} in {where}", components=1, may_be_absent=True) for name in STRUCTURES},
        file_ending=".nii.gz",
        tasks=tasks,
        information={
            "description": "AMOS22: abdominal scans with 15 structures; imagesTs is the official validation part",
            "reference": "Ji et al. 2022, arXiv:2206.08023; https://zenodo.org/records/7155725",
        },
    )


def _files(download: Download, folder: str, modality: Modality = "all") -> list[Member]:
    found = []
    for member in download.files(folder):
        match = _FILE.fullmatch(member.name)
        if match and (modality == "all" or (int(match[1]) < _FIRST_MR) == (modality == "ct")):
            found.append(member)
    return sorted(found, key=lambda m: m.name)


def _copy(member: Member, folder: str, suffix: str = "") -> Task:
    return Task((member,), (f"{folder}/{member.name.removesuffix('.nii.gz')}{suffix}.nii.gz",))


def _check_counts(download: Download) -> None:
    """Of the whole download, whatever part of it is converted."""

    def count(folder: str, modality: Modality) -> int:
        members: Sequence[Member] = _files(download, folder, modality)
        return len(members)

    found = {f"images{part} {m.upper()}": count(f"images{part}", m) for part in ("Tr", "Va") for m in ("ct", "mr")}
    warn_about_counts(str(download), {**found, "imagesTs": count("imagesTs", "all")}, PUBLISHED)

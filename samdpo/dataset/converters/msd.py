"""A task of the Medical Segmentation Decathlon (Antonelli et al. 2022): folder or tar, 4D images split by channel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import Download, find_download, pairs, warn_about_counts
from samdpo.dataset.converters.source import Member, local_file
from samdpo.dataset.converters.volume_files import split_channels
from samdpo.dataset.dataset_json import modality_of
from samdpo.errors import DatasetError
from samdpo.files import read_json

LAYOUT = "TaskXX_Name with dataset.json, imagesTr, labelsTr and imagesTs"
_TASK = re.compile(r"Task(\d{2,3})_(.+)")
_MODALITY = {"ct": "a CT scan", "mr": "an MR image"}
_ENDING = ".nii.gz"


def msd(source: Path) -> tuple[Conversion, int | None]:
    """What becomes of a task, and the id it has by its number: Task09_Spleen -> Dataset009_Spleen.

    Args:
        source: ``TaskXX_Name``, a folder above it, or ``TaskXX_Name.tar``.

    Raises:
        DatasetError: another folder, a broken dataset.json, an image without label.
    """
    download = find_download(
        source, "a task of the Medical Segmentation Decathlon", ("imagesTr", "labelsTr"), LAYOUT,
        lambda d: "dataset.json" in d.members,
    )
    task = _read_task(download)
    channels = {str(key): str(name) for key, name in task["modality"].items()}
    labels = _labels(task["labels"], download)
    training = pairs(_volumes(download, "imagesTr"), _volumes(download, "labelsTr"), str(download))
    test = _volumes(download, "imagesTs")
    warn_about_counts(
        str(download), {"imagesTr": len(training), "imagesTs": len(test)},
        {"imagesTr": int(task.get("numTraining", len(training))), "imagesTs": int(task.get("numTest", len(test)))},
    )
    tasks = [_image(image, "imagesTr", len(channels)) for image, _ in training]
    tasks += [Task((label,), (f"labelsTr/{label.name}",)) for _, label in training]
    tasks += [_image(image, "imagesTs", len(channels)) for image in test]
    match = _TASK.fullmatch(download.name)
    where = _MODALITY.get(modality_of(channels["0"]), "a scan")
    conversion = Conversion(
        command="samdpo_convert_msd",
        name=re.sub(r"[^A-Za-z0-9]+", "_", match[2] if match else str(task.get("name", download.name))).strip("_"),
        settings={"task": download.name},
        channel_names=channels,
        labels=labels,
        # How many parts a structure has in a slice is measured from the labels; no list of the tasks tells it.
        hints={name: hint(name, f"{name} in {where}", may_be_absent=True) for name, value in labels.items() if value},
        file_ending=_ENDING,
        tasks=tasks,
        information={
            key: task[key] for key in ("description", "reference", "licence", "release") if key in task
        },
    )
    return conversion, int(match[1]) if match else None


def _read_task(download: Download) -> dict[str, Any]:
    member = download.members["dataset.json"]
    remedy = "Download the task again."
    with local_file(member) as path:
        content = read_json(path, error=DatasetError, remedy=remedy)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), dict) for k in ("modality", "labels")):
        raise DatasetError(
            f'{member} is no dataset.json of the Decathlon: expected "modality": {{"0": "CT"}} and "labels": '
            f'{{"0": "background", "1": "spleen"}}. {remedy}'
        )
    if sorted(content["modality"]) != sorted(str(i) for i in range(len(content["modality"]))):
        raise DatasetError(f"{member}: 'modality' must count 0, 1, …, found {', '.join(content['modality'])}. {remedy}")
    return content


def _labels(numbered: dict[str, str], download: Download) -> dict[str, int]:
    """The Decathlon writes number -> name, nnU-Net name -> number."""
    labels = {"background" if int(value) == 0 else str(name): int(value) for value, name in numbered.items()}
    if sorted(labels.values()) != list(range(len(numbered))):
        raise DatasetError(
            f"{download}/dataset.json: 'labels' must number its names 0, 1, … without a gap or a repetition, found "
            f"{numbered}. Correct it there and type the same command again."
        )
    return labels


def _volumes(download: Download, folder: str) -> list[Member]:
    return sorted((m for m in download.files(folder) if m.name.endswith(_ENDING)), key=lambda m: m.name)


def _image(member: Member, folder: str, n_channels: int) -> Task:
    case = member.name.removesuffix(_ENDING)
    targets = tuple(f"{folder}/{case}_{channel:04d}{_ENDING}" for channel in range(n_channels))
    return Task((member,), targets, split_channels if n_channels > 1 else None)

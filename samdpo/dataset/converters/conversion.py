"""A conversion as data, what goes where, and the one loop that does it: resumable, atomic, named when it is whole."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from samdpo.dataset.converters.source import Member, close_archives, copy_member, is_sequential
from samdpo.dataset.converters.target import claimed_folder, finish_folder
from samdpo.dataset.dataset_json import Distances
from samdpo.dataset.images import read_image
from samdpo.dataset.raw_dataset import load_groups
from samdpo.errors import DatasetError
from samdpo.files import read_json, remove_abandoned, write_json
from samdpo.names import MEDICAL_ENDINGS
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)

_SHOWN = 20  # problems in words; the rest is counted
_TWINS_SHOWN = 5
Make = Callable[["tuple[Member, ...]", "tuple[Path, ...]"], "str | None"]


@dataclass(frozen=True)
class Task:
    """One step: read ``members``, write ``targets``."""

    members: tuple[Member, ...]
    targets: tuple[str, ...]  # inside the dataset's folder: "imagesTr/amos_0001_0000.nii.gz"
    make: Make | None = None  # picklable, returns a remark or None; None copies the file unchanged


@dataclass(frozen=True)
class Conversion:
    """Everything that is decided about a conversion before anything is written."""

    command: str  # samdpo_convert_amos
    name: str  # DatasetXXX_<name>
    settings: dict[str, Any]  # what makes it this conversion and no other
    channel_names: dict[str, str]
    labels: dict[str, int]
    hints: dict[str, dict[str, Any]]
    file_ending: str
    tasks: list[Task]
    information: dict[str, Any] = field(default_factory=dict)  # more keys of dataset.json: reference, licence, …
    group_duplicates: bool = False
    groups: dict[str, str] = field(default_factory=dict)  # case -> patient, for case_groups.json
    splits: dict[str, list[dict[str, list[str]]]] = field(default_factory=dict)  # file -> folds, for --splits
    distances: Distances = "mm"  # of dataset.json


def hint(
    name: str,
    phrase: str,
    *,
    components: int | None = None,
    may_be_absent: bool | None = None,
    plural: bool = False,
) -> dict[str, Any]:
    """A structure's entry under ``samdpo`` in dataset.json; what is None is left to be measured by the planner."""
    entry = {
        "phrase": phrase,
        "question": f"What is the shape of the {name} and where {'are they' if plural else 'is it'} located?",
        "components": components,
        "may_be_absent": may_be_absent,
    }
    return {key: value for key, value in entry.items() if value is not None}


def run_conversion(conversion: Conversion, identifier: int, processes: int = 1) -> Path:
    """Write ``nnUNet_raw/DatasetXXX_Name``; returns the folder.

    It is made in a hidden folder beside, and gets its name when it is whole. Files that are there already are kept, so
    that an interrupted run goes on where it stopped.

    Raises:
        ConfigurationError: bad id, id of another dataset, unwritable folder.
        DatasetError: files that cannot be converted, all told at once; there is then no dataset.
    """
    _refuse_clashes(conversion.tasks)
    record = {"command": conversion.command, "settings": conversion.settings}
    with claimed_folder(identifier, conversion.name, record) as (folder, final):
        kept = _convert(conversion, folder, final, processes)
    if kept:
        log.info("%d of %d steps were done already and kept.", kept, len(conversion.tasks))
    log.info(
        "%s: %d labelled, %d unlabelled, %d test images.", final,
        *(_count(conversion, part) for part in ("labelsTr", "imagesUl", "imagesTs")),
    )
    splits = next(iter(conversion.splits), None)
    log.info(
        "Next: samdpo_plan_and_preprocess -d %d --verify_dataset_integrity%s", identifier,
        f" --splits {splits}" if splits else "",
    )
    return final


def _convert(conversion: Conversion, folder: Path, final: Path, processes: int) -> int:
    """Do every step in ``folder``, which is then ``final``; how many had been done before."""
    remove_abandoned(folder, recursive=True)  # nnU-Net would take them for cases
    # In the archive's order: a compressed tar cannot go back, and a disk would rather not.
    tasks = sorted(conversion.tasks, key=lambda task: (str(task.members[0].container), task.members[0].order))
    if any(is_sequential(task.members[0].container) for task in tasks):
        processes = 1
    per_process = 4 if conversion.file_ending in MEDICAL_ENDINGS else 64
    kept, remarks, problems = 0, [], []
    try:
        work = map_cases(partial(_run, folder), tasks, processes, "converting", per_process)
        for task, (was_there, remark, problem) in zip(tasks, work):
            kept += was_there
            if remark:
                remarks.append((remark, str(task.members[0])))
            if problem:
                problems.append(problem)
    finally:
        close_archives()
    _tell(remarks)
    if problems:
        rest = len(problems) - _SHOWN
        more = [f"… and {rest} more."] if rest > 0 else []
        raise DatasetError("\n".join([
            *problems[:_SHOWN], *more,
            f"{final} is not complete without these files. Mend them and type the same command again: what is done is "
            f"kept in {folder}, which you may delete as well.",
        ]))
    _write_groups(folder, conversion, processes)
    for name, folds in conversion.splits.items():
        if not (folder / name).exists():  # else a user may have changed it
            write_json(folder / name, folds)
    _write_dataset_json(folder, conversion)
    finish_folder(folder, final)
    return kept


def _run(folder: Path, task: Task) -> tuple[bool, str | None, str | None]:
    """One step: whether it was done before, a remark, a problem in words."""
    targets = tuple(folder / target for target in task.targets)
    if _done(task, targets):
        return True, None, None
    try:
        if task.make is None:
            copy_member(task.members[0], targets[0])
            return False, None, None
        return False, task.make(task.members, targets), None
    except DatasetError as error:
        return False, None, str(error)


def _done(task: Task, targets: tuple[Path, ...]) -> bool:
    """Files appear under their names only when whole; of a copy the size must be the source's too."""
    if not all(target.is_file() for target in targets):
        return False
    return task.make is not None or targets[0].stat().st_size == task.members[0].size


def _refuse_clashes(tasks: Iterable[Task]) -> None:
    seen: dict[str, Member] = {}
    for task in tasks:
        for target in task.targets:
            # Names that differ by case only are one file on some disks.
            other = seen.setdefault(target.lower(), task.members[0])
            if other is not task.members[0]:
                raise DatasetError(
                    f"{other} and {task.members[0]} would both become {target}. Expected: names that stay apart. "
                    "Rename one of them."
                )


def _count(conversion: Conversion, folder: str) -> int:
    """Cases, not files: the channels of a case are one step's targets, and a stack's spacing is no case."""
    firsts = (task.targets[0] for task in conversion.tasks)
    return sum(first.startswith(f"{folder}/") and first.endswith(conversion.file_ending) for first in firsts)


def _tell(remarks: list[tuple[str, str]]) -> None:
    examples = dict(reversed(remarks))
    for remark, number in Counter(remark for remark, _ in remarks).items():
        log.warning("%d image(s) %s For example: %s", number, remark, examples[remark])


def _write_groups(folder: Path, conversion: Conversion, processes: int) -> None:
    """case_groups.json of patients and of identical images; what a user wrote into it since is kept."""
    groups = conversion.groups
    if conversion.group_duplicates:
        ending = f"_0000{conversion.file_ending}"
        images = sorted(
            folder / target for task in conversion.tasks for target in task.targets if target.startswith("imagesTr/")
        )
        groups = _duplicate_groups(images, ending, processes) | groups
    before = load_groups(folder)
    if groups.keys() - before.keys():
        write_json(folder / "case_groups.json", groups | before)


def _write_dataset_json(folder: Path, conversion: Conversion) -> None:
    """Last, so that a folder without dataset.json is one whose making was interrupted; a user's own hints are kept."""
    facts = {
        "channel_names": conversion.channel_names,
        "labels": conversion.labels,
        "numTraining": _count(conversion, "labelsTr"),
        "file_ending": conversion.file_ending,
    }
    file = folder / "dataset.json"
    before = read_json(file, error=DatasetError, remedy="Delete it and type the same command again.") \
        if file.exists() else {}
    ours: dict[str, Any] = {"structures": conversion.hints}
    if conversion.distances != "mm":
        ours["distances"] = conversion.distances
    content = {**facts, **conversion.information, "samdpo": ours, **before, **facts}
    if content != before:
        write_json(file, content)


def _duplicate_groups(images: Sequence[Path], ending: str, processes: int = 1) -> dict[str, str]:
    """Case -> first case with the same pixels, for the cases that have a twin; what is found is logged.

    Args:
        images: files of a dataset's folder.
        ending: what follows the case's name, ``_0000.png``.
        processes: for reading.
    """
    twins: dict[str, list[str]] = defaultdict(list)
    for image, digest in zip(images, map_cases(_pixel_digest, images, processes, "looking for duplicates", 64)):
        twins[digest].append(image.name[: -len(ending)])
    several = [cases for cases in twins.values() if len(cases) > 1]
    if several:
        shown = "; ".join(" = ".join(cases) for cases in several[:_TWINS_SHOWN])
        log.warning(
            "%d images are exact duplicates of another one (%s%s). They are kept, and case_groups.json keeps each with "
            "its twin on one side of every split.",
            sum(len(cases) - 1 for cases in several), shown, "; …" if len(several) > _TWINS_SHOWN else "",
        )
    return {case: cases[0] for cases in several for case in cases}


def _pixel_digest(path: Path) -> str:
    """A hash of size and pixels: the same for a picture saved twice with different compression."""
    data = read_image(path).data
    return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()

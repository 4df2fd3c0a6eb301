"""The check before any work: every file of a raw dataset is read, and all that is wrong is told at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from samdpo.dataset.agreement import grid_problem, listing, mixed_dimensions, value_problem
from samdpo.dataset.cases import Case, find_labelled_cases, find_unlabelled_cases, load_groups
from samdpo.dataset.dataset_json import DatasetJson, load_dataset_json
from samdpo.dataset.foreign import broken_links
from samdpo.dataset.images import read_image, read_label_with_properties
from samdpo.errors import DatasetError
from samdpo.names import MEDICAL_ENDINGS, same_text
from samdpo.parallel import Workers, map_cases

log = logging.getLogger(__name__)

_SHOWN = 20  # problems listed in the message; the rest is counted
_PER_PROCESS = {True: 1, False: 8}  # is a volume: cases below which a process costs more to start than it saves


@dataclass
class _Finding:
    """What one case's files gave."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    empty: str | None = None  # the label's file where it shows no structure
    values: set[int] = field(default_factory=set)
    ndim: int | None = None  # axes of the image; None where it cannot be read

    def add(self, problem: str | None) -> None:
        """Take in a problem, if it is one."""
        self.problems += [problem] if problem else []


def verify_dataset_integrity(raw_folder: Path | str, processes: Workers = 1) -> None:
    """Read every image and label of ``raw_folder`` and compare them with dataset.json and each other.

    Checked: dataset.json, names and channels, numTraining, case_groups.json, readability, finite values, geometry,
    equal size and geometry of image and label, label values, images without any content, pictures among volumes.
    Empty masks and structures that no label shows are logged as warnings.

    Raises:
        DatasetError: one message with all problems found, the first 20 in words.
    """
    raw_folder = Path(raw_folder)
    dataset = load_dataset_json(raw_folder)
    labelled, problems = find_labelled_cases(raw_folder, dataset)
    unlabelled, more = find_unlabelled_cases(raw_folder, dataset)
    problems += more
    problems += _count_problems(raw_folder, dataset, len(labelled), already=bool(problems))
    problems += _group_problems(raw_folder, [*labelled, *unlabelled])
    findings = list(_check_all([*labelled, *unlabelled], dataset, processes))
    warnings = [link for name in ("imagesTs", "labelsTs") for link in broken_links(raw_folder / name)]
    for finding in findings:
        problems += finding.problems
        warnings += finding.warnings
    mixed = mixed_dimensions({c.images[0]: f.ndim for c, f in zip([*labelled, *unlabelled], findings) if f.ndim})
    problems += [mixed] if mixed else []
    of_labelled = findings[: len(labelled)]
    empty = [f.empty for f in of_labelled if f.empty]
    if labelled and len(empty) == len(labelled):
        problems.append(
            f"All {len(empty)} masks in {raw_folder / 'labelsTr'} are empty: there is nothing to learn from. "
            f"Write the values of dataset.json's labels ({listing(dataset.labels)}) into them."
        )
    elif empty:
        warnings.append(
            f"{len(empty)} of {len(labelled)} masks are empty (no structure), for example {empty[0]}. That is right "
            "where the structure is not in the image."
        )
        warnings += _absent_structures(dataset, of_labelled)
    else:
        warnings += _absent_structures(dataset, of_labelled)
    if problems:
        raise DatasetError(_message(raw_folder, problems))
    for warning in warnings[:_SHOWN]:
        log.warning("%s", warning)
    log.info("%s: %d labelled and %d unlabelled cases are in order.", raw_folder.name, len(labelled), len(unlabelled))


def check_case(case: Case, dataset: DatasetJson) -> _Finding:
    """Read one case's files; nothing is raised, every problem becomes a sentence."""
    finding = _Finding()
    image = None
    try:
        image = read_image(case.images, dataset.n_channels)
    except DatasetError as error:
        finding.problems.append(str(error))
    if image is not None:
        finding.ndim = image.ndim
        for channel, file in zip(image.data, case.images * len(image.data)):
            low = float(channel.min())
            if low == float(channel.max()):
                colour = "all black" if low == 0 else f"of the one value {low:g}"
                finding.problems.append(f"{file} is {colour}: it shows nothing. Replace it or remove the case.")
                break
    if case.label is None:
        return finding
    try:
        label, properties = read_label_with_properties(case.label)
    except DatasetError as error:
        finding.problems.append(str(error))
        return finding
    if image is not None:
        finding.add(grid_problem(case.images[0], image, case.label, label.shape, properties))
    values = np.unique(label).tolist()
    finding.values = set(values)
    finding.add(value_problem(case.label, values, dataset.labels))
    if finding.values <= {0, dataset.ignore_label}:
        finding.empty = str(case.label)
    elif len(values) == 1:
        finding.warnings.append(
            f"{case.label} is {values[0]} on all {label.size} pixels, with no background at all. Is that meant?"
        )
    return finding


def _check_all(cases: list[Case], dataset: DatasetJson, processes: Workers) -> Iterator[_Finding]:
    per_process = _PER_PROCESS[dataset.file_ending in MEDICAL_ENDINGS]
    yield from map_cases(partial(check_case, dataset=dataset), cases, processes, "checking", per_process)


def _count_problems(raw_folder: Path, dataset: DatasetJson, found: int, *, already: bool) -> list[str]:
    """numTraining; not told where cases are broken, since their number is then not yet known."""
    if already or found == dataset.num_training:
        return []
    if not found:
        return [f"{raw_folder / 'imagesTr'} holds no image that ends with {dataset.file_ending}."]
    return [
        f"{raw_folder / 'dataset.json'}: 'numTraining' is {dataset.num_training}, but imagesTr and labelsTr hold "
        f'{found} cases. Write "numTraining": {found}, or add what is missing.'
    ]


def _group_problems(raw_folder: Path, cases: list[Case]) -> list[str]:
    try:
        groups = load_groups(raw_folder)
    except DatasetError as error:  # cannot be read twice differently, but the finders may not have been reached
        return [str(error)]
    known = {same_text(case.identifier) for case in cases}
    unknown = sorted(set(groups) - known)
    if not unknown:
        return []
    return [
        f"{raw_folder / 'case_groups.json'} names {len(unknown)} case(s) that do not exist: "
        f"{_some(unknown)}. Correct the names; they are written without _0000 and ending."
    ]


def _absent_structures(dataset: DatasetJson, findings: Iterable[_Finding]) -> list[str]:
    seen: set[int] = set().union(*(f.values for f in findings))
    absent = [name for name, value in dataset.structures.items() if value not in seen]
    if not absent or not seen:
        return []
    return [f"No label shows {_some(absent)}: nothing can be learnt about it, and it will not be predicted."]


def _message(raw_folder: Path, problems: list[str]) -> str:
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return problems[0]
    lines = [f"{raw_folder} has {len(problems)} problems:", *(f"- {p}" for p in problems[:_SHOWN])]
    if len(problems) > _SHOWN:
        lines.append(f"… and {len(problems) - _SHOWN} more.")
    lines.append("Mend them and type the same command again.")
    return "\n".join(lines)


def _some(items: list[str], shown: int = 5) -> str:
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {rest} more" if rest > 0 else "")

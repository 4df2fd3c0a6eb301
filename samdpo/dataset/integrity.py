"""The check before any work: every file of a raw dataset is read, and all that is wrong is told at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from samdpo.dataset.agreement import listing, mixed_dimensions
from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.foreign import broken_links
from samdpo.dataset.raw_dataset import AnyDataset, RawDataset
from samdpo.errors import DatasetError, few
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


def verify_dataset_integrity(dataset: AnyDataset, processes: Workers = 1) -> None:
    """Read every image and label of a raw dataset and compare them with dataset.json and each other.

    Checked: dataset.json, names and channels, numTraining, case_groups.json, readability, finite values, geometry,
    equal size and geometry of image and label, label values, images without any content, pictures among volumes.
    Empty masks and structures that no label shows are logged as warnings.

    Raises:
        DatasetError: one message with all problems found, the first 20 in words.
    """
    raw = RawDataset.open(dataset)
    (labelled, of_labelled), (unlabelled, of_unlabelled) = raw.whole_labelled, raw.whole_unlabelled
    problems = [*of_labelled, *of_unlabelled]
    problems += _count_problems(raw, len(labelled), already=bool(problems))
    problems += _group_problems(raw, [*labelled, *unlabelled])
    findings = list(_check_all([*labelled, *unlabelled], raw, processes))
    warnings = [link for name in ("imagesTs", "labelsTs") for link in broken_links(raw.folder / name)]
    for finding in findings:
        problems += finding.problems
        warnings += finding.warnings
    mixed = mixed_dimensions({c.images[0]: f.ndim for c, f in zip([*labelled, *unlabelled], findings) if f.ndim})
    problems += [mixed] if mixed else []
    with_label = findings[: len(labelled)]
    empty = [f.empty for f in with_label if f.empty]
    if labelled and len(empty) == len(labelled):
        problems.append(
            f"All {len(empty)} masks in {raw.folder / 'labelsTr'} are empty: there is nothing to learn from. "
            f"Write the values of dataset.json's labels ({listing(raw.meta.labels)}) into them."
        )
    elif empty:
        warnings.append(
            f"{len(empty)} of {len(labelled)} masks are empty (no structure), for example {empty[0]}. That is right "
            "where the structure is not in the image."
        )
        warnings += _absent_structures(raw.meta, with_label)
    else:
        warnings += _absent_structures(raw.meta, with_label)
    if problems:
        raise DatasetError(_message(raw.folder, problems))
    for warning in warnings[:_SHOWN]:
        log.warning("%s", warning)
    log.info("%s: %d labelled and %d unlabelled cases are in order.", raw.name, len(labelled), len(unlabelled))


def check_case(case: Case, raw: RawDataset) -> _Finding:
    """Read one case's files; nothing is raised, every problem becomes a sentence."""
    finding = _Finding()
    image = None
    try:
        image = raw.image(case)
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
        label = raw.checked_label(case, image)
    except DatasetError as error:
        finding.problems.append(str(error))
        return finding
    finding.values = label.values
    finding.problems += label.problems
    if finding.values <= {0, raw.meta.ignore_label}:
        finding.empty = str(case.label)
    elif len(label.values) == 1:
        finding.warnings.append(
            f"{case.label} is {min(label.values)} on all {label.data.size} pixels, with no background at all. Is that "
            "meant?"
        )
    return finding


def _check_all(cases: list[Case], raw: RawDataset, processes: Workers) -> Iterator[_Finding]:
    per_process = _PER_PROCESS[raw.meta.file_ending in MEDICAL_ENDINGS]
    yield from map_cases(partial(check_case, raw=raw), cases, processes, "checking", per_process)


def _count_problems(raw: RawDataset, found: int, *, already: bool) -> list[str]:
    """numTraining; not told where cases are broken, since their number is then not yet known."""
    if already or found == raw.meta.num_training:
        return []
    if not found:
        return [f"{raw.folder / 'imagesTr'} holds no image that ends with {raw.meta.file_ending}."]
    return [
        f"{raw.folder / 'dataset.json'}: 'numTraining' is {raw.meta.num_training}, but imagesTr and labelsTr hold "
        f'{found} cases. Write "numTraining": {found}, or add what is missing.'
    ]


def _group_problems(raw: RawDataset, cases: list[Case]) -> list[str]:
    known = {same_text(case.identifier) for case in cases}
    unknown = sorted(set(raw.groups) - known)
    if not unknown:
        return []
    return [
        f"{raw.folder / 'case_groups.json'} names {len(unknown)} case(s) that do not exist: "
        f"{few(unknown)}. Correct the names; they are written without _0000 and ending."
    ]


def _absent_structures(dataset: DatasetJson, findings: Iterable[_Finding]) -> list[str]:
    seen: set[int] = set().union(*(f.values for f in findings))
    absent = [name for name, value in dataset.structures.items() if value not in seen]
    if not absent or not seen:
        return []
    return [f"No label shows {few(absent)}: nothing can be learnt about it, and it will not be predicted."]


def _message(raw_folder: Path, problems: list[str]) -> str:
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return problems[0]
    lines = [f"{raw_folder} has {len(problems)} problems:", *(f"- {p}" for p in problems[:_SHOWN])]
    if len(problems) > _SHOWN:
        lines.append(f"… and {len(problems) - _SHOWN} more.")
    lines.append("Mend them and type the same command again.")
    return "\n".join(lines)

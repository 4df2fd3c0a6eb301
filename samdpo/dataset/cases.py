"""Which cases a folder holds: ``CASE_0000.png`` with ``CASE.png``, by nnU-Net's rules, and who belongs together."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.dicom import check_series, find_series
from samdpo.dataset.foreign import files_of, foreign_files, misnamed_folders
from samdpo.dataset.images import LOSSY_ENDINGS, NATURAL_ENDINGS, SUPPORTED_ENDINGS, ending_of
from samdpo.errors import DatasetError
from samdpo.files import read_json
from samdpo.names import name_problem, same_text

__all__ = ["SUPPORTED_ENDINGS", "Case", "input_cases", "labelled_cases", "load_groups", "unlabelled_cases"]


@dataclass(frozen=True)
class Case:
    """One image with its files; ``label`` is None where nobody drew one."""

    identifier: str
    images: tuple[Path, ...]  # one file a channel, or one file that holds all channels
    label: Path | None
    group: str  # cases of one group (patient) are never separated by a split


def labelled_cases(raw_folder: Path | str, dataset: DatasetJson) -> list[Case]:
    """Cases of imagesTr with their labels of labelsTr, sorted by identifier.

    The ``dataset`` key of dataset.json, where present, names the files instead (nnU-Net's rule).

    Raises:
        DatasetError: an image without label, a label without image, a missing channel or no case at all.
    """
    raw_folder = Path(raw_folder)
    cases, problems = find_labelled_cases(raw_folder, dataset)
    if not cases and not problems:
        problems = [f"{raw_folder / 'imagesTr'} holds no image that ends with {dataset.file_ending}."]
    if problems:
        raise DatasetError("\n".join(problems[:20]))
    return cases


def unlabelled_cases(raw_folder: Path | str, dataset: DatasetJson) -> list[Case]:
    """Cases of ``imagesUl/``, images without label, sorted; an absent folder means none.

    Raises:
        DatasetError: a missing channel, or an identifier that imagesTr uses too.
    """
    cases, problems = find_unlabelled_cases(Path(raw_folder), dataset)
    if problems:
        raise DatasetError("\n".join(problems[:20]))
    return cases


def input_cases(folder: Path | str, file_ending: str | None, n_channels: int) -> list[Case]:
    """Cases to predict, sorted: any supported ending unless one is given.

    ``scan_0000.png`` and, for a single channel, plain ``scan.png`` are both the case ``scan``. A single file is
    accepted in place of a folder. Where no ending is given, ``folder`` may hold DICOM as well: one series itself, or a
    sub-folder with a series for each case; ``images`` is then that folder.

    Raises:
        DatasetError: nothing to predict, two files of one case, a missing channel, a DICOM series that is not whole.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DatasetError(f"{folder} does not exist. Name a folder of images, or one image, after -i.")
    endings = (file_ending,) if file_ending else SUPPORTED_ENDINGS
    files = [folder] if folder.is_file() else files_of(folder)
    misnamed = misnamed_folders(folder)
    if misnamed:
        raise DatasetError("\n".join(misnamed[:20]))
    fitting = [f for f in files if ending_of(f) in endings]
    series = find_series(folder, sub_folders=not fitting) if file_ending is None else {}
    if series and fitting:
        raise DatasetError(
            f"{folder} holds DICOM files and an image ({fitting[0].name}). Put one kind into a folder of its own."
        )
    if series:
        check_series(series, n_channels)
        return [Case(name, (path,), None, name) for name, path in series.items()]
    if not fitting:
        found = ", ".join(sorted({ending_of(f) or f.suffix or "files without ending" for f in files})) or "nothing"
        jpeg = (
            " JPEG is not read, since its losses change what is measured: save as PNG."
            if found in (LOSSY_ENDINGS)
            else ""
        )
        raise DatasetError(f"{folder} holds no image that ends with {' or '.join(endings)}; found: {found}.{jpeg}")
    cases, problems = _group_files(fitting, n_channels, need_channel_suffix=False)
    if problems:
        raise DatasetError("\n".join(problems[:20]))
    return [Case(name, images, None, name) for name, images in cases.items()]


def load_groups(raw_folder: Path | str) -> dict[str, str]:
    """``case_groups.json``: identifier -> patient (or any group that splits must not separate); {} without the file.

    Raises:
        DatasetError: not JSON, or not an object of texts.
    """
    file = Path(raw_folder) / "case_groups.json"
    if not file.exists():
        return {}
    remedy = 'Write it like {"case_1": "patient_A", "case_2": "patient_A"} or delete it.'
    groups = read_json(file, error=DatasetError, remedy=remedy)
    if not isinstance(groups, dict) or not all(isinstance(g, (str, int)) for g in groups.values()):
        raise DatasetError(f"{file} must map each case to the name of its group. {remedy}")
    return {case: str(group) for case, group in groups.items()}


def find_labelled_cases(raw_folder: Path, dataset: DatasetJson) -> tuple[list[Case], list[str]]:
    """The cases that are whole, and a sentence for each one that is not."""
    groups = load_groups(raw_folder)
    if "dataset" in dataset.raw:
        return _listed_cases(raw_folder, dataset, groups)
    images_folder, labels_folder = raw_folder / "imagesTr", raw_folder / "labelsTr"
    missing = [
        f"{f} is missing: it holds the labelled {w}."
        for f, w in ((images_folder, "images"), (labels_folder, "masks"))
        if not f.is_dir()
    ]
    if missing:
        return [], missing
    ending = dataset.file_ending
    images, problems = _group_files(
        [f for f in files_of(images_folder) if ending_of(f) == ending], dataset.n_channels, need_channel_suffix=True
    )
    problems = foreign_files(images_folder, ending) + foreign_files(labels_folder, ending) + problems
    labels = {f.name[: -len(ending)]: f for f in files_of(labels_folder) if ending_of(f) == ending}
    for name in sorted(images.keys() - labels.keys()):
        problems.append(
            f"{images[name][0]} has no label {labels_folder / (name + ending)}. Add it, or move the image to "
            f"{raw_folder / 'imagesUl'}, the folder of unlabelled images."
        )
    for name in sorted(labels.keys() - images.keys()):
        hint = ""
        if name.endswith("_0000"):
            hint = f" A label has no channel number: rename it to {name[:-5]}{ending}."
        problems.append(f"{labels[name]} has no image {images_folder / (name + '_0000' + ending)}.{hint}")
    whole = sorted(images.keys() & labels.keys())
    return [Case(n, images[n], labels[n], groups.get(n, n)) for n in whole], problems


def find_unlabelled_cases(raw_folder: Path, dataset: DatasetJson) -> tuple[list[Case], list[str]]:
    """The whole cases of imagesUl, and a sentence for each one that is not."""
    folder = raw_folder / "imagesUl"
    if not folder.is_dir():
        return [], []
    groups = load_groups(raw_folder)
    files = [f for f in files_of(folder) if ending_of(f) == dataset.file_ending]
    images, problems = _group_files(files, dataset.n_channels, need_channel_suffix=True)
    problems = foreign_files(folder, dataset.file_ending) + problems
    taken = raw_folder / "imagesTr"
    used = {_split_channel(f, dataset.n_channels)[0] for f in files_of(taken)} if taken.is_dir() else set()
    for name in sorted(images.keys() & used):
        problems.append(f"{images[name][0]} has the name of a labelled case of {taken}. Rename or remove one of them.")
    return [Case(n, images[n], None, groups.get(n, n)) for n in sorted(images.keys() - used)], problems


def _listed_cases(raw_folder: Path, dataset: DatasetJson, groups: dict[str, str]) -> tuple[list[Case], list[str]]:
    """nnU-Net's ``dataset`` key: {case: {"images": [...], "label": ...}}, relative paths and variables allowed.

    Images may lie anywhere, since they are only read; a case's name is that of files we write, and a plain one.
    """
    listed, problems, cases = dataset.raw["dataset"], [], []
    form, file = '{"case": {"images": ["path"], "label": "path"}}', raw_folder / "dataset.json"
    if not isinstance(listed, dict):
        return [], [f"{file}: 'dataset' must be an object like {form}."]

    def path(text: str) -> Path:
        return raw_folder / os.path.expandvars(text)  # an absolute path on the right wins

    written_as: dict[str, str] = {}  # what a disk without capitals calls a case -> its name
    for own, entry in sorted(listed.items()):
        name = same_text(own)
        if problem := name_problem(name):
            problems.append(f"{file}: 'dataset' names a case {own[:80]!r}, which is {problem}. Files are called after "
                            "a case: give it a plain name like case_01.")
            continue
        twin = written_as.setdefault(name.casefold(), own)
        if twin != own:
            problems.append(f"{file}: 'dataset' names the cases {twin!r} and {own!r}, which some disks take for one. "
                            "Rename one of them.")
            continue
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(text, str) for text in (*images, label)):
            problems.append(f"{file}: 'dataset.{own}' must be written like {form}.")
            continue
        files = [path(text) for text in (*images, label)]
        gone = [str(f) for f in files if not f.is_file()]
        if gone:
            problems.append(f"{file}: 'dataset.{own}' names {', '.join(gone)}, which is not there.")
        elif len(images) not in (1, dataset.n_channels):
            problems.append(
                f"{file}: 'dataset.{own}' lists {len(images)} images, expected {dataset.n_channels}, one a channel."
            )
        else:
            cases.append(Case(name, tuple(files[:-1]), files[-1], groups.get(name, groups.get(own, name))))
    return cases, problems


def _split_channel(file: Path, n_channels: int) -> tuple[str, int | None]:
    """``scan_0001.png`` -> ("scan", 1); ("scan_2024", None) where the digits are no channel of this dataset."""
    stem = file.name[: -len(ending_of(file))] if ending_of(file) else file.stem
    head, _, digits = stem.rpartition("_")
    if head and len(digits) == 4 and digits.isdigit() and int(digits) < n_channels:
        return head, int(digits)
    return stem, None


def _group_files(
    files: list[Path], n_channels: int, *, need_channel_suffix: bool
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Files -> {identifier: channel files}, sorted, with a sentence for each case that is not whole."""
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    problems: list[str] = []
    for file in files:
        name, channel = _split_channel(file, n_channels)
        if channel is None:
            if need_channel_suffix:
                wanted = f"{name}_0000{ending_of(file)}"
                problems.append(
                    f"{file} has no channel number that dataset.json knows: "
                    f"expected a name like {wanted}" + (f" … _{n_channels - 1:04d}." if n_channels > 1 else ".")
                )
                continue
            channel = 0
        if channel in channels[name]:
            problems.append(
                f"{file} and {channels[name][channel]} are both channel {channel} of the case {name!r}. "
                "Remove or rename one of them."
            )
        else:
            channels[name][channel] = file
    lower: dict[str, str] = {}
    cases: dict[str, tuple[Path, ...]] = {}
    for name, found in sorted(channels.items()):
        twin = lower.setdefault(name.lower(), name)
        if twin != name:
            problems.append(
                f"{found[min(found)]}: the names {twin!r} and {name!r} differ by case only, which "
                "overwrites results on some disks. Rename one of them."
            )
        one_file_all_channels = set(found) == {0} and (
            n_channels == 3 and ending_of(found[0]) in NATURAL_ENDINGS  # an RGB picture
        )
        if len(found) != n_channels and not one_file_all_channels:
            gaps = ", ".join(f"_{i:04d}" for i in range(n_channels) if i not in found)
            problems.append(
                f"The case {name!r} beside {found[min(found)]} lacks the channel {gaps}; dataset.json "
                f"names {n_channels} channels."
            )
            continue
        cases[name] = tuple(found[i] for i in sorted(found))
    return cases, problems

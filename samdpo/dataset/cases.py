"""Which cases a folder holds: ``CASE_0000.png`` with ``CASE.png``, by nnU-Net's rules, and who belongs together."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.dicom import check_series, find_series
from samdpo.dataset.foreign import (
    broken_link,
    dead_links,
    files_of,
    foreign_files,
    left_out,
    misnamed_folders,
    sub_folders_with_images,
)
from samdpo.dataset.pictures import read_picture
from samdpo.errors import DatasetError
from samdpo.files import read_json
from samdpo.names import NATURAL_ENDINGS, SUPPORTED_ENDINGS, ending_of, name_problem, same_text

__all__ = [
    "SUPPORTED_ENDINGS", "Case", "Inputs", "case_meant", "find_inputs", "input_cases", "label_files", "labelled_cases",
    "load_groups", "unlabelled_cases",
]

log = logging.getLogger(__name__)

# Files that commands write beside masks and reports; CASE.json of a case of this name would be the same file.
_OUR_FILES = ("dataset", "plans", "summary", "predict_from_raw_data_args", "ensemble_args", "postprocessing")
_NUMBERED = re.compile(r"(.+)_(\d{4})")
_told: set[Path] = set()  # folders of which a warning was given; a dataset is listed several times in a run


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


@dataclass(frozen=True)
class Inputs:
    """What a folder of images to predict holds.

    Attributes:
        cases: sorted.
        left_out: a sentence for each image, or what may be one, that belongs to none of the cases.
    """

    cases: list[Case]
    left_out: list[str]


def input_cases(folder: Path | str, file_ending: str | None, n_channels: int) -> list[Case]:
    """Cases of :func:`find_inputs`, where none of them is in question; what else is left out is told as a warning.

    Raises:
        DatasetError: nothing to predict, two files of one case, a missing channel, a DICOM series that is not whole.
    """
    folder = Path(folder)
    cases, problems, others = _inputs(folder, file_ending, n_channels, 0)
    if problems:
        raise DatasetError("\n".join(problems[:20]))
    for sentence in others:
        log.warning("Left out: %s", sentence)
    return cases


def find_inputs(
    folder: Path | str, file_ending: str | None, n_channels: int, files_per_case: int = 0, output: Path | None = None
) -> Inputs:
    """Cases to predict, and what else in the folder was meant to be one.

    ``scan_0000.png`` and, for a single channel, plain ``scan.png`` are both the case ``scan``. A single file is
    accepted in place of a folder. Where no ending is given, ``folder`` may hold DICOM as well: one series itself, or a
    sub-folder with a series for each case; ``images`` is then that folder.

    Pictures whose channels are in one file may be numbered like channels, ``frame_0000.png`` to ``frame_0012.png``:
    each is then a case of its own, under its whole name.

    Args:
        folder: or one file.
        file_ending: of the images; None for any that is supported.
        n_channels: of the model.
        files_per_case: of which training images were made: 1, or one a channel; 0 where that is not known, and the
            files themselves decide.
        output: folder of the results; where it lies below ``folder``, what is in it is nobody's input.

    Raises:
        DatasetError: no case at all; DICOM and other images in one folder; a DICOM series that is not whole.
    """
    cases, problems, others = _inputs(Path(folder), file_ending, n_channels, files_per_case, output)
    if not cases:
        raise DatasetError("\n".join((problems + others)[:20]))
    return Inputs(cases, problems + others)


def _inputs(
    folder: Path, file_ending: str | None, n_channels: int, files_per_case: int, output: Path | None = None
) -> tuple[list[Case], list[str], list[str]]:
    """Cases, sentences about cases that are in question, sentences about files that belong to none."""
    if not folder.exists():
        broken = broken_link(folder)
        raise DatasetError(broken or f"{folder} does not exist. Name a folder of images, or one image, after -i.")
    endings = (file_ending,) if file_ending else SUPPORTED_ENDINGS
    files = [folder] if folder.is_file() else files_of(folder)
    fitting = [f for f in files if ending_of(f) in endings]
    series = find_series(folder, sub_folders=not fitting) if file_ending is None else {}
    if series and fitting:
        raise DatasetError(
            f"{folder} holds DICOM files and an image ({fitting[0].name}). Put one kind into a folder of its own."
        )
    taken = set(series.values()) if series else set(fitting)
    misnamed = misnamed_folders(folder)
    others, unknown = left_out(folder, taken, output) if folder.is_dir() else ([], [])
    for file in unknown:
        log.warning("%s is none of the images and is left out.", file)
    if series:
        check_series(series, n_channels)
        reserved = [_reserved(name, path) for name, path in series.items()]
        # A slice that is a link which leads nowhere may be the last one, whose absence cannot be seen.
        whole = [Case(name, (path,), None, name) for name, path in series.items()
                 if not _reserved(name, path) and not dead_links(path, recursive=True)]
        return whole, [*misnamed, *(problem for problem in reserved if problem)], others
    if not fitting:
        found = ", ".join(sorted({ending_of(f) or f.suffix or "files without ending" for f in files})) or "nothing"
        none = f"{folder} holds no image that ends with {' or '.join(endings)}; found: {found}."
        raise DatasetError("\n".join([none, *misnamed, *others][:20]))
    fitting, numbered, problems = _numbered_inputs(fitting, n_channels, files_per_case)
    cases, more = _group_files(fitting, n_channels, need_channel_suffix=False, numbered=numbered)
    # A case of which a channel is a link that leads nowhere is not one of fewer channels.
    lost = {same_text(_split_channel(link, n_channels)[0]) for link in dead_links(folder)}
    whole = [Case(name, images, None, name) for name, images in cases.items() if same_text(name) not in lost]
    return whole, misnamed + problems + more, others


def load_groups(raw_folder: Path | str) -> dict[str, str]:
    """``case_groups.json``: identifier -> patient (or any group that splits must not separate); {} without the file.

    Identifiers are composed (NFC): look them up with :func:`samdpo.names.same_text`.

    Raises:
        DatasetError: not JSON, not an object, or a group that is neither a text nor a whole number.
    """
    file = Path(raw_folder) / "case_groups.json"
    if not file.exists():
        return {}
    remedy = 'Write it like {"case_1": "patient_A", "case_2": "patient_A"} or delete it.'
    groups = read_json(file, error=DatasetError, remedy=remedy)
    if not isinstance(groups, dict):
        raise DatasetError(f"{file} must map each case to the name of its group. {remedy}")
    for case, group in groups.items():
        if not isinstance(group, (str, int)) or isinstance(group, bool):
            raise DatasetError(
                f"{file} must map each case to the name of its group, but the group of {case!r} is {group!r:.80}. "
                f"{remedy}"
            )
        if not str(group).strip():  # all such cases would be one patient
            raise DatasetError(f"{file}: the group of {case!r} is empty. Leave out a case that stands alone.")
    return {same_text(case): same_text(str(group).strip()) for case, group in groups.items()}


def case_meant(name: str, known: Collection[str]) -> str:
    """The case that a name in a file of the user's is nearest to: "" where none is near.

    Args:
        name: as written, perhaps with a file's ending or the number of a channel.
        known: identifiers there are.
    """
    names = {same_text(case): case for case in known}
    bare = same_text(name.strip())
    bare = bare[: len(bare) - len(ending_of(bare))]
    for candidate in (bare, bare[:-5] if bare[-5:-4] == "_" and bare[-4:].isdecimal() else bare):
        if candidate in names:
            return names[candidate]
    close = difflib.get_close_matches(bare, names, n=1, cutoff=0.8)
    return names[close[0]] if close else ""


def find_labelled_cases(raw_folder: Path, dataset: DatasetJson) -> tuple[list[Case], list[str]]:
    """The cases that are whole, and a sentence for each one that is not."""
    groups = load_groups(raw_folder)
    if "dataset" in dataset.raw:
        listed, problems = _listed_cases(raw_folder, dataset, groups)
        reserved = {case.identifier: _reserved(case.identifier, raw_folder / "dataset.json") for case in listed}
        problems += [problem for problem in reserved.values() if problem]
        return [case for case in listed if not reserved[case.identifier]], problems
    images_folder, labels_folder = raw_folder / "imagesTr", raw_folder / "labelsTr"
    missing = [
        broken_link(f) or f"{f} is missing: it holds the labelled {w}."
        for f, w in ((images_folder, "images"), (labels_folder, "masks"))
        if not f.is_dir()
    ]
    if missing:
        return [], missing
    ending = dataset.file_ending
    images, problems = _group_files(
        [f for f in files_of(images_folder) if ending_of(f) == ending], dataset.n_channels, need_channel_suffix=True
    )
    labels, of_labels = label_files(labels_folder, ending)
    problems = foreign_files(images_folder, ending) + foreign_files(labels_folder, ending) + problems + of_labels
    _warn_of_sub_folders(images_folder, labels_folder)
    spelled = {same_text(name): name for name in images}
    # A link that leads nowhere, or a name that is refused, is told already.
    about = {same_text(_split_channel(link, dataset.n_channels)[0]) for link in dead_links(images_folder)}
    about |= {same_text(link.name[: -len(ending)]) for link in dead_links(labels_folder)}
    about |= {name for name in labels if _reserved(name, labels_folder) or name_problem(name.strip())}
    for name in sorted(spelled.keys() - labels.keys() - about):
        problems.append(
            f"{images[spelled[name]][0]} has no label {labels_folder / (name + ending)}. Add it, or move the image to "
            f"{raw_folder / 'imagesUl'}, the folder of unlabelled images."
        )
    for name in sorted(labels.keys() - spelled.keys() - about):
        hint = ""
        if name.endswith("_0000"):
            hint = f" A label has no channel number: rename it to {name[:-5]}{ending}."
        problems.append(f"{labels[name]} has no image {images_folder / (name + '_0000' + ending)}.{hint}")
    whole = sorted(spelled[name] for name in spelled.keys() & labels.keys())
    return [Case(n, images[n], labels[same_text(n)], groups.get(same_text(n), n)) for n in whole], problems


def label_files(folder: Path, ending: str) -> tuple[dict[str, Path], list[str]]:
    """Label maps of a folder by name, composed (NFC) and without the ending, which may be in upper case on the file.

    Returns:
        the files, and a sentence for each two whose names are one.
    """
    files: dict[str, Path] = {}
    problems = []
    for file in files_of(folder):
        if not file.name.lower().endswith(ending):
            continue
        name = same_text(file.name[: -len(ending)])
        if name in files:
            problems.append(f"{folder} holds {file.name!a} and {files[name].name!a}, which are one name to a person. "
                            "Remove or rename one of them.")
        else:
            files[name] = file
    return files, problems


def find_unlabelled_cases(raw_folder: Path, dataset: DatasetJson) -> tuple[list[Case], list[str]]:
    """The whole cases of imagesUl, and a sentence for each one that is not."""
    folder = raw_folder / "imagesUl"
    if not folder.is_dir():
        broken = broken_link(folder)
        return [], [broken] if broken else []
    groups = load_groups(raw_folder)
    files = [f for f in files_of(folder) if ending_of(f) == dataset.file_ending]
    images, problems = _group_files(files, dataset.n_channels, need_channel_suffix=True)
    problems = foreign_files(folder, dataset.file_ending) + problems
    _warn_of_sub_folders(folder)
    taken = raw_folder / "imagesTr"
    labelled = files_of(taken) if taken.is_dir() else []
    used = {same_text(_split_channel(f, dataset.n_channels)[0]) for f in labelled}
    twice = {name for name in images if same_text(name) in used}
    for name in sorted(twice):
        problems.append(f"{images[name][0]} has the name of a labelled case of {taken}. Rename or remove one of them.")
    return [Case(n, images[n], None, groups.get(same_text(n), n)) for n in sorted(images.keys() - twice)], problems


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
            cases.append(Case(name, tuple(files[:-1]), files[-1], groups.get(name, name)))
    return cases, problems


def _split_channel(file: Path, n_channels: int) -> tuple[str, int | None]:
    """``scan_0001.png`` -> ("scan", 1); ("scan_2024", None) where the digits are no channel of this dataset."""
    stem = file.name[: -len(ending_of(file))] if ending_of(file) else file.stem
    head, _, digits = stem.rpartition("_")
    if head and len(digits) == 4 and digits.isdecimal() and int(digits) < n_channels:
        return head, int(digits)
    return stem, None


def _numbered_inputs(
    files: list[Path], n_channels: int, files_per_case: int
) -> tuple[list[Path], set[str], list[str]]:
    """Whose numbers ``_0000``, ``_0001``, … count a user's pictures, and not channels.

    Returns:
        the files, without those of which nobody can say; names without the number whose files are a case each; a
        sentence for each name that is left out.
    """
    of: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in files:
        found = _NUMBERED.fullmatch(file.name[: -len(ending_of(file))])
        if found:
            of[found.group(1)][int(found.group(2))] = file
    numbered: set[str] = set()
    problems: list[str] = []
    doubtful: set[Path] = set()
    for name, numbers in of.items() if n_channels > 1 else ():
        if set(numbers) == {0}:
            continue  # nnU-Net's first, and only, channel file
        beyond = sorted(number for number in numbers if number >= n_channels)
        # A picture holds three channels in one file.
        if n_channels == 3 and files_per_case <= 1 and all(ending_of(f) in NATURAL_ENDINGS for f in numbers.values()):
            if files_per_case == 1 or beyond or any(_is_coloured(f) for f in list(numbers.values())[:n_channels]):
                numbered.add(name)
            elif len(numbers) == n_channels:
                log.warning("%s … _%04d are taken as the %d channels of one case %r. If they are a picture each, name "
                            "them otherwise.", numbers[0], n_channels - 1, n_channels, name)
        elif beyond and len(beyond) < len(numbers):
            doubtful |= set(numbers.values())
            problems.append(
                f"{numbers[min(numbers)]} is numbered like a channel, but so are {len(numbers) - 1} more, up to "
                f"_{max(numbers):04d}, and the model has the channels _0000 … _{n_channels - 1:04d} only. If each is a "
                f"case, name it so: {name}-{min(numbers):04d}_0000{ending_of(numbers[min(numbers)])}, …"
            )
    return [file for file in files if file not in doubtful], numbered, problems


def _is_coloured(file: Path) -> bool:
    try:
        pixels = read_picture(file)
    except DatasetError:  # told where it is predicted
        return False
    return len(pixels) == 3 and bool((pixels != pixels[:1]).any())


def _reserved(name: str, place: Path) -> str:
    """A sentence where a case is called like a file that commands write beside its report; "" where it is not."""
    folded = same_text(name).casefold()
    if folded not in _OUR_FILES and not folded.startswith(f"{_OUR_FILES[3]}_part_"):
        return ""
    return (f"{place}: a case cannot be called {name!r}, since samdpo writes a {name}.json of its own beside the "
            "reports of cases. Rename it.")


def _warn_of_sub_folders(*folders: Path) -> None:
    for folder in folders:
        if folder not in _told:
            _told.add(folder)
            for sentence in sub_folders_with_images(folder):
                log.warning("Left out: %s", sentence)


def _group_files(
    files: list[Path], n_channels: int, *, need_channel_suffix: bool, numbered: Iterable[str] = ()
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Files -> {identifier: channel files}, sorted, with a sentence for each case that is not whole.

    Names in ``numbered`` have numbers that count cases, not channels.
    """
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    problems: list[str] = []
    doubtful: set[str] = set()
    for file in files:
        name, channel = _split_channel(file, n_channels)
        if channel is not None and name in numbered:
            name, channel = file.name[: -len(ending_of(file))], None
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
            doubtful.add(name)
            problems.append(
                f"{file} and {channels[name][channel]} are both channel {channel} of the case {name!r}. "
                "Remove or rename one of them."
            )
        else:
            channels[name][channel] = file
    alike: dict[str, str] = {}
    for name, found in sorted(channels.items()):
        twin = alike.setdefault(same_text(name).casefold(), name)
        if twin != name:
            doubtful |= {twin, name}
            how = "case only" if same_text(twin) != same_text(name) else f"their encoding only ({twin!a}, {name!a})"
            problems.append(
                f"{found[min(found)]}: the names {twin!r} and {name!r} differ by {how}, which "
                "overwrites results on some disks. Rename one of them."
            )
        reserved = _reserved(name, found[min(found)])
        if reserved:
            doubtful.add(name)
            problems.append(reserved)
        wrong = name_problem(name.strip()) if need_channel_suffix else ""  # a space at an end does no harm
        if wrong:  # told before a fingerprint or a split is made of it
            doubtful.add(name)
            problems.append(
                f"{found[min(found)]}: a case cannot be called {name[:80]!r}, which is {wrong}: files and folders are "
                "called after a case. Rename its image and its label."
            )
    cases: dict[str, tuple[Path, ...]] = {}
    for name, found in sorted(channels.items()):
        if name in doubtful:
            continue
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

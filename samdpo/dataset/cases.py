"""Which cases files are, ``CASE_0000.png`` with ``CASE.png``, by nnU-Net's rules; and those of a folder to predict."""

from __future__ import annotations

import difflib
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from samdpo.dataset.dicom import check_series, find_series
from samdpo.dataset.foreign import (
    broken_link,
    dead_links,
    files_of,
    left_out,
    misnamed_folders,
)
from samdpo.dataset.images import spacing_file
from samdpo.dataset.pictures import read_picture
from samdpo.dataset.volume import has_colours
from samdpo.errors import DatasetError
from samdpo.names import NATURAL_ENDINGS, SUPPORTED_ENDINGS, ending_of, name_problem, same_text

log = logging.getLogger(__name__)

# Files that commands write beside masks and reports; CASE.json of a case of this name would be the same file.
_OUR_FILES = ("dataset", "plans", "summary", "predict_from_raw_data_args", "ensemble_args", "postprocessing")
_NUMBERED = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Case:
    """One image with its files; ``label`` is None where nobody drew one."""

    identifier: str
    images: tuple[Path, ...]  # one file a channel, or one file that holds all channels
    label: Path | None
    group: str  # cases of one group (patient) are never separated by a split

    @property
    def files(self) -> list[Path]:
        """All that it is made from: images, label, and the spacing that stands beside a TIFF stack."""
        files = [*self.images, *([self.label] if self.label else [])]
        return [*files, *(beside for file in files if file.is_file() and (beside := spacing_file(file)) is not None)]


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
        reserved = [reserved_name(name, path) for name, path in series.items()]
        # A slice that is a link which leads nowhere may be the last one, whose absence cannot be seen.
        whole = [Case(name, (path,), None, name) for name, path in series.items()
                 if not reserved_name(name, path) and not dead_links(path, recursive=True)]
        return whole, [*misnamed, *(problem for problem in reserved if problem)], others
    if not fitting:
        found = ", ".join(sorted({ending_of(f) or f.suffix or "files without ending" for f in files})) or "nothing"
        none = f"{folder} holds no image that ends with {' or '.join(endings)}; found: {found}."
        raise DatasetError("\n".join([none, *misnamed, *others][:20]))
    fitting, numbered, problems = _numbered_inputs(fitting, n_channels, files_per_case)
    cases, more = cases_of_files(fitting, n_channels, need_channel_suffix=False, numbered=numbered)
    # A case of which a channel is a link that leads nowhere is not one of fewer channels.
    lost = {same_text(split_channel(link, n_channels)[0]) for link in dead_links(folder)}
    whole = [Case(name, images, None, name) for name, images in cases.items() if same_text(name) not in lost]
    return whole, misnamed + problems + more, others


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


def split_channel(file: Path, n_channels: int) -> tuple[str, int | None]:
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
    return has_colours(pixels)


def reserved_name(name: str, place: Path) -> str:
    """A sentence where a case is called like a file that commands write beside its report; "" where it is not."""
    folded = same_text(name).casefold()
    if folded not in _OUR_FILES and not folded.startswith(f"{_OUR_FILES[3]}_part_"):
        return ""
    return (f"{place}: a case cannot be called {name!r}, since samdpo writes a {name}.json of its own beside the "
            "reports of cases. Rename it.")


def cases_of_files(
    files: list[Path], n_channels: int, *, need_channel_suffix: bool, numbered: Iterable[str] = ()
) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Files -> {identifier: channel files}, sorted, with a sentence for each case that is not whole.

    Names in ``numbered`` have numbers that count cases, not channels.
    """
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    problems: list[str] = []
    doubtful: set[str] = set()
    for file in files:
        name, channel = split_channel(file, n_channels)
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
        reserved = reserved_name(name, found[min(found)])
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

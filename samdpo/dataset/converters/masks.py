"""Masks as people have them: numbers, smoothed edges, colours, one file a structure; read by one rule, looked at first.

Every mask is read before anything is written, so that a download whose masks do not fit is refused as a whole, with the
flag that fits what was found.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samdpo.dataset.converters.picture_files import readable_picture
from samdpo.dataset.converters.source import Member, copy_member, local_file
from samdpo.dataset.decoding import check_file
from samdpo.dataset.images import read_image, read_label_with_properties, write_label
from samdpo.dataset.pictures import read_picture
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.names import MEDICAL_ENDINGS, ending_of
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)

LOSSY_MASKS = (
    "are lossy masks (JPEG or the like): what lies above the threshold was taken, and edges may be off by a pixel. "
    "Prefer the originals where you have them."
)
_SHOWN = 5  # problems in words, and values or colours named
_FEW = 24  # values or colours of a drawing; more come from smoothing
_NEAR = 0.1  # of the range, from one of its ends
_TRACE = 0.25  # of the highest value: the difference between channels up to which a pixel is grey
_TWO_CLASSES = 0.8  # share of pixels near the ends where edges alone were smoothed
Colour = tuple[int, int, int]


class ReadMask(NamedTuple):
    """One case's masks as a label map.

    Attributes:
        label: (Z, Y, X) of whole numbers.
        properties: of the first file.
        overlap: pixels that several structures claim.
        lossy: whether a file was compressed with losses.
        faint: whether something is drawn of which nothing lies above the threshold.
    """

    label: np.ndarray
    properties: dict[str, Any]
    overlap: int = 0
    lossy: bool = False
    faint: bool = False


@dataclass(frozen=True)
class MaskRule:
    """How the files of one case become a label map.

    Attributes:
        labels: names of the values 0, 1, …; the first is background.
        threshold: masks are grey, and what is above it is foreground; None: values are what they say.
        colours: colour -> value; empty: masks are no drawings.
        separate: each file shows one structure, as anything that is not 0 (or above the threshold).
    """

    labels: tuple[str, ...]
    threshold: float | None = None
    colours: Mapping[Colour, int] = field(default_factory=dict)
    separate: bool = False

    def read(self, members: Sequence[Member], values: Sequence[int]) -> ReadMask:
        """What the files of one case become.

        Args:
            members: the mask, or one a structure; of pixels that several claim the last one has them.
            values: of the structures of ``members``, where each shows one.

        Raises:
            DatasetError: unreadable, lossy, of other values or colours than the rule knows, or of different sizes.
        """
        if not self.separate:
            return self._read_one(members[0])
        parts = [self._read_one(member) for member in members]
        label, overlap = np.zeros(parts[0].label.shape, np.int16), 0
        for member, value, part in zip(members, values, parts):
            shown = part.label
            if label.shape != shown.shape:
                raise DatasetError(
                    f"{member} has the size {shown.shape[::-1][:2]}, but {members[0].name} of the same image has "
                    f"{label.shape[::-1][:2]}. Expected: masks of one size."
                )
            inside = shown != 0
            overlap += int(np.count_nonzero(inside & (label != 0) & (label != value)))
            label[inside] = value
        return ReadMask(
            label, parts[0].properties, overlap, any(part.lossy for part in parts), any(part.faint for part in parts)
        )

    def _read_one(self, member: Member) -> ReadMask:
        if self.threshold is not None:
            return self._above(member)
        with local_file(member) as path:
            if self.colours:
                return self._by_colour(path, member)
            values, properties = read_label_with_properties(path)
        found = {int(v) for v in np.unique(values)}
        if self.separate:
            if len(found - {0}) > 1:
                raise DatasetError(f"{member} holds the values {_listed(found)}; expected 0 and one other value.")
            return ReadMask((values != 0).astype(np.uint8), properties)
        if len(self.labels) == 2 and found <= {0, 255}:
            return ReadMask((values != 0).astype(np.uint8), properties)
        if not found <= set(range(len(self.labels))):
            listing = ", ".join(f"{value} = {name}" for value, name in enumerate(self.labels))
            raise DatasetError(
                f"{member} holds the values {_listed(found)}; expected {listing}"
                + (" or 0 and 255." if len(self.labels) == 2 else ".")
            )
        return ReadMask(values, properties)

    def _above(self, member: Member) -> ReadMask:
        with readable_picture(member) as (path, lossy):
            image = read_image(path)
            volume = ending_of(path) in MEDICAL_ENDINGS
        if len(image.data) != 1 and (volume or len(image.data) != 3 or _is_coloured(image.data)):
            raise DatasetError(f"{member} is coloured or has several channels; --threshold wants a grey mask.")
        grey = image.data.mean(axis=0)
        inside = grey > self.threshold
        return ReadMask(
            inside.astype(np.uint8), image.properties, lossy=lossy,
            faint=bool(grey.max() > grey.min() and not inside.any()),
        )

    def _by_colour(self, path: Path, member: Member) -> ReadMask:
        if ending_of(path) in MEDICAL_ENDINGS:
            raise DatasetError(f"{member} is a volume; --colours is for pictures. Leave it out.")
        check_file(path)
        codes = _codes(read_picture(path))
        label = np.full(codes.shape, -1, np.int16)
        for colour, value in self.colours.items():
            label[codes == _code(colour)] = value
        unknown = codes[label < 0]
        if len(unknown):
            shown = ", ".join(_written(code) for code, _ in Counter(unknown.tolist()).most_common(_SHOWN))
            raise DatasetError(
                f"{member} holds colours that --colours does not name, on {len(unknown) / codes.size:.2%} of its "
                f"pixels: {shown}."
            )
        return ReadMask(label, {})


def write_mask(
    members: tuple[Member, ...], targets: tuple[Path, ...], *, rule: MaskRule, values: tuple[int, ...]
) -> str | None:
    """Write what ``rule`` makes of a case's masks; a volume that stays as it is is copied unchanged.

    Raises:
        DatasetError: see :meth:`MaskRule.read`.
    """
    read = rule.read(members, values)
    label, properties = read.label, read.properties
    target = targets[0]
    plain = not (rule.separate or rule.threshold is not None or rule.colours)
    if plain and ending_of(members[0].name) == ending_of(target) and "sitk_stuff" in properties:
        with local_file(members[0]) as path:
            unchanged = np.array_equal(read_label_with_properties(path)[0], label)
        if unchanged:
            copy_member(members[0], target)
            return None
    write_label(label, target, properties)
    return LOSSY_MASKS if read.lossy else None


def colours_of(given: Sequence[str]) -> tuple[tuple[str, ...], dict[Colour, int]]:
    """``--colours``: names of the labels, background first, and colour -> value.

    Args:
        given: ``NAME=R,G,B`` or, for a grey, ``NAME=V``; a name may come several times. Black is background unless
            ``background=…`` says otherwise.

    Raises:
        ConfigurationError: another form, or one colour for two names.
    """
    labels, found = ["background"], {}
    for text in given:
        name, separator, numbers = text.rpartition("=")
        parts = re.findall(r"\d+", numbers)
        if not separator or not name.strip() or not re.fullmatch(r"\d{1,5}(,\d{1,5},\d{1,5})?", numbers):
            raise ConfigurationError(
                f"--colours holds {text!r}; expected NAME=R,G,B with whole numbers, such as lung=255,0,0, or NAME=V "
                "for a grey."
            )
        colour = tuple(int(part) for part in (parts if len(parts) == 3 else parts * 3))
        if name not in labels:
            labels.append(name)
        value = labels.index(name)
        if found.setdefault(colour, value) != value:
            raise ConfigurationError(
                f"--colours gives {numbers} to {labels[found[colour]]} and to {name}; a colour has one name."
            )
    if 0 not in found.values():
        if (0, 0, 0) in found:
            raise ConfigurationError("--colours gives black to a structure: say which colour background=R,G,B has.")
        found[(0, 0, 0)] = 0
    return tuple(labels), found


@dataclass(frozen=True)
class _Seen:
    """What a look at a case's masks gave; small, since it is sent."""

    problem: str = ""
    overlap: int = 0
    highest: int = 0  # value of the label map
    faint: bool = False
    greys: dict[float, int] = field(default_factory=dict)  # of refused masks: most frequent values -> pixels
    n_greys: int = 0
    range: tuple[float, float] = (0.0, 0.0)
    near_ends: float = 0.0  # share of pixels
    colours: dict[int, int] = field(default_factory=dict)  # most frequent colours -> pixels
    n_colours: int = 0


@dataclass(frozen=True)
class _Job:
    members: tuple[Member, ...]
    values: tuple[int, ...]

    @property
    def identifier(self) -> str:
        return str(self.members[0])


def look_at_masks(
    rule: MaskRule, cases: Sequence[tuple[tuple[Member, ...], tuple[int, ...]]], processes: int
) -> tuple[int, int]:
    """Read every mask once, before anything is written.

    Args:
        rule: how.
        cases: files of each, and the values of what they show.
        processes: at most this many.

    Returns:
        cases in which structures overlap, and the pixels of all these.

    Raises:
        DatasetError: masks that the rule does not fit, with the flag that would; or a threshold above all values.
    """
    jobs = [_Job(*case) for case in cases]
    seen = list(map_cases(partial(_look, rule), jobs, processes, "looking at masks", 64))
    refused = [one for one in seen if one.problem]
    if refused:
        rest = [f"… and {len(refused) - _SHOWN} more."] if len(refused) > _SHOWN else []
        raise DatasetError("\n".join([
            *(one.problem for one in refused[:_SHOWN]), *rest,
            f"{len(refused)} of {len(seen)} masks do not fit, and nothing was written. "
            f"{_advice(rule, refused)}".strip(),
        ]))
    if rule.threshold is not None and seen and not any(one.highest for one in seen):
        raise DatasetError(
            f"No mask holds a value above --threshold {rule.threshold:g}, so nothing would be foreground, and nothing "
            "was written. For masks of 0 and 1 type: --threshold 0"
        )
    faint = [job.identifier for job, one in zip(jobs, seen) if one.faint]
    if faint:
        log.warning(
            "%d of %d masks hold something of which nothing lies above --threshold %g, so they become empty, for "
            "example %s.", len(faint), len(seen), rule.threshold, faint[0],
        )
    return sum(one.overlap > 0 for one in seen), sum(one.overlap for one in seen)


def _look(rule: MaskRule, job: _Job) -> _Seen:
    try:
        read = rule.read(job.members, job.values)
        return _Seen(overlap=read.overlap, highest=int(read.label.max(initial=0)), faint=read.faint)
    except DatasetError as error:
        try:
            return _evidence(str(error), job.members)
        except DatasetError:  # it cannot be read at all
            return _Seen(str(error))


def _evidence(problem: str, members: Sequence[Member]) -> _Seen:
    """What the masks of a refused case hold, read as images."""
    greys: Counter[float] = Counter()
    colours: Counter[int] = Counter()
    for member in members:
        with readable_picture(member) as (path, _):
            pixels = read_image(path).data
        if len(pixels) == 3 and _is_coloured(pixels):
            codes, counts = np.unique(_codes(pixels), return_counts=True)
            colours.update(dict(zip(codes.tolist(), counts.tolist())))
        else:
            values, counts = np.unique(pixels[0], return_counts=True)
            greys.update(dict(zip(values.tolist(), counts.tolist())))
    low, high = (min(greys), max(greys)) if greys else (0.0, 0.0)
    margin = _NEAR * (high - low)
    near = sum(n for value, n in greys.items() if value <= low + margin or value >= high - margin)
    return _Seen(
        problem, greys=dict(greys.most_common(_FEW + 1)), n_greys=len(greys), range=(low, high),
        near_ends=near / max(1, greys.total()), colours=dict(colours.most_common(_FEW + 1)), n_colours=len(colours),
    )


def _advice(rule: MaskRule, refused: Sequence[_Seen]) -> str:
    """The flag that fits what was found; "" where none does."""
    coloured = [one for one in refused if one.n_colours]
    grey = [one for one in refused if one.n_greys]
    if coloured:
        return _advice_on_colours(rule, coloured)
    if not grey:
        return ""
    low, high = min(one.range[0] for one in grey), max(one.range[1] for one in grey)
    few = {value for one in grey for value in one.greys}
    one_class = len(rule.labels) == 2 or rule.separate
    middle = f"{(high - low) // 2 + low:g}" if high - low > 1 else f"{(low + high) / 2:g}"
    if one_class and rule.threshold is None:
        near = sum(one.near_ends for one in grey) / len(grey)
        if max(one.n_greys for one in grey) > 2 and near >= _TWO_CLASSES:
            return (
                f"They look like masks of two classes whose edges were smoothed by resizing or JPEG: {near:.0%} of "
                f"their pixels lie near {low:g} or {high:g}. What is above a threshold becomes foreground with: "
                f"--threshold {middle}"
            )
        if max(one.n_greys for one in grey) <= 2:
            above = min(few - {low}, default=high)
            between = (low + above) // 2 if above - low > 1 else (low + above) / 2
            return f"They hold two values; the higher one becomes foreground with: --threshold {between:g}"
    if max(one.n_greys for one in grey) > _FEW or len(few) > _FEW or rule.colours:
        return "Export them without smoothing, one whole number a structure."
    if high <= _FEW and all(float(value).is_integer() for value in few):
        return "Name every value in order with --labels background …, or correct the masks."
    names = " ".join(f"NAME={value:g}" for value in sorted(few) if value)
    return f"Their values are {_listed(few)}; give each a name with: --colours {names}"


def _advice_on_colours(rule: MaskRule, coloured: Sequence[_Seen]) -> str:
    together: Counter[int] = Counter()
    for one in coloured:
        together.update(one.colours)
    pixels = together.total()
    shares = ", ".join(f"{_written(code)} ({n / pixels:.1%})" for code, n in together.most_common(8))
    if max(one.n_colours for one in coloured) > _FEW or len(together) > _FEW:
        return (
            f"Colours run into each other, as after JPEG or resizing; the most frequent are {shares}. Export the "
            "drawing as PNG without smoothing, then name its colours with --colours NAME=R,G,B"
        )
    black = _code((0, 0, 0))
    known = {_code(colour): rule.labels[value] for colour, value in rule.colours.items()}
    names = [
        f"{known.get(code, 'NAME')}={_written(code)}" for code, _ in together.most_common() if code != black
    ]
    if black not in together and names and not rule.colours:
        names[0] = names[0].replace("NAME", "background")
    return f"They are drawings in colours: {shares}. Give each colour a name with: --colours {' '.join(names)}"


def _is_coloured(pixels: np.ndarray) -> bool:
    """Whether (3, Z, Y, X) shows colours; JPEG leaves a trace of them along the edges of a grey picture."""
    spread = pixels.max(axis=0) - pixels.min(axis=0)
    return bool(spread.max() > _TRACE * max(float(pixels.max()), 1.0))


def _codes(pixels: np.ndarray) -> np.ndarray:
    """(C, Z, Y, X) of whole numbers, C 1 or 3 -> (Z, Y, X) int64, one number a colour."""
    red, green, blue = (pixels[c % len(pixels)].astype(np.int64) for c in range(3))
    return (red << 32) + (green << 16) + blue


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return (red << 32) + (green << 16) + blue


def _written(code: int) -> str:
    return f"{code >> 32},{code >> 16 & 0xFFFF},{code & 0xFFFF}"


def _listed(values: set[int] | set[float]) -> str:
    shown = sorted(values)
    return ", ".join(f"{v:g}" for v in shown[:8]) + (", …" if len(shown) > 8 else "")


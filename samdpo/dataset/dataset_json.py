"""``dataset.json``: nnU-Net's keys, checked, plus the optional ``samdpo`` key with what prompts are made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from samdpo.errors import DatasetError, PlansError
from samdpo.files import read_json
from samdpo.names import LOSSY_ENDINGS, SUPPORTED_ENDINGS
from samdpo.plan_sections import HIGHEST_LABEL
from samdpo.schema import from_dict

Modality = Literal["ct", "xray", "ultrasound", "mr", "other"]
Distances = Literal["mm", "voxels"]
_EXAMPLE = (
    '{"channel_names": {"0": "X-ray"}, "labels": {"background": 0, "lung": 1}, "numTraining": 20, '
    '"file_ending": ".png"}'
)
_REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
_MODALITY_WORDS: dict[Modality, tuple[str, ...]] = {
    "ct": ("ct", "cbct", "computed tomography"),
    "xray": ("xray", "x-ray", "x ray", "cxr", "radiograph", "radiography", "dr", "mammogram", "mammography"),
    "ultrasound": ("ultrasound", "us", "sonography", "sonogram", "echo", "b-mode", "bmode"),
    "mr": ("mr", "mri", "t1", "t1w", "t1ce", "t1c", "t1gd", "t2", "t2w", "flair", "dwi", "adc", "pd", "swi"),
}
_RED_GREEN_BLUE = ({"r", "red"}, {"g", "green"}, {"b", "blue"})


@dataclass(frozen=True)
class StructureHints:
    """What the user knows about one structure; every part is optional and overrides what the planner measures."""

    phrase: str | None = None  # text of the saliency
    question: str | None = None  # asked of the image for the answer prompt
    description: str | None = None  # what the structure generally looks like
    components: int | None = None  # connected parts of the structure in one slice
    may_be_absent: bool | None = None  # whether an image may show none of it


@dataclass(frozen=True)
class DatasetJson:
    """A checked dataset.json."""

    channel_names: dict[str, str]  # "0", "1", … -> name
    labels: dict[str, int]  # name -> value, background and an ignore label included; unlike nnU-Net's, with gaps
    num_training: int
    file_ending: str
    ignore_label: int | None = None
    hints: dict[str, StructureHints] = field(default_factory=dict)
    distances: Distances = "mm"  # "voxels" where the files' spacing is a placeholder
    raw: dict[str, Any] = field(default_factory=dict)  # the file as it was, unknown keys included

    @property
    def structures(self) -> dict[str, int]:
        """Name -> label value of what is to be segmented: without background and ignore, by value."""
        wanted = {n: v for n, v in self.labels.items() if v != 0 and v != self.ignore_label}
        return dict(sorted(wanted.items(), key=lambda item: item[1]))

    @property
    def n_channels(self) -> int:
        """Number of image channels."""
        return len(self.channel_names)


def modality_of(channel_name: str) -> Modality:
    """The modality a channel's name stands for; ``other`` where the name says nothing known."""
    name = channel_name.strip().lower()
    words = set(name.replace("_", " ").replace("-", " ").replace("/", " ").split())
    for modality, known in _MODALITY_WORDS.items():
        if any(word in words or (len(word) > 4 and word in name) or word == name for word in known):
            return modality
    return "other"


def is_rgb(names: Sequence[str]) -> bool:
    """Whether the channels are the colours of one picture."""
    return len(names) == 3 and all(name.strip().lower() in known for name, known in zip(names, _RED_GREEN_BLUE))


def load_dataset_json(place: Path | str) -> DatasetJson:
    """Read and check a ``dataset.json``.

    Args:
        place: the file, whatever its name, or the folder that holds one called ``dataset.json``.

    Raises:
        DatasetError: the file is missing or not JSON, or one of its keys breaks nnU-Net's rules. All problems of
            the file are listed in one message.
    """
    place = Path(place)
    named = place.is_file() or (place.suffix == ".json" and not place.is_dir())
    file = place if named else place / "dataset.json"
    raw = read_json(file, error=DatasetError, remedy=f"Write it like this: {_EXAMPLE}")
    if not isinstance(raw, dict):
        raise DatasetError(f"{file} must hold one JSON object, found {type(raw).__name__}. Write it like: {_EXAMPLE}")
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise DatasetError(f"{file}: the key {' and '.join(map(repr, missing))} is missing. Write it like: {_EXAMPLE}")
    problems: list[str] = []
    channels = _channels(raw["channel_names"], problems)
    labels, ignore = _labels(raw["labels"], problems)
    number = raw["numTraining"]
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        problems.append(f"'numTraining' must be the number of labelled cases, a whole number, found {number!r}.")
    ending = raw["file_ending"]
    if not isinstance(ending, str) or not ending.startswith("."):
        problems.append(f"'file_ending' must be a text that begins with a dot, like \".png\", found {ending!r}.")
    else:
        problems += _ending_problems(ending)
    hints = _hints(raw.get("samdpo", {}), labels, ignore, problems)
    distances = _distances(raw.get("samdpo", {}), problems)
    if problems:
        raise DatasetError("\n".join(f"{file}: {problem}" for problem in problems))
    return DatasetJson(channels, labels, number, ending, ignore, hints, distances, raw)


def _channels(value: Any, problems: list[str]) -> dict[str, str]:
    if isinstance(value, dict) and value and all(isinstance(v, str) for v in value.values()):
        if set(value) == {str(i) for i in range(len(value))}:
            return dict(sorted(value.items(), key=lambda item: int(item[0])))
        problems.append(f'\'channel_names\' must count its channels "0", "1", …, found {", ".join(map(repr, value))}.')
    else:
        problems.append(f'\'channel_names\' must be an object like {{"0": "CT"}}, found {value!r}.')
    return {}


def _labels(value: Any, problems: list[str]) -> tuple[dict[str, int], int | None]:
    if not isinstance(value, dict) or not value:
        problems.append(f'\'labels\' must be an object like {{"background": 0, "lung": 1}}, found {value!r}.')
        return {}, None
    swapped = all(isinstance(v, str) for v in value.values()) and all(str(k).isdigit() for k in value)
    if swapped:
        turned = ", ".join(f'"{name}": {number}' for number, name in value.items())
        problems.append(f"'labels' is written the old way round (number: name). Write {{{turned}}}.")
        return {}, None
    before = len(problems)
    regions = {name: number for name, number in value.items() if isinstance(number, (list, tuple))}
    if regions:
        shown = ", ".join(f"{json.dumps(name)}: {json.dumps(number)}" for name, number in regions.items())
        problems.append(
            f"'labels' holds regions, which are lists of values ({{{shown}}}), as 'regions_class_order' belongs to. "
            "Regions are not supported: give every structure one whole number, delete 'regions_class_order', and join "
            "structures after prediction."
        )
    for name, number in value.items():
        if name not in regions and (not isinstance(number, int) or isinstance(number, bool)):
            problems.append(f"the label {name!r} must be a whole number, found {number!r}.")
    if len(problems) > before:
        return {}, None
    if value.get("background") != 0:
        problems.append(f"'labels' must contain \"background\": 0, found {value}.")
    values = sorted(value.values())
    if len(set(values)) < len(values) or values[0] < 0 or values[-1] > HIGHEST_LABEL:
        problems.append(
            f"the values of 'labels' must be different whole numbers from 0 to {HIGHEST_LABEL}, found {values}."
        )
    ignore = value.get("ignore")
    if ignore is not None and ignore != max(value.values()):
        problems.append(f"the label 'ignore' must have the highest value ({max(value.values())}), found {ignore}.")
    if not any(v for v in value.values() if v != ignore):
        problems.append("'labels' names no structure to segment, only background.")
    return dict(value), ignore


def _ending_problems(ending: str) -> list[str]:
    if ending.lower() in LOSSY_ENDINGS:
        return [
            f"'file_ending' is {ending!r}: JPEG is lossy and blurs label edges. Save images and labels as PNG and "
            'write ".png".'
        ]
    if ending not in SUPPORTED_ENDINGS:
        lower = " Write it in lower case; files may have either." if ending.lower() in SUPPORTED_ENDINGS else ""
        return [f"'file_ending' is {ending!r}; supported are {', '.join(SUPPORTED_ENDINGS)}.{lower}"]
    return []


def _hints(value: Any, labels: dict[str, int], ignore: int | None, problems: list[str]) -> dict[str, StructureHints]:
    """``{"samdpo": {"structures": {"lung": {"phrase": …, "components": 2}}}}``."""
    if not isinstance(value, dict):
        problems.append(f"'samdpo' must be an object, found {value!r}.")
        return {}
    unknown = [key for key in value if key not in ("structures", "distances")]
    if unknown:
        problems.append(
            f'\'samdpo\' has the unknown key {unknown[0]!r}; it holds {{"structures": {{NAME: {{"phrase": …}}}}}}, and '
            '"distances".'
        )
    structures = value.get("structures", {})
    if not isinstance(structures, dict):
        problems.append(f"'samdpo.structures' must be an object, found {structures!r}.")
        return {}
    hints: dict[str, StructureHints] = {}
    for name, entry in structures.items():
        if labels and (name not in labels or labels[name] in (0, ignore)):
            problems.append(
                f"'samdpo.structures' names {name!r}, which is not a structure of 'labels' ({', '.join(labels)})."
            )
            continue
        try:
            hints[name] = from_dict(StructureHints, entry, f"samdpo.structures.{name}", "the hints")
        except PlansError as error:
            problems.append(str(error))
            continue
        components = hints[name].components
        if components is not None and components < 1:
            problems.append(f"'samdpo.structures.{name}.components' must be 1 or more, found {components}.")
    return hints


def _distances(value: Any, problems: list[str]) -> Distances:
    given = value.get("distances", "mm") if isinstance(value, dict) else "mm"
    if given not in get_args(Distances):
        problems.append(f"'samdpo.distances' must be \"mm\" or \"voxels\", found {given!r}.")
        return "mm"
    return given

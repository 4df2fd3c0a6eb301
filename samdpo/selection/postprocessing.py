"""Remove all but the largest part where that helped on validation cases: ``samdpo_apply_postprocessing``.

The choice is made by ``samdpo_find_best_configuration``, as nnU-Net does; here it is kept, read and applied.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from samdpo.dataset.agreement import listing, read_listed_label
from samdpo.dataset.dataset_json import DatasetJson, load_dataset_json
from samdpo.dataset.foreign import broken_links, files_of
from samdpo.dataset.images import read_label_with_properties, write_label
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.evaluation.metrics import overlap_metrics
from samdpo.evaluation.summary import read_pair
from samdpo.files import copy_file, read_json, write_json
from samdpo.model.masks import keep_largest_components
from samdpo.names import SUPPORTED_ENDINGS, as_spelled, ending_of
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)

FILE = "postprocessing.json"
_EXAMPLE = '{"lung": {"label": 1, "keep_largest_component": true}}'
_REMEDY = "Make it with: samdpo_find_best_configuration DATASET"


@dataclass(frozen=True)
class StructureEffect:
    """What keeping only its largest part does to a structure.

    Attributes:
        label: of the structure.
        dice_before: mean over validation cases, as predicted; NaN where no case has it.
        dice_after: with the largest part only.
    """

    label: int
    dice_before: float
    dice_after: float

    @property
    def helps(self) -> bool:
        """Whether it is done."""
        return self.dice_after > self.dice_before  # False for NaN


@dataclass(frozen=True)
class Postprocessing:
    """The effect on every structure; those that it helps are cleaned."""

    structures: dict[str, StructureEffect]

    @property
    def helped(self) -> dict[str, StructureEffect]:
        """Structures of which only the largest part is kept."""
        return {name: effect for name, effect in self.structures.items() if effect.helps}

    @property
    def dice(self) -> float:
        """Mean over structures, with what helps done."""
        values = [e.dice_after if e.helps else e.dice_before for e in self.structures.values()]
        values = [value for value in values if not math.isnan(value)]
        return sum(values) / len(values) if values else math.nan

    def save(self, file: Path) -> None:
        """Write ``postprocessing.json``."""
        write_json(file, {
            name: {"label": e.label, "keep_largest_component": e.helps, "dice_before": e.dice_before,
                   "dice_after": e.dice_after}
            for name, e in self.structures.items()
        })


def read_cleaned_labels(file: Path, labels: Mapping[str, int] | None = None) -> list[int]:
    """Labels whose largest part alone is kept, of a ``postprocessing.json``, which may have been edited.

    Args:
        file: to read.
        labels: name -> value of the masks' dataset.json, with which the file must agree; None where it is not known.

    Raises:
        ConfigurationError: missing, not of that form, or of other structures.
    """
    content = read_json(file, remedy=_REMEDY)
    try:
        kept = {name: (int(entry["label"]), entry["keep_largest_component"]) for name, entry in content.items()}
        if not all(isinstance(wanted, bool) for _, wanted in kept.values()):
            raise TypeError("keep_largest_component is true or false")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{file} must hold an object like {_EXAMPLE}. {_REMEDY}") from error
    for name, (label, _) in kept.items() if labels is not None else ():
        if labels.get(name) != label:
            raise ConfigurationError(
                f"{file} says that {name} has the label {label}, but dataset.json beside the masks lists "
                f"{listing(labels)}. Is it of another dataset? {_REMEDY}"
            )
    return [label for label, wanted in kept.values() if wanted]


def apply_postprocessing(source: Path, output: Path, file: Path, processes: int = 1) -> list[Path]:
    """Clean every mask of ``source`` and write it to ``output`` in its geometry; returns the masks written.

    Raises:
        ConfigurationError: ``source`` is missing or is ``output``; ``file`` is missing or not of its form.
        DatasetError: no mask in ``source``, one that cannot be read, or that holds values which dataset.json beside it
            does not list.
    """
    if not source.is_dir():
        raise ConfigurationError(f"-i {source} is not a folder; expected one that samdpo_predict or samdpo_ensemble "
                                 "wrote.")
    if source.resolve() == output.resolve():
        raise ConfigurationError(f"-o {output} is the input folder; choose another, so that nothing is overwritten.")
    listed = load_dataset_json(source).labels if (source / "dataset.json").is_file() else None
    labels = read_cleaned_labels(file, listed)
    masks = [f for f in files_of(source) if ending_of(f) in SUPPORTED_ENDINGS]
    broken = broken_links(source)
    if broken:
        raise DatasetError("\n".join(broken))
    if not masks:
        raise DatasetError(f"{source} holds no mask that ends in {', '.join(SUPPORTED_ENDINGS)}.")
    output.mkdir(parents=True, exist_ok=True)
    written = list(map_cases(partial(_clean, tuple(labels), listed, output), masks, processes, "cleaning"))
    for name in ("plans.json", "dataset.json"):
        if (source / name).is_file():
            copy_file(source / name, output / name)
    log.info("%d masks written to %s; of %d structures only the largest part was kept.", len(written), output,
             len(labels))
    return written


def _clean(labels: tuple[int, ...], listed: Mapping[str, int] | None, output: Path, mask: Path) -> Path:
    read = read_label_with_properties(mask) if listed is None else read_listed_label(mask, listed)
    segmentation, properties = read
    write_label(keep_largest_components(segmentation, labels), output / mask.name, properties)
    return output / mask.name


def determine_postprocessing(
    truth: Path, predicted: Path, cases: Sequence[str], dataset: DatasetJson, processes: int = 1
) -> Postprocessing:
    """Dice of every structure as predicted, and with all but its largest part removed.

    Args:
        truth: folder of true label maps.
        predicted: folder of predicted ones, on cases that were not trained on.
        cases: identifiers.
        dataset: structures, file ending, ignore label.
        processes: cases at once.
    """
    work = partial(_dice_before_and_after, truth, predicted, dataset)
    dice = np.array(list(map_cases(work, cases, processes, "postprocessing")))  # (cases, L, 2)
    effects = {}
    for row, (name, label) in enumerate(dataset.structures.items()):
        measured = dice[~np.isnan(dice[:, row]).any(1), row]
        before, after = measured.mean(0).tolist() if len(measured) else (float("nan"), float("nan"))
        effects[name] = StructureEffect(label, before, after)
    return Postprocessing(effects)


def _dice_before_and_after(truth: Path, predicted: Path, dataset: DatasetJson, case: str) -> list[list[float]]:
    files = (as_spelled(folder / f"{case}{dataset.file_ending}") for folder in (truth, predicted))
    ref, _, before, _ = read_pair(*files, dataset.labels)
    labels = list(dataset.structures.values())
    after = keep_largest_components(before.copy(), labels)
    counted = np.ones(ref.shape, bool) if dataset.ignore_label is None else ref != dataset.ignore_label
    return [
        [overlap_metrics((pred == label) & counted, ref == label)["Dice"] for pred in (before, after)]
        for label in labels
    ]

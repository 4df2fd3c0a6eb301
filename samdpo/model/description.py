"""What a trained model's folder says of itself: ``model.json``, the list of its files, and its plans; read and checked.

``manifest.json`` of a fold lists what its training wrote, with hashes, so that its files are only ever read together;
:mod:`samdpo.training.manifest` writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samdpo.errors import ModelFolderError, PlansError, SamdpoError
from samdpo.files import content_hash, read_json
from samdpo.names import check_name
from samdpo.plans import Plans, load_plans
from samdpo.schema import from_dict

log = logging.getLogger(__name__)

DESCRIPTION, MANIFEST, PLANS = "model.json", "manifest.json", "plans.json"
FINAL, BEST = "checkpoint_final.safetensors", "checkpoint_best.safetensors"
LATEST = "checkpoint_latest"  # folder of a training that is not finished
TRAINED = "trained"  # in it, a model that is whole and is about to take the place of the one before
PREDICTED_WITH = ("ndim", "file_ending", "structures", "preprocessing", "prompting", "network", "inference")
REMEDY = "Train it again, or copy the whole model folder once more."
_NEEDED = ("trainer", "stage", "mask_cut")
_COPY = "Copy the whole model folder once more, or train the fold again."


@dataclass(frozen=True)
class FoldDescription:
    """The keys of ``model.json`` that are read; it has others, of newer versions too.

    Attributes:
        trainer: ``module:Class``.
        stage: of the plan.
        mask_cut: probability from which a pixel is foreground.
        custom_architecture: whether the trainer's class builds a network of its own.
        confidence_threshold: of each structure the confidence below which a person should look.
        clicks: of SAM-Med3D: (x, y, z), fractions of the volume.
        labelled_cases: that were trained on.
        data: hashes, see :func:`data_hashes`.
    """

    trainer: str
    stage: str
    mask_cut: float
    custom_architecture: bool = False
    confidence_threshold: dict[str, float] = field(default_factory=dict)
    clicks: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    labelled_cases: list[str] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.mask_cut <= 1:
            raise ValueError(f"'mask_cut' is {self.mask_cut}; expected a probability, 0 to 1")
        for name, place in self.clicks.items():
            if not all(0 <= of <= 1 for of in place):
                raise ValueError(f"'clicks.{name}' is {list(place)}; expected fractions of the volume, 0 to 1")


def read_description(file: Path) -> dict[str, Any]:
    """The content of a ``model.json``, of which every key that is read has been checked.

    Raises:
        ModelFolderError: the file is missing or damaged, or a key is missing or of a wrong kind.
    """
    content = read_json(file, error=ModelFolderError, remedy=REMEDY)
    lacking = [key for key in _NEEDED if isinstance(content, dict) and key not in content]
    if lacking:
        raise ModelFolderError(f"{file} has no {', '.join(map(repr, lacking))}. {REMEDY}")
    try:
        from_dict(FoldDescription, content, source=str(file), others_too=True)
    except PlansError as error:
        raise ModelFolderError(f"{error} {REMEDY}") from error
    return content


def is_finished(fold: Path) -> bool:
    """Whether a fold has a model and no training of it is under way."""
    return (fold / FINAL).is_file() and not (fold / LATEST).is_dir()


def check_fold(fold: Path, checkpoint: str = FINAL) -> None:
    """Refuse to read a fold whose weights are not those that its training wrote together.

    Settings that a person has changed since are taken as they are, with a warning. A fold of an older version has no
    list; its files are taken as they are.

    Args:
        fold: the fold's folder.
        checkpoint: file of the weights that are wanted.

    Raises:
        ModelFolderError: weights of another training, damaged ones, or a list that cannot be read.
    """
    listed = _read(fold)
    if listed is None:
        log.debug("%s is of an older version and has no %s; its files are not checked.", fold, MANIFEST)
        return
    for name, known in listed.items():
        if name not in (BEST, FINAL) or name == checkpoint:
            _check(fold, name, known)


def check_weights(file: Path) -> None:
    """As :func:`check_fold`, of one file of weights, wherever it lies; files that no list names are not checked."""
    listed = _read(file.parent) if (file.parent / MANIFEST).is_file() else None
    if listed is not None and file.name in listed:
        _check(file.parent, file.name, listed[file.name])


def _read(fold: Path) -> dict[str, dict[str, Any]] | None:
    return read_manifest(fold / MANIFEST, _COPY)["files"] if (fold / MANIFEST).is_file() else None


def read_manifest(file: Path, remedy: str) -> dict[str, Any]:
    """A manifest; its files are named by paths below its folder, to which a training moves them."""
    content = read_json(file, error=ModelFolderError, remedy=remedy)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(one, dict) and "sha256" in one for one in files.values()):
        raise ModelFolderError(f"{file} does not list the files of a trained fold. {remedy}")
    for name in files:
        for part in name.split("/"):
            check_name(part, f"{file}: a part of {name[:80]!r} in 'files'", ModelFolderError, remedy)
    return content


def _check(fold: Path, name: str, known: Mapping[str, Any]) -> None:
    file = fold / name
    if file.is_file() and file.stat().st_size == known.get("bytes") and content_hash(file) == known["sha256"]:
        return
    if file.is_file() and file.suffix == ".json":
        log.warning("%s has been changed since it was trained; it is taken as it is now.", file)
        return
    state = "is not" if file.is_file() else "is missing:"
    if (fold / LATEST / TRAINED).is_dir():
        remedy = "The end of a training was cut off: type its command again with --c."
    else:
        remedy = f"It is damaged, or of another training. {_COPY}"
        if file.is_file():
            remedy += f" Where you put it there yourself, delete {fold / MANIFEST}."
    raise ModelFolderError(f"{file} {state} the one that {fold / MANIFEST} was written with. {remedy}")


def settings_of(fold: Path) -> dict[str, Any] | None:
    """The settings that a finished fold was trained with; None of a fold of an older version."""
    found = _made_of(fold).get("settings")
    return found if isinstance(found, dict) else None


def prompts_of(fold: Path) -> str | None:
    """The key of the prompts that a finished fold was trained with; None where it used none, or does not say."""
    return _made_of(fold).get("prompts")


def _made_of(fold: Path) -> dict[str, Any]:
    if not (fold / MANIFEST).is_file():
        return {}
    content = read_json(fold / MANIFEST, error=ModelFolderError, remedy=_COPY)
    found = content.get("made_of") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def fold_plans(model: Path) -> dict[str, Plans]:
    """The plan with which each finished fold was trained, where it says so."""
    found = {}
    for file in sorted(model.glob(f"fold_*/{PLANS}")):
        with suppress(SamdpoError):  # it is said where that fold is used
            found[file.parent.name.removeprefix("fold_")] = load_plans(file)
    return found


def plans_for(model: Path, folds: Sequence[str] = ()) -> Plans:
    """The plan with which folds of a model are predicted.

    It is ``plans.json`` of the model folder, also where a person has changed it. Where a later training of another
    fold has written it, it is the folds' own.

    Args:
        model: the model folder.
        folds: numbers or ``all``; none for the plan of the folder.

    Raises:
        ModelFolderError: the folds were trained with different plans.
    """
    shared = load_plans(model / PLANS)
    there = {file.parent.name.removeprefix("fold_"): file for file in model.glob(f"fold_*/{PLANS}")}
    written = (model / PLANS).read_bytes()
    if not any(file.read_bytes() == written for file in there.values()):
        return shared
    own = {fold: load_plans(there[fold]) if fold in there else shared for fold in folds}
    if not own:
        return shared
    first, *others = own
    for other in others:
        if parts := different_parts(own[first], own[other]):
            raise ModelFolderError(
                f"Folds {first} and {other} of {model} were trained with different plans ({', '.join(parts)}), so they "
                f"cannot be predicted together. Name folds of one plan with -f, or train fold {other} anew."
            )
    return own[first]


def different_parts(one: Plans, other: Plans) -> list[str]:
    """Parts of two plans that prediction reads and that differ."""
    return [name for name in PREDICTED_WITH if getattr(one, name) != getattr(other, name)]

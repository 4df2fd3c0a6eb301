"""What makes a trained fold, in one list with hashes, so that its files are only ever read together.

A training that begins is told from one that is finished by the folder ``checkpoint_latest``, which is there from the
first moment to the last. Its model is written whole into ``checkpoint_latest/trained``; only then does it take the
place of the one before, the list first and the weights last. Whenever the process ends, the fold holds the model of
before, the new one, or a mixture that the list gives away and ``samdpo_train ... --c`` completes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from samdpo.errors import ModelFolderError, SamdpoError
from samdpo.files import (
    atomic_folder,
    content_hash,
    copy_file,
    link_file,
    read_json,
    remove_folder,
    sha256_of_file,
    write_json,
)
from samdpo.names import check_name
from samdpo.plans import Plans, load_plans
from samdpo.training.checkpoints import BEST, FINAL, LATEST, remove_latest

log = logging.getLogger(__name__)

MANIFEST, PLANS = "manifest.json", "plans.json"
_BEGUN, _TRAINED, _SHARED = "begun.json", "trained", "model_folder"
_GO_ON = "type the same command with --c"
PREDICTED_WITH = ("ndim", "file_ending", "structures", "preprocessing", "prompting", "network", "inference")
_ANEW = "Start the training again without --c."
_COPY = "Copy the whole model folder once more, or train the fold again."

MadeOf = dict[str, Any]
"""What a training starts from: hashes and settings by name."""


def begin(fold: Path, made_of: MadeOf) -> None:
    """Mark that a training of a fold begins anew; what it finds of an earlier one that did not finish is dropped.

    The model of an earlier training that did finish stays as it is until this one takes its place.
    """
    complete(fold)
    latest = fold / LATEST
    write_json(latest / _BEGUN, made_of, durable=True)
    for old in latest.iterdir():
        if old.name != _BEGUN:
            remove_folder(old) if old.is_dir() else old.unlink()


def begun(fold: Path) -> MadeOf | None:
    """What the training that is under way was begun with; None where none is, or where it does not say."""
    file = fold / LATEST / _BEGUN
    if not file.is_file():
        return None
    content = read_json(file, error=ModelFolderError, remedy=_ANEW)
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} does not say what the training was begun with. {_ANEW}")
    return content


def is_finished(fold: Path) -> bool:
    """Whether a fold has a model and no training of it is under way."""
    return (fold / FINAL).is_file() and not (fold / LATEST).is_dir()


@contextmanager
def trained(fold: Path, made_of: MadeOf) -> Iterator[Path]:
    """Yield a folder to write a trained model into; when the block ends it takes the place of the one before.

    Args:
        fold: the fold's folder.
        made_of: see :func:`begin`.
    """
    with atomic_folder(fold / LATEST / _TRAINED, remedy=_GO_ON) as folder:
        yield folder
        if (best := fold / LATEST / BEST).is_file() and not (folder / BEST).exists():
            link_file(best, folder / BEST)
        names = [f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file()]
        files = {
            name: {"sha256": sha256_of_file(folder / name), "bytes": (folder / name).stat().st_size}
            for name in names if not name.startswith(f"{_SHARED}/")
        }
        write_json(folder / MANIFEST, {"version": 1, "made_of": made_of, "files": files})
    complete(fold)


def shared(folder: Path) -> Path:
    """Where, in the folder of :func:`trained`, lies what describes all folds of a model."""
    return folder / _SHARED


def complete(fold: Path) -> bool:
    """Let a model that is whole take the place of the one before; whether there was one.

    It can be stopped at any moment and called again.
    """
    source, model = fold / LATEST / _TRAINED, fold.parent
    if not (source / MANIFEST).is_file():
        return False
    content = _content(source / MANIFEST, _ANEW)
    files = content["files"]
    write_json(fold / MANIFEST, content, durable=True)
    if (source / FINAL).is_file():
        for summary in fold.glob("validation*/summary.json"):
            summary.unlink()  # of the weights of before
    for other in model.glob("fold_*"):  # of an older version: the plan that is replaced is its only one
        if other != fold and (other / FINAL).is_file() and not (other / PLANS).exists() and (model / PLANS).is_file():
            copy_file(model / PLANS, other / PLANS)
    for part in sorted(source.glob(f"{_SHARED}/*")):
        os.replace(part, model / part.name)
    for name in sorted(files, key=lambda name: name == FINAL):
        if name == FINAL:
            _remove_other_files(fold, files)
        (fold / name).parent.mkdir(exist_ok=True)
        if (source / name).is_file():
            os.replace(source / name, fold / name)
    copy_file(fold / PLANS, model / PLANS)
    remove_latest(fold)
    return True


def _remove_other_files(fold: Path, files: Mapping[str, Any]) -> None:
    """Parts of the model of before that the new one does not have."""
    for old in (fold / BEST, *fold.glob("prompter/*")):
        if old.is_file() and old.relative_to(fold).as_posix() not in files:
            old.unlink()


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
    manifest = _read(fold)
    if manifest is None:
        log.debug("%s is of an older version and has no %s; its files are not checked.", fold, MANIFEST)
        return
    for name, known in manifest.items():
        if name not in (BEST, FINAL) or name == checkpoint:
            _check(fold, name, known)


def check_weights(file: Path) -> None:
    """As :func:`check_fold`, of one file of weights, wherever it lies; files that no list names are not checked."""
    manifest = _read(file.parent) if (file.parent / MANIFEST).is_file() else None
    if manifest is not None and file.name in manifest:
        _check(file.parent, file.name, manifest[file.name])


def _read(fold: Path) -> dict[str, dict[str, Any]] | None:
    return _content(fold / MANIFEST, _COPY)["files"] if (fold / MANIFEST).is_file() else None


def _content(file: Path, remedy: str) -> dict[str, Any]:
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
    if (fold / LATEST / _TRAINED).is_dir():
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


def _made_of(fold: Path) -> MadeOf:
    if not (fold / MANIFEST).is_file():
        return {}
    content = read_json(fold / MANIFEST, error=ModelFolderError, remedy=_COPY)
    found = content.get("made_of") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def warn_of_other_plans(model: Path, fold: int | str, plans: Plans) -> None:
    """Say before a long training that its fold will not be predicted together with finished ones of the model."""
    other = {
        name: parts for name, found in fold_plans(model).items()
        if name != str(fold) and (parts := different_parts(found, plans))
    }
    if other:
        log.warning(
            "Folds of %s were trained with another plan and cannot be predicted together with fold %s: %s.", model,
            fold, "; ".join(f"fold {name} ({', '.join(parts)})" for name, parts in other.items()),
        )


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

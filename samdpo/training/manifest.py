"""What makes a trained fold, in one list with hashes, so that its files are only ever read together.

A training that begins is told from one that is finished by the folder ``checkpoint_latest``, which is there from the
first moment to the last. Its model is written whole into ``checkpoint_latest/trained``; only then does it take the
place of the one before, the list first and the weights last. Whenever the process ends, the fold holds the model of
before, the new one, or a mixture that the list gives away and ``samdpo_train ... --c`` completes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samdpo.errors import ModelFolderError
from samdpo.files import atomic_folder, copy_file, read_json, remove_folder, sha256_of_file, write_json
from samdpo.training.checkpoints import BEST, FINAL, LATEST, remove_latest

log = logging.getLogger(__name__)

MANIFEST, PLANS = "manifest.json", "plans.json"
_BEGUN, _TRAINED, _SHARED = "begun.json", "trained", "model_folder"
_GO_ON = "free some space and type the same command with --c"
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
    return read_json(file, error=ModelFolderError, remedy="Start again without --c.") if file.is_file() else None


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
            copy_file(best, folder / BEST)
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
    files = read_json(source / MANIFEST, error=ModelFolderError, remedy="Start again without --c.")["files"]
    write_json(fold / MANIFEST, read_json(source / MANIFEST), durable=True)
    if (source / FINAL).is_file():
        for summary in fold.glob("validation*/summary.json"):
            summary.unlink()  # of the weights of before
    for part in sorted(source.glob(f"{_SHARED}/*")):
        os.replace(part, model / part.name)
    for name in sorted(files, key=lambda name: name == FINAL):
        if name == FINAL:
            _remove_other_files(fold, files)
        (fold / name).parent.mkdir(exist_ok=True)
        if (source / name).is_file():
            os.replace(source / name, fold / name)
    if (fold / PLANS).is_file():
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
    file = fold / MANIFEST
    if not file.is_file():
        return None
    content = read_json(file, error=ModelFolderError, remedy=_COPY)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(known, dict) and "sha256" in known for known in files.values()):
        raise ModelFolderError(f"{file} does not list the files of a trained fold. {_COPY}")
    return files


def _check(fold: Path, name: str, known: Mapping[str, Any]) -> None:
    file = fold / name
    if file.is_file() and file.stat().st_size == known.get("bytes") and sha256_of_file(file) == known["sha256"]:
        return
    if file.is_file() and file.suffix == ".json":
        log.warning("%s has been changed since it was trained; it is taken as it is now.", file)
        return
    state = "is another file than" if file.is_file() else "is missing,"
    if (fold / LATEST / _TRAINED).is_dir():
        remedy = "The end of a training was cut off: type its command again with --c."
    else:
        remedy = f"It is damaged, or of another training. {_COPY}"
        if file.is_file():
            remedy += f" Where you put it there yourself, delete {fold / MANIFEST}."
    raise ModelFolderError(f"{file} {state} the one that {MANIFEST} beside it was written with. {remedy}")


def settings_of(fold: Path) -> dict[str, Any] | None:
    """The settings that a finished fold was trained with; None of a fold of an older version."""
    if not (fold / MANIFEST).is_file():
        return None
    content = read_json(fold / MANIFEST, error=ModelFolderError, remedy=_COPY)
    made_of = content.get("made_of") if isinstance(content, dict) else None
    return made_of.get("settings") if isinstance(made_of, dict) else None

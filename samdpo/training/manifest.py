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
from samdpo.files import (
    atomic_folder,
    copy_file,
    link_file,
    locked,
    read_json,
    remove_abandoned,
    remove_folder,
    sha256_of_file,
    write_json,
)
from samdpo.model.description import (
    BEST,
    FINAL,
    LATEST,
    MANIFEST,
    PLANS,
    TRAINED,
    different_parts,
    fold_plans,
    is_finished,
    read_manifest,
)
from samdpo.plans import Plans
from samdpo.training.checkpoints import remove_latest

log = logging.getLogger(__name__)

_BEGUN, _SHARED = "begun.json", "model_folder"
_GO_ON = "type the same command with --c"
_ANEW = "Start the training again without --c."

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


@contextmanager
def owned(fold: Path) -> Iterator[bool]:
    """Lock a fold, and clear up behind runs that were killed; yields whether it is finished.

    Raises:
        ConfigurationError: another process trains or validates it.
    """
    # Beside the fold, not in it: whoever links or copies a fold does not take the lock along.
    with locked(fold.parent / f".{fold.name}.lock", busy=(
        f"Another process trains or validates {fold} at this moment. Wait until it has ended, or end it; two at once "
        "would mix their files."
    )):
        remove_abandoned(fold.parent)
        remove_abandoned(fold, recursive=True)
        complete(fold)
        yield is_finished(fold)


@contextmanager
def trained(fold: Path, made_of: MadeOf) -> Iterator[Path]:
    """Yield a folder to write a trained model into; when the block ends it takes the place of the one before.

    Args:
        fold: the fold's folder.
        made_of: see :func:`begin`.
    """
    with atomic_folder(fold / LATEST / TRAINED, remedy=_GO_ON) as folder:
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
    source, model = fold / LATEST / TRAINED, fold.parent
    if not (source / MANIFEST).is_file():
        return False
    content = read_manifest(source / MANIFEST, _ANEW)
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

"""The folder a conversion writes to, claimed by a record: going on is safe, and nobody's data is written over.

A new dataset is made in a hidden folder, which no command takes for a dataset, and gets its name when it is whole.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import locked, read_json, write_json
from samdpo.paths import MODEL_SEPARATOR, known_datasets, raw_root

log = logging.getLogger(__name__)

_UNFINISHED = ".unfinished_"  # and the dataset's name: what an interrupted or refused conversion has done so far
RECORD = "conversion.json"  # which command with which settings; nnU-Net and samdpo ignore it


@contextmanager
def claimed_folder(identifier: int, name: str, record: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
    """Where to write ``nnUNet_raw/DatasetXXX_Name``, and that folder itself; the id is this process's until the end.

    The first is the second where the same command with the same settings has made it; else a hidden folder beside it,
    in which the same conversion goes on and another one begins anew. :func:`finish_folder` gives it its name.

    Raises:
        ConfigurationError: bad id or name, the id belongs to another dataset, or another process makes one of this id.
        DatasetError: the folder holds something else.
    """
    if not 0 <= identifier <= 999:
        raise ConfigurationError(f"-d is {identifier}; dataset ids have three digits: choose one from 0 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or MODEL_SEPARATOR in name:
        raise ConfigurationError(
            f"The name {name!r} cannot be a dataset's. Expected letters, digits, '-', '.' and single '_', such as "
            "ChestXray."
        )
    root = raw_root()
    busy = (
        f"Another process makes a dataset of the id {identifier} in {root} at this moment. Wait until it has ended, or "
        "choose another id with -d."
    )
    lock = root / f".Dataset{identifier:03d}.lock"
    with locked(lock, busy=busy):
        try:
            yield _claim(root / f"Dataset{identifier:03d}_{name}", identifier, record)
        finally:
            with suppress(OSError):  # Windows removes no file that is open
                lock.unlink()


def _claim(folder: Path, identifier: int, record: dict[str, Any]) -> tuple[Path, Path]:
    others = sorted(n for n in known_datasets() if n.startswith(f"Dataset{identifier:03d}_") and n != folder.name)
    if others:
        raise ConfigurationError(
            f"The id {identifier} belongs to {others[0]} already, so {folder.name} is not written. Choose another id "
            "with -d."
        )
    remedy = "Choose another id with -d, or delete that folder first."
    if folder.exists() and not (folder / RECORD).exists() and any(folder.iterdir()):
        raise DatasetError(f"{folder} exists and was not made by {record['command']}. {remedy}")
    if (folder / RECORD).exists():
        before = read_json(folder / RECORD, error=DatasetError, remedy=remedy)
        if before != record:
            raise DatasetError(
                f"{folder} was made by {_words(before)}; now it is {_words(record)}. The two do not belong into one "
                f"folder. {remedy}"
            )
    if folder.exists() and any(folder.iterdir()):
        return folder, folder
    work = folder.with_name(_UNFINISHED + folder.name)
    if work.exists():
        try:
            begun = read_json(work / RECORD, error=DatasetError)
        except DatasetError as error:
            raise DatasetError(f"{error} {work} is where {folder.name} would be made. Remove it.") from error
        if begun != record:
            log.info("What %s had begun in %s is removed.", _words(begun), work)
            shutil.rmtree(work)
    write_json(work / RECORD, record)
    return work, folder


def finish_folder(work: Path, folder: Path) -> None:
    """Give a dataset that is whole its name.

    Raises:
        DatasetError: somebody else has made a folder of that name meanwhile.
    """
    if work == folder:
        return
    try:
        os.replace(work, folder)  # an empty folder of that name makes way
    except OSError as error:
        raise DatasetError(
            f"{folder} has come into being while {work} was made ({error.strerror}). Remove one of them, or rename "
            f"the second to {folder.name}."
        ) from error


def _words(record: Any) -> str:
    if not isinstance(record, dict):
        return "something unknown"
    settings = ", ".join(f"{key} = {value}" for key, value in (record.get("settings") or {}).items())
    return f"{record.get('command')} ({settings or 'no settings'})"

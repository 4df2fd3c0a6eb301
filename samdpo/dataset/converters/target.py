"""The folder a conversion writes to, claimed by a record: going on is safe, and nobody's data is written over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import read_json, write_json
from samdpo.paths import MODEL_SEPARATOR, known_datasets, raw_root

RECORD = "conversion.json"  # which command with which settings; nnU-Net and samdpo ignore it


def claim_folder(identifier: int, name: str, record: dict[str, Any]) -> Path:
    """``nnUNet_raw/DatasetXXX_Name``, new or begun by the same command with the same settings.

    Raises:
        ConfigurationError: bad id or name, or the id belongs to another dataset.
        DatasetError: the folder holds something else.
    """
    if not 0 <= identifier <= 999:
        raise ConfigurationError(f"-d is {identifier}; dataset ids have three digits: choose one from 0 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or MODEL_SEPARATOR in name:
        raise ConfigurationError(
            f"The name {name!r} cannot be a dataset's. Expected letters, digits, '-', '.' and single '_', such as "
            "ChestXray."
        )
    folder = raw_root() / f"Dataset{identifier:03d}_{name}"
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
    write_json(folder / RECORD, record)
    return folder


def _words(record: Any) -> str:
    if not isinstance(record, dict):
        return "something unknown"
    settings = ", ".join(f"{key} = {value}" for key, value in (record.get("settings") or {}).items())
    return f"{record.get('command')} ({settings or 'no settings'})"

"""The one atomic write: everything lands under a temporary name and is renamed when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError, SamdpoError


def temporary_beside(path: Path) -> Path:
    """Where to write what is renamed to ``path`` when it is whole; writers never meet, threads and machines neither."""
    return path.with_name(f".tmp{secrets.token_hex(6)}_{path.name}")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends without an error.

    The temporary name keeps the file's ending, since many writers choose the format by it. On an error the
    temporary file is removed and what stood at ``path`` before is untouched.

    Raises:
        ConfigurationError: the folder is not writable or the disk is full.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ConfigurationError(
                f"The disk is full while writing {path}. What was there before is untouched; "
                "free some space and type the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ConfigurationError(
                f"{path.parent} is not writable, so {path.name} cannot be written there ({error.strerror}). "
                "Change the folder's permissions or point the nnUNet_* variable elsewhere."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. NumPy scalars and arrays become numbers and lists."""
    write_text(path, json.dumps(content, indent=2, default=_to_builtin) + "\n")


def read_json(path: Path | str, *, error: type[SamdpoError] = ConfigurationError, remedy: str = "") -> Any:
    """Read JSON; a missing or broken file raises ``error`` with a sentence that ends in ``remedy``."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path} is missing. {remedy}".strip()) from cause
    except json.JSONDecodeError as cause:
        raise error(
            f"{path} is not valid JSON: {cause.msg} at line {cause.lineno}, column {cause.colno}. {remedy}".strip()
        ) from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not UTF-8 text, so it cannot be JSON. {remedy}".strip()) from cause


def hash_of(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over JSON-able parts: the key of a cache is a hash of what made it."""
    text = json.dumps(parts, sort_keys=True, default=_to_builtin)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _to_builtin(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        import dataclasses

        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

"""What many small JSON files of a folder say, kept in one file beside them, so that thousands need not be opened.

An entry counts only as long as its file is the very one that was read: same inode, size and time of writing, compared
each time with one listing of the folder. Files that are new or changed are read; the index is only ever a shortcut.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from samdpo.errors import SamdpoError
from samdpo.files import TELLS_APART, hash_of, read_json, write_text

log = logging.getLogger(__name__)

_NAME = ".index.json"
_WORTH_WRITING = 100  # files read anew


class JsonIndex:
    """The JSON files of a folder, summarized.

    Args:
        folder: may be missing.
        summarize: content of a file -> JSON-able; raises KeyError, TypeError or ValueError where it is none of ours.
        version: of ``summarize``; an index of another one is not used.
    """

    def __init__(self, folder: Path, summarize: Callable[[dict[str, Any]], Any], version: int) -> None:
        self.folder, self.summarize, self.version = folder, summarize, version
        self._last: tuple[int, dict[str, Any], set[str]] | None = None  # time of writing of the folder, what was in it

    def read(self) -> tuple[dict[str, Any], set[str]]:
        """Stem of each file that can be read now -> summary, sorted; and the names of all files of the folder."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}, set()
        if self._last is not None and self._last[0] == changed:
            return self._last[1:]
        found = self._look()
        # Files are renamed into the folder, which changes its time of writing; a recent time may not tell two apart.
        self._last = (changed, *found) if time.time_ns() - changed > TELLS_APART else None
        return found

    def _look(self) -> tuple[dict[str, Any], set[str]]:
        signatures: dict[str, list[int]] = {}
        names: set[str] = set()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                names.add(entry.name)
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    with suppress(FileNotFoundError):  # removed while looking
                        stat = entry.stat()
                        signatures[entry.name.removesuffix(".json")] = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        known = _read(self.folder / _NAME, self.version)
        found: dict[str, list[Any]] = {}
        fresh = 0
        for name, signature in sorted(signatures.items()):
            entry = known.get(name)
            if entry is not None and entry[0] == signature:
                found[name] = entry
                continue
            try:
                found[name] = [signature, self.summarize(read_json(self.folder / f"{name}.json"))]
                fresh += 1
            except (SamdpoError, KeyError, TypeError, ValueError, AttributeError):
                continue  # damaged, or none of ours: it is not there
        if fresh >= _WORTH_WRITING:
            _write(self.folder / _NAME, self.version, found)
        return {name: summary for name, (_, summary) in found.items()}, names


def _read(file: Path, version: int) -> dict[str, Any]:
    try:
        content = read_json(file)
        files = dict(content["files"])
        if (content["version"], content["checksum"]) != (version, hash_of(files)):
            return {}
        return {name: entry for name, entry in files.items() if isinstance(entry, list) and len(entry) == 2}
    except (SamdpoError, KeyError, TypeError, ValueError):  # damaged, or none of ours
        return {}


def _write(file: Path, version: int, found: dict[str, list[Any]]) -> None:
    try:
        content = {"version": version, "checksum": hash_of(found), "files": found}
        write_text(file, json.dumps(content, separators=(",", ":")))
    except (SamdpoError, OSError) as error:  # a folder that is only read, a full disk: it goes without
        log.debug("%s was not written: %s", file, error)

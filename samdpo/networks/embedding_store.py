"""Outputs of a frozen encoder on disk: computed once, read at the speed of the disk."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from samdpo.files import atomic_path, remove_abandoned, write_text

log = logging.getLogger(__name__)

Key = str | int | tuple[str | int, ...]
_CHECKSUM = struct.Struct("<4sI")  # ends a file: a mark and the CRC-32 of all before it
_MARK = b"crc1"
_LARGEST = float(np.finfo(np.float16).max)


class EmbeddingStore:
    """Float16 arrays, one file each, under a folder that belongs to one ``key``.

    A name is a text, or several parts such as (case, slice, view). What an array was made from belongs into the key or
    into the name: the slice's content as the last part of it, so that the array of a replaced image is found by
    :meth:`drop_replaced`. Writing is atomic, so a store may be filled by several processes and after any interruption.
    Each array ends in a checksum, which is compared when a process first reads it.

    Args:
        folder: of the store; created where missing.
        key: hash of all that made the arrays (weights, plan). A folder filled under another key is emptied.
        most_gib: of disk that the arrays may take; None for any number. What does not fit is not kept.

    Example::

        store = EmbeddingStore(folder, hash_of(weights, plan))
        if not store.has("case_1", 0, "flip"):
            store.put("case_1", 0, "flip", features)
        features = store.find(("case_1", 0, "flip"))  # (C, h, w)
    """

    def __init__(self, folder: Path | str, key: str, most_gib: float | None = None) -> None:
        self.folder, self.most_gib = Path(folder), most_gib
        self._taken: int | None = None  # bytes; None until it matters
        self._sound: set[str] = set()  # names of files that this process has read and found whole
        remove_abandoned(self.folder)
        marker = self.folder / "key.txt"
        key = f"{key} {_MARK.decode()}"
        known = marker.read_text(encoding="utf-8") if marker.is_file() else None
        if known != key:
            stale = list(self.folder.glob("*.npy"))
            if stale:
                log.info("%s: %d kept arrays were made by something else and are dropped.", self.folder, len(stale))
            # The marker changes last: killed in between, what is left still belongs to the old key.
            for file in stale:
                file.unlink(missing_ok=True)
            write_text(marker, key)

    def has(self, *key: str | int) -> bool:
        """Whether an array of this name is kept."""
        return self._file(key).is_file()

    def lacks(self, names: Sequence[Key]) -> list[Key]:
        """Those of ``names`` that are not kept, by one look into the folder."""
        with os.scandir(self.folder) as entries:
            there = {entry.name for entry in entries}
        return [name for name in names if self._file(name if isinstance(name, tuple) else (name,)).name not in there]

    def drop_replaced(self, names: Sequence[tuple[str | int, ...]]) -> None:
        """Drop arrays that have all parts of one of ``names`` but the last: they were made of other content."""
        wanted = {self._file(name).name: self._file((*name[:-1], "")).name.removesuffix(".npy") for name in names}
        beginnings = set(wanted.values())
        with os.scandir(self.folder) as entries:
            others = [e.name for e in entries if e.name.endswith(".npy") and e.name not in wanted]
        stale = [name for name in others if f"{name.rpartition('+')[0]}+" in beginnings]
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
            self._taken = None
        if stale:
            log.info("%s: %d kept arrays were made of images that have been replaced since and are dropped.",
                     self.folder, len(stale))

    def taken_gib(self) -> float:
        """Disk that the arrays take; those of other processes are counted when the store is opened."""
        if self._taken is None:
            with os.scandir(self.folder) as entries:
                self._taken = sum(entry.stat().st_size for entry in entries if entry.name.endswith(".npy"))
        return self._taken / 2**30

    def put(self, *key_and_array: Any) -> bool:
        """Keep an array: ``put(case, slice, view, array)`` or ``put(name, array)``.

        Tensors and NumPy arrays of any float type and shape; stored as float16, larger values are clipped.

        Returns:
            whether it is kept; it is not where the store would take more disk than it may.
        """
        *key, array = key_and_array
        if isinstance(array, torch.Tensor):
            array = array.detach().float().cpu().numpy()
        half = np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
        if self.most_gib is not None:
            if self.taken_gib() + half.nbytes / 2**30 > self.most_gib:
                return False
            self._taken += half.nbytes
        written = io.BytesIO()
        np.save(written, half)
        with atomic_path(self._file(key)) as temporary, temporary.open("wb") as file:
            file.write(written.getbuffer())
            file.write(_CHECKSUM.pack(_MARK, zlib.crc32(written.getbuffer())))
        return True

    def find(self, name: Key) -> np.ndarray | None:
        """The kept array of a name, float16, mapped from the disk; None where there is none.

        A damaged one is dropped, to be made again.
        """
        parts = name if isinstance(name, tuple) else (name,)
        file = self._file(parts)
        try:
            if file.name not in self._sound:
                _verify(file)
                self._sound.add(file.name)
            return np.load(file, mmap_mode="r", allow_pickle=False)  # it does not look at what follows the array
        except FileNotFoundError:
            return None
        except (ValueError, EOFError):
            self._sound.discard(file.name)
            log.warning("%s is damaged, is dropped and is computed again.", file)
            with suppress(OSError):  # a folder that is only read
                file.unlink(missing_ok=True)
            return None

    def _file(self, key: Sequence[str | int]) -> Path:
        # quote() escapes + and /, so different names never meet in one file.
        return self.folder / ("+".join(quote(str(part), safe=" ()") for part in key) + ".npy")


def _verify(file: Path) -> None:
    content = file.read_bytes()
    body, end = content[: -_CHECKSUM.size], content[-_CHECKSUM.size :]
    if end != _CHECKSUM.pack(_MARK, zlib.crc32(body)):
        raise ValueError("its checksum is another one")

"""Slices on disk: per case a b2nd array chunked by slice, one of labels, and a JSON of properties.

The JSON is written last, so a case that has one is whole. Reading one slice decompresses that slice only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.errors import DatasetError
from samdpo.files import atomic_path, read_json, write_json
from samdpo.json_index import JsonIndex
from samdpo.preprocessing.slicing import SliceGeometry

_REMEDY = "Type: samdpo_preprocess -d DATASET"
IGNORED = -1  # in stored labels: pixels of dataset.json's label ``ignore``, of which nothing is known
_OPEN = 64  # arrays and property files kept open: training comes back to the same cases
_KEPT = 4096  # properties kept in memory: a few kB each
_INDEX_VERSION = 1


@dataclass(frozen=True)
class CaseSummary:
    """What is needed of all cases at once; see :meth:`SliceStore.properties`."""

    hash: str
    labelled: bool
    n_slices: int
    ignored_slices: list[int]


class SliceStore:
    """Slices of a preprocessed dataset.

    Args:
        folder: ``nnUNet_preprocessed/DatasetXXX_Name/samdpoPlans_2d_256``.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._arrays: dict[Path, Any] = {}
        self._properties: dict[str, dict[str, Any]] = {}
        self._index = JsonIndex(self.folder, _summary, _INDEX_VERSION)

    def __reduce__(self) -> tuple[type[SliceStore], tuple[Path]]:
        return type(self), (self.folder,)  # open files do not travel to other processes

    def cases(self) -> list[str]:
        """Identifiers of the cases that are whole, sorted."""
        return sorted(f.name[: -len(".json")] for f in self.folder.glob("*.json") if not f.name.startswith("."))

    def summaries(self) -> dict[str, CaseSummary]:
        """Of every case that is whole now, sorted; of thousands much faster than :meth:`properties` of each."""
        indexed, names = self._index.read()
        return {
            case: CaseSummary(*entry) for case, entry in indexed.items()
            if self.image_file(case).name in names and (not entry[1] or self.label_file(case).name in names)
        }

    def has(self, case: str, content_hash: str | None = None) -> bool:
        """Whether the case is there, whole, and made from this very content where a hash is given."""
        if not (self._file(case).is_file() and self.image_file(case).is_file()):
            return False
        if content_hash is None:
            return True
        try:
            properties = read_json(self._file(case), error=DatasetError)
        except DatasetError:
            return False
        return properties.get("hash") == content_hash and (
            not properties.get("labelled") or self.label_file(case).is_file()
        )

    def properties(self, case: str) -> dict[str, Any]:
        """The case's JSON: hash, geometry, spacing (z, y, x mm), image_properties (of the reader), image_files,
        label_file, labelled, slices_of (structure -> slices that show it), ignored_slices (of which nothing is known),
        channels (stored -> network's three).

        Raises:
            DatasetError: the case is not preprocessed, or its JSON is damaged.
        """
        if case not in self._properties:
            while len(self._properties) >= _KEPT:
                self._properties.pop(next(iter(self._properties)))
            self._properties[case] = read_json(
                self._file(case), error=DatasetError, remedy=f"The case {case} is not preprocessed. {_REMEDY}"
            )
        return self._properties[case]

    def n_slices(self, case: str) -> int:
        """Number of slices of a case; 1 for a picture."""
        return int(self.properties(case)["geometry"]["n_slices"])

    slices = n_slices

    def geometry(self, case: str) -> SliceGeometry:
        """The way back to native pixels."""
        return SliceGeometry.from_dict(self.properties(case)["geometry"])

    def has_label(self, case: str) -> bool:
        """Whether the case came with a label."""
        return bool(self.properties(case)["labelled"])

    def image(self, case: str, index: int) -> np.ndarray:
        """One slice, (3, size, size) float32 in [0, 1]."""
        return self.stored(case, index).astype(np.float32)[self.channels(case)]

    def stored(self, case: str, index: int) -> np.ndarray:
        """The channels of one slice as they are stored, (C', size, size) float16 in [0, 1]; a grey image has one."""
        return self._read(self.image_file(case), case, index)

    def channels(self, case: str) -> list[int]:
        """Of each of the network's three channels, which stored one it is."""
        return self.properties(case)["channels"]

    def label(self, case: str, index: int) -> np.ndarray | None:
        """Label values of one slice, (size, size) uint8 or int16, :data:`IGNORED` where nothing is known; None where
        the case has no label."""
        return self._read(self.label_file(case), case, index) if self.has_label(case) else None

    def put(
        self, case: str, slices: np.ndarray, label: np.ndarray | None, properties: Mapping[str, Any]
    ) -> None:
        """Write a case atomically.

        Args:
            case: identifier.
            slices: (S, C', size, size) in [0, 1], stored as float16: 8 bits would cost a CT window its contrast.
            label: (S, size, size) whole numbers, or None.
            properties: JSON-able; see :meth:`properties`.
        """
        self._forget(case)
        _write_b2nd(slices.astype(np.float16), self.image_file(case))
        if label is None:
            self.label_file(case).unlink(missing_ok=True)
        else:
            small = label.min(initial=0) >= 0 and label.max(initial=0) <= 255
            _write_b2nd(label.astype(np.uint8 if small else np.int16), self.label_file(case))
        write_json(self._file(case), dict(properties))

    def remove(self, case: str) -> None:
        """Delete a case; its JSON goes first, so that no half of it counts."""
        self._forget(case)
        for file in (self._file(case), self.image_file(case), self.label_file(case)):
            file.unlink(missing_ok=True)

    def image_file(self, case: str) -> Path:
        """File of the slices."""
        return self.folder / f"{case}.b2nd"

    def label_file(self, case: str) -> Path:
        """File of the labels. A dot, not an underscore as in nnU-Net: a case may be called ``scan_seg``."""
        return self.folder / f"{case}.seg.b2nd"

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.json"

    def _forget(self, case: str) -> None:
        self._properties.pop(case, None)
        self._arrays.pop(self.image_file(case), None)
        self._arrays.pop(self.label_file(case), None)

    def _read(self, file: Path, case: str, index: int) -> np.ndarray:
        n_slices = self.n_slices(case)
        if not 0 <= index < n_slices:
            raise IndexError(f"{case} has the slices 0 to {n_slices - 1}, found {index}")
        if file not in self._arrays:
            while len(self._arrays) >= _OPEN:
                self._arrays.pop(next(iter(self._arrays)))
            self._arrays[file] = _open_b2nd(file)
        try:
            return np.asarray(self._arrays[file][index])
        except (RuntimeError, ValueError) as error:
            raise _damaged(file) from error


def _summary(properties: dict[str, Any]) -> list[Any]:
    """The fields of :class:`CaseSummary`."""
    return [
        str(properties.get("hash", "")), bool(properties["labelled"]), int(properties["geometry"]["n_slices"]),
        list(properties.get("ignored_slices", ())),
    ]


def _write_b2nd(array: np.ndarray, file: Path) -> None:
    import blosc2

    # Zstandard's lightest level on shuffled bytes: 0.6 of the size on X-rays in 2 ms a slice, where LZ4 gives 0.7.
    parameters = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1)
    chunk = (1, *array.shape[1:])
    with atomic_path(file) as temporary:
        try:
            blosc2.asarray(
                np.ascontiguousarray(array), chunks=chunk, blocks=chunk, urlpath=str(temporary), mode="w",
                cparams=parameters,
            )
        except RuntimeError as error:  # blosc2 hides the operating system's reason
            _raise_when_full(temporary.parent, array.nbytes, error)
            raise


def _raise_when_full(folder: Path, needed: int, error: Exception) -> None:
    import errno
    import shutil

    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from error


def _open_b2nd(file: Path) -> Any:
    import blosc2

    try:
        return blosc2.open(str(file), mode="r", dparams=blosc2.DParams(nthreads=1))
    except (RuntimeError, OSError, ValueError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> DatasetError:
    state = "is damaged" if file.is_file() else "is missing"
    return DatasetError(f"{file} {state}. Delete {file.name.split('.b2nd')[0]}.json beside it and preprocess again. "
                        f"{_REMEDY}")

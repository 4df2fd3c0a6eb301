"""Slices on disk: per case a b2nd array chunked by slice, one of labels, and a JSON of properties.

The JSON is written last, so a case that has one is whole. Reading one slice decompresses that slice only. The JSON has
a checksum of each slice, compared where the slice is read for the first time, and of each file, compared where a
dataset is preprocessed again: Blosc2 itself does not notice a bit that has changed on the disk.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.caches import LruCache
from samdpo.errors import ConfigurationError, DatasetError, SamdpoError
from samdpo.files import atomic_path, hash_of, read_json, sha256_of_file, write_json
from samdpo.json_index import JsonIndex
from samdpo.names import check_name
from samdpo.paths import PLANS_NAME
from samdpo.preprocessing.slicing import SliceGeometry, with_neighbours

SliceKey = tuple[str, int]  # case identifier, slice index

IGNORED = -1  # in stored labels: pixels of dataset.json's label ``ignore``, of which nothing is known
_OPEN = 64  # arrays and property files kept open: training comes back to the same cases
_KEPT = 4096  # properties kept in memory: a few kB each
_INDEX_VERSION = 2
_OURS = "samdpo"  # metalayer of our b2nd files: tells a half case of a run that was killed from files of others
_CHECKSUMS, _OWN = "checksums", "checksum"  # keys of a case's JSON: of its slices and files, and of the JSON itself


@dataclass(frozen=True)
class CaseSummary:
    """What is needed of all cases at once; see :meth:`SliceStore.properties`."""

    hash: str
    labelled: bool
    n_slices: int
    ignored_slices: list[int]
    source: str = ""
    small_objects: dict[str, list[int]] | None = field(default_factory=dict)  # None: of an older version, not counted


class SliceStore:
    """Slices of a preprocessed dataset.

    Args:
        folder: ``nnUNet_preprocessed/DatasetXXX_Name/samdpoPlans_2d_256``.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._arrays: LruCache[Path, Any] = LruCache(_OPEN)
        self._hashes: dict[str, str] = {}
        # Of each case its properties and its checksums.
        self._properties: LruCache[str, tuple[dict[str, Any], dict[str, Any]]] = LruCache(_KEPT)
        self._unread: dict[Path, bytearray] = {}  # of each file 1 for every slice that was not compared yet
        self._index = JsonIndex(self.folder, _summary, _INDEX_VERSION)

    def __reduce__(self) -> tuple[type[SliceStore], tuple[Path]]:
        return type(self), (self.folder,)  # open files do not travel to other processes

    def cases(self) -> list[str]:
        """Identifiers of the cases that are whole, sorted."""
        return list(self.summaries())

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

    def damaged(self, case: str) -> bool:
        """Whether a case that is there cannot be what was written: every byte of its files is read.

        Of cases of older versions, which have no checksums, each slice is decompressed instead.
        """
        fresh = SliceStore(self.folder)  # nothing that was read before
        try:
            checksums = fresh._load(case)[1]
            files = {"image": self.image_file(case)}
            if fresh.has_label(case):
                files["label"] = self.label_file(case)
            if checksums:
                return any(sha256_of_file(file) != checksums[kind]["file"] for kind, file in files.items())
            for file in files.values():
                for index in range(fresh.n_slices(case)):
                    fresh._read(file, case, index)
        except (SamdpoError, OSError, KeyError, TypeError):
            return True
        return False

    def properties(self, case: str) -> dict[str, Any]:
        """The case's JSON: hash (of all that dependents are made from), source (hash of the raw files and the rules),
        geometry, spacing (z, y, x mm), image_properties (of the reader), image_files, label_file, labelled, slices_of
        (structure -> slices that show it), small_objects (of :func:`~samdpo.preprocessing.slicing.keep_small_objects`,
        by structure), ignored_slices (of which nothing is known), channels (stored -> network's three), neighbours (how
        many slices away those are that the encoder sees beside a slice; left out where it sees none).

        Raises:
            DatasetError: the case is not preprocessed, or its JSON is damaged.
        """
        return self._load(case)[0]

    def hash_of_case(self, case: str) -> str:
        """What the keys of caches know a case's slices by: of all that made them; "" in stores of older versions.

        The index tells it of all cases at once, so that no file is opened for each of thousands.
        """
        if case not in self._hashes:
            self._hashes |= {name: one.hash for name, one in self.summaries().items()}
        if case not in self._hashes:  # the sentence about a case that is missing or damaged is its own
            self._hashes[case] = str(self.properties(case).get("hash", ""))
        return self._hashes[case]

    def n_slices(self, case: str) -> int:
        """Number of slices of a case; 1 for a picture."""
        return int(self.properties(case)["geometry"]["n_slices"])

    slices = n_slices

    def geometry(self, case: str) -> SliceGeometry:
        """The way back to native pixels."""
        return SliceGeometry.from_dict(self.properties(case)["geometry"])

    def slice_spacing(self, case: str) -> float:
        """mm from one slice to the next."""
        properties = self.properties(case)
        return float(properties["spacing"][properties["geometry"]["axis"]])

    def has_label(self, case: str) -> bool:
        """Whether the case came with a label."""
        return bool(self.properties(case)["labelled"])

    def image(self, case: str, index: int) -> np.ndarray:
        """One slice, (3, size, size) float32 in [0, 1]."""
        return self.stored(case, index).astype(np.float32)[self.channels(case)]

    def seen_image(self, case: str, index: int) -> np.ndarray:
        """What an encoder sees of a slice, (3, size, size) float32: the slice, or with it those before and after."""
        channels, shown = self.seen(case, index)
        return channels.astype(np.float32)[shown]

    def seen(self, case: str, index: int) -> tuple[np.ndarray, list[int]]:
        """As :meth:`seen_image`: the channels that differ, (C', size, size) float16, and which of them the three are.

        The neighbours of a slice are the first and the third channel.
        """
        step = self.neighbours(case)
        if step == 0:
            return self.stored(case, index), self.channels(case)
        n_slices = self.n_slices(case)
        if not 0 <= index < n_slices:
            raise IndexError(f"{case} has the slices 0 to {n_slices - 1}, found {index}")
        return np.concatenate([self.stored(case, i)[:1] for i in with_neighbours(index, n_slices, step)]), [0, 1, 2]

    def stored(self, case: str, index: int) -> np.ndarray:
        """The channels of one slice as they are stored, (C', size, size) float16 in [0, 1]; a grey image has one."""
        return self._read(self.image_file(case), case, index)

    def neighbours(self, case: str) -> int:
        """How many slices away those are that encoders see beside a slice; 0 where they see none."""
        return int(self.properties(case).get("neighbours", 0))

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
        check_name(case.strip(), "A case")
        self._forget(case)
        slices = slices.astype(np.float16)
        checksums = {"image": {"file": _write_b2nd(slices, self.image_file(case)), "slices": _checksums(slices)}}
        if label is None:
            self.label_file(case).unlink(missing_ok=True)
        else:
            small = label.min(initial=0) >= 0 and label.max(initial=0) <= 255
            label = label.astype(np.uint8 if small else np.int16)
            checksums["label"] = {"file": _write_b2nd(label, self.label_file(case)), "slices": _checksums(label)}
        content = {**properties, _CHECKSUMS: checksums}
        write_json(self._file(case), {**content, _OWN: hash_of(content)})

    def recorded(self) -> list[str]:
        """Identifiers of all cases that this store has a record of, be they whole or not, sorted."""
        return list(self._index.read()[0])

    def remove(self, case: str) -> None:
        """Delete a case; its JSON goes first, so that no half of it counts.

        Only what this store has written is deleted: a JSON that is no case's, such as a plan, stays.

        Raises:
            DatasetError: the store has no record of such a case.
        """
        check_name(case.strip(), "A case")
        self._forget(case)
        if not _is_record(self._file(case)):
            raise DatasetError(f"{self._file(case)} is no case of slices, so nothing of that name is deleted.")
        for file in (self._file(case), self.image_file(case), self.label_file(case)):
            file.unlink(missing_ok=True)

    def claim(self) -> None:
        """Make the folder where it is missing, and see to it that it is a store before anything is written into it.

        Raises:
            ConfigurationError: the folder holds something else and no slices of ours.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ours, foreign = self._files()
        if foreign and not ours:
            raise ConfigurationError(
                f"{self.folder} holds {foreign[0].name}, which samdpo has not written, and no slices of samdpo. Slices "
                "are not put among other files: write another name as the plan's 'preprocessing.data_identifier', or "
                "move out what lies there."
            )

    def clear(self) -> None:
        """Delete every case and leave the empty folder.

        Raises:
            ConfigurationError: the folder holds something that is no slice of ours. Then nothing is deleted.
        """
        ours, foreign = self._files()
        if foreign:
            names = ", ".join(file.name for file in foreign[:5]) + (" …" if len(foreign) > 5 else "")
            raise ConfigurationError(
                f"{self.folder} holds {names}, which samdpo has not written, so --clean deletes nothing there. Move "
                "that out of the folder and type the command again."
            )
        self._arrays.clear()
        self._hashes.clear()
        self._properties.clear()
        self._unread.clear()
        for file in sorted(ours, key=lambda file: file.suffix != ".json"):  # records first: no half case counts
            file.unlink(missing_ok=True)

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Files of cases, be they whole or what a killed run has left, and everything else that is not hidden."""
        records = set(self.recorded())
        ours: list[Path] = []
        foreign: list[Path] = []
        for file in sorted(self.folder.iterdir()):
            if file.name.startswith("."):
                continue
            if file.suffix == ".json":  # a damaged record has its slices beside it
                case = file.name[: -len(".json")]
                known = case in records or (self.image_file(case).is_file() and _unreadable(file))
            else:
                case = file.name.removesuffix(".b2nd").removesuffix(".seg")
                known = file.suffix == ".b2nd" and (case in records or _is_array(file))
            (ours if known and file.is_file() else foreign).append(file)
        return ours, foreign

    def image_file(self, case: str) -> Path:
        """File of the slices."""
        return self.folder / f"{case}.b2nd"

    def label_file(self, case: str) -> Path:
        """File of the labels. A dot, not an underscore as in nnU-Net: a case may be called ``scan_seg``."""
        return self.folder / f"{case}.seg.b2nd"

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.json"

    def _load(self, case: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Properties and checksums; the latter are {} in stores of older versions."""
        found = self._properties.get(case)
        if found is None:
            content = read_json(
                self._file(case), error=DatasetError, remedy=f"The case {case} is not preprocessed. {self._remedy}"
            )
            own = content.pop(_OWN, None) if isinstance(content, dict) else ""
            if own is not None and own != hash_of(content):
                raise DatasetError(f"{self._file(case)} is damaged: it is not as it was written. {self._remedy}")
            found = content, content.pop(_CHECKSUMS, {})
            self._properties.put(case, found)
        return found

    def _forget(self, case: str) -> None:
        self._properties.drop(case)
        self._hashes.clear()
        for file in (self.image_file(case), self.label_file(case)):
            self._arrays.drop(file)
            self._unread.pop(file, None)

    def _read(self, file: Path, case: str, index: int) -> np.ndarray:
        n_slices = self.n_slices(case)
        if not 0 <= index < n_slices:
            raise IndexError(f"{case} has the slices 0 to {n_slices - 1}, found {index}")
        array = self._arrays.get(file)
        if array is None:
            array = self._open(file)
            self._arrays.put(file, array)
        try:
            values = np.asarray(array[index])
        except (RuntimeError, ValueError) as error:
            raise self._damaged(file) from error
        unread = self._unread.setdefault(file, bytearray(b"\1" * n_slices))
        if unread[index]:
            expected = self._load(case)[1].get("image" if file == self.image_file(case) else "label", {}).get("slices")
            if expected is not None and expected[8 * index : 8 * index + 8] != _checksum(values):
                self._arrays.drop(file)
                raise self._damaged(file, f": slice {index} is not as it was written")
            unread[index] = 0
        return values

    def _open(self, file: Path) -> Any:
        import blosc2

        try:
            return blosc2.open(str(file), mode="r", dparams=blosc2.DParams(nthreads=1))
        except (RuntimeError, OSError, ValueError) as error:
            raise self._damaged(file) from error

    def _damaged(self, file: Path, how: str = "") -> DatasetError:
        state = f"is damaged{how}" if file.is_file() else "is missing"
        return DatasetError(f"{file} {state}. It is made anew by the command that has made it. {self._remedy}")

    @property
    def _remedy(self) -> str:
        """The command that mends the store, whose folder stands in that of the dataset and is named after the plan."""
        number, plans = re.match(r"Dataset0*(\d+)_", self.folder.parent.name), self.folder.name.rpartition("_2d_")[0]
        option = f" -plans_name {plans}" if plans not in ("", PLANS_NAME) else ""
        return f"Type: samdpo_preprocess -d {number.group(1) if number else 'DATASET'}{option}"


def _summary(properties: dict[str, Any]) -> list[Any]:
    """The fields of :class:`CaseSummary`."""
    geometry, labelled = properties["geometry"], bool(properties["labelled"])
    size = int(geometry["image_size"])
    shrunk = any(n > size for axis, n in enumerate(geometry["native_shape"]) if axis != int(geometry["axis"]))
    return [
        str(properties["hash"]), labelled, int(geometry["n_slices"]),
        list(properties.get("ignored_slices", ())), str(properties.get("source", properties["hash"])),
        properties.get("small_objects", None if labelled and shrunk else {}),
    ]


def _is_record(file: Path) -> bool:
    """Whether a JSON file is that of a case."""
    try:
        _summary(read_json(file))
    except (SamdpoError, KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


def _is_array(file: Path) -> bool:
    """Whether a b2nd file was written by :func:`_write_b2nd`; of older versions no file says so."""
    import blosc2

    try:
        array = blosc2.open(str(file), mode="r")  # must outlive its own metadata
        return _OURS in array.schunk.meta
    except (RuntimeError, OSError, ValueError, AttributeError):
        return False


def _unreadable(file: Path) -> bool:
    try:
        read_json(file)
    except SamdpoError:
        return True
    return False


def _checksum(values: np.ndarray) -> str:
    """CRC-32 of a slice's bytes, 8 hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(values)):08x}"


def _checksums(slices: np.ndarray) -> str:
    """Those of (S, …) slices, one after another."""
    return "".join(map(_checksum, slices))


def _write_b2nd(array: np.ndarray, file: Path) -> str:
    """Write an array; returns the SHA-256 of the file."""
    import blosc2

    # Zstandard's lightest level on shuffled bytes: 0.6 of the size on X-rays in 2 ms a slice, where LZ4 gives 0.7.
    parameters = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1)
    chunk = (1, *array.shape[1:])
    with atomic_path(file) as temporary:
        blosc2.asarray(
            np.ascontiguousarray(array), chunks=chunk, blocks=chunk, urlpath=str(temporary), mode="w",
            cparams=parameters, meta={_OURS: "slices"},
        )
        return sha256_of_file(temporary)

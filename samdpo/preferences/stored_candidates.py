"""Candidates made once and kept: what people are shown, and what training on their judgements learns from.

A folder holds ``candidates.json`` and per case ``cases/CASE.npz`` and ``cases/CASE.json``. A case counts when its JSON
is there, a set when ``candidates.json`` is; each is written last.
"""

from __future__ import annotations

import copy
import glob
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.errors import ModelFolderError
from samdpo.files import DAMAGED_NPZ, atomic_path, read_json, write_json
from samdpo.names import check_name
from samdpo.paths import CANDIDATES, results_root
from samdpo.preferences.as_json import set_from_json, set_to_json
from samdpo.preferences.records import CandidateSet, Item, item_id

VERSION = 1
_FILE = "candidates.json"
_KEPT = 256  # items whose packed masks stay in memory: training comes back to them
_DEPTH = 65535  # images are kept as 16-bit numbers: 8 bits would cost a CT window its contrast


@dataclass(frozen=True)
class ItemCandidates:
    """The candidates of one structure on one slice.

    Attributes:
        slice_index: of the case.
        structure: name.
        masks: (K, H, W) bool.
        boxes: (M, 4) float32 of the prompt, x0, y0, x1, y1 in pixels.
        disagreement: 1 - mean pairwise IoU of the masks.
    """

    slice_index: int
    structure: str
    masks: np.ndarray
    boxes: np.ndarray
    disagreement: float


class CandidateWriter:
    """Writes a set case by case; what is there already is kept, so that a stopped run goes on.

    Args:
        folder: of the set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def finished(self) -> bool:
        """Whether the set was written to its end, so that people may have seen it."""
        return (self.folder / _FILE).is_file()

    def has(self, case: str, case_key: str) -> bool:
        """Whether a case is there, whole.

        Raises:
            ModelFolderError: it is there, made from another image of that name: judgements on it may exist.
        """
        file = _case_file(self.folder, case)
        if not file.is_file():
            return False
        if read_json(file, error=ModelFolderError)["case_key"] != case_key:
            raise ModelFolderError(
                f"{file} holds candidates of another image of the case {case!r}: it was replaced after they were "
                f"made. Give the new image another name, or remove {self.folder}, which makes the judgements on these "
                "candidates void."
            )
        return True

    def put(
        self, case: str, case_key: str, images: Mapping[int, np.ndarray], items: Sequence[ItemCandidates],
        seen: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Write a case.

        Args:
            case: identifier.
            case_key: hash of its image.
            images: slice index -> (H, W) or (3, H, W) in [0, 1], of the slices that have items.
            items: those with something to choose between; may be none.
            seen: the same slices as encoders see them, (3, H, W), where these see more than people.
        """
        arrays: dict[str, np.ndarray] = {}
        for index, image in images.items():
            arrays[f"image_{index}"] = np.round(np.clip(image, 0, 1) * _DEPTH).astype(np.uint16)
        for index, image in (seen or {}).items():
            arrays[f"seen_{index}"] = np.round(np.clip(image, 0, 1) * _DEPTH).astype(np.uint16)
        for row, item in enumerate(items):
            arrays[f"masks_{row}"] = np.packbits(item.masks, axis=-1)
            arrays[f"boxes_{row}"] = item.boxes.astype(np.float32)
        file = _case_file(self.folder, case)
        with atomic_path(file.with_suffix(".npz")) as temporary, temporary.open("wb") as opened:
            np.savez_compressed(opened, **arrays)
        write_json(file, {"case_key": case_key, "items": [
            {"case": case, "row": row, "slice_index": item.slice_index, "structure": item.structure,
             "disagreement": item.disagreement, "candidates": len(item.masks), "width": item.masks.shape[-1]}
            for row, item in enumerate(items)
        ]})

    def finish(self, candidate_set: CandidateSet, description: Mapping[str, Any]) -> None:
        """Write ``candidates.json`` over the items of every case that is there.

        Args:
            candidate_set: what made them; of a set that was finished before, the first ``created`` stays.
            description: settings and whatever else a reader of the folder wants to know.
        """
        file = self.folder / _FILE
        described = set_to_json(candidate_set)
        if file.is_file():
            described["created"] = read_json(file, error=ModelFolderError)["candidate_set"]["created"]
        cases = sorted(one for one in (self.folder / "cases").glob("*.json") if not one.name.startswith("."))
        items = [entry for case in cases for entry in read_json(case, error=ModelFolderError)["items"]]
        write_json(file, {"version": VERSION, "candidate_set": described, **description, "items": items})


class StoredCandidates:
    """A candidate set on disk. Threads may share one.

    Attributes:
        folder: where it lies.
        candidate_set: what made it; ``PreferenceDatabase.add_candidate_set(stored.candidate_set, stored.items)``.
        items: highest disagreement first.
        description: everything else in ``candidates.json``.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description = {key: value for key, value in content.items() if key not in ("items", "candidate_set")}
        self.candidate_set = set_from_json({**content["candidate_set"], "folder": str(folder)})
        self._entries: dict[int, Mapping[str, Any]] = {}
        items = []
        for entry in content["items"]:
            case = entry["case"]
            check_name(case.strip() if isinstance(case, str) else case, f"{folder / _FILE}: a 'case'", ModelFolderError)
            place = (case, entry["slice_index"], entry["structure"])
            number = item_id(self.candidate_set.id, *place)
            self._entries[number] = entry
            items.append(Item(number, self.candidate_set.id, *place, entry["disagreement"], entry["candidates"]))
        self.items = sorted(items, key=lambda item: (item.position, item.id), reverse=True)
        self._packed = lru_cache(_KEPT)(self._read)

    @classmethod
    def open(cls, folder: Path | str) -> StoredCandidates:
        """Open a finished folder.

        Raises:
            ModelFolderError: ``candidates.json`` is missing, broken or of another version.
        """
        file = Path(folder) / _FILE
        remedy = "Candidates are made by: samdpo_annotate DATASET FOLD"
        content = read_json(file, error=ModelFolderError, remedy=remedy)
        if not isinstance(content, dict) or content.get("version") != VERSION:
            found = content.get("version") if isinstance(content, dict) else None
            raise ModelFolderError(f"{file} has the version {found!r}, expected {VERSION}. {remedy}")
        try:
            return cls(Path(folder), content)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFolderError(f"{file} is damaged ({type(error).__name__}: {error}). {remedy}") from error

    @classmethod
    def find(cls, candidate_set: CandidateSet) -> StoredCandidates:
        """Open the candidates of a set that a database knows, also where the results have moved since.

        Raises:
            ModelFolderError: they are neither where they were made nor in the results folder of this machine.
        """
        known = Path(candidate_set.folder)
        here = results_root() / candidate_set.dataset
        fold, name = glob.escape(candidate_set.fold), glob.escape(candidate_set.id)  # out of a file, perhaps
        moved = here.glob(f"*/fold_{fold}/{CANDIDATES}/{name}")
        found = cls.open(known if (known / _FILE).is_file() else next(moved, known))
        if found.candidate_set.id != candidate_set.id:
            raise ModelFolderError(
                f"{found.folder} holds the candidates {found.candidate_set.id}, expected {candidate_set.id}, which the "
                "database was told to lie there. Make them again with: samdpo_annotate DATASET FOLD"
            )
        return found

    def of_cases(self, cases: Collection[str]) -> StoredCandidates:
        """The same set, with the items of some cases alone.

        A set keeps what was shown. An image that was unlabelled then may validate today.
        """
        found = copy.copy(self)
        found.items = [item for item in self.items if item.case in cases]
        return found

    def masks(self, item: Item) -> np.ndarray:
        """The candidates of an item: (K, H, W) bool."""
        entry = self._entry(item)
        packed = self._packed(entry["case"], f"masks_{entry['row']}")
        return np.unpackbits(packed, axis=-1, count=entry["width"]).astype(bool)

    def image(self, item: Item) -> np.ndarray:
        """The slice of an item: (H, W) float32 in [0, 1], or (3, H, W) where its channels differ."""
        return self._read(item.case, f"image_{self._entry(item)['slice_index']}").astype(np.float32) / _DEPTH

    def seen(self, item: Item) -> np.ndarray | None:
        """The slice of an item as encoders see it, (3, H, W) float32; None where they see no more than people."""
        found = self._read(item.case, f"seen_{self._entry(item)['slice_index']}", missing=True)
        return None if found is None else found.astype(np.float32) / _DEPTH

    def boxes(self, item: Item) -> np.ndarray:
        """Boxes of the prompt: (M, 4) float32 x0, y0, x1, y1 in pixels of the image."""
        return self._read(item.case, f"boxes_{self._entry(item)['row']}")

    def _entry(self, item: Item) -> Mapping[str, Any]:
        if item.id not in self._entries:
            raise KeyError(f"{self.folder} has no candidates of item {item.id}")
        return self._entries[item.id]

    def _read(self, case: str, name: str, missing: bool = False) -> np.ndarray | None:
        file = _case_file(self.folder, case).with_suffix(".npz")
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return None if missing and name not in arrays else arrays[name]
        except DAMAGED_NPZ as error:
            raise ModelFolderError(
                f"{file} is missing or damaged ({error}). Remove {file.with_suffix('.json').name} beside it and make "
                "the same candidates again with: samdpo_annotate DATASET FOLD"
            ) from error


def _case_file(folder: Path, case: str) -> Path:
    return folder / "cases" / f"{case}.json"

"""The prompts of a fold on disk: one npz and one JSON a case, written atomically, keyed by what made them."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samdpo.caches import LruCache
from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.files import atomic_path, hash_of, read_json, sha256_of_file, write_json
from samdpo.json_index import JsonIndex
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.prompt import StructurePrompt

if TYPE_CHECKING:
    from samdpo.prompting.prompter import Prompter

log = logging.getLogger(__name__)

_KEPT = 256 * 1024**2  # bytes of cases held in memory: an epoch comes back to all of them, in another order
_INDEX_VERSION = 2
_MADE = "made.json"  # in the prompter's folder: of what key it is, and its files
_AS_NEW = "as_new"  # folder in the store's
_RAGGED = ("boxes", "points", "hypotheses", "hypothesis_scores")
_STACKED = ("saliency", "text_embedding")


def pack(prompts: Sequence[StructurePrompt]) -> dict[str, Any]:
    """Arrays of all rows; ragged ones one after another with their lengths; regions only where there are any."""
    packed: dict[str, Any] = {name: np.stack([getattr(p, name) for p in prompts]) for name in _STACKED}
    for name in _RAGGED:
        packed[name] = np.concatenate([getattr(p, name) for p in prompts])
        packed[f"{name}_length"] = np.array([len(getattr(p, name)) for p in prompts], np.int32)
    drawn = [row for row, prompt in enumerate(prompts) if prompt.regions.any()]
    size = prompts[0].regions.shape
    packed["regions"] = np.stack([prompts[row].regions for row in drawn]) if drawn else np.zeros((0, *size), np.uint8)
    packed["regions_row"] = np.full(len(prompts), -1, np.int32)
    packed["regions_row"][drawn] = np.arange(len(drawn))
    packed["size"] = np.array(size, np.int32)
    return packed


class PackedPrompts:
    """Packed prompts of a case as they are held in memory: regions are squeezed, to a hundredth of their size.

    Args:
        packed: what :func:`pack` gave.

    Raises:
        KeyError: an array is missing.
    """

    def __init__(self, packed: Mapping[str, np.ndarray]) -> None:
        self._stacked = {name: packed[name] for name in _STACKED}
        self._ragged = {name: packed[name] for name in _RAGGED}
        self._ends = {name: np.cumsum(packed[f"{name}_length"]) for name in _RAGGED}
        self._size = tuple(packed["size"])
        self._regions_row = packed["regions_row"]
        self._regions = [zlib.compress(regions, 1) for regions in np.ascontiguousarray(packed["regions"])]
        arrays = (*self._stacked.values(), *self._ragged.values(), *self._ends.values(), self._regions_row)
        self.nbytes = sum(array.nbytes for array in arrays) + sum(map(len, self._regions))

    def arrays(self, row: int) -> dict[str, np.ndarray]:
        """The arrays of one row, by field name of :class:`StructurePrompt`."""
        fields = {name: array[row] for name, array in self._stacked.items()}
        for name, array in self._ragged.items():
            start = self._ends[name][row - 1] if row else 0
            fields[name] = array[start : self._ends[name][row]]
        at = int(self._regions_row[row])
        fields["regions"] = np.zeros(self._size, np.uint8)
        if at >= 0:
            fields["regions"].reshape(-1)[:] = np.frombuffer(zlib.decompress(self._regions[at]), np.uint8)
        return fields


@dataclass(frozen=True)
class _KeptCase:
    """A case in memory: of each slice the rows of its prompts with what the JSON says of them, and their arrays."""

    slices: list[list[tuple[int, dict[str, Any]]]]
    packed: PackedPrompts

    def prompts(self, index: int) -> list[StructurePrompt]:
        return [StructurePrompt(**fields, **self.packed.arrays(row)) for row, fields in self.slices[index]]


@dataclass(frozen=True)
class PromptsSummary:
    """What is needed of the prompts of all cases at once.

    Attributes:
        key: of what made them.
        case_key: of the case's own input.
        slices: how many there are.
        shown: those in which at least one structure is present.
        known: whether some are at a place that is known, so that there are others in :attr:`PromptStore.as_new`.
    """

    key: str | None
    case_key: str
    slices: int
    shown: list[int]
    known: bool = False


class PromptStore:
    """Prompts by case and slice.

    Args:
        folder: e.g. ``nnUNet_preprocessed/Dataset003_Liver/samdpoPlans_prompts/fold_0``.
        key: of what makes the prompts; cases under another key do not count. None reads whatever is there.
        located: the prompts of the saliency, from which a judge has chosen those of this store. None where none did.
        otherwise: read for cases that are not here. None: they are missing.

    Attributes:
        located: likewise; this store itself where no judge chooses.
    """

    def __init__(
        self, folder: Path, key: str | None = None, located: PromptStore | None = None,
        otherwise: PromptStore | None = None,
    ) -> None:
        self.folder, self.key, self.otherwise = Path(folder), key, otherwise
        self.located = located or self
        self._known: dict[str, tuple[bool, str | None]] = {}  # of cases that are read as new ones
        self._recent: LruCache[str, _KeptCase] = LruCache(_KEPT, attrgetter("packed.nbytes"))
        self._index = JsonIndex(self.folder, _summary, _INDEX_VERSION)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}  # other processes read what they need

    @cached_property
    def as_new(self) -> PromptStore:
        """The prompts that cases would get if nobody knew where their structures are: what a model is measured under.

        They are this store's, but for cases that are prompted at a place that is known: those have others beside, see
        :meth:`~samdpo.prompting.outline_judges.OutlineJudges.write`.
        """
        return PromptStore(self.folder / _AS_NEW, self.key, otherwise=self)

    @property
    def prompter_folder(self) -> Path:
        """Where the prompter that made the prompts of new cases lies."""
        return self.folder / "prompter"

    def save_prompter(self, prompter: Prompter) -> None:
        """Keep the prompter of new cases, and a list of its files."""
        folder = self.prompter_folder
        prompter.save(folder)
        files = {f.name: sha256_of_file(f) for f in sorted(folder.iterdir()) if not f.name.startswith(".")}
        write_json(folder / _MADE, {"key": self.key, "files": files})

    def drop_prompter(self) -> None:
        """Before other prompts are made: the prompter that is there is none of theirs."""
        for file in (_MADE, "prompter.json"):
            (self.prompter_folder / file).unlink(missing_ok=True)

    @property
    def has_prompter(self) -> bool:
        """Whether the prompter of these very prompts is there, as it was written."""
        folder = self.prompter_folder
        if not (folder / _MADE).is_file():  # of an older version
            return (folder / "prompter.json").is_file()
        try:
            made = read_json(folder / _MADE)
            return made["key"] == self.key and all(
                sha256_of_file(folder / name) == known for name, known in made["files"].items()
            )
        except (SamdpoError, OSError, KeyError, TypeError, AttributeError):
            log.warning("%s is damaged; the prompter is made again.", folder)
            return False

    def cases(self) -> list[str]:
        """Cases that are whole and of this key, sorted."""
        return list(self.summaries())

    def summaries(self) -> dict[str, PromptsSummary]:
        """Of every case that is whole and of this key now, sorted."""
        indexed, names = self._index.read()
        found = {
            case: PromptsSummary(*entry) for case, entry in indexed.items()
            if f"{case}.npz" in names and self.key in (None, entry[0])
        }
        if not any(one.known for one in found.values()):
            return found
        others = self.as_new.summaries()
        return {case: one for case, one in found.items() if not one.known or self._fits(one, others.get(case))}

    @staticmethod
    def _fits(one: PromptsSummary, other: PromptsSummary | None) -> bool:
        return other is not None and (one.key, one.case_key) == (other.key, other.case_key)

    def shown(self, cases: Sequence[str]) -> set[SliceKey]:
        """The slices of ``cases`` in which at least one structure is present.

        Raises:
            ConfigurationError: a case has no prompts of this key.
        """
        there = self.summaries()
        for case in cases:
            if case not in there:
                raise self._missing(case)
        return {(case, index) for case in cases for index in there[case].shown}

    def put(
        self, case: str, prompts: Sequence[Sequence[StructurePrompt]], case_key: str = "", known: bool = False
    ) -> None:
        """Write the prompts of a case.

        Args:
            case: identifier.
            prompts: one list of structures a slice.
            case_key: names the case's own input.
            known: whether some are at a place that is known; those of :attr:`as_new` are written before then, since the
                case does not count without them.
        """
        rows = [(index, prompt) for index, one in enumerate(prompts) for prompt in one]
        meta, arrays = self._paths(case)
        with atomic_path(arrays) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **pack([prompt for _, prompt in rows]))
        content = {
            "key": self.key,
            "case_key": case_key,
            "slices": len(prompts),
            **({"known": True} if known else {}),
            "prompts": [
                {
                    "slice": index,
                    "structure": prompt.structure,
                    "label": prompt.label,
                    "present": bool(prompt.present),
                    "score": float(prompt.score),
                    "answer": prompt.answer,
                    "description": prompt.description,
                    **({"place_confidence": prompt.place_confidence} if prompt.place_confidence != 1 else {}),
                }
                for index, prompt in rows
            ],
        }
        # The JSON comes last: a case counts only when both files are whole.
        write_json(meta, {**content, "checksum": hash_of(content)})
        self._recent.drop(case)
        if "as_new" in self.__dict__:
            self.as_new._known.pop(case, None)

    def get(self, case: str, index: int) -> list[StructurePrompt]:
        """Prompts of one slice, one a structure.

        Raises:
            ConfigurationError: the case has no prompts of this key, or its files are damaged.
        """
        if self.otherwise is not None and not self._is_known(case):
            return self.otherwise.get(case, index)
        kept = self._recent.get(case)
        if kept is None:
            kept = self._read(case)
            self._recent.put(case, kept)
        if not 0 <= index < len(kept.slices):
            raise ConfigurationError(
                f"{self.folder / case}.npz has prompts for {len(kept.slices)} slices, slice {index} was asked for. "
                "Delete the file and type: samdpo_prompt DATASET FOLD"
            )
        return kept.prompts(index)

    def _is_known(self, case: str) -> bool:
        """Whether the case has prompts of its own here; else they are those of ``otherwise``.

        Raises:
            ConfigurationError: it should have, and has not, or those of another key.
        """
        if case not in self._known:
            content = self.otherwise._content(case) if self.otherwise._paths(case)[0].is_file() else {}
            self._known[case] = bool(content.get("known")), content.get("key")
        known, key = self._known[case]
        if known and case not in self._recent and self._content(case)["key"] != key:
            raise self._missing(case)
        return known

    def entries(self, case: str) -> list[dict[str, Any]]:
        """What the JSON of a case says of its prompts, without their arrays; see :meth:`put`."""
        return self._content(case)["prompts"]

    def slices(self, case: str) -> int:
        """Number of slices of a case."""
        return int(self._content(case)["slices"])

    def _read(self, case: str) -> _KeptCase:
        meta, arrays = self._paths(case)
        if not (meta.is_file() and arrays.is_file()):
            raise self._missing(case)
        content = self._content(case)
        if self.key not in (None, content["key"]):
            raise self._missing(case)
        try:
            with np.load(arrays, allow_pickle=False) as stored:
                packed = PackedPrompts({name: stored[name] for name in stored.files})
            slices: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in range(content["slices"])]
            for row, entry in enumerate(content["prompts"]):
                fields = {key: value for key, value in entry.items() if key != "slice"}
                slices[entry["slice"]].append((row, fields))
            kept = _KeptCase(slices, packed)
            for index in range(len(slices)):
                kept.prompts(index)
        except Exception as error:  # numpy, zipfile and zlib each raise their own kind
            raise self._damaged(arrays, error) from error
        return kept

    def _content(self, case: str) -> dict[str, Any]:
        """The JSON of a case that is there."""
        meta, _ = self._paths(case)
        try:
            return _whole(read_json(meta))
        except (SamdpoError, ValueError) as error:
            if not meta.is_file():
                raise
            raise self._damaged(meta, error) from error

    def _damaged(self, file: Path, error: Exception) -> ConfigurationError:
        """Forget what is damaged, so that the next command makes it again, and say so."""
        text = f"{file} is damaged ({error})."
        if os.access(self.folder, os.W_OK):
            file.with_suffix(".json").unlink(missing_ok=True)  # a case counts only with it
            return ConfigurationError(f"{text} It will be made again: type the same command once more.")
        return ConfigurationError(f"{text} Delete it and type: samdpo_prompt DATASET FOLD")

    def _missing(self, case: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.folder} has no prompts for case {case!r} made with these settings. Type: samdpo_prompt DATASET FOLD"
        )

    def _paths(self, case: str) -> tuple[Path, Path]:
        return self.folder / f"{case}.json", self.folder / f"{case}.npz"


def _whole(content: Any) -> dict[str, Any]:
    """The JSON of a case.

    Raises:
        ValueError: it is not what was written; an older version wrote no checksum.
    """
    if not isinstance(content, dict) or "prompts" not in content:
        raise ValueError("there are no prompts in it")
    known = content.get("checksum")
    if known is not None and known != hash_of({name: v for name, v in content.items() if name != "checksum"}):
        raise ValueError("its checksum is another one")
    return content


def _summary(content: dict[str, Any]) -> list[Any]:
    """The fields of :class:`PromptsSummary`."""
    try:
        content = _whole(content)
    except ValueError as error:
        log.warning("The prompts of a case are damaged (%s) and are made again.", error)
        raise
    shown = sorted({int(prompt["slice"]) for prompt in content["prompts"] if prompt["present"]})
    return [content["key"], content["case_key"], int(content["slices"]), shown, bool(content.get("known"))]

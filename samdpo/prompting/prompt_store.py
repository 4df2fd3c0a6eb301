"""The prompts of a fold on disk: one npz and one JSON a case, written atomically, keyed by what made them."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.files import (
    atomic_path,
    hash_of,
    read_json,
    remove_abandoned,
    sha256_of_file,
    temporary_beside,
    write_json,
)
from samdpo.json_index import JsonIndex
from samdpo.parallel import Executor, map_cases
from samdpo.paths import preprocessed_folder
from samdpo.planning.fingerprint import load_case_groups
from samdpo.planning.splits import fold_of, load_splits
from samdpo.plans import Plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.answers.answerer import asks_a_model
from samdpo.prompting.answers.asking import edited_cases, keep_answers
from samdpo.prompting.answers.cache import SliceKey
from samdpo.prompting.descriptions import with_descriptions
from samdpo.prompting.fitting import FittedPrompters, fit_prompter
from samdpo.prompting.frozen_features import SliceFeatures, frozen_key, slice_features
from samdpo.prompting.pretrained import calibrated_prompter, check_text_dim, kept_saliency, pretrained_checksum
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompter import Prompter
from samdpo.schema import as_before

log = logging.getLogger(__name__)

_KEPT = 256 * 1024**2  # bytes of cases held in memory: an epoch comes back to all of them, in another order
_INDEX_VERSION = 1
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


def unpack(packed: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    """The arrays of one row, by field name of :class:`StructurePrompt`."""
    return PackedPrompts(packed).arrays(row)


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
    """

    key: str | None
    case_key: str
    slices: int
    shown: list[int]


class PromptStore:
    """Prompts by case and slice.

    Args:
        folder: e.g. ``nnUNet_preprocessed/Dataset003_Liver/samdpoPlans_prompts/fold_0``.
        key: of what makes the prompts; cases under another key do not count. None reads whatever is there.
    """

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self.folder, self.key = Path(folder), key
        self._recent: dict[str, _KeptCase] = {}
        self._index = JsonIndex(self.folder, _summary, _INDEX_VERSION)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": {}}  # other processes read what they need

    @property
    def prompter_folder(self) -> Path:
        """Where the prompter that made the prompts of new cases lies."""
        return self.folder / "prompter"

    def cases(self) -> list[str]:
        """Cases that are whole and of this key, sorted."""
        return list(self.summaries())

    def summaries(self) -> dict[str, PromptsSummary]:
        """Of every case that is whole and of this key now, sorted."""
        indexed, names = self._index.read()
        return {
            case: PromptsSummary(*entry) for case, entry in indexed.items()
            if f"{case}.npz" in names and self.key in (None, entry[0])
        }

    def shown(self, cases: Sequence[str]) -> set[tuple[str, int]]:
        """The slices of ``cases`` in which at least one structure is present.

        Raises:
            ConfigurationError: a case has no prompts of this key.
        """
        there = self.summaries()
        for case in cases:
            if case not in there:
                raise self._missing(case)
        return {(case, index) for case in cases for index in there[case].shown}

    def has(self, case: str, case_key: str = "") -> bool:
        """Whether the case's prompts are there, whole, of this store's key and of ``case_key`` where given."""
        meta, arrays = self._paths(case)
        if not (meta.is_file() and arrays.is_file()):
            return False
        try:
            found = _whole(read_json(meta))
        except (SamdpoError, ValueError):
            return False
        return self.key in (None, found["key"]) and case_key in ("", found["case_key"])

    def put(self, case: str, prompts: Sequence[Sequence[StructurePrompt]], case_key: str = "") -> None:
        """Write the prompts of a case: one list of structures a slice. ``case_key`` names the case's own input."""
        rows = [(index, prompt) for index, one in enumerate(prompts) for prompt in one]
        meta, arrays = self._paths(case)
        with atomic_path(arrays) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **pack([prompt for _, prompt in rows]))
        content = {
            "key": self.key,
            "case_key": case_key,
            "slices": len(prompts),
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
        self._recent.pop(case, None)

    def get(self, case: str, index: int) -> list[StructurePrompt]:
        """Prompts of one slice, one a structure.

        Raises:
            ConfigurationError: the case has no prompts of this key, or its files are damaged.
        """
        if case not in self._recent:
            read = self._read(case)
            room = _KEPT - read.packed.nbytes
            while self._recent and sum(kept.packed.nbytes for kept in self._recent.values()) > room:
                self._recent.pop(next(iter(self._recent)))
            self._recent[case] = read
        prompts = self._recent[case].slices
        if not 0 <= index < len(prompts):
            raise ConfigurationError(
                f"{self.folder / case}.npz has prompts for {len(prompts)} slices, slice {index} was asked for. "
                "Delete the file and type: samdpo_prompt DATASET FOLD"
            )
        return self._recent[case].prompts(index)

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
    return [content["key"], content["case_key"], int(content["slices"]), shown]


_ASKED_AT_ONCE = 32  # slices whose questions go to a model together
_VERSION = 4  # raise when the code makes other prompts from the same settings


def prompts_folder(plans: Plans, fold: int | str) -> Path:
    """``nnUNet_preprocessed/DATASET/samdpoPlans_prompts/fold_0``."""
    return preprocessed_folder(plans.dataset_name) / f"{plans.plans_name}_prompts" / f"fold_{fold}"


def make_prompts(
    plans: Plans, fold: int | str, device: str = "auto", executor: Executor | None = None
) -> PromptStore:
    """Prompts of a fold's labelled, unlabelled and validation cases; ``all`` is every case of the splits."""
    folder = preprocessed_folder(plans.dataset_name)
    there = SliceStore(folder / plans.preprocessing.data_identifier).summaries()
    labelled, others = fold_cases(folder, fold, {case: one.labelled for case, one in there.items()})
    return make_prompts_of(plans, prompts_folder(plans, fold), labelled, others, device, executor)


def make_prompts_of(
    plans: Plans, target: Path, labelled: Sequence[str], others: Sequence[str], device: str = "auto",
    executor: Executor | None = None,
) -> PromptStore:
    """Make what is missing of some cases' prompts; returns the store, which is then whole for them.

    Labelled cases are prompted by towers that have not seen them; the others by the towers fitted to all labelled
    cases, whose prompter is saved in the store's folder. A pretrained image-text model, which has seen none, prompts
    them all. What is there under the same key is kept, so a second call is nearly free and a stopped one goes on.

    Args:
        plans: the plan; names the dataset.
        target: folder of the store.
        labelled: cases whose labels are looked at.
        others: cases that are only prompted.
        device: ``cpu``, ``cuda`` …; ``auto`` takes a GPU where there is one.
        executor: whose processes prompt the cases; else this process does. The towers are fitted here, and a model
            that answers questions is asked here.
    """
    plans = with_descriptions(plans)
    folder = preprocessed_folder(plans.dataset_name)
    store = SliceStore(folder / plans.preprocessing.data_identifier)
    cases = [*labelled, *others]
    hashes = {case: store.hash_of_case(case) for case in cases}
    every = load_case_groups(folder)  # read whatever is asked: a broken file is told before the work
    groups = {case: every[case] for case in labelled if case in every} if plans.prompting.fits_towers else {}
    key = hash_of(
        _VERSION, as_before(plans.prompting, "presence"), plans.structures, frozen_key(plans.network),
        pretrained_checksum(plans),
        {case: hashes[case] for case in labelled}, *([groups] if groups else []),  # without any as it has always been
    )
    prompts = PromptStore(target, key)
    answerer = keep_answers(plans)
    made = prompts.summaries()
    missing = [case for case in cases if case not in made or hashes[case] not in ("", made[case].case_key)]
    if answerer is not None:
        kept = {case: prompts.entries(case) for case in set(cases) - set(missing)}
        missing += sorted(edited_cases(answerer, kept, plans.structures))
    if not missing and _prompter_is_whole(prompts):
        return prompts
    remove_abandoned(target, recursive=True)
    check_text_dim(plans)
    features = None
    if executor is not None and asks_a_model(plans.prompting):
        log.info("The plan's questions are put to a model, which is done in this process.")
        executor = None
    if plans.prompting.fits_towers:
        features = slice_features(plans, store, device)
        fitted = _fit_towers(plans, store, labelled, groups, [] if executor else missing, features, device)
    else:
        kept_in = folder / f"{plans.plans_name}_saliency"
        fitted = calibrated_prompter(plans, store, labelled, kept_in, device)
    for file in (_MADE, "prompter.json"):  # the prompter of other prompts is none of these
        (prompts.prompter_folder / file).unlink(missing_ok=True)
    if executor is None:
        write_prompts(prompts, fitted, store, features, missing)
    else:
        _write_elsewhere(executor, prompts, fitted, plans, missing, device)
    if answerer is not None:
        answerer.release()
    _save_prompter(fitted.full, prompts)
    prompts.summaries()  # once read, they are there for every training
    return prompts


_MADE = "made.json"  # in the prompter's folder: of what key it is, and its files


def _save_prompter(prompter: Prompter, prompts: PromptStore) -> None:
    """Keep the prompter of new cases and a list of its files."""
    folder = prompts.prompter_folder
    prompter.save(folder)
    files = {f.name: sha256_of_file(f) for f in sorted(folder.iterdir()) if not f.name.startswith(".")}
    write_json(folder / _MADE, {"key": prompts.key, "files": files})


def _prompter_is_whole(prompts: PromptStore) -> bool:
    """Whether the prompter of these very prompts is there, as it was written."""
    folder = prompts.prompter_folder
    if not (folder / _MADE).is_file():  # of an older version
        return (folder / "prompter.json").is_file()
    try:
        made = read_json(folder / _MADE)
        return made["key"] == prompts.key and all(
            sha256_of_file(folder / name) == known for name, known in made["files"].items()
        )
    except (SamdpoError, OSError, KeyError, TypeError, AttributeError):
        log.warning("%s is damaged; the prompter is made again.", folder)
        return False


def _fit_towers(
    plans: Plans, store: SliceStore, labelled: Sequence[str], groups: Mapping[str, str], missing: list[str],
    features: SliceFeatures, device: str,
) -> FittedPrompters:
    start = time.perf_counter()
    wanted = [(case, index, False) for case in sorted({*missing, *labelled}) for index in range(store.slices(case))]
    mirrored = [(case, index, True) for case, index, _ in wanted if plans.prompting.mirror and case in labelled]
    features.prepare([*wanted, *mirrored])
    log.info("Image features: %.0f s.", time.perf_counter() - start)
    start = time.perf_counter()
    fitted = fit_prompter(plans, store, labelled, features, groups, features.extractor, device)
    log.info("Towers on %d labelled cases: %.0f s.", len(labelled), time.perf_counter() - start)
    return fitted


def write_prompts(
    prompts: PromptStore,
    fitted: FittedPrompters,
    store: SliceStore,
    features: SliceFeatures | None,
    cases: Sequence[str],
) -> None:
    """Prompt every slice of ``cases``, each case by the prompter that may see it, and keep them in ``prompts``.

    ``features`` are what fitted towers see; a pretrained model has kept its saliency.
    """
    start = time.perf_counter()
    with tqdm(total=len(cases), desc="Prompts") as progress:
        for group in _groups_of_cases(cases, store, asks_a_model(fitted.full.settings.prompting)):
            for case, made in _prompt_cases(fitted, store, features, group).items():
                prompts.put(case, made, store.hash_of_case(case))
            progress.update(len(group))
    log.info("Prompts of %d cases: %.2f s each.", len(cases), (time.perf_counter() - start) / max(1, len(cases)))


@dataclass(frozen=True)
class _Work:
    """What a process needs to know to prompt cases; small, since it is sent."""

    plans: Plans
    store: Path
    key: str | None
    prompters: Path
    device: str


@dataclass(frozen=True)
class _Case:
    """A case, and the name of the prompter that may see it."""

    identifier: str
    prompter: str


def _write_elsewhere(
    executor: Executor, prompts: PromptStore, fitted: FittedPrompters, plans: Plans, cases: Sequence[str], device: str
) -> None:
    """As :func:`write_prompts`, by the processes of ``executor``, to which prompters and cases are handed by path."""
    distinct = {id(one): one for one in (fitted.full, *fitted.held_out.values())}
    names = {number: str(i) for i, number in enumerate(distinct)}
    folder = temporary_beside(prompts.folder / "prompters")
    try:
        for number, prompter in distinct.items():
            prompter.save(folder / names[number])
        work = _Work(plans, prompts.folder, prompts.key, folder, device)
        items = [_Case(case, names[id(fitted.for_case(case))]) for case in cases]
        for _ in map_cases(partial(_prompt_by_path, work), items, executor, "Prompts", per_process=1):
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Prompting:
    """What a process keeps while it prompts case after case."""

    def __init__(self, work: _Work) -> None:
        plans = work.plans
        folder = preprocessed_folder(plans.dataset_name)
        self.work, self.store = work, SliceStore(folder / plans.preprocessing.data_identifier)
        self.prompts = PromptStore(work.store, work.key)
        self.features = slice_features(plans, self.store, work.device) if plans.prompting.fits_towers else None
        self.kept_in = folder / f"{plans.plans_name}_saliency"
        self.fitted: dict[str, FittedPrompters] = {}

    def of(self, name: str) -> FittedPrompters:
        """The prompter of this name, as if it were fitted to every case."""
        if name not in self.fitted:
            prompter = Prompter.load(self.work.prompters / name, self.work.device)
            saliency = None if self.features else kept_saliency(self.work.plans, self.store, prompter, self.kept_in)
            self.fitted[name] = FittedPrompters(prompter, {}, saliency)
        return self.fitted[name]


_prompting: _Prompting | None = None
_ONE_AT_A_TIME = threading.Lock()  # a worker may have several threads, but one model and one card


def _prompt_by_path(work: _Work, case: _Case) -> None:
    """In another process: the case is read, prompted and its prompts written there."""
    global _prompting
    with _ONE_AT_A_TIME:
        if _prompting is None or _prompting.work.prompters != work.prompters:
            _prompting = _Prompting(work)
        kept, name = _prompting, case.identifier
        made = _prompt_cases(kept.of(case.prompter), kept.store, kept.features, [name])
        kept.prompts.put(name, made[name], kept.store.hash_of_case(name))


def fold_cases(
    folder: Path, fold: int | str, preprocessed: Mapping[str, bool] | None = None
) -> tuple[list[str], list[str]]:
    """Labelled cases of a fold, and its unlabelled and validation cases.

    Arguments and errors as of :func:`~samdpo.planning.splits.load_splits` and
    :func:`~samdpo.planning.splits.fold_of`.
    """
    one = fold_of(load_splits(folder, preprocessed), fold, folder)
    return one.labelled, sorted({*one.unlabelled, *one.val} - set(one.labelled))


def _groups_of_cases(cases: Sequence[str], store: SliceStore, asks: bool) -> Iterator[list[str]]:
    """Case by case; where a model is asked, so many cases at once that its batches are full."""
    group: list[str] = []
    for case in cases:
        group.append(case)
        if not asks or sum(map(store.slices, group)) >= _ASKED_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _prompt_cases(
    fitted: FittedPrompters, store: SliceStore, features: SliceFeatures | None, cases: Sequence[str]
) -> dict[str, list[list[StructurePrompt]]]:
    slices = [(case, index) for case in cases for index in range(store.slices(case))]
    images = [store.image(case, index) for case, index in slices]
    raw: dict[SliceKey, np.ndarray | None] = dict.fromkeys(slices)
    present: dict[SliceKey, dict[str, bool] | None] = dict.fromkeys(slices)
    if fitted.saliency:
        raw = {key: fitted.saliency(*key) for key in slices}
    for case in cases:
        prompter, of_case = fitted.for_case(case), [key for key in slices if key[0] == case]
        if prompter.sees_volumes and len(of_case) > 1:
            if not fitted.saliency:
                seen = zip(of_case, (image for key, image in zip(slices, images) if key[0] == case))
                raw |= {key: prompter.raw_saliency(image, features(*key)).astype(np.float16) for key, image in seen}
            present |= zip(of_case, prompter.presence([raw[key] for key in of_case], store.slice_spacing(case)))
    located = [
        # The points' seed is that of prediction, which does not know a case by its name.
        fitted.for_case(case).locate(
            image, features(case, i) if features else None, raw=raw[case, i], present=present[case, i]
        )
        for (case, i), image in zip(slices, images)
    ]
    told = fitted.full.with_texts(located, images, slices)
    return {case: [of_slice for (shown, _), of_slice in zip(slices, told) if shown == case] for case in cases}

"""Preprocess a dataset: every case once, on all cores, resumable at any moment."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.agreement import grid_problem, value_problem
from samdpo.dataset.cases import Case, labelled_cases, unlabelled_cases
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import Volume, ending_of, read_image, read_label, read_label_with_properties, write_label
from samdpo.dataset.orientation import orientation, turn_to, unknown_orientation
from samdpo.errors import DatasetError
from samdpo.files import atomic_path, hash_of
from samdpo.parallel import Workers, local_threads, map_cases
from samdpo.paths import preprocessed_folder, raw_folder
from samdpo.plans import Plans, PreprocessingPlan
from samdpo.preprocessing.normalization import distinct_channels, iterate_channels
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import IGNORED, SliceStore
from samdpo.schema import to_dict

log = logging.getLogger(__name__)

_PORTION = 2**20  # bytes read at once
_VERSION = 2  # of what this module computes; part of every case's hash


def prepare_slices(data: np.ndarray, plans: Plans) -> tuple[np.ndarray, SliceGeometry]:
    """Normalise and cut a volume, as training data was.

    Args:
        data: (C, Z, Y, X), intensities as read.
        plans: the plan.

    Returns:
        (S, 3, size, size) float32 in [0, 1], and the way back to native pixels.
    """
    channels, geometry = prepare_channels(data, plans)
    return channels[:, distinct_channels(plans.preprocessing.channel_mapping)[1]], geometry


def prepare_channels(data: np.ndarray, plans: Plans) -> tuple[np.ndarray, SliceGeometry]:
    """As :func:`prepare_slices`, but each channel that is shown only once: (S, C', size, size)."""
    return _cut(data, plans.preprocessing)


def preprocess_case(case: Case, plans: Plans) -> tuple[np.ndarray, SliceGeometry, dict[str, Any]]:
    """Read and cut one case: (slices (S, 3, size, size), geometry, properties as in the store)."""
    job = _Job(case, plans.preprocessing, {n: s.label for n, s in plans.structures.items()}, case_hash(case, plans))
    channels, _, geometry, properties = _prepare(job)
    return channels[:, properties["channels"]], geometry, properties


def preprocess_dataset(dataset: int | str, plans: Plans, processes: Workers = 1, clean: bool = False) -> SliceStore:
    """Fill ``nnUNet_preprocessed/DatasetXXX_Name/DATA_IDENTIFIER`` from the raw images.

    Cases that are there, made from the same files with the same plan, are kept; cases whose raw files are gone are
    removed. Also brings ``dataset.json`` and ``gt_segmentations/`` up to date.

    Args:
        dataset: id or name.
        plans: its ``preprocessing`` is what is done.
        processes: at most this many, or an executor.
        clean: throw away what is there.

    Raises:
        DatasetError: a case cannot be read, or its label has another geometry or values that dataset.json does not
            list. Cases done before stay.
    """
    raw, folder = raw_folder(dataset), preprocessed_folder(dataset, writable=True)
    contents = load_dataset_json(raw)
    cases = [*labelled_cases(raw, contents), *unlabelled_cases(raw, contents)]
    store = SliceStore(folder / plans.preprocessing.data_identifier)
    if clean and store.folder.is_dir():
        shutil.rmtree(store.folder)
    store.folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "dataset.json") as temporary:
        shutil.copyfile(raw / "dataset.json", temporary)
    _copy_truth([c for c in cases if c.label], folder / "gt_segmentations", contents.file_ending)
    with ThreadPoolExecutor(local_threads(processes)) as threads:  # hashing waits for the disk, not for Python
        rules = _rules(plans, contents.ignore_label)
        hashes = list(threads.map(lambda case: _hash(case, *rules), cases))
    labels = {name: structure.label for name, structure in plans.structures.items()}
    there = store.summaries()
    jobs = [
        _Job(case, plans.preprocessing, labels, content, store.folder, contents.labels, contents.ignore_label)
        for case, content in zip(cases, hashes)
        if case.identifier not in there or there[case.identifier].hash != content
    ]
    if len(jobs) < len(cases):
        log.info("%d of %d cases are preprocessed already.", len(cases) - len(jobs), len(cases))
    for _ in map_cases(_run, jobs, processes, "Preprocessing", per_process=16 if plans.ndim == 2 else 1):
        pass
    for gone in sorted(set(store.cases()) - {case.identifier for case in cases}):
        log.info("%s is not among the raw images any more: its slices are removed.", gone)
        store.remove(gone)
    store.summaries()  # once read, they are there for every training
    log.info("%d cases in %s", len(cases), store.folder)
    return SliceStore(store.folder)


def case_hash(case: Case, plans: Plans, ignore_label: int | None = None) -> str:
    """Hash of all that a case's slices are made from: the bytes of its files, the plan's preprocessing, the labels."""
    return _hash(case, *_rules(plans, ignore_label))


def _rules(plans: Plans, ignore_label: int | None) -> tuple[dict[str, Any], dict[str, int]]:
    """What of a plan a case's slices depend on: preprocessing, and labels by name."""
    rules = {k: v for k, v in to_dict(plans.preprocessing).items() if k != "data_identifier"}
    labels = {name: s.label for name, s in plans.structures.items()}
    return rules, labels if ignore_label is None else {**labels, "ignore": ignore_label}


def _hash(case: Case, rules: dict[str, Any], labels: dict[str, int]) -> str:
    return hash_of(_VERSION, [_content_hash(file) for file in _files(case)], rules, labels)


def _content_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(_PORTION):  # a volume need not be in memory
            digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Job:
    """All that a process needs for one case; small, since it is sent."""

    case: Case
    plan: PreprocessingPlan
    labels: Mapping[str, int]
    content_hash: str
    folder: Path | None = None
    listed: Mapping[str, int] | None = None  # every label of dataset.json; None: any value is accepted
    ignore_label: int | None = None

    @property
    def identifier(self) -> str:
        """What messages call it."""
        return self.case.identifier


def _run(job: _Job) -> None:
    channels, label, _, properties = _prepare(job)
    SliceStore(job.folder).put(job.case.identifier, channels, label, properties)


def _prepare(job: _Job) -> tuple[np.ndarray, np.ndarray | None, SliceGeometry, dict[str, Any]]:
    """Stored channels (S, C', size, size), label (S, size, size) or None, geometry, properties."""
    case, plan = job.case, job.plan
    volume = read_image(case.images, len(plan.normalization) or None)
    unknown = unknown_orientation(volume.properties, plan.orientation)
    if unknown:
        log.warning("%s: %s.", case.images[0], unknown)
    turn = turn_to(orientation(volume.properties), plan.orientation)
    channels, geometry = _cut(turn.apply(volume.data), plan)
    label = None
    if case.label is not None:
        label = geometry.label_to_slices(turn.apply(_read_label(job, volume)))
    shown = {} if label is None else {
        name: np.flatnonzero((label == value).any(axis=(1, 2))).tolist() for name, value in job.labels.items()
    }
    properties = {
        "hash": job.content_hash,
        "labelled": label is not None,
        "geometry": geometry.to_dict(),
        **turn.to_json(),
        "spacing": list(turn.along(volume.spacing)),  # of the slices, as they were cut
        "image_properties": volume.properties,
        "image_files": [str(file) for file in case.images],
        "label_file": None if case.label is None else str(case.label),
        "channels": distinct_channels(plan.channel_mapping)[1],
        "slices_of": shown,
        "ignored_slices": [] if label is None else np.flatnonzero((label == IGNORED).all(axis=(1, 2))).tolist(),
        "group": case.group,
    }
    return channels, label, geometry, properties


def _read_label(job: _Job, image: Volume) -> np.ndarray:
    """(Z, Y, X) label values of a case, :data:`IGNORED` where the label is dataset.json's ``ignore``."""
    case = job.case
    label, properties = read_label_with_properties(case.label)
    problem = grid_problem(case.images[0], image, case.label, label.shape, properties)
    if job.listed is not None:
        problem = problem or value_problem(case.label, np.unique(label).tolist(), job.listed)
    if problem:
        raise DatasetError(problem)
    if job.ignore_label is not None:
        label[label == job.ignore_label] = IGNORED
    return label


def _cut(data: np.ndarray, plan: PreprocessingPlan) -> tuple[np.ndarray, SliceGeometry]:
    z, y, x = data.shape[1:]
    geometry = SliceGeometry(plan.slicing_axis if z > 1 else 0, (z, y, x), plan.image_size)
    channels = [geometry.to_slices(channel[None]) for channel in iterate_channels(data, plan)]
    return (channels[0] if len(channels) == 1 else np.concatenate(channels, axis=1)), geometry


def _files(case: Case) -> list[Path]:
    return [*case.images, *([case.label] if case.label else [])]


def _copy_truth(cases: Sequence[Case], folder: Path, ending: str) -> None:
    """nnU-Net's ``gt_segmentations``: labels in native pixels under the cases' names, for evaluation."""
    wanted = {f"{case.identifier}{ending}": case for case in cases}
    for name, case in wanted.items():
        target = folder / name
        source = case.label.stat()
        if target.is_file() and target.stat().st_mtime_ns == source.st_mtime_ns:
            continue
        if ending_of(case.label) == ending:
            with atomic_path(target) as temporary:
                shutil.copy2(case.label, temporary)
        else:  # the 'dataset' key of dataset.json may name labels of another format than the images'
            write_label(read_label(case.label), target, read_image(case.images).properties)
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name not in wanted and not file.name.startswith("."):
            file.unlink()

"""Preprocess a dataset: every case once, on all cores, resumable at any moment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.cases import Case
from samdpo.dataset.images import read_image, read_label, spacing_file, write_label
from samdpo.dataset.orientation import orientation, turn_to, unknown_orientation
from samdpo.dataset.raw_dataset import AnyDataset, RawDataset, content_hashes
from samdpo.dataset.volume import Volume
from samdpo.errors import PlansError, SamdpoError, few
from samdpo.files import content_hash, copy_file, hash_of, read_json, remove_abandoned, write_json
from samdpo.names import check_name, ending_of, name_problem
from samdpo.parallel import Workers, local_threads, map_cases, map_threads
from samdpo.paths import preprocessed_folder
from samdpo.plans import Plans, PreprocessingPlan
from samdpo.preprocessing.normalization import distinct_channels, iterate_channels
from samdpo.preprocessing.slicing import SliceGeometry, cut_axis, keep_small_objects, neighbour_step, slices_with
from samdpo.preprocessing.store import IGNORED, CaseSummary, SliceStore
from samdpo.preprocessing.training_images import in_depth_of_training
from samdpo.schema import as_before

log = logging.getLogger(__name__)

_VERSION = 1  # of what this module computes; part of every case's hash
_TRUTH = "gt_segmentations"  # nnU-Net's name
_TRUTH_RECORD = f".{_TRUTH}"  # beside that folder: JSON that says what each copy was made from and what it was then


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


def lies_across(image: Volume, geometry: SliceGeometry, plan: PreprocessingPlan) -> str:
    """A part of a sentence where a volume of one slice lies across those of the plan; "" where it does not.

    Args:
        image: as read.
        geometry: by which it was cut, turned.
        plan: asks for an orientation; without one nobody knows.
    """
    if not plan.orientation or not orientation(image.properties) or geometry.axis == plan.slicing_axis:
        return ""
    views = ("axial", "coronal", "sagittal")
    body = ["SI", "PA", "LR"]
    of_axis = [next(i for i, ends in enumerate(body) if plan.orientation[2 - axis] in ends) for axis in range(3)]
    return f"the image is one {views[of_axis[geometry.axis]]} slice, and those of training are " \
           f"{views[of_axis[plan.slicing_axis]]}"


def preprocess_dataset(dataset: AnyDataset, plans: Plans, processes: Workers = 1, clean: bool = False) -> SliceStore:
    """Fill ``nnUNet_preprocessed/DatasetXXX_Name/DATA_IDENTIFIER`` from the raw images.

    Cases that are there whole, made from the same files with the same plan, are kept; damaged ones are made anew, and
    cases whose raw files are gone are removed. Also brings ``dataset.json`` and ``gt_segmentations/`` up to date.

    Args:
        dataset: a raw one: id, name, folder, or as it is open.
        plans: its ``preprocessing`` is what is done.
        processes: at most this many, or an executor.
        clean: throw away what is there.

    Raises:
        DatasetError: a case cannot be read, or its label has another geometry or values that dataset.json does not
            list. Cases done before stay.
        PlansError: the plan's ``data_identifier`` is no name of a folder for slices.
        ConfigurationError: that folder holds files of others, and no slices or ``clean`` is asked for.
    """
    raw = RawDataset.open(dataset)
    folder, cases = preprocessed_folder(raw.name, writable=True), raw.cases
    for case in cases:  # whose names may have a space at an end
        check_name(case.identifier.strip(), f"{raw.folder / 'dataset.json'}: the name of a case")
    store = SliceStore(folder / _slices_folder(plans))
    if clean and store.folder.is_dir():
        store.clear()
    store.claim()
    remove_abandoned(folder, recursive=True)
    copy_file(raw.folder / "dataset.json", folder / "dataset.json")
    hashes = content_hashes(cases, local_threads(processes))
    _copy_truth(raw, folder / _TRUTH, hashes)
    rules = _rules(plans, raw.meta.ignore_label)
    sources = {case.identifier: _hash(case, hashes, *rules) for case in cases}
    labels = {name: structure.label for name, structure in plans.structures.items()}
    there = _fit(store, sources, local_threads(processes))
    jobs = [_Job(case, sources[case.identifier]) for case in cases if case.identifier not in there]
    run = partial(_run, raw=raw, plan=plans.preprocessing, labels=labels, folder=store.folder)
    if len(jobs) < len(cases):
        log.info("%d of %d cases are preprocessed already.", len(cases) - len(jobs), len(cases))
    for _ in map_cases(run, jobs, processes, "Preprocessing", per_process=16 if plans.ndim == 2 else 1):
        pass
    for gone in sorted(set(store.recorded()) - set(sources)):
        log.info("%s is not among the raw images any more: its slices are removed.", gone)
        store.remove(gone)
    _warn_of_small_objects(store.summaries(), plans.preprocessing.image_size)  # once read, they are there for training
    log.info("%d cases in %s", len(cases), store.folder)
    return SliceStore(store.folder)


def _slices_folder(plans: Plans) -> str:
    """``data_identifier``, which a plan may hold that came from elsewhere and which files are deleted in."""
    what = f"{plans.plans_name}.json: 'preprocessing.data_identifier'"
    name = check_name(plans.preprocessing.data_identifier, what, PlansError, "The planner writes samdpoPlans_2d_256.")
    if name == _TRUTH:
        raise PlansError(f"{what} is {name!r}, the folder of the labels. Write another name, like samdpoPlans_2d_256.")
    return name


def _fit(store: SliceStore, sources: Mapping[str, str], threads: int) -> set[str]:
    """Cases whose slices are there, made from ``sources`` and undamaged; damaged ones are told."""
    found = {
        case: entry for case, entry in store.summaries().items()
        if case in sources and entry.source == sources[case] and entry.small_objects is not None
    }
    damaged = [case for case, is_damaged in zip(found, map_threads(store.damaged, list(found), threads)) if is_damaged]
    if damaged:
        log.warning(
            "The slices of %s are damaged and are made anew. If this comes back, look after the disk.", few(damaged)
        )
    return set(found) - set(damaged)


def _warn_of_small_objects(there: Mapping[str, CaseSummary], size: int) -> None:
    """How many outlined objects of each structure are too small for the slices' grid."""
    totals: dict[str, np.ndarray] = {}
    for entry in there.values():
        for name, counts in (entry.small_objects or {}).items():
            totals[name] = totals.get(name, np.zeros(3, int)) + counts
    for name, (objects, small, unseen) in totals.items():
        if small:
            log.warning(
                "%s: %d of %d outlined objects (%.3g%%) are so small that they fall between the pixels of the %d x %d "
                "slices. Each is kept as one pixel%s: too little to learn an outline from. Crop the images around what "
                "is outlined if these matter.", name, small, objects, 100 * small / objects, size, size,
                f" (but {unseen}, which other structures cover)" if unseen else "",
            )


def _rules(plans: Plans, ignore_label: int | None) -> tuple[dict[str, Any], dict[str, int]]:
    """What of a plan a case's slices depend on: preprocessing, and labels by name."""
    rules = {k: v for k, v in as_before(plans.preprocessing, "neighbours").items() if k != "data_identifier"}
    labels = {name: s.label for name, s in plans.structures.items()}
    return rules, labels if ignore_label is None else {**labels, "ignore": ignore_label}


def _hash(case: Case, hashes: Mapping[Path, str], rules: dict[str, Any], labels: dict[str, int]) -> str:
    return hash_of(_VERSION, [hashes[file] for file in case.files], rules, labels)


@dataclass(frozen=True)
class _Job:
    """One case, and the hash of all that its slices are made from."""

    case: Case
    content_hash: str

    @property
    def identifier(self) -> str:
        """What messages call it."""
        return self.case.identifier


def _run(job: _Job, raw: RawDataset, plan: PreprocessingPlan, labels: Mapping[str, int], folder: Path) -> None:
    """Cut one case into the store in ``folder``; ``labels`` are the values of the plan's structures."""
    case = job.case
    volume = in_depth_of_training(read_image(case.images, len(plan.normalization) or None), plan)
    unknown = unknown_orientation(volume.properties, plan.orientation)
    if unknown:
        log.warning("%s: %s.", case.images[0], unknown)
    turn = turn_to(orientation(volume.properties), plan.orientation)
    channels, geometry = _cut(turn.apply(volume.data), plan)
    across = lies_across(volume, geometry, plan)
    if across:
        log.warning("%s: %s. Remove the case, or draw slices as the others lie.", case.images[0], across)
    label, shown, small = None, {}, {}
    if case.label is not None:
        values = raw.label(case, volume)
        if raw.meta.ignore_label is not None:
            values[values == raw.meta.ignore_label] = IGNORED
        native = turn.apply(values)
        label = geometry.label_to_slices(native)
        small = keep_small_objects(geometry, native, label, labels, IGNORED)
        shown = slices_with(geometry, native, labels)  # what the grid cannot show is there all the same
    spacing = turn.along(volume.spacing)
    step = neighbour_step(plan.neighbours, spacing[geometry.axis])
    # What the first version made otherwise; features and prompts of all other slices need not be made anew.
    otherwise = ["small objects"] if any(n for _, n, _ in small.values()) else []
    otherwise += ["turned"] if turn.order != (0, 1, 2) else []
    otherwise += ["no neighbours"] if plan.neighbours and not step else []
    otherwise += ["across"] if geometry.axis != plan.slicing_axis else []
    properties = {
        "hash": hash_of(job.content_hash, *otherwise) if otherwise else job.content_hash,
        "source": job.content_hash,
        "labelled": label is not None,
        "geometry": geometry.to_dict(),
        **turn.to_json(),
        "spacing": list(spacing),  # of the slices, as they were cut
        **({"neighbours": step} if step else {}),
        "image_properties": volume.properties,
        "image_files": [str(file) for file in case.images],
        "label_file": None if case.label is None else str(case.label),
        "channels": distinct_channels(plan.channel_mapping)[1],
        "slices_of": shown,
        "small_objects": small,
        "ignored_slices": [] if label is None else np.flatnonzero((label == IGNORED).all(axis=(1, 2))).tolist(),
    }
    SliceStore(folder).put(case.identifier, channels, label, properties)


def _cut(data: np.ndarray, plan: PreprocessingPlan) -> tuple[np.ndarray, SliceGeometry]:
    z, y, x = data.shape[1:]
    geometry = SliceGeometry(cut_axis(plan.slicing_axis, (z, y, x)), (z, y, x), plan.image_size)
    channels = [geometry.to_slices(channel[None]) for channel in iterate_channels(data, plan)]
    return (channels[0] if len(channels) == 1 else np.concatenate(channels, axis=1)), geometry


def _copy_truth(raw: RawDataset, folder: Path, hashes: Mapping[Path, str]) -> None:
    """nnU-Net's ``gt_segmentations``: labels in native pixels under the cases' names, for evaluation.

    A copy is as fresh as its source by content, as slices are. The spacing beside a TIFF stack is copied as well. What
    this function did not write, and what was changed since, is not deleted.
    """
    file = folder.with_name(_TRUTH_RECORD)
    record = _truth_record(file)
    wanted: dict[str, list[str]] = {}
    for case in raw.labelled:
        wanted |= _copy_label(case, folder, raw.meta.file_ending, hashes, record)
    for name in sorted(set(record) - set(wanted)):
        left = folder / name
        if left.is_file() and content_hash(left) == record[name][1]:
            left.unlink()
    if wanted != record:
        write_json(file, wanted)


def _truth_record(file: Path) -> dict[str, list[str]]:
    """Name of a copy -> [hash of what it was made from, its own hash]."""
    try:
        found = read_json(file) if file.is_file() else {}
    except SamdpoError:
        return {}  # the copies are then compared or made anew
    return {
        name: entry for name, entry in found.items()
        if not name_problem(name) and isinstance(entry, list) and len(entry) == 2
    } if isinstance(found, dict) else {}


def _copy_label(
    case: Case, folder: Path, ending: str, hashes: Mapping[Path, str], record: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Bring the truth of one case up to date; returns its entries of the record: what we wrote, now or before."""
    target, same_format = folder / f"{case.identifier}{ending}", ending_of(case.label) == ending
    if target.is_file() and target.samefile(case.label):  # the folder is a link to that of the labels
        return {}
    # The 'dataset' key of dataset.json may name labels of another format than the images': these get the image's grid.
    source = hashes[case.label] if same_format else hash_of([hashes[file] for file in case.files])
    written = set(record)
    if not target.is_file() or [source, content_hash(target)] != record.get(target.name, [source, source]):
        written.add(target.name)
        if same_format:
            copy_file(case.label, target)
        else:
            write_label(read_label(case.label), target, read_image(case.images).properties)
    entries = {target.name: [source, content_hash(target)]}
    beside = spacing_file(case.label) or spacing_file(case.images[0])
    spacing = _spacing(beside) if beside is not None and ending in (".tif", ".tiff") else None
    if spacing is not None:
        copy = folder / f"{case.identifier}.json"
        if not copy.is_file() or _spacing(copy) != spacing:
            written.add(copy.name)
            write_json(copy, {"spacing": spacing})
        entries[copy.name] = [hashes[beside], content_hash(copy)]
    return {name: entry for name, entry in entries.items() if name in written}


def _spacing(file: Path) -> Any:
    """What a JSON beside a TIFF stack says of its spacing; None where it is some other JSON."""
    try:
        content = read_json(file)
    except SamdpoError:
        return None
    return content.get("spacing") if isinstance(content, dict) else None

"""``dataset_fingerprint.json``: what the labelled cases are like. nnU-Net's keys, and what the planner needs beside."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.agreement import mixed_dimensions
from samdpo.dataset.cases import case_meant
from samdpo.dataset.dataset_json import Modality, modality_of
from samdpo.dataset.raw_dataset import AnyDataset, RawDataset, content_hashes, load_groups
from samdpo.errors import DatasetError, PlansError, few
from samdpo.files import hash_of, read_json, write_json
from samdpo.names import same_text
from samdpo.parallel import Workers, local_threads, map_cases
from samdpo.paths import folder_of
from samdpo.planning.case_measures import CaseMeasure, measure_case, samples_of_a_case, training_images
from samdpo.planning.near_duplicates import join_groups, load_near_duplicates
from samdpo.plans import TrainingImages
from samdpo.schema import from_dict

log = logging.getLogger(__name__)

FINGERPRINT_FILE = "dataset_fingerprint.json"
_VERSION = 4  # of the file; another one is extracted anew


@dataclass(frozen=True)
class _SizeShare:
    min: float
    median: float
    max: float


@dataclass(frozen=True)
class _Components:
    median: float
    slices_with: dict[str, int]
    cases_with: dict[str, int]


@dataclass(frozen=True)
class _Structure:
    label: int
    cases: int
    share_of_cases: float
    share_of_slices: float
    size_share: _SizeShare
    components: _Components
    intensities: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Fingerprint:
    """The kinds of what :func:`extract_fingerprint` measures: a file that was edited or damaged is told by them."""

    spacings: list[tuple[float, float, float]]
    orientations: list[str]
    shapes_after_crop: list[tuple[int, int, int]]
    median_relative_size_after_cropping: float
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]]
    version: int
    source: str
    modality: Modality
    cases: list[str]
    unlabelled_cases: list[str]
    groups: dict[str, str]
    shapes: list[tuple[int, int, int]]
    n_slices: dict[str, int]
    n_foreground_slices: dict[str, int]
    value_range_per_channel: dict[str, tuple[float, float]]
    images: TrainingImages
    structures: dict[str, _Structure]

    def __post_init__(self) -> None:
        lists = (self.spacings, self.orientations, self.shapes_after_crop, self.shapes, self.n_slices,
                 self.n_foreground_slices)
        if any(len(of_cases) != len(self.cases) for of_cases in lists) or not self.cases:
            raise ValueError("what is measured of each case is not of as many cases as are listed")
        if not {*self.n_slices, *self.n_foreground_slices} <= set(self.cases) or not self.structures:
            raise ValueError("the slices are of other cases, or there is no structure")
        channels = {str(c) for c in range(len(self.value_range_per_channel))}
        if not channels or set(self.value_range_per_channel) != channels:
            raise ValueError("the channels are not numbered from 0")


def extract_fingerprint(dataset: AnyDataset, processes: Workers = 1) -> dict[str, Any]:
    """Read every labelled case once.

    Args:
        dataset: a raw one: id, name, folder, or as it is open.
        processes: at most this many, or an executor.

    Returns:
        nnU-Net's keys ``spacings``, ``shapes_after_crop``, ``median_relative_size_after_cropping``,
        ``foreground_intensity_properties_per_channel``; unlike nnU-Net's, voxels of the label ``ignore`` are not
        counted as foreground, nor slices that are nothing else as slices. Ours: ``cases``, ``unlabelled_cases``,
        ``groups``, ``modality``, ``shapes``, ``n_slices`` and ``n_foreground_slices`` (by case),
        ``value_range_per_channel``, ``images`` (see :class:`samdpo.plans.TrainingImages`), ``structures`` (by
        name: label, cases, share_of_cases, share_of_slices, size_share, components, intensities).

    Raises:
        DatasetError: dataset.json or a case breaks the rules, pictures lie among volumes, or no label shows any
            structure.
    """
    raw = RawDataset.open(dataset)
    cases, unlabelled, meta = raw.labelled, raw.unlabelled, raw.meta
    if len(cases) != meta.num_training:
        log.warning(
            "%s: 'numTraining' is %d, but imagesTr and labelsTr hold %d cases. Write \"numTraining\": %d, or add what "
            "is missing.", raw.folder / "dataset.json", meta.num_training, len(cases), len(cases),
        )
    measure = partial(measure_case, raw=raw, samples=samples_of_a_case(len(cases)))
    measures = list(map_cases(measure, cases, processes, "Fingerprint"))
    mixed = mixed_dimensions({case.images[0]: m.ndim for case, m in zip(cases, measures)})
    if mixed:
        raise DatasetError(mixed)
    if not any(m.structures for m in measures):
        raise DatasetError(
            f"All {len(cases)} masks in {raw.folder / 'labelsTr'} are empty: there is nothing to learn from. Write the "
            f"values of dataset.json's labels ({', '.join(f'{v} = {n}' for n, v in meta.labels.items())}) into them."
        )
    _warn_of_unknown(raw)
    structures = {name: _structure(name, value, measures) for name, value in meta.structures.items()}
    _warn_about_empty(raw, measures, structures)
    return {
        "spacings": [list(m.spacing) for m in measures],
        "orientations": [m.orientation for m in measures],
        "shapes_after_crop": [list(m.cropped_shape) for m in measures],
        "median_relative_size_after_cropping": float(
            np.median([np.prod(m.cropped_shape) / np.prod(m.shape) for m in measures])
        ),
        "foreground_intensity_properties_per_channel": _intensities([m.intensities for m in measures]),
        "version": _VERSION,
        "source": source_hash(raw, local_threads(processes)),
        "modality": modality_of(next(iter(meta.channel_names.values()))),
        "cases": [m.identifier for m in measures],
        "unlabelled_cases": [case.identifier for case in unlabelled],
        "groups": _groups_of([case.identifier for case in raw.cases], raw.groups),
        "shapes": [list(m.shape) for m in measures],
        "n_slices": {m.identifier: m.n_slices for m in measures},
        "n_foreground_slices": {m.identifier: m.n_foreground_slices for m in measures},
        "value_range_per_channel": {
            str(c): [min(m.value_range[c][0] for m in measures), max(m.value_range[c][1] for m in measures)]
            for c in range(meta.n_channels)
        },
        "images": training_images(measures),
        "structures": structures,
    }


def update_fingerprint(
    dataset: AnyDataset, folder: Path, processes: Workers = 1, clean: bool = False
) -> dict[str, Any]:
    """The fingerprint in ``folder``; extracted where it is missing, of other files, or ``clean`` is asked for."""
    file, raw = folder / FINGERPRINT_FILE, RawDataset.open(dataset)
    if file.is_file() and not clean:
        try:
            found = load_fingerprint(folder)
        except DatasetError as error:  # of another version, or damaged
            log.debug("%s", error)
            found = {}
        _warn_of_unknown(raw)
        if found.get("source") == source_hash(raw, local_threads(processes)):
            log.info("Fingerprint unchanged: %s", file)
            return found
    fingerprint = extract_fingerprint(raw, processes)
    write_json(file, fingerprint)
    log.info("Fingerprint of %d labelled cases written: %s", len(fingerprint["cases"]), file)
    return fingerprint


def load_fingerprint(folder: Path) -> dict[str, Any]:
    """The fingerprint of a preprocessed dataset, checked.

    Raises:
        DatasetError: it is missing, of another version, or not what this version writes; with the command that makes
            it.
    """
    fingerprint = read_fingerprint(folder)
    remedy = f"Type: samdpo_extract_fingerprint -d {folder.name}"
    if fingerprint.get("version") != _VERSION:
        raise DatasetError(f"{folder / FINGERPRINT_FILE} was not made by this version of samdpo. {remedy}")
    try:
        from_dict(_Fingerprint, fingerprint, source=str(folder / FINGERPRINT_FILE), others_too=True)
    except PlansError as error:
        raise DatasetError(f"{error} The file is measured, not written by hand. {remedy}") from error
    return fingerprint


def read_fingerprint(folder: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The fingerprint as it stands, be it of another version or nnU-Net's; {} where it may be missing and is."""
    if missing_ok and not (folder / FINGERPRINT_FILE).is_file():
        return {}
    remedy = f"Type: samdpo_extract_fingerprint -d {folder.name}"
    fingerprint = read_json(folder / FINGERPRINT_FILE, error=DatasetError, remedy=remedy)
    if not isinstance(fingerprint, dict):
        raise DatasetError(f"{folder / FINGERPRINT_FILE} must hold an object {{...}}. {remedy}")
    return fingerprint


def load_case_groups(folder: Path) -> dict[str, str]:
    """Case -> patient of a planned dataset, as the splits were made; a case without one stands alone.

    Near-duplicates that planning has found are of one group, see :mod:`samdpo.planning.near_duplicates`.

    The fingerprint says it, for everybody who keeps patients apart. A ``case_groups.json`` that says something else
    today is warned of, and one that cannot be read is an error. Without a fingerprint of ours that file itself is read.

    Args:
        folder: ``nnUNet_preprocessed/DatasetXXX_Name``.

    Raises:
        DatasetError: the fingerprint, ``near_duplicates.json`` or ``case_groups.json`` is damaged.
    """
    raw = folder_of("nnUNet_raw")
    raw = raw / folder.name if raw is not None and (raw / folder.name).is_dir() else None
    now = None if raw is None else load_groups(raw)
    fingerprint = read_fingerprint(folder, missing_ok=True)
    if "groups" not in fingerprint:  # there is none, or nnU-Net has written its own over ours
        return join_groups(now or {}, load_near_duplicates(folder))
    groups = fingerprint["groups"]
    cases = [*fingerprint.get("cases", ()), *fingerprint.get("unlabelled_cases", ())]
    if not isinstance(groups, dict) or not all(isinstance(group, str) for group in groups.values()):
        raise DatasetError(
            f"{folder / FINGERPRINT_FILE}: 'groups' must map each case to the name of its group. Type: "
            f"samdpo_extract_fingerprint -d {folder.name} --clean"
        )
    if now is not None and _groups_of(cases, now) != groups:
        warn_once(
            f"{raw / 'case_groups.json'} is not what it was when the dataset was planned. The splits and the groups of "
            f"then are used; to use today's type: samdpo_plan_and_preprocess -d {folder.name}"
        )
    return join_groups(groups, load_near_duplicates(folder), fingerprint.get("unlabelled_cases", ()))


def source_hash(raw: RawDataset, threads: int = 1) -> str:
    """Changes when dataset.json, the groups, or any file's content, name or time of writing does.

    The content decides, since a file may be replaced by one of the same time; to measure a touched one again does no
    harm.

    Args:
        raw: the dataset.
        threads: that read the files.
    """
    hashes = content_hashes(raw.cases, threads)
    files = [file for case in raw.cases for file in case.files]
    contents = [(str(file), file.stat().st_mtime_ns, hashes[file]) for file in files]
    return hash_of(raw.meta.raw, raw.groups, contents)


_warned: set[str] = set()


def warn_once(text: str) -> None:
    """A warning about a file that several steps of one command read."""
    if text not in _warned:
        _warned.add(text)
        log.warning("%s", text)


def _groups_of(cases: Sequence[str], groups: Mapping[str, str]) -> dict[str, str]:
    return {case: groups[same_text(case)] for case in cases if same_text(case) in groups}


def _warn_of_unknown(raw: RawDataset) -> None:
    """Say which names of case_groups.json are no case; where none is one, nobody would be kept apart from anybody.

    Raises:
        DatasetError: none is.
    """
    cases = [case.identifier for case in raw.cases]
    unknown = sorted(set(raw.groups) - set(map(same_text, cases)))
    if not unknown:
        return
    file, meant = raw.folder / "case_groups.json", case_meant(unknown[0], cases)
    hint = f"Is {meant} meant? " if meant else ""
    text = (
        f"{file} names {few(unknown)}, which the dataset does not hold. {hint}Names are written without _0000 and "
        "ending."
    )
    if len(unknown) == len(raw.groups):
        raise DatasetError(f"{text} Not one name in the file is a case: correct them, or delete the file.")
    warn_once(text)


def _structure(name: str, value: int, measures: Sequence[CaseMeasure]) -> dict[str, Any]:
    found = [m.structures[name] for m in measures if name in m.structures]
    sizes = [size for m in found for size in m.sizes]
    counts = Counter(n for m in found for n in m.components)
    in_cases = Counter(m.case_components for m in found)
    slices = max(1, sum(m.n_known_slices for m in measures))
    return {
        "label": value,
        "cases": len(found),
        "share_of_cases": len(found) / len(measures),
        "share_of_slices": len(sizes) / slices,
        "size_share": {
            key: float(np.percentile(sizes, percent)) if sizes else 0.0
            for key, percent in (("min", 0), ("median", 50), ("max", 100))
        },
        "components": {
            "median": float(np.median([n for m in found for n in m.components])) if sizes else 0.0,
            "slices_with": {str(n): counts[n] for n in sorted(counts)},
            "cases_with": {str(n): in_cases[n] for n in sorted(in_cases)},
        },
        "intensities": _intensities([m.intensities for m in found]) if found else {},
    }


def _intensities(samples: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Statistics per channel of samples (C, n); each case has at most its share, so no large one dominates."""
    together = np.concatenate(samples, axis=1)
    if not together.shape[1]:
        return {}
    return {
        str(channel): {
            "mean": float(values.mean(dtype=np.float64)),
            "median": float(np.median(values)),
            "std": float(values.std(dtype=np.float64)),
            "min": float(values.min()),
            "max": float(values.max()),
            "percentile_00_5": float(np.percentile(values, 0.5)),
            "percentile_25": float(np.percentile(values, 25)),
            "percentile_75": float(np.percentile(values, 75)),
            "percentile_99_5": float(np.percentile(values, 99.5)),
        }
        for channel, values in enumerate(together)
    }


def _warn_about_empty(raw: RawDataset, measures: Sequence[CaseMeasure], structures: dict[str, dict[str, Any]]) -> None:
    empty = [m.identifier for m in measures if not m.structures]
    if empty:
        log.warning(
            "%d of %d masks in %s are empty, for example that of %s. That is right where the structure is not in the "
            "image.", len(empty), len(measures), raw.folder / "labelsTr", empty[0],
        )
    never = [name for name, entry in structures.items() if not entry["cases"]]
    if never:
        log.warning("No label shows %s: nothing can be learnt about it, and it will not be predicted.",
                    ", ".join(never))
    _warn_about_partly_labelled(raw, measures)


def _warn_about_partly_labelled(raw: RawDataset, measures: Sequence[CaseMeasure]) -> None:
    """Say which structures some cases lack that show others and are labelled all over.

    Nobody but the user knows whether such a structure is absent, as an organ that was removed, or was not annotated;
    the latter would be learned, and counted, as absent. A picture that shows a structure with which another one is
    never seen lacks that one for a reason: they are kinds of one thing, such as benign and malignant. Volumes show a
    part of the body with all that is in it, so there nothing is taken for a reason: labels of the liver alone and of
    the spleen alone, put together, look just so.
    """
    others = [m for m in measures if m.structures and m.whole]
    together = {(one, other) for m in measures for one in m.structures for other in m.structures}
    volumes = any(m.ndim == 3 for m in measures)
    lacking = {
        name: without for name in raw.meta.structures
        if any(name in m.structures for m in measures) and (without := [
            m.identifier for m in others if name not in m.structures
            and (volumes or all((name, other) in together for other in m.structures))
        ])
    }
    if not lacking:
        return
    listed = "; ".join(
        f"{name} in {len(without)} of {len(measures)} ({len(without) / len(measures):.0%}), for example {without[0]}"
        for name, without in lacking.items()
    )
    ignore = raw.meta.ignore_label
    number = max(raw.meta.labels.values()) + 1 if ignore is None else ignore
    log.warning(
        "%s: labels of cases that show other structures lack %s. That is right where the structure is not in the "
        "image. Where it was not annotated, it is learned and evaluated as absent: give the voxels in which it may lie "
        "the label 'ignore' (%s\"ignore\": %d in 'labels' of dataset.json), or leave the structure out.",
        raw.folder / "labelsTr", listed, "" if ignore is not None else "add ", number,
    )

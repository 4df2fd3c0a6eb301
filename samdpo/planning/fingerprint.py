"""``dataset_fingerprint.json``: what the labelled cases are like. nnU-Net's keys, and what the planner needs beside."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.agreement import mixed_dimensions
from samdpo.dataset.cases import Case, labelled_cases, load_groups, unlabelled_cases
from samdpo.dataset.dataset_json import DatasetJson, load_dataset_json, modality_of
from samdpo.errors import DatasetError
from samdpo.files import hash_of, read_json, write_json
from samdpo.parallel import Workers, map_cases
from samdpo.planning.case_measures import CaseMeasure, measure_case, samples_of_a_case
from samdpo.planning.training_images import training_images

log = logging.getLogger(__name__)

FINGERPRINT_FILE = "dataset_fingerprint.json"
_VERSION = 3  # of the file; another one is extracted anew


def extract_fingerprint(raw_folder: Path | str, processes: Workers = 1) -> dict[str, Any]:
    """Read every labelled case once.

    Args:
        raw_folder: ``nnUNet_raw/DatasetXXX_Name``.
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
    raw_folder = Path(raw_folder)
    dataset = load_dataset_json(raw_folder)
    cases, unlabelled = labelled_cases(raw_folder, dataset), unlabelled_cases(raw_folder, dataset)
    if len(cases) != dataset.num_training:
        log.warning(
            "%s: 'numTraining' is %d, but imagesTr and labelsTr hold %d cases. Write \"numTraining\": %d, or add what "
            "is missing.", raw_folder / "dataset.json", dataset.num_training, len(cases), len(cases),
        )
    measure = partial(measure_case, dataset=dataset, samples=samples_of_a_case(len(cases)))
    measures = list(map_cases(measure, cases, processes, "Fingerprint"))
    mixed = mixed_dimensions({case.images[0]: m.ndim for case, m in zip(cases, measures)})
    if mixed:
        raise DatasetError(mixed)
    if not any(m.structures for m in measures):
        raise DatasetError(
            f"All {len(cases)} masks in {raw_folder / 'labelsTr'} are empty: there is nothing to learn from. Write the "
            f"values of dataset.json's labels ({', '.join(f'{v} = {n}' for n, v in dataset.labels.items())}) into them."
        )
    names = {case.identifier for case in (*cases, *unlabelled)}
    groups = {case: group for case, group in load_groups(raw_folder).items() if case in names}
    structures = {name: _structure(name, value, measures) for name, value in dataset.structures.items()}
    _warn_about_empty(raw_folder, measures, structures)
    return {
        "spacings": [list(m.spacing) for m in measures],
        "orientations": [m.orientation for m in measures],
        "shapes_after_crop": [list(m.cropped_shape) for m in measures],
        "median_relative_size_after_cropping": float(
            np.median([np.prod(m.cropped_shape) / np.prod(m.shape) for m in measures])
        ),
        "foreground_intensity_properties_per_channel": _intensities([m.intensities for m in measures]),
        "version": _VERSION,
        "source": source_hash(raw_folder, dataset, [*cases, *unlabelled]),
        "modality": modality_of(next(iter(dataset.channel_names.values()))),
        "cases": [m.identifier for m in measures],
        "unlabelled_cases": [case.identifier for case in unlabelled],
        "groups": groups,
        "shapes": [list(m.shape) for m in measures],
        "n_slices": {m.identifier: m.n_slices for m in measures},
        "n_foreground_slices": {m.identifier: m.n_foreground_slices for m in measures},
        "value_range_per_channel": {
            str(c): [min(m.value_range[c][0] for m in measures), max(m.value_range[c][1] for m in measures)]
            for c in range(dataset.n_channels)
        },
        "images": training_images(measures),
        "structures": structures,
    }


def update_fingerprint(raw_folder: Path, folder: Path, processes: Workers = 1, clean: bool = False) -> dict[str, Any]:
    """The fingerprint in ``folder``; extracted where it is missing, of other files, or ``clean`` is asked for."""
    file = folder / FINGERPRINT_FILE
    if file.is_file() and not clean:
        dataset = load_dataset_json(raw_folder)
        cases = [*labelled_cases(raw_folder, dataset), *unlabelled_cases(raw_folder, dataset)]
        try:
            found = read_json(file, error=DatasetError)
        except DatasetError:
            found = {}
        if found.get("version") == _VERSION and found.get("source") == source_hash(raw_folder, dataset, cases):
            log.info("Fingerprint unchanged: %s", file)
            return found
    fingerprint = extract_fingerprint(raw_folder, processes)
    write_json(file, fingerprint)
    log.info("Fingerprint of %d labelled cases written: %s", len(fingerprint["cases"]), file)
    return fingerprint


def load_fingerprint(folder: Path) -> dict[str, Any]:
    """Read the fingerprint of a preprocessed dataset; raises DatasetError with the command that makes it."""
    file = folder / FINGERPRINT_FILE
    fingerprint = read_json(file, error=DatasetError, remedy=f"Type: samdpo_extract_fingerprint -d {folder.name}")
    if fingerprint.get("version") != _VERSION:
        raise DatasetError(
            f"{file} was not made by this version of samdpo. Type: samdpo_extract_fingerprint -d {folder.name}"
        )
    return fingerprint


def source_hash(raw_folder: Path, dataset: DatasetJson, cases: Sequence[Case]) -> str:
    """Changes when dataset.json, the groups or any file's name, size or time of writing does."""
    files = [file for case in cases for file in (*case.images, *([case.label] if case.label else []))]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hash_of(dataset.raw, load_groups(raw_folder), stats)


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


def _warn_about_empty(
    raw_folder: Path, measures: Sequence[CaseMeasure], structures: dict[str, dict[str, Any]]
) -> None:
    empty = [m.identifier for m in measures if not m.structures]
    if empty:
        log.warning(
            "%d of %d masks in %s are empty, for example that of %s. That is right where the structure is not in the "
            "image.", len(empty), len(measures), raw_folder / "labelsTr", empty[0],
        )
    never = [name for name, entry in structures.items() if not entry["cases"]]
    if never:
        log.warning("No label shows %s: nothing can be learnt about it, and it will not be predicted.",
                    ", ".join(never))

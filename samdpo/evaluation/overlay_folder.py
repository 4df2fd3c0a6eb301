"""One overlay PNG for every case of a dataset or of a folder of images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samdpo.dataset.agreement import onto_grid, read_listed_label
from samdpo.dataset.cases import input_cases, label_files
from samdpo.dataset.dataset_json import DatasetJson, is_rgb, modality_of
from samdpo.dataset.images import read_image
from samdpo.dataset.raw_dataset import AnyDataset, RawDataset
from samdpo.dataset.volume import Volume
from samdpo.drawing import fullest_slice, save_overlay
from samdpo.errors import DatasetError
from samdpo.names import same_text
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)
CT_WINDOW = (-160.0, 240.0)  # HU, level 40 width 400: soft tissue


@dataclass(frozen=True)
class OverlayJob:
    """One PNG: the image's files, what to fill, what to compare it with."""

    identifier: str
    images: tuple[Path, ...]
    shown: Path  # label map that is filled
    truth: Path | None  # label map that is dashed
    output: Path
    structures: dict[str, int]
    labels: dict[str, int]  # all that dataset.json lists
    n_channels: int
    channel: int | None  # None: all three, as colours
    fill: float
    window: tuple[float, float] | None = None  # intensities shown as black and white; None: percentiles


def plot_overlays(
    dataset: AnyDataset,
    output: Path,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    predictions: Path | None = None,
    channel: int | None = None,
    fill: float = 0.3,
    processes: int = 1,
) -> list[Path]:
    """Draw every case that has a label map; of volumes the slice with the most foreground.

    Args:
        dataset: a raw one; its dataset.json names structures, channels and file ending.
        output: folder of the PNGs, ``CASE.png``.
        images: folder of images; by default the dataset's labelled ones.
        labels: folder of true label maps; by default the dataset's, where ``images`` is not given.
        predictions: folder of predicted label maps: these are filled then, and the truth is dashed.
        channel: which channel of the images is shown; None for the first, or for all three of R, G and B.
        fill: opacity of the filled label map, 0 to 1.
        processes: cases drawn at once.

    Returns:
        the PNGs written.

    Raises:
        DatasetError: no case has a label map, a channel that there is not, values that dataset.json does not list, or
            label and image on different grids.
    """
    raw = RawDataset.open(dataset)
    meta, names = raw.meta, list(raw.meta.channel_names.values())
    if channel is not None and not 0 <= channel < meta.n_channels:
        raise DatasetError(
            f"{raw.folder / 'dataset.json'} names {meta.n_channels} channel(s), so -channel_idx {channel} does not "
            f"exist; expected 0 to {meta.n_channels - 1}."
        )
    cases = raw.labelled if images is None else input_cases(images, None, meta.n_channels)
    window = CT_WINDOW if modality_of(names[channel or 0]) == "ct" else None
    there = {folder: _label_maps(folder, meta) for folder in (labels, predictions) if folder is not None}
    jobs = []
    for case in cases:
        name = same_text(case.identifier)
        truth = there[labels].get(name) if labels else case.label
        shown = there[predictions].get(name) if predictions else truth
        if shown is None:
            log.warning("%s has no label map and is not drawn.", case.identifier)
            continue
        jobs.append(
            OverlayJob(case.identifier, case.images, shown, truth if predictions else None,
                       output / f"{case.identifier}.png", meta.structures, meta.labels, meta.n_channels,
                       None if channel is None and is_rgb(names) else channel or 0, fill, window)
        )
    if not jobs:
        folder = predictions or labels or raw.folder / "labelsTr"
        raise DatasetError(
            f"{folder} has no label map for any of the {len(cases)} images; expected names like "
            f"{cases[0].identifier}{meta.file_ending}."
        )
    return list(map_cases(draw_job, jobs, processes, "drawing"))


def draw_job(job: OverlayJob) -> Path:
    """Read, choose the slice, draw and write one PNG."""
    volume = read_image(job.images, job.n_channels)
    shown = _on_image(job.shown, job, volume)
    truth = None if job.truth is None else _on_image(job.truth, job, volume)
    z = fullest_slice(shown if truth is None or shown.any() else truth)
    title = job.identifier if len(shown) == 1 else f"{job.identifier}, slice {z} of {len(shown)}"
    image: np.ndarray = volume.data[:, z] if job.channel is None else volume.data[job.channel, z]
    if job.window is not None:
        image = np.clip(image, *job.window)
    save_overlay(
        job.output, image, shown[z], job.structures, truth=None if truth is None else truth[z], fill=job.fill,
        title=title, aspect=volume.spacing[1] / volume.spacing[2],
    )
    return job.output


def _on_image(file: Path, job: OverlayJob, volume: Volume) -> np.ndarray:
    """(Z, Y, X) of a label map on the image's grid."""
    values, properties = read_listed_label(file, job.labels)
    return onto_grid(job.images[0], volume.data.shape[1:], volume.properties, file, values, properties, "image")


def _label_maps(folder: Path, dataset: DatasetJson) -> dict[str, Path]:
    """Name -> file."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; expected one of label maps such as CASE{dataset.file_ending}.")
    files, problems = label_files(folder, dataset.file_ending)
    if problems:
        raise DatasetError("\n".join(problems))
    return files

"""Images that show the same scene: frames of one film, other crops, callipers drawn in. They belong on one side of a
split, so planning finds them and joins the groups of their cases.

Two images are compared by thumbnails of local contrast. What images of one kind have in common by nature (brightness
that falls off with depth, the ribs of every chest) is coarse or weak there; what is left agrees only where the same
tissue was imaged. Pictures only: frames of volumes are not compared.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from samdpo.dataset.cases import Case
from samdpo.dataset.raw_dataset import RawDataset, content_hashes
from samdpo.drawing import draw_image, new_figure, save_figure
from samdpo.errors import DatasetError, PlansError
from samdpo.files import hash_of, read_json, write_json
from samdpo.parallel import Workers, local_threads, map_cases
from samdpo.planning.case_measures import ndim_of
from samdpo.schema import from_dict, to_dict

log = logging.getLogger(__name__)

NEAR_DUPLICATES_FILE = "near_duplicates.json"
NEAR_DUPLICATES_PICTURE = "near_duplicates.png"
_VERSION = 1  # raise when other links are found in the same images

# Chosen on BUSI and looked at on three other data sets; benchmarks/near_duplicates.py measures them.
SCALES = ((40, 2.0), (64, 1.5))  # pixels of a thumbnail's side; of it, what is coarser is left out
_AROUND = 4.0  # pixels of a thumbnail within which contrast is normalised
_FLAT = 0.04  # of an image's standard deviation: contrast below it is noise, and not raised
LEAST = 0.35  # correlation that two images of one scene have, however unlike the data set's images are
STANDS_OUT = (6.0, 8.0)  # robust standard deviations above the median pair, of coarse and fine thumbnails
ALIKE = 0.5  # where more would be needed of the coarse thumbnails, the fine ones are compared
SURE = 0.7  # correlation of fine thumbnails that is enough in any data set
_KNOWN_FROM = 20  # images: the pairs of fewer do not say how alike the data set's images are
_SAMPLE = 1000  # images whose pairs say how alike the data set's images are
_BLOCK = 1024  # images compared with as many at once
_DRAWN = 24  # links in the picture


@dataclass(frozen=True)
class Link:
    """Two cases whose images show the same scene.

    Attributes:
        cases: their identifiers.
        similarity: correlation of their thumbnails, or of one and the other's mirror image; at most 1.
    """

    cases: tuple[str, str]
    similarity: float


@dataclass(frozen=True)
class _Record:
    """``near_duplicates.json``."""

    version: int
    source: str  # what the images were
    used: bool  # whether the links join groups
    threshold: float
    links: list[Link]


def update_near_duplicates(
    raw: RawDataset, folder: Path, fingerprint: Mapping[str, Any], use: bool = True, processes: Workers = 1
) -> None:
    """Bring ``near_duplicates.json`` up to date: searched where it is missing or of other images, and used or not.

    Args:
        raw: the dataset.
        folder: of the preprocessed dataset.
        fingerprint: of the dataset: ``shapes``, and ``groups`` that are kept together anyway.
        use: whether the links join groups; if not, nothing is searched, and what was found is kept aside.
        processes: that read images, or an executor.

    Raises:
        DatasetError: an image cannot be read, or the file is damaged.
    """
    file = folder / NEAR_DUPLICATES_FILE
    record = _read(file)
    if not use:
        if record is not None and record.used:
            write_json(file, to_dict(replace(record, used=False)))
            log.info("Near-duplicates no longer join groups: %s", file)
        return
    if ndim_of(fingerprint["shapes"]) == 3:
        return
    source = _source(raw.cases, local_threads(processes))
    if record is None or (record.version, record.source) != (_VERSION, source):
        links, threshold = find_near_duplicates(raw.cases, raw, processes)
        _draw(raw, links, fingerprint["groups"], folder / NEAR_DUPLICATES_PICTURE)
        record = _Record(_VERSION, source, True, threshold, links)
        write_json(file, to_dict(record))
    elif not record.used:
        record = replace(record, used=True)
        write_json(file, to_dict(record))
    _tell(record.links, fingerprint["groups"], folder)


def load_near_duplicates(folder: Path) -> list[Link]:
    """Links that join groups in a preprocessed dataset; none where they were not looked for, or are not wanted.

    Raises:
        DatasetError: ``near_duplicates.json`` is damaged.
    """
    record = _read(folder / NEAR_DUPLICATES_FILE)
    return record.links if record is not None and record.used else []


def are_unwanted(folder: Path) -> bool:
    """Whether somebody has planned this preprocessed dataset with ``--no_near_duplicates`` after they were found."""
    record = _read(folder / NEAR_DUPLICATES_FILE)
    return record is not None and not record.used


def join_groups(
    groups: Mapping[str, str], links: Sequence[Link], unlabelled: Collection[str] = ()
) -> dict[str, str]:
    """Groups, in which cases that are linked are of one.

    Args:
        groups: case -> patient; cases without one stand alone.
        links: pairs that belong together.
        unlabelled: cases of ``imagesUl/``, after which no group of labelled ones is called: what is drawn by group
            does not change when they come and go.

    Returns:
        case -> group. It is called as the first of the groups that were joined, or as the first of its cases where
        none had one, a labelled one if there is any.
    """
    over: dict[str, str] = {}  # a group -> another one that it has become part of

    def top(name: str) -> str:
        while name in over:
            name = over[name]
        return name

    named, others = set(groups.values()), set(unlabelled)
    for link in links:
        both = (top(groups.get(case, case)) for case in link.cases)
        first, second = sorted(both, key=lambda name: (name not in named, name in others, name))
        if first != second:
            over[second] = first
    linked = {case for link in links for case in link.cases}
    return {case: top(groups.get(case, case)) for case in sorted({*groups, *linked})}


def find_near_duplicates(
    cases: Sequence[Case], raw: RawDataset, processes: Workers = 1
) -> tuple[list[Link], float]:
    """Links between cases of pictures; those of a scene hang together by their closest ones, n - 1 links of n images.

    Args:
        cases: to compare with each other.
        raw: that they are of.
        processes: that read them, or an executor.

    Returns:
        The links, closest last, and the similarity from which there is one.

    Raises:
        DatasetError: an image cannot be read.
    """
    names = [case.identifier for case in cases]
    coarse, fine = (np.empty((len(cases), side**2), np.float16) for side, _ in SCALES)
    for row, both in enumerate(map_cases(partial(thumbnails_of, raw=raw), cases, processes, "near-duplicates", 64)):
        coarse[row], fine[row] = both
    compared, threshold = what_to_compare(coarse, fine)
    found = closest_links(compared, threshold)
    return [Link((names[i], names[j]), round(float(value), 3)) for i, j, value in found], threshold


def thumbnails_of(case: Case, raw: RawDataset) -> list[np.ndarray]:
    """The coarse and the fine thumbnail of a case, of a volume's middle slice."""
    data = raw.image(case).data
    return [thumbnail(data[:, data.shape[1] // 2], side, detail) for side, detail in SCALES]


def thumbnail(image: np.ndarray, side: int, detail: float) -> np.ndarray:
    """Local contrast of an image, small: fine detail over its strength around, of mean 0 and length 1.

    Args:
        image: (C, Y, X), any intensities; channels count the same.
        side: of the thumbnail in pixels.
        detail: pixels of it; what is coarser is left out.

    Returns:
        (side * side,) float16; the scalar product of two is their correlation. Zeros where an image is flat.
    """
    small = np.zeros((side, side), np.float32)
    for channel in image:
        picture = Image.fromarray(np.ascontiguousarray(channel, np.float32))
        one = np.asarray(picture.resize((side, side), Image.Resampling.BOX))
        small += (one - one.mean()) / max(float(one.std()), 1e-6)
    small /= max(float(small.std()), 1e-6)
    small -= ndimage.gaussian_filter(small, detail)
    small /= np.sqrt(ndimage.gaussian_filter(small**2, _AROUND) + _FLAT**2)
    small -= small.mean()
    return (small / max(float(np.linalg.norm(small)), 1e-6)).ravel().astype(np.float16)


def what_to_compare(coarse: np.ndarray, fine: np.ndarray) -> tuple[np.ndarray, float]:
    """Which thumbnails of a data set are compared, and the similarity from which two are of one scene.

    It must stand out from the data set's pairs, of which nearly all are of different scenes. Coarse thumbnails forgive
    another crop or angle, but chest X-rays are all alike in them: then it is the fine ones.

    Args:
        coarse: (N, pixels).
        fine: (N, more pixels).
    """
    if len(coarse) < _KNOWN_FROM:
        return fine, SURE
    needed = _stands_out(coarse, STANDS_OUT[0])
    return (coarse, needed) if needed <= ALIKE else (fine, min(_stands_out(fine, STANDS_OUT[1]), SURE))


def _stands_out(thumbnails: np.ndarray, deviations: float) -> float:
    rows = np.unique(np.linspace(0, len(thumbnails) - 1, min(len(thumbnails), _SAMPLE)).round().astype(int))
    sample = thumbnails[rows].astype(np.float32)
    pairs = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    median = float(np.median(pairs))
    spread = 1.4826 * float(np.median(np.abs(pairs - median)))  # of a normal distribution its standard deviation
    return round(max(LEAST, median + deviations * spread), 3)


def closest_links(thumbnails: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    """A maximum spanning forest of the pairs of at least ``threshold``; a block of pairs is in memory at once.

    Args:
        thumbnails: (N, side * side).
        threshold: similarity.

    Returns:
        (i, j, similarity), i < j, weakest first.
    """
    n, side = len(thumbnails), math.isqrt(thumbnails.shape[1])
    forest = [np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32)]
    for start in range(0, n, _BLOCK):
        rows = thumbnails[start : start + _BLOCK].astype(np.float32)
        mirrored = np.ascontiguousarray(rows.reshape(-1, side, side)[:, :, ::-1]).reshape(rows.shape)
        for other in range(start, n, _BLOCK):
            columns = thumbnails[other : other + _BLOCK].astype(np.float32).T
            similarity = np.maximum(rows @ columns, mirrored @ columns)
            i, j = np.nonzero(similarity >= threshold)
            values = np.minimum(similarity[i, j], 1)
            later = i + start < j + other
            found = (i[later] + start, j[later] + other, values[later])
            forest = _spanning([np.concatenate(both) for both in zip(forest, found)], n)
    order = np.lexsort((forest[1], forest[0], forest[2]))  # weakest first
    return [(int(forest[0][k]), int(forest[1][k]), float(forest[2][k])) for k in order]


def _spanning(edges: list[np.ndarray], n: int) -> list[np.ndarray]:
    i, j, similarity = edges
    tree = minimum_spanning_tree(coo_array((2.0 - similarity, (i, j)), shape=(n, n))).tocoo()  # a weight of 0 is none
    return [np.minimum(*tree.coords), np.maximum(*tree.coords), (2.0 - tree.data).astype(np.float32)]


def _source(cases: Sequence[Case], threads: int) -> str:
    """Changes when an image does; labels and groups are not looked at."""
    images = [replace(case, label=None) for case in cases]
    hashes = content_hashes(images, threads)
    return hash_of([[case.identifier, *(hashes[file] for file in case.files)] for case in images])


def _read(file: Path) -> _Record | None:
    if not file.is_file():
        return None
    remedy = "Correct it, or delete it and plan again."
    content = read_json(file, error=DatasetError, remedy=remedy)
    try:
        return from_dict(_Record, content, source=str(file))
    except PlansError as error:
        raise DatasetError(f"{error} {remedy}") from error


def _apart(links: Sequence[Link], groups: Mapping[str, str]) -> list[Link]:
    """Links between cases that ``groups`` does not hold together already."""
    of = {case: groups.get(case, case) for link in links for case in link.cases}
    return [link for link in links if of[link.cases[0]] != of[link.cases[1]]]


def _tell(links: Sequence[Link], groups: Mapping[str, str], folder: Path) -> None:
    """One line of what is joined; a warning where patients are."""
    new = _apart(links, groups)
    if not new:
        log.info("Near-duplicates: none%s.", " but within the groups that are given" if links else "")
        return
    cases = sorted({case for link in new for case in link.cases})
    index = {case: i for i, case in enumerate(cases)}
    ends = tuple(np.array([[index[case] for case in link.cases] for link in new]).T)
    n_scenes, scene = connected_components(coo_array((np.ones(len(new)), ends), shape=(len(cases),) * 2))
    log.info(
        "Near-duplicates: %d images are of %d scenes, at most %d of one; a scene stays on one side of every split. "
        "Look at %s. --no_near_duplicates leaves them apart.",
        len(cases), n_scenes, np.bincount(scene).max(), folder / NEAR_DUPLICATES_PICTURE,
    )
    patients = [link for link in new if all(case in groups for case in link.cases)]
    if patients:
        one = patients[0]
        log.warning(
            "%d of the near-duplicates join groups of case_groups.json, for example %s (%s) with %s (%s). If they show "
            "different patients, take these links out of %s and plan again.", len(patients), one.cases[0],
            groups[one.cases[0]], one.cases[1], groups[one.cases[1]], folder / NEAR_DUPLICATES_FILE,
        )


def _draw(raw: RawDataset, links: Sequence[Link], groups: Mapping[str, str], path: Path) -> None:
    """The weakest links side by side, those that are news first: if these are right, all are."""
    news = set(_apart(links, groups))
    shown = sorted(links, key=lambda link: link not in news)[:_DRAWN]
    if not shown:
        path.unlink(missing_ok=True)
        return
    cases = {case.identifier: case for case in raw.cases}
    columns, panel, gap, line = min(3, len(shown)), 1.7, 0.14, 0.3
    rows = -(-len(shown) // columns)
    width, height = columns * (2 * panel + 2 * gap), rows * (panel + line + gap)
    figure = new_figure(width, height, dpi=100)
    for number, link in enumerate(shown):
        row, column = divmod(number, columns)
        x, y = column * (2 * panel + 2 * gap) + gap / 2, height - (row + 1) * (panel + line + gap)
        for side, name in enumerate(link.cases):
            axes = figure.add_axes(((x + side * (panel + gap / 4)) / width, (y + gap) / height, panel / width,
                                    panel / height))
            data = raw.image(cases[name]).data
            draw_image(axes, data[:, data.shape[1] // 2])
            axes.set_aspect("auto")  # as they were compared
            short = name if len(name) <= 22 else f"…{name[-21:]}"
            text = f"{short}   {link.similarity:.2f}" if side == 0 else short
            axes.text(0, 1.03, text, transform=axes.transAxes, fontsize=8, ha="left", va="bottom", parse_math=False)
    save_figure(figure, path)

"""Exact duplicates among pictures: the same pixels under two names must not be split between training and test."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from samdpo.dataset.images import read_image
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)

_SHOWN = 5


def duplicate_groups(images: Sequence[Path], ending: str, processes: int = 1) -> dict[str, str]:
    """Case -> first case with the same pixels, for the cases that have a twin; what is found is logged.

    Args:
        images: files of a dataset's folder.
        ending: what follows the case's name, ``_0000.png``.
        processes: for reading.
    """
    twins: dict[str, list[str]] = defaultdict(list)
    for image, digest in zip(images, map_cases(pixel_digest, images, processes, "looking for duplicates", 64)):
        twins[digest].append(image.name[: -len(ending)])
    several = [cases for cases in twins.values() if len(cases) > 1]
    if several:
        shown = "; ".join(" = ".join(cases) for cases in several[:_SHOWN])
        log.warning(
            "%d images are exact duplicates of another one (%s%s). They are kept, and case_groups.json keeps each with "
            "its twin on one side of every split.",
            sum(len(cases) - 1 for cases in several), shown, "; …" if len(several) > _SHOWN else "",
        )
    return {case: cases[0] for cases in several for case in cases}


def pixel_digest(path: Path) -> str:
    """A hash of size and pixels: the same for a picture saved twice with different compression."""
    data = read_image(path).data
    return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()

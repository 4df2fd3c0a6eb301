"""BUSI (Al-Dhabyani et al. 2020) and UDIAT (Yap et al. 2018): breast ultrasound with one structure, the tumour."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from pathlib import Path

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import Download, find_download, pairs, warn_about_counts
from samdpo.dataset.converters.picture_files import write_binary_mask, write_empty_mask, write_grey_picture
from samdpo.dataset.converters.source import Member
from samdpo.errors import DatasetError

log = logging.getLogger(__name__)

CLASSES = ("benign", "malignant", "normal")
PUBLISHED = {"benign": 437, "malignant": 210, "normal": 133}
PUBLISHED_UDIAT = {"original": 163}
LAYOUT = "Dataset_BUSI_with_GT/benign, malignant and normal with files 'benign (1).png' and 'benign (1)_mask.png'"
LAYOUT_UDIAT = "original and GT with files of the same names"
STRUCTURE = "breast tumor"
Key = tuple[str, int]  # class and number
_FILE = re.compile(r"(benign|malignant|normal) \((\d+)\)(_mask(?:_\d+)?)?\.png", re.I)


def busi(source: Path, udiat: Path | None = None, with_normal: bool = True) -> Conversion:
    """What becomes of BUSI, and of UDIAT beside it; neither has an official split, so all cases are for training.

    Args:
        source: ``Dataset_BUSI_with_GT``, a folder above it, or its zip.
        udiat: the folder or zip with ``original`` and ``GT``.
        with_normal: keep the images without tumour, with empty masks.

    Raises:
        DatasetError: another folder, an image without mask.
    """
    download = find_download(source, "BUSI", ("benign", "malignant"), LAYOUT, _has_its_names)
    tasks = _busi_tasks(download, with_normal)
    if udiat is not None:
        tasks += _udiat_tasks(udiat)
    return Conversion(
        command="samdpo_convert_busi",
        name="BUSI" if udiat is None else "BUSI_UDIAT",
        settings={"udiat": udiat is not None, "normal": with_normal},
        channel_names={"0": "ultrasound"},
        labels={"background": 0, STRUCTURE: 1},
        hints={
            STRUCTURE: hint(
                STRUCTURE, "dark oval mass in a breast ultrasound", components=1, may_be_absent=with_normal
            )
        },
        file_ending=".png",
        tasks=tasks,
        information={
            "description": "Breast ultrasound with the tumour, benign or malignant"
            + ("; images called normal have empty masks" if with_normal else ""),
            "reference": "BUSI: Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863"
            + ("; UDIAT (Dataset B): Yap et al. 2018, doi:10.1109/JBHI.2017.2731873" if udiat is not None else ""),
        },
        group_duplicates=True,
    )


def _busi_tasks(download: Download, with_normal: bool) -> list[Task]:
    images, masks, strange = _sorted_files(download)
    if strange:
        log.warning("%d file(s) have no name of BUSI's and are left out, for example %s.", len(strange), strange[0])
    counts = {name: sum(kind == name for kind, _ in images) for name in CLASSES}
    warn_about_counts(str(download), counts, PUBLISHED)
    bare = [image for key, image in images.items() if key not in masks and key[0] != "normal"]
    alone = [mask for key, several in masks.items() if key not in images for mask in several]
    if bare or alone:
        parts = [f"{len(bare)} image(s) without a mask, for example {bare[0]}"] if bare else []
        parts += [f"{len(alone)} mask(s) without an image, for example {alone[0]}"] if alone else []
        raise DatasetError(
            f"{download} holds {' and '.join(parts)}. Expected: 'benign (1)_mask.png' beside 'benign (1).png'. "
            "Download it again or add what is missing."
        )
    tasks = []
    for key, image in sorted(images.items()):
        kind, number = key
        if kind == "normal" and not with_normal:
            continue
        case = f"busi_{kind}_{number:03d}"
        drawn = tuple(masks.get(key, ()))
        tasks.append(Task((image,), (f"imagesTr/{case}_0000.png",), write_grey_picture))
        make, members = (write_binary_mask, drawn) if drawn else (write_empty_mask, (image,))
        tasks.append(Task(members, (f"labelsTr/{case}.png",), make))
    return tasks


def _sorted_files(download: Download) -> tuple[dict[Key, Member], dict[Key, list[Member]], list[Member]]:
    """Images, the one or several masks of each, and files of other names."""
    images: dict[Key, Member] = {}
    masks: dict[Key, list[Member]] = defaultdict(list)
    strange: list[Member] = []
    for folder in CLASSES:
        for member in download.files(folder):
            match = _FILE.fullmatch(member.name)
            if not match:
                strange.append(member)
                continue
            key = match[1].lower(), int(match[2])
            if match[3]:
                masks[key].append(member)
            else:
                images[key] = member
    return images, masks, strange


def _has_its_names(download: Download) -> bool:
    return any(_FILE.fullmatch(member.name) for member in download.files("benign"))


def _udiat_tasks(source: Path) -> list[Task]:
    download = find_download(source, "UDIAT", ("original", "GT"), LAYOUT_UDIAT)
    images = download.files("original")
    warn_about_counts(str(download), {"original": len(images)}, PUBLISHED_UDIAT)
    tasks = []
    for image, mask in pairs(images, download.files("GT"), str(download)):
        case = "udiat_" + image.name.rpartition(".")[0].replace(" ", "_")
        tasks.append(Task((image,), (f"imagesTr/{case}_0000.png",), write_grey_picture))
        tasks.append(Task((mask,), (f"labelsTr/{case}.png",), write_binary_mask))
    return tasks

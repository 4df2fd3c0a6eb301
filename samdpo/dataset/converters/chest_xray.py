"""Chest X-rays with lung masks of three hospitals: Montgomery and Shenzhen (Jaeger et al. 2014), JSRT with SCR masks.

JSRT: Shiraishi et al. 2000; SCR: van Ginneken et al. 2006; Shenzhen's masks: Stirenko et al. 2018.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.locate import find_files, warn_about_counts
from samdpo.dataset.converters.picture_files import read_mask, write_binary_mask, write_grey_picture
from samdpo.dataset.converters.source import Member, local_file
from samdpo.dataset.decoding import check_file, decoding
from samdpo.dataset.images import write_label
from samdpo.errors import ConfigurationError, DatasetError

log = logging.getLogger(__name__)

HOSPITALS = ("montgomery", "shenzhen", "jsrt")  # also the beginning of the cases' names
PUBLISHED = {"montgomery": 138, "shenzhen": 662, "jsrt": 247}
LAYOUT = (
    "one or more of CXR_png/MCUCXR_0001_0.png with ManualMask/leftMask and rightMask (Montgomery), "
    "CXR_png/CHNCXR_0001_0.png with mask/CHNCXR_0001_0_mask.png (Shenzhen), JPCLN001.IMG with masks/left lung and "
    "right lung/JPCLN001.gif (JSRT and SCR)"
)
JSRT_SIDE, JSRT_HIGHEST = 2048, 4095  # pixels, and the value of 12 bits
_FILE = re.compile(
    r"(?:CXR_png|(?P<mc_mask>leftMask|rightMask))/MCUCXR_(?P<mc>\d{4}_[01])\.png"
    r"|CXR_png/CHNCXR_(?P<sz>\d{4}_[01])\.png|CHNCXR_(?P<sz_mask>\d{4}_[01])_mask\.png"
    r"|JPC(?P<jsrt>[LN]N\d{3})\.IMG|(?P<scr_mask>left lung|right lung)/JPC(?P<scr>[LN]N\d{3})\.(?:gif|png|bmp)",
    re.I,
)
_SIDES = {"montgomery": ("leftmask", "rightmask"), "shenzhen": ("",), "jsrt": ("left lung", "right lung")}


def chest_xray(source: Path, hospitals: Sequence[str] = (), unlabelled: bool = False) -> Conversion:
    """What becomes of the hospitals' X-rays that are found; there is no official split, so all are for training.

    Args:
        source: folder of the downloads, packed or not.
        hospitals: of :data:`HOSPITALS`; none means all that are found.
        unlabelled: whether Shenzhen's images that nobody outlined become imagesUl.

    Raises:
        ConfigurationError: unknown hospital.
        DatasetError: nothing found, a hospital that was asked for is missing, an image without its masks.
    """
    unknown = sorted({*hospitals} - {*HOSPITALS})
    if unknown:
        raise ConfigurationError(f"The hospital {unknown[0]!r} is unknown. Choose from {', '.join(HOSPITALS)}.")
    images: dict[str, dict[str, Member]] = {hospital: {} for hospital in HOSPITALS}
    masks: dict[str, dict[str, dict[str, Member]]] = {hospital: defaultdict(dict) for hospital in HOSPITALS}
    for member, match in find_files(source, _FILE, "X-rays of Montgomery, Shenzhen or JSRT", LAYOUT):
        hospital, number, side = _role(match)
        if side is None:
            other = images[hospital].setdefault(number, member)
        else:
            other = masks[hospital][number].setdefault(side, member)
        if other is not member:
            raise DatasetError(f"{other} and {member} are the same picture twice. Remove one of them.")
    wanted = [hospital for hospital in HOSPITALS if (hospital in hospitals if hospitals else images[hospital])]
    missing = [hospital for hospital in hospitals if not images[hospital]]
    if missing or not wanted:
        raise DatasetError(f"{source} holds no image of {' and '.join(missing or HOSPITALS)}. Expected: {LAYOUT}.")
    warn_about_counts(
        str(source), {hospital: len(images[hospital]) for hospital in wanted}, {h: PUBLISHED[h] for h in wanted}
    )
    tasks: list[Task] = []
    for hospital in wanted:
        outlined = _outlined(images[hospital], masks[hospital], hospital)
        for number, image in sorted(images[hospital].items()):
            case = f"{hospital}_{number}"
            drawn = outlined.get(number)
            if drawn:
                tasks.append(_image(hospital, image, drawn, f"imagesTr/{case}_0000.png"))
                tasks.append(Task(drawn, (f"labelsTr/{case}.png",), write_binary_mask))
            elif unlabelled:
                tasks.append(_image(hospital, image, (), f"imagesUl/{case}_0000.png"))
    return Conversion(
        command="samdpo_convert_chest_xray",
        name="ChestXray",
        settings={"hospitals": wanted, "unlabelled": unlabelled},
        channel_names={"0": "X-ray"},
        labels={"background": 0, "lung": 1},
        hints={"lung": hint("lungs", "lungs in a chest X-ray", components=2, may_be_absent=False, plural=True)},
        file_ending=".png",
        tasks=tasks,
        information={
            "description": f"Chest X-rays with lung masks: {', '.join(wanted)}",
            "reference": "Montgomery and Shenzhen: Jaeger et al. 2014, doi:10.3978/j.issn.2223-4292.2014.11.20; masks "
            "of Shenzhen: Stirenko et al. 2018, arXiv:1803.01199; JSRT: Shiraishi et al. 2000, "
            "doi:10.2214/ajr.174.1.1740071; SCR: van Ginneken et al. 2006, doi:10.1016/j.media.2005.02.002",
        },
    )


def _role(match: re.Match[str]) -> tuple[str, str, str | None]:
    """Hospital, number of the image, and which of its masks a file is; None for the image itself."""
    if match["mc"]:
        return "montgomery", match["mc"], match["mc_mask"] and match["mc_mask"].lower()
    if match["sz"] or match["sz_mask"]:
        return "shenzhen", match["sz"] or match["sz_mask"], None if match["sz"] else ""
    number = f"c{(match['jsrt'] or match['scr']).lower()}"
    return "jsrt", number, match["scr_mask"] and match["scr_mask"].lower()


def _outlined(
    images: dict[str, Member], masks: dict[str, dict[str, Member]], hospital: str
) -> dict[str, tuple[Member, ...]]:
    """Number -> masks; of Shenzhen's images 96 were never outlined, elsewhere each has both its lungs.

    Raises:
        DatasetError: no mask at all, images without one of their masks, or masks without an image.
    """
    sides = _SIDES[hospital]
    whole = {n: tuple(drawn[side] for side in sides) for n, drawn in masks.items() if len(drawn) == len(sides)}
    bare = sorted(number for number in images if number not in whole)
    alone = sorted(number for number in masks if number not in images)
    if hospital == "shenzhen" and whole:
        if bare:
            log.info("%d of Shenzhen's %d images have no mask.", len(bare), len(images))
        bare = []
    if bare or alone:
        parts = [f"{len(bare)} image(s) without {'both ' * (len(sides) > 1)}masks, for example {images[bare[0]]}"] \
            if bare else []
        parts += [f"{len(alone)} mask(s) without an image, for example {next(iter(masks[alone[0]].values()))}"] \
            if alone else []
        others = " ".join(other for other in HOSPITALS if other != hospital)
        raise DatasetError(
            f"{hospital}: {' and '.join(parts)}. Expected: {LAYOUT}. Add what is missing, or convert the others alone: "
            f"--hospitals {others}"
        )
    return whole


def _image(hospital: str, image: Member, masks: tuple[Member, ...], target: str) -> Task:
    if hospital == "jsrt":
        return Task((image, masks[0]), (target,), write_jsrt)
    return Task((image,), (target,), write_grey_picture)


def write_jsrt(members: tuple[Member, ...], targets: tuple[Path, ...]) -> None:
    """JSRT's raw film (16-bit, big-endian, no header) as a PNG of its mask's size, air dark as on other X-rays.

    The file holds optical densities of 12 bits, in which air is bright; pixels are averaged down to SCR's 1024 x 1024.

    Args:
        members: the film, and one of its masks.
        targets: the PNG.

    Raises:
        DatasetError: a file of another size, or a mask whose side does not divide the film's.
    """
    film, drawn = members
    side = read_mask(drawn).shape[1]
    if JSRT_SIDE % side:
        raise DatasetError(f"{drawn} is {side} pixels high; expected 1024, as SCR's masks are. Download it again.")
    with local_file(film) as path:
        check_file(path)
        size = path.stat().st_size
        if size != 2 * JSRT_SIDE**2:
            raise DatasetError(
                f"{film} is {size:,} bytes large; expected {2 * JSRT_SIDE**2:,}, {JSRT_SIDE} x {JSRT_SIDE} pixels of "
                "16 bits. Download it again."
            )
        with decoding(path):
            density = np.fromfile(path, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    step = JSRT_SIDE // side
    bright = (JSRT_HIGHEST - np.minimum(density, JSRT_HIGHEST).astype(np.float32)).reshape(side, step, side, step)
    write_label(np.rint(bright.mean(axis=(1, 3)))[None], targets[0], {})

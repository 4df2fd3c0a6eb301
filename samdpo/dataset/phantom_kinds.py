"""The phantoms there are: names, labels and the hints from which prompts are made."""

from __future__ import annotations

import numpy as np

from samdpo.dataset.phantom_ct import ORGANS, ct_phantom
from samdpo.dataset.phantom_ultrasound import ultrasound_phantom
from samdpo.dataset.phantom_xray import xray_phantom
from samdpo.dataset.phantoms import Kind, PhantomKind, Sample


def _xray(rng: np.random.Generator, size: tuple[int, ...]) -> Sample:
    return (*xray_phantom(rng, (size[0], size[1])), None)


def _ultrasound(rng: np.random.Generator, size: tuple[int, ...]) -> Sample:
    return (*ultrasound_phantom(rng, (size[0], size[1])), None)


def _ct(rng: np.random.Generator, size: tuple[int, ...]) -> Sample:
    return ct_phantom(rng, (size[0], size[1], size[2]))


_ORGAN_TEXTS = {
    "spleen": "The spleen is a smooth oval organ in the left upper abdomen behind the stomach.",
    "liver": "The liver is the largest organ, a wedge of even density in the right upper abdomen.",
    "right kidney": "The right kidney is a bean-shaped organ beside the spine below the liver.",
    "left kidney": "The left kidney is a bean-shaped organ beside the spine below the spleen.",
    "aorta": "The aorta is a round vessel in front of the spine, slightly left of the midline.",
}

ENTRIES: dict[Kind, PhantomKind] = {
    "xray": PhantomKind(
        name="PhantomXray",
        channel="X-ray",
        file_ending=".png",
        labels={"background": 0, "lung": 1},
        hints={
            "lung": {
                "phrase": "lungs in a chest X-ray",
                "question": "What is the shape of the lungs and where are they located?",
                "description": "The lungs are two large dark fields on either side of the bright spine and heart, "
                "bounded by the ribs and the diaphragm.",
                "components": 2,
                "may_be_absent": False,
            }
        },
        size=(320, 288),
        draw=_xray,
    ),
    "ultrasound": PhantomKind(
        name="PhantomUltrasound",
        channel="ultrasound",
        file_ending=".png",
        labels={"background": 0, "breast tumor": 1},
        hints={
            "breast tumor": {
                "phrase": "dark oval mass in a breast ultrasound",
                "question": "What is the shape of the breast tumor and where is it located?",
                "description": "A breast tumor is a dark mass with a visible margin inside brighter glandular tissue, "
                "often with a shadow or a brighter band below it.",
                "components": 1,
                "may_be_absent": False,
            }
        },
        size=(288, 320),
        draw=_ultrasound,
    ),
    "ct": PhantomKind(
        name="PhantomCT",
        channel="CT",
        file_ending=".nii.gz",
        labels={"background": 0, **{name: value for value, name in enumerate(ORGANS, 1)}},
        hints={
            name: {
                "phrase": f"{name} in an abdominal CT",
                "description": _ORGAN_TEXTS[name],
                "components": 1,
                "may_be_absent": True,
            }
            for name in ORGANS
        },
        size=(40, 128, 128),
        draw=_ct,
    ),
}

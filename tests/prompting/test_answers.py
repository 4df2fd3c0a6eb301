from __future__ import annotations

import json
import logging
from importlib import resources

import numpy as np
import pytest
from skimage.draw import ellipse

from samdpo.prompting.answers import measured_answer
from samdpo.prompting.descriptions import describe, is_described

AMOS = [
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "postcava",
    "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus",
]


def drawn(centre: tuple[int, int], radii: tuple[int, int]) -> np.ndarray:
    regions = np.zeros((256, 256), np.uint8)
    regions[ellipse(*centre, *radii, shape=regions.shape)] = 1
    return regions


@pytest.mark.parametrize(("radii", "word"), [((30, 30), "round"), ((20, 34), "oval"), ((8, 60), "elongated")])
def test_the_answer_names_the_shape(radii, word):
    assert f"is {word} (" in measured_answer("liver", drawn((60, 60), radii))


def test_a_jagged_outline_is_irregular():
    regions = drawn((128, 128), (60, 60))
    regions[128:, 110:140] = 0
    regions[100:156, 150:] = 0
    assert "irregular" in measured_answer("liver", regions)


def test_the_answer_measures_place_size_and_count():
    regions = drawn((40, 40), (30, 30))
    regions[ellipse(210, 210, 25, 25, shape=regions.shape)] = 2
    answer = measured_answer("lung", regions)
    assert answer == (
        "The lung is round (1.0 times as long as wide), in the upper left and the lower right of the image, "
        "covers 7% of it as two regions."
    )
    assert measured_answer("lung", np.zeros((8, 8), np.uint8)) == ""


def test_a_single_pixel_has_an_answer():
    regions = np.zeros((16, 16), np.uint8)
    regions[3, 3] = 1
    assert "upper left" in measured_answer("dot", regions)


@pytest.mark.parametrize("name", [*AMOS, "lung", "Lungs", "lung infection", "Benign breast tumour", "breast tumor"])
def test_the_bundled_descriptions_cover_the_papers_structures(name):
    assert is_described(name) and len(describe(name)) > 60


def test_every_description_has_a_source():
    text = resources.files("samdpo.prompting").joinpath("descriptions.json").read_text(encoding="utf-8")
    assert all(entry["source"] and entry["text"] for entry in json.loads(text)["structures"])


def test_an_unknown_structure_is_described_by_its_name_with_one_warning(caplog):
    logging.getLogger("samdpo").propagate = True
    with caplog.at_level(logging.WARNING, logger="samdpo"):
        assert describe("zonule of zinn") == "zonule of zinn."
        describe("zonule of zinn")
    assert sum("zonule" in record.getMessage() for record in caplog.records) == 1


def test_the_users_description_wins():
    assert describe("liver", "A brown organ.") == "A brown organ."

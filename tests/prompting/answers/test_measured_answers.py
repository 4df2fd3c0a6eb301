from __future__ import annotations

import re

import numpy as np
import pytest
from skimage.draw import ellipse
from skimage.morphology import convex_hull_image

from samdpo.prompting.answers.measured import measured_answer


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
    answer = measured_answer("liver", regions)
    share = int(re.search(r"is irregular \(fills (\d+)% of its hull, 1\.\d times as long as wide\)", answer)[1])
    assert share == round(100 * regions.sum() / convex_hull_image(regions).sum())


def test_the_ratio_is_that_of_the_ellipse():
    assert "oval (1.7 times as long as wide)" in measured_answer("liver", drawn((128, 128), (20, 34)))


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

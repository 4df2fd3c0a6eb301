"""Intensities to [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest

from samdpo.errors import DatasetError
from samdpo.plans import ChannelNormalization, PreprocessingPlan
from samdpo.preprocessing.normalization import distinct_channels, iterate_channels

MINMAX = ChannelNormalization("minmax", 0, 100)
WINDOW = ChannelNormalization("window", -160, 240)
PERCENTILE = ChannelNormalization("percentile", 0.5, 99.5)


def plan(*channels: ChannelNormalization, mapping: tuple[int, int, int] = (0, 0, 0)) -> PreprocessingPlan:
    return PreprocessingPlan(normalization=list(channels), channel_mapping=mapping)


def normalize(volume: np.ndarray, plan: PreprocessingPlan) -> np.ndarray:
    """(C, Z, Y, X) -> (3, Z, Y, X), what the network's three channels show."""
    _, shown = distinct_channels(plan.channel_mapping)
    return np.stack(list(iterate_channels(volume, plan)))[shown]


@pytest.mark.parametrize("scheme", [MINMAX, WINDOW, PERCENTILE, ChannelNormalization("none", 0, 1)])
def test_everything_lands_between_0_and_1(scheme: ChannelNormalization) -> None:
    volume = np.random.default_rng(0).normal(0, 1000, (1, 3, 20, 30)).astype(np.float32)
    result = normalize(volume, plan(scheme))
    assert result.shape == (3, 3, 20, 30)
    assert result.dtype == np.float32
    assert 0 <= result.min() <= result.max() <= 1


def test_a_window_is_the_same_for_every_image() -> None:
    volume = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(1, 1, 1, 5)
    assert np.allclose(normalize(volume, plan(WINDOW))[0, 0, 0], [0, 0, 0.5, 1, 1])


def test_percentiles_ignore_a_burnt_in_letter() -> None:
    image = np.tile(np.linspace(100, 200, 100, dtype=np.float32), (100, 1))[None, None]
    lettered = image.copy()
    lettered[..., :4, :4] = 65535
    plain, marked = normalize(image, plan(PERCENTILE)), normalize(lettered, plan(PERCENTILE))
    assert np.abs(plain[..., 5:, :] - marked[..., 5:, :]).max() < 0.02


def test_an_image_almost_of_one_value_keeps_what_differs() -> None:
    image = np.zeros((1, 1, 100, 100), np.float32)
    image[..., 50, 50] = 7
    assert normalize(image, plan(PERCENTILE)).max() == 1


@pytest.mark.parametrize("scheme", [MINMAX, PERCENTILE])
def test_an_image_of_one_value_becomes_0_without_a_division_by_0(scheme: ChannelNormalization) -> None:
    assert not normalize(np.full((1, 1, 4, 4), 9, np.float32), plan(scheme)).any()


def test_a_grey_channel_is_computed_once_for_three() -> None:
    (channel,) = iterate_channels(np.zeros((1, 1, 4, 4), np.float32), plan(MINMAX))
    assert channel.shape == (1, 4, 4)


def test_channels_go_where_the_plan_says() -> None:
    volume = np.stack([np.full((1, 2, 2), v, np.float32) for v in (0.1, 0.2, 0.3, 0.4)])
    none = ChannelNormalization("none", 0, 1)
    result = normalize(volume, plan(none, none, none, none, mapping=(3, 0, 3)))
    assert np.allclose(result[:, 0, 0, 0], [0.4, 0.1, 0.4])


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"2 channel\(s\).*made for 1"):
        normalize(np.zeros((2, 1, 4, 4), np.float32), plan(MINMAX))


def test_a_mapping_to_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="channel_mapping"):
        plan(MINMAX, mapping=(0, 1, 2))

"""Smoothing across slices gives the same however the slices come in."""

from __future__ import annotations

import numpy as np
import pytest

from samdpo.model.smoothing import SliceSmoother


def streamed(volume: np.ndarray, sigma: float, at_once: int) -> np.ndarray:
    smoother, parts = SliceSmoother(sigma, len(volume)), []
    for start in range(0, len(volume), at_once):
        first, ready = smoother.push(volume[start : start + at_once])
        assert first == sum(len(part) for part in parts)
        parts.append(ready)
    return np.concatenate(parts)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.3])
@pytest.mark.parametrize("at_once", [1, 3, 16, 20])
def test_a_stream_is_smoothed_as_the_whole_volume_is(sigma: float, at_once: int) -> None:
    volume = np.random.default_rng(0).random((20, 2, 3, 4), np.float32)
    distance = np.arange(20)[:, None] - np.arange(20)
    weights = np.exp(-0.5 * (distance / sigma) ** 2) * (abs(distance) <= np.ceil(2 * sigma))
    expected = np.einsum("ij,jlhw->ilhw", weights / weights.sum(1, keepdims=True), volume)
    assert streamed(volume, sigma, at_once) == pytest.approx(expected, abs=1e-6)


def test_no_smoothing_changes_no_bit() -> None:
    volume = np.random.default_rng(0).random((5, 1, 2, 2), np.float32)
    assert np.array_equal(streamed(volume, 0.0, 2), volume)


def test_a_gap_between_two_slices_closes_and_a_single_slice_goes() -> None:
    gap, lone = np.ones((9, 1, 1, 1), np.float32), np.zeros((9, 1, 1, 1), np.float32)
    gap[4], lone[4] = 0, 1
    assert (streamed(gap, 1.0, 4) > 0.5).all()
    assert not (streamed(lone, 1.0, 4) > 0.5).any()

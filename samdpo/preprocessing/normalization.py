"""Intensities to [0, 1], channel by channel, and the channels to the network's three."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from samdpo.errors import DatasetError
from samdpo.plans import ChannelNormalization, PreprocessingPlan

_SAMPLED = 1_000_000  # voxels from which percentiles of a larger volume are taken


def iterate_channels(volume: np.ndarray, plan: PreprocessingPlan) -> Iterator[np.ndarray]:
    """The channels that the network is shown, normalised, each once: see :func:`distinct_channels`.

    A grey image shown to three input channels is thus computed, resized and stored once, and of a large volume only
    one channel is in memory beside it.

    Args:
        volume: (C, Z, Y, X), intensities as read.
        plan: one ``normalization`` a channel, and ``channel_mapping``.

    Yields:
        (Z, Y, X) float32 in [0, 1].

    Raises:
        DatasetError: the image does not have as many channels as the plan.
    """
    if len(volume) != len(plan.normalization):
        raise DatasetError(
            f"The image has {len(volume)} channel(s), but the plan was made for {len(plan.normalization)}. Give one "
            "file a channel (_0000, _0001, …) as in the dataset that was planned."
        )
    sources, _ = distinct_channels(plan.channel_mapping)
    if max(sources) >= len(volume):
        raise DatasetError(
            f"The plan's 'preprocessing.channel_mapping' {list(plan.channel_mapping)} names channel {max(sources)}, "
            f"but the image has the channels 0 to {len(volume) - 1}."
        )
    for source in sources:
        yield normalize_channel(volume[source], plan.normalization[source])


def normalize_channel(channel: np.ndarray, plan: ChannelNormalization) -> np.ndarray:
    """One channel, any shape -> float32 in [0, 1]; a channel of one value becomes 0 unless the window is fixed."""
    lower, upper = _bounds(channel, plan)
    if not upper > lower:
        return np.zeros(channel.shape, np.float32)
    result = channel.astype(np.float32)
    result -= np.float32(lower)
    result *= np.float32(1 / (upper - lower))
    return np.clip(result, 0, 1, out=result)


def distinct_channels(mapping: tuple[int, int, int]) -> tuple[list[int], list[int]]:
    """Source channels that are used, each once, and for each of the network's three which of these it shows."""
    sources = list(dict.fromkeys(mapping))
    return sources, [sources.index(source) for source in mapping]


def _bounds(channel: np.ndarray, plan: ChannelNormalization) -> tuple[float, float]:
    if plan.scheme == "window":
        return plan.lower, plan.upper
    if plan.scheme == "percentile":
        flat = channel.reshape(-1)
        lower, upper = np.percentile(flat[:: max(1, flat.size // _SAMPLED)], (plan.lower, plan.upper))
        if upper > lower:
            return float(lower), float(upper)  # else an image nearly all of one value: its extremes say more
    if plan.scheme in ("percentile", "minmax"):
        return float(channel.min()), float(channel.max())
    return 0.0, 1.0  # none: the values are in [0, 1] already

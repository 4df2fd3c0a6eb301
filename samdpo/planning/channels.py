"""Which normalisation a channel gets, by modality and by what the labels show."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from samdpo.dataset.dataset_json import is_rgb, modality_of
from samdpo.plans import ChannelNormalization

log = logging.getLogger(__name__)

ABDOMEN = (-160.0, 240.0)  # HU: level 40, width 400
NARROWEST = 250.0  # HU: the surroundings of a homogeneous organ must stay visible
PERCENTILES = (0.5, 99.5)


def normalization(
    names: Sequence[str], channel: int, fingerprint: dict[str, Any]
) -> tuple[ChannelNormalization, str]:
    """Normalisation of one channel, and why.

    CT: a window over the structures. Ultrasound: darkest to brightest of each image (its black is no outlier). RGB: the
    range of the file format, the same for all three, so that colours stay. Everything else: percentiles 0.5 to 99.5 of
    each image, which a burnt-in letter does not move.

    Args:
        names: of all channels.
        channel: index of this one.
        fingerprint: of the dataset.
    """
    lowest, highest = fingerprint["value_range_per_channel"][str(channel)]
    if is_rgb(names):
        return ChannelNormalization("window", 0.0, 255.0 if highest <= 255 else 65535.0), "colours: the file's range"
    name = f"'{names[channel]}'"
    modality = modality_of(names[channel])
    if modality == "ct":
        if lowest >= 0 and highest <= 255:
            why = f"{name} with values {lowest:g} to {highest:g}: a window was applied before"
            return ChannelNormalization("minmax", 0.0, 100.0), why  # these are greys, not HU
        window = ct_window(fingerprint["structures"], str(channel))
        return ChannelNormalization("window", *window), f"{name}: HU of the labelled structures"
    if modality == "ultrasound":
        return ChannelNormalization("minmax", 0.0, 100.0), f"{name}: its black is no outlier"
    return ChannelNormalization("percentile", *PERCENTILES), f"{name}: a burnt-in letter moves no percentile"


def ct_window(structures: dict[str, dict[str, Any]], channel: str) -> tuple[float, float]:
    """Lower and upper HU that show every structure.

    Each structure's percentiles 0.5 and 99.5, but not further than 1.5 interquartile ranges from its quartiles
    (Tukey's fences): gas in a labelled stomach would else stretch the window over all soft tissue. Without any
    structure the abdominal window.
    """
    bounds = []
    for entry in structures.values():
        values = entry["intensities"].get(channel)
        if values:
            reach = 1.5 * (values["percentile_75"] - values["percentile_25"])
            bounds.append(
                (
                    max(values["percentile_00_5"], values["percentile_25"] - reach),
                    min(values["percentile_99_5"], values["percentile_75"] + reach),
                )
            )
    if not bounds:
        return ABDOMEN
    lower, upper = min(b[0] for b in bounds), max(b[1] for b in bounds)
    missing = max(0.0, NARROWEST - (upper - lower)) / 2
    return round(lower - missing, 1), round(upper + missing, 1)


def channel_mapping(n_channels: int) -> tuple[int, int, int]:
    """Source channel of each of the network's three; a fourth and further ones are not seen, which the log says."""
    if n_channels > 3:
        log.warning(
            "The dataset has %d channels and the network sees three: channels 0, 1 and 2 are used. Choose others with "
            "preprocessing.channel_mapping in the plan.", n_channels,
        )
    return {1: (0, 0, 0), 2: (0, 1, 1)}.get(n_channels, (0, 1, 2))

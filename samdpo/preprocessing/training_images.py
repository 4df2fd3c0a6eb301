"""Where an image is unlike those of training, as far as the plan knows what they were like.

A window is fixed, so an image in other units comes out of it saturated or black, and a mask of it looks like any other.
Schemes that normalise each image by itself do not mind its units.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from samdpo.dataset.volume import Volume, has_colours
from samdpo.plans import Plans, PreprocessingPlan

_BY_DEPTH = {8: 255.0, 16: 65535.0}  # highest value of a picture's file
_BEYOND = 0.25  # of the width of the training range, by which values may lie outside
_BEYOND_A_WINDOW = 10.0  # where only the window is known
_NEGATIVE = 0.05  # of the highest value of training, by which values may lie below 0 where those of training do not
_NARROW = 0.1  # of the usual width, below which an image has next to no contrast left
_SPACING_FACTOR = 2.0  # beyond the training range
_SPACING_FACTOR_OF_MEDIAN = 3.0  # where only the median is known
_SAMPLED = 1_000_000  # voxels from which percentiles are taken


def as_trained(image: Volume, plans: Plans) -> tuple[Volume, list[str]]:
    """An image in the units of training, and a part of a sentence for each way in which it is unlike those.

    Colour pictures are normalised by the range of the file format, so those of 16 bits become those of 8 bits for a
    model of 8 bits, and the other way round; nothing else is converted.
    """
    image = in_depth_of_training(image, plans.preprocessing)
    return image, [*_unlike_values(image.data, plans), *_unlike_shape(image, plans)]


def in_depth_of_training(image: Volume, plan: PreprocessingPlan) -> Volume:
    """A colour picture in the range of the file format for which the plan has its window; any other as it is."""
    bounds = {(n.scheme, n.lower, n.upper) for n in plan.normalization}
    highest = _BY_DEPTH.get(image.properties.get("bits", 0))
    if highest is None or len(image.data) != 3 or len(bounds) != 1:
        return image
    ((scheme, lower, upper),) = bounds
    if scheme != "window" or lower != 0 or upper not in _BY_DEPTH.values() or upper == highest:
        return image
    if highest > upper and image.data.max() <= upper:  # small numbers in a large type, as training may have had them
        return image
    return replace(image, data=image.data * np.float32(upper / highest))


def _unlike_values(data: np.ndarray, plans: Plans) -> list[str]:
    found = []
    known = plans.training_images
    for channel, (values, rule) in enumerate(zip(data, plans.preprocessing.normalization)):
        which = f"channel {channel} of the image" if len(data) > 1 else "the image"
        low, high = float(values.min()), float(values.max())
        if low == high:
            found.append(f"{which} is of one value, {low:g}: it shows nothing")
            continue
        if rule.scheme not in ("window", "none"):
            continue
        bounds = (rule.lower, rule.upper) if rule.scheme == "window" else (0.0, 1.0)
        lowest, highest = known.value_range[channel] if channel < len(known.value_range) else bounds
        usual = known.usual_range[channel] if channel < len(known.usual_range) else bounds
        flat = values.reshape(-1)
        dark, bright = np.percentile(flat[:: max(1, flat.size // _SAMPLED)], (0.5, 99.5))
        # Without a measured range only the window is known, beyond which air and metal are quite usual.
        reach = (_BEYOND if known.value_range else _BEYOND_A_WINDOW) * (highest - lowest)
        negative = bool(known.value_range) and lowest >= 0 and dark < -_NEGATIVE * highest
        trained = f"those of training lie from {lowest:g} to {highest:g}"
        if usual[0] < 0 <= low:
            found.append(f"{which} has no value below 0 (from {low:g} to {high:g}), but those of training begin at "
                         f"{usual[0]:g}: was the offset of Hounsfield units left out, or a window applied?")
        elif bright > highest + reach or dark < lowest - reach or negative:
            found.append(f"{which} has values from {low:g} to {high:g}, but {trained}: is it stored in another depth "
                         "or in other units?")
        elif high - low < _NARROW * (usual[1] - usual[0]):
            found.append(f"{which} has values from {low:g} to {high:g} only, but {trained}: is it stored in another "
                         "depth or in other units?")
    if known.coloured and len(data) == 3 and not has_colours(data):
        found.append("the image is grey, but every image of training has colours")
    return found


def _unlike_shape(image: Volume, plans: Plans) -> list[str]:
    slices = image.data.shape[1]
    if plans.ndim == 2 and slices > 1:
        return [f"the image is a volume of {slices} slices, but the model was trained on single pictures"]
    if plans.ndim == 3 and 1 in image.data.shape[1:]:
        return ["the image is a single slice, but the model was trained on volumes"]
    if plans.ndim == 2:
        return []
    # Sorted, since axes may come in another order.
    ours, known = sorted(image.spacing), plans.training_images.spacing_range
    ranges = known or [(spacing, spacing) for spacing in plans.original_median_spacing]
    factor = _SPACING_FACTOR if known else _SPACING_FACTOR_OF_MEDIAN
    lowest, highest = sorted(low for low, _ in ranges), sorted(high for _, high in ranges)
    if all(low / factor <= own <= high * factor for own, low, high in zip(ours, lowest, highest)):
        return []
    trained = " x ".join(f"{low:.4g}" if low == high else f"{low:.4g}–{high:.4g}" for low, high in zip(lowest, highest))
    return [f"the voxels are {' x '.join(f'{v:.4g}' for v in ours)} mm large, but those of training {trained} mm"]

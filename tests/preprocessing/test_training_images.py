"""Where an image to predict is unlike those of training, and what is done about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from predicted_folders import plans_of

from samdpo.dataset.volume import Volume
from samdpo.plans import ChannelNormalization, Plans, PreprocessingPlan, TrainingImages, load_plans, save_plans
from samdpo.preprocessing.training_images import as_trained

HU = TrainingImages(1, False, [(-1024.0, 3071.0)], [(-1000.0, 1800.0)], [(2.5, 5.0), (0.6, 0.9), (0.6, 0.9)])
EIGHT = TrainingImages(1, True, [(0.0, 255.0)] * 3, [(2.0, 250.0)] * 3, [])


def plan(rules: list[ChannelNormalization], known: TrainingImages, ndim: int) -> Plans:
    return replace(plans_of({"liver": 1}), ndim=ndim, original_median_spacing=[3.0, 0.7, 0.7],
                   preprocessing=PreprocessingPlan(normalization=rules), training_images=known)


def ct(known: TrainingImages = HU) -> Plans:
    return plan([ChannelNormalization("window", -160.0, 240.0)], known, 3)


def rgb(known: TrainingImages = EIGHT, upper: float = 255.0) -> Plans:
    return plan([ChannelNormalization("window", 0.0, upper)] * 3, known, 2)


def volume(low: float, high: float, spacing: tuple[float, float, float] = (3.0, 0.7, 0.7), slices: int = 6) -> Volume:
    data = np.linspace(low, high, slices * 100, dtype=np.float32).reshape(1, slices, 10, 10)
    return Volume(data, spacing, {})


def picture(highest: float, bits: int = 8) -> Volume:
    data = np.random.default_rng(0).uniform(0, highest, (3, 1, 20, 20)).astype(np.float32).round()
    return Volume(data, (999.0, 1.0, 1.0), {"bits": bits})


@pytest.mark.parametrize("known", [HU, TrainingImages()])
@pytest.mark.parametrize("image", [volume(-1000, 1500), volume(-1024, 3071), volume(-200, 400), volume(-3024, 1500)])
def test_hounsfield_units_of_any_scanner_are_like_those_of_training(image, known) -> None:
    if image.data.min() == -3024:  # outside the circle of the scan
        image.data[0, 0, 0, 1:], image.data[0, 1:] = -1000.0, np.linspace(-1000, 1500, 500).reshape(5, 10, 10)
        image.data[0, 0, 1:] = 0.0
    assert as_trained(image, ct(known))[1] == []


@pytest.mark.parametrize("known", [HU, TrainingImages()])
@pytest.mark.parametrize(("image", "why"), [
    (volume(0, 4095), "no value below 0"),
    (volume(0, 255), "no value below 0"),
    (volume(-30000, 30000), "in another depth or in other units"),
    (volume(-0.5, 0.5), "in another depth or in other units"),
    (volume(40, 40), "of one value, 40"),
])
def test_other_units_than_hounsfields_are_told(image, why, known) -> None:
    (reason,) = as_trained(image, ct(known))[1]
    assert why in reason


def test_a_scheme_that_looks_at_each_image_by_itself_does_not_mind_the_units() -> None:
    known = TrainingImages(1, False, [(0.0, 255.0)], [(0.0, 255.0)], [])
    plans = plan([ChannelNormalization("percentile", 0.5, 99.5)], known, 2)
    assert as_trained(Volume(volume(0, 65535, slices=1).data, (999.0, 1.0, 1.0), {"bits": 16}), plans)[1] == []


def test_colour_pictures_of_16_bits_are_those_of_8_bits_and_the_other_way_round() -> None:
    eight = picture(255)
    sixteen = Volume(eight.data * 257, eight.spacing, {"bits": 16})
    image, reasons = as_trained(sixteen, rgb())
    np.testing.assert_allclose(image.data, eight.data, rtol=1e-6)
    assert reasons == [] and as_trained(eight, rgb())[1] == []
    known = TrainingImages(1, True, [(0.0, 65535.0)] * 3, [(500.0, 64000.0)] * 3, [])
    image, reasons = as_trained(eight, rgb(known, 65535.0))
    np.testing.assert_allclose(image.data, sixteen.data, rtol=1e-6)
    assert reasons == []


def test_small_numbers_in_a_large_type_stay_as_they_are() -> None:
    image, reasons = as_trained(picture(255, bits=16), rgb())
    assert image.data.max() > 200 and reasons == []


def test_an_array_in_another_depth_is_told_since_nobody_knows_its_file() -> None:
    image = Volume(picture(255).data * 257, (999.0, 1.0, 1.0), {})
    found, reasons = as_trained(image, rgb())
    assert found is image and "channel 0 of the image has values from" in reasons[0] and "0 to 255" in reasons[0]


def test_a_grey_picture_for_a_model_of_colours_is_told() -> None:
    grey = np.repeat(picture(255).data[:1], 3, axis=0)
    image = Volume(grey, (999.0, 1.0, 1.0), {"bits": 8})
    assert as_trained(image, rgb())[1] == ["the image is grey, but every image of training has colours"]
    assert as_trained(image, rgb(replace(EIGHT, coloured=False)))[1] == []


def test_volumes_for_a_model_of_pictures_and_other_voxel_sizes_are_told() -> None:
    stack = Volume(np.repeat(picture(255).data, 4, axis=1), (1.0, 1.0, 1.0), {"bits": 8})
    assert "a volume of 4 slices, but the model was trained on single pictures" in as_trained(stack, rgb())[1][0]
    assert "single slice" in as_trained(volume(-1000, 1500, slices=1), ct())[1][0]
    assert as_trained(volume(-1000, 1500, (0.7, 3.0, 0.7)), ct())[1] == [], "axes in another order"
    (reason,) = as_trained(volume(-1000, 1500, (3.0, 0.05, 0.05)), ct())[1]
    assert "the voxels are 0.05 x 0.05 x 3 mm large" in reason
    older = ct(TrainingImages())
    assert as_trained(volume(-1000, 1500, (5.0, 1.0, 1.0)), older)[1] == []
    assert "those of training" in as_trained(volume(-1000, 1500, (3.0, 0.05, 0.05)), older)[1][0]


def test_the_plan_keeps_what_was_measured(tiny_dataset, roots, tmp_path) -> None:
    from samdpo.dataset.dataset_json import load_dataset_json
    from samdpo.planning.fingerprint import extract_fingerprint
    from samdpo.planning.lite_planner import LitePlanner

    fingerprint = extract_fingerprint(tiny_dataset)
    plans = LitePlanner(fingerprint, load_dataset_json(tiny_dataset), tiny_dataset.name, 8.0, "cpu").plan()
    save_plans(plans, tmp_path / "plans.json")
    known = load_plans(tmp_path / "plans.json").training_images
    assert known == plans.training_images
    assert known.files_per_case == 1 and not known.coloured and known.spacing_range == []
    ((low, high),), ((usual_low, usual_high),) = known.value_range, known.usual_range
    assert 0 <= low <= usual_low < usual_high <= high <= 255

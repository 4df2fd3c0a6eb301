"""Presence decided over all slices of a volume: organs that lie one above another, seen by noisy scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

from samdpo.errors import PlansError
from samdpo.plans import NetworkPlan, PromptingPlan, StructurePlan
from samdpo.prompting.axial import AxialMap, LabelledVolume, fit_axial_maps
from samdpo.prompting.calibration import StructureCalibration
from samdpo.prompting.prompter import PrompterSettings
from samdpo.schema import from_dict, to_dict

ORGANS = {"kidney": (40.0, 100.0), "liver": (80.0, 160.0), "lesion": None}  # mm up the body; a lesion is anywhere
CALIBRATIONS = {name: StructureCalibration(presence_threshold=0.5) for name in ORGANS}


def volume(
    seed: int, spacing: float = 5.0, first: float = 0.0, length: float = 200.0, noise: float = 1.2
) -> LabelledVolume:
    """Slices from ``first`` mm on; scores are right on nine slices of ten."""
    generator = np.random.default_rng(seed)
    z = first + np.arange(0, length, spacing)
    start = generator.uniform(10, 160)
    places = {**ORGANS, "lesion": (start, start + 25)}
    shown = np.stack([(z >= low) & (z <= high) for low, high in places.values()], axis=1)
    return LabelledVolume(expit(generator.normal(0, noise, shown.shape) + 3.0 * shown - 1.5), shown, spacing, seed)


def scores(of: LabelledVolume) -> dict[str, np.ndarray]:
    return dict(zip(ORGANS, of.scores.T))


def errors(fitted: AxialMap, of: LabelledVolume, name: str) -> tuple[int, int]:
    """Wrong slices by the map, and by the score alone."""
    row = list(ORGANS).index(name)
    found = fitted.present(scores(of), of.spacing)[name]
    return int((found != of.shown[:, row]).sum()), int(((of.scores[:, row] >= 0.5) != of.shown[:, row]).sum())


@pytest.fixture(scope="module")
def fitted() -> AxialMap:
    full, _ = fit_axial_maps([volume(seed, first=7.0 * seed) for seed in range(4)], CALIBRATIONS, list(ORGANS))
    return full


def test_a_volume_decides_better_than_its_slices_one_by_one(fitted):
    wrong = np.array([[errors(fitted, volume(seed), name) for name in fitted.places] for seed in range(20, 40)])
    by_map, by_score = wrong.sum((0, 1))
    assert by_map < 0.5 * by_score, (by_map, by_score)


def test_what_is_scored_high_where_the_structure_never_lies_is_not_there(fitted):
    new = volume(50, noise=0.3)
    new.scores[-3, 0] = 0.75  # a kidney above the liver
    new.scores[12, 0] = 0.3  # one that is hardly seen in its place
    found = fitted.present(scores(new), new.spacing)["kidney"]
    assert not found[-3] and found[12] and new.shown[12, 0]


def test_a_volume_of_another_range_and_spacing_is_found_at_its_place(fitted):
    here = fitted.position(scores(volume(60, noise=0.3)), 5.0)
    for first, spacing in ((30.0, 5.0), (-20.0, 3.0), (50.0, 8.0)):
        there = fitted.position(scores(volume(61, spacing, first, 120.0, noise=0.3)), spacing)
        assert abs(there - here - first) < 12, (first, spacing, there - here)


def test_what_may_be_anywhere_is_left_to_its_score(fitted, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    assert list(fitted.places) == ["kidney", "liver"]
    with caplog.at_level("INFO", "samdpo"):
        fit_axial_maps([volume(seed) for seed in range(4)], CALIBRATIONS, list(ORGANS))
    assert "lesion is not at the same place" in caplog.text
    assert "kidney over held-out labelled volumes: missed on" in caplog.text


def test_volumes_of_a_fold_get_the_map_of_the_others():
    volumes = [volume(seed) for seed in range(3)]
    full, held_out = fit_axial_maps(volumes, CALIBRATIONS, list(ORGANS))
    assert sorted(held_out) == [0, 1, 2]
    _, without = fit_axial_maps([v for v in volumes if v.fold != 2] + [volume(9, first=40.0)], CALIBRATIONS,
                                list(ORGANS))
    assert held_out[2].places["liver"].shown == without[9].places["liver"].shown
    assert all(one.places["liver"].shown != full.places["liver"].shown for one in held_out.values())


@pytest.mark.parametrize(
    ("folds", "wanted"), [((), list(ORGANS)), ((0, 0, 0), list(ORGANS)), ((0, 1), []), ((0, 1), ["lesion"]),
                         ((0, 1), ["liver"])]
)
def test_one_patient_or_nothing_with_a_place_is_no_map(folds, wanted):
    volumes = [dataclasses.replace(volume(seed), fold=fold) for seed, fold in enumerate(folds)]
    assert fit_axial_maps(volumes, CALIBRATIONS, wanted) == (None, {})


def test_beyond_the_end_of_volumes_that_show_a_structure_there_nothing_is_known():
    cut = [volume(seed, length=120.0) for seed in range(3)]  # they end in the middle of the liver
    full, _ = fit_axial_maps(cut, CALIBRATIONS, list(ORGANS))
    assert abs(full.places["liver"].shown[-1] - 0.5) < 0.05 and full.places["kidney"].shown[-1] < 0.1
    new = volume(70, noise=0.3)
    assert errors(full, new, "liver")[0] <= 2, "above, its score decides"


ABDOMEN = {
    "spleen": (130.0, 210.0), "liver": (110.0, 230.0), "right kidney": (40.0, 140.0), "left kidney": (60.0, 160.0),
    "aorta": (0.0, 250.0),
}


def abdomen(seed: int, removed: tuple[str, ...] = (), first: float = 0.0, shift: float = 0.0) -> LabelledVolume:
    """50 slices of which scores are right on most; ``shift`` is that of all scores' log-odds."""
    generator = np.random.default_rng(seed)
    z = first + np.arange(0, 250.0, 5.0)
    shown = np.stack([(z >= low) & (z <= high) & (name not in removed) for name, (low, high) in ABDOMEN.items()], 1)
    logits = generator.normal(0, 1.2, shown.shape) + 3.0 * shown - 1.5 + shift
    return LabelledVolume(expit(logits), shown, 5.0, seed)


@pytest.mark.parametrize("labelled", [3, 16])
def test_organs_that_were_removed_are_absent_and_the_others_stay(labelled):
    places = {name: StructureCalibration(presence_threshold=0.5) for name in ABDOMEN}
    full, _ = fit_axial_maps([abdomen(seed, first=3.0 * seed) for seed in range(labelled)], places, list(ABDOMEN))
    assert {"spleen", "right kidney", "liver"} <= full.places.keys()
    wrong, still = np.zeros(2), 0
    for seed in range(50, 70):
        new = abdomen(seed, ("spleen", "right kidney"), first=10.0, shift=-1.0)
        found = full.present(dict(zip(ABDOMEN, new.scores.T)), new.spacing)
        still += found["spleen"].sum() + found["right kidney"].sum()
        for name in full.places.keys() - {"spleen", "right kidney"}:
            shown = new.shown[:, list(ABDOMEN).index(name)]
            wrong += (~found[name] & shown).sum(), shown.sum()
    assert still < 0.1 * 20 * (17 + 21), "of the slices at their places"
    assert wrong[0] < 0.1 * wrong[1], "the volume was laid beside the map, where nothing is"


def test_a_volume_of_one_slice_and_one_of_three_far_apart_have_a_place_on_the_map(fitted):
    for n_slices, spacing in ((1, 5.0), (1, 30.0), (3, 30.0)):
        sure = {"kidney": np.full(n_slices, 0.999), "liver": np.full(n_slices, 0.001)}
        found = fitted.present(sure, spacing)
        assert [one.shape for one in found.values()] == [(n_slices,)] * 2
        assert found["kidney"].any() and not found["liver"].any()


def test_a_map_is_kept_as_json_and_a_damaged_one_is_named(fitted):
    structures = {name: StructurePlan(number, name) for number, name in enumerate(ORGANS, 1)}
    settings = PrompterSettings(structures, PromptingPlan(), NetworkPlan(), axial=fitted)
    content = to_dict(settings)
    assert from_dict(PrompterSettings, content) == settings
    content["axial"]["places"]["kidney"]["shown"].pop()
    with pytest.raises(PlansError, match="as many for every structure"):
        from_dict(PrompterSettings, content)
    content["axial"]["places"] = {"heart": {"slope": 1.0, "bias": 0.0, "shown": [0.5]}}
    with pytest.raises(PlansError, match="'heart', which is not among 'structures'"):
        from_dict(PrompterSettings, content)
    content["axial"]["places"]["heart"]["shown"] = [0.0]
    with pytest.raises(PlansError, match="between 0 and 1"):
        from_dict(PrompterSettings, content)

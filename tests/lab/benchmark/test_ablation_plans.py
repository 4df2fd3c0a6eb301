"""Variants are plans that inherit, and change what they say and nothing else."""

from __future__ import annotations

import pytest

from samdpo.errors import ConfigurationError
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.methods import ABLATIONS, EFFORT, GROUPS, VARIANTS, cells_of, chosen_ablations, write_plans
from samdpo.plans import load_plans
from samdpo.schema import merge, to_dict

SAME = "effort_mixture_10"  # what align asks by default


@pytest.mark.parametrize("ablation", [a for a in VARIANTS if a.change], ids=lambda a: a.method.name)
def test_a_variant_differs_from_the_plan_in_its_change_alone(plans_folder, default_plans, ablation):
    method = ablation.method
    plans = load_plans(plans_folder / f"samdpoPlans{method.file_suffix}.json")
    assert plans.plans_name == f"samdpoPlans{method.plans_suffix}"
    assert plans.stage(method.stage)
    if method.plans_suffix:
        expected = merge(to_dict(default_plans), {**ablation.change, "plans_name": plans.plans_name})
        assert to_dict(plans) == expected != to_dict(default_plans)
    else:
        base = to_dict(default_plans.stage(ablation.base))
        assert to_dict(plans.stage(method.stage)) == merge(base, ablation.change)
        assert (merge(base, ablation.change) == base) == (method.name == SAME)
        assert plans.stage("finetune") == default_plans.stage("finetune")


def test_variants_of_pixels_are_of_the_stage_over_pixels_and_those_of_answers_of_align(plans_folder):
    plans = load_plans(plans_folder / "samdpoPlans_ablations.json")
    for ablation in (a for a in ABLATIONS if a.method.file_suffix == "_ablations"):
        about_places = plans.stage(ablation.method.stage).candidates.kind == "places"
        assert about_places == (ablation.group in ("answers", "random_answers")) == (ablation.ndims == (2,))
        assert not plans.stage(ablation.method.stage).unread(ablation.change)


def test_the_points_of_the_effort_study_share_what_is_shown_with_align(plans_folder, default_plans):
    plans = load_plans(plans_folder / "samdpoPlans_effort.json")
    places = to_dict(default_plans.stage("align").places)
    for point in EFFORT:
        own = to_dict(plans.stage(point.method.stage).places)
        assert {key for key in own if own[key] != places[key]} <= {"asks", "minutes"}


def test_the_control_asks_nobody_and_holds_nothing_back(plans_folder):
    stage = load_plans(plans_folder / "samdpoPlans_ablations.json").stage("align_own_order")
    assert (stage.annotator.kind, stage.places.held_back, stage.objective) == ("judge", 0, "chosen")


def test_all_that_comes_from_the_saliency_map_goes_with_it(plans_folder):
    prompting = load_plans(plans_folder / "samdpoPlans_no_saliency.json").prompting
    assert not (prompting.use_boxes or prompting.use_points or prompting.use_saliency or prompting.use_answers)
    assert prompting.use_descriptions


def test_plan_files_that_are_as_wanted_stay(plans_folder, _planned_cell):
    files = {file: file.stat().st_mtime_ns for file in plans_folder.glob("samdpoPlans_*.json")}
    assert len(files) == 5
    write_plans(_planned_cell, plans_folder.name, "samdpoPlans")
    assert {file: file.stat().st_mtime_ns for file in plans_folder.glob("samdpoPlans_*.json")} == files


def test_names_are_unique_and_groups_are_those_of_the_paper():
    assert len({(a.method.name, a.unlabelled, a.group) for a in VARIANTS}) == len(VARIANTS)
    assert GROUPS == ("components", "scoring", "unlabelled", "candidates", "noise", "beta", "reduction", "loss",
                      "answers", "random_answers")


def test_an_unknown_group_is_a_sentence():
    with pytest.raises(ConfigurationError, match=r"names 'nois'; its groups are: components"):
        chosen_ablations(["nois"])


def test_fewer_unlabelled_images_are_cells_of_their_own_where_they_fit(tmp_path):
    by_share = {a.unlabelled: a for a in chosen_ablations(["unlabelled"])}
    cells = [Cell(tmp_path, 0.1, 1), Cell(tmp_path, 0.8, 1)]
    assert [c.name for c in cells_of(by_share[0.2], cells)] == [
        "labelled_0.1_unlabelled_0.2/seed_1", "labelled_0.8_unlabelled_0.2/seed_1"
    ]
    assert [c.name for c in cells_of(by_share[0.4], cells)] == ["labelled_0.1_unlabelled_0.4/seed_1"]
    noise = chosen_ablations(["noise"])[0]
    assert cells_of(noise, [cells[0], Cell(tmp_path, 1, 1)]) == [cells[0]]

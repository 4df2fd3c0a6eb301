"""Plans on disk hold what differs from the defaults; plans of older versions, which held every value, mean the same."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from test_lite_planner import LUNG, XRAY, changed, dataset, plan

import samdpo
from samdpo import plan_sections
from samdpo.extensions import OURS
from samdpo.files import hash_of
from samdpo.inference.predict_folder import made_by
from samdpo.model.description import PREDICTED_WITH
from samdpo.planning.paper_planner import PaperPlanner
from samdpo.planning.plan_and_preprocess import save_with_additions
from samdpo.plans import PlacesPlan, Plans, StagePlan, load_plans, parse_plans, save_plans, short_plans, write_plans
from samdpo.schema import leaves, merge, to_dict

OLD_PLANS = Path(__file__).parent / "old_plans"  # as samdpo wrote them when a plan held every value
OLD = sorted(OLD_PLANS.glob("*.json"))


@pytest.fixture(params=OLD, ids=[file.stem for file in OLD])
def old(request: pytest.FixtureRequest) -> Path:
    return request.param


def shortened(file: Path, folder: Path) -> Path:
    write_plans(short_plans(load_plans(file)), folder / file.name)
    return folder / file.name


def settings(plans: Plans) -> dict[str, dict[str, Any]]:
    return {name: stage.settings() for name, stage in plans.configurations.items()}


def test_an_old_plan_loads_value_by_value(old: Path) -> None:
    content = json.loads(old.read_text())
    content["prompting"]["presence"], content["preprocessing"]["neighbours"] = "slice", 0.0  # which there were not
    for stage in content["configurations"].values():
        stage["places"], stage["lr_warm_up_steps"] = to_dict(PlacesPlan()), 0  # which there were not
        stage["consistency"] |= {"encoder_lr": 0.0, "brightness": 0.1, "contrast": 0.2}  # likewise
    content["prompting"] |= {"place": "saliency", "blobs": 18, "proposals": 32, "tower_grid": 0, "tower_batch_size": 4,
                              "proposal_grid": 0}  # likewise
    assert to_dict(load_plans(old)) == content


def test_keys_of_places_that_are_the_plan_s_now_are_left_out_of_an_older_model_s_plan(tmp_path: Path) -> None:
    content = json.loads(OLD[0].read_text())
    for stage in content["configurations"].values():
        stage["places"] = {**to_dict(PlacesPlan()), "blobs": 18, "kept": 32}
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(content))
    assert load_plans(file) == load_plans(OLD[0])


def test_a_short_plan_means_what_the_old_one_did(old: Path, tmp_path: Path) -> None:
    short, whole = load_plans(shortened(old, tmp_path)), load_plans(old)
    assert settings(short) == settings(whole)
    assert dataclasses.replace(short, configurations={}) == dataclasses.replace(whole, configurations={})
    for stage in whole.configurations:
        one, other = (plans.for_stage(stage) for plans in (short, whole))
        assert all(getattr(one, name) == getattr(other, name) for name in PREDICTED_WITH)


def test_hashes_of_a_plan_are_the_same_so_that_nothing_stored_is_made_again(old: Path, tmp_path: Path) -> None:
    """What caches, slices, prompts, candidates and trained folds are keyed by."""
    short, whole = load_plans(shortened(old, tmp_path)), load_plans(old)
    for stage in whole.configurations:
        one, other = (plans.for_stage(stage) for plans in (short, whole))
        for name in ("structures", "preprocessing", "prompting", "network", "inference", "kept_gib"):
            assert hash_of(getattr(one, name)) == hash_of(getattr(other, name))
            assert hash_of(to_dict(one)[name]) == hash_of(to_dict(other)[name])
        assert hash_of(one.stage(stage).settings()) == hash_of(other.stage(stage).settings())
        if other.stage(stage).reads("candidates"):
            assert hash_of(one.stage(stage).candidates, one.stage(stage).annotator) == hash_of(
                other.stage(stage).candidates, other.stage(stage).annotator
            )


MADE_BY = {"paperPlans": "fbfa41dedb1bd0b3", "samdpoPlans": "a64052c7a84eafed"}  # before prompting.tower_grid


def test_masks_of_an_older_model_are_still_known_as_its_own(old: Path, tmp_path: Path) -> None:
    """A new key at its default changes no ``made_by``, by which a folder of predictions is continued or reviewed."""
    plans = load_plans(old).for_stage("finetune")
    assert made_by(tmp_path, plans, ["0"], "checkpoint_final", True) == MADE_BY[old.stem]


@pytest.mark.parametrize(
    "made",
    [
        plan(changed(structures={"lung": {**LUNG, "share_of_slices": 0.9}}), unlabelled_slices=51),
        plan(changed(shapes=[[30, 500, 400]] * 10, spacings=[[5.0, 0.78, 0.78]] * 10), dataset({"0": "CT"})),
        PaperPlanner(XRAY, dataset(), "Dataset003_Lung", device="cpu", memory_gib=8.0).plan(),
    ],
    ids=["pictures", "volumes", "paper"],
)
def test_the_plan_of_one_structure_is_no_longer_than_200_lines(made: Plans, tmp_path: Path) -> None:
    written = save_with_additions(made, tmp_path / "samdpoPlans.json")
    assert settings(written) == settings(made) == settings(load_plans(tmp_path / "samdpoPlans.json"))
    assert len((tmp_path / "samdpoPlans.json").read_text().splitlines()) <= 200


def test_controls_are_a_line_that_inherits_and_sections_stand_in_stages_of_their_method() -> None:
    stages = short_plans(load_plans(OLD_PLANS / "paperPlans.json"))["configurations"]
    assert stages["align_self_training"] == {"inherits_from": "align", "objective": "self_training"}
    assert {"candidates", "loss"} <= stages["align"].keys()
    assert not {"candidates", "annotator", "loss", "consistency"} & stages["finetune"].keys()


def test_what_a_stage_inherits_can_be_the_default_again(tmp_path: Path) -> None:
    made = plan(unlabelled_slices=51)
    changes = {"align": {"prompt_rounds": 2, "augmentation": {"flip": False}}, "finetune": {"plan": {"ndim": 2}}}
    plans = parse_plans(merge(short_plans(made), {"configurations": changes}), tmp_path / "p.json")
    stages = {**plans.configurations, "align_best_candidate": made.stage("align_best_candidate")}
    stages["sam"] = made.stage("sam")  # without what finetune has under 'plan', so that it cannot inherit from it
    plans = dataclasses.replace(plans, configurations=stages)
    short = short_plans(plans)
    assert short["configurations"]["align_best_candidate"]["prompt_rounds"] == 0
    assert "inherits_from" not in short["configurations"]["sam"]
    assert parse_plans(short, tmp_path / "p.json") == plans


def test_variants_and_overrides_of_an_old_plan_and_of_a_short_one_are_the_same(old: Path, tmp_path: Path) -> None:
    variant = {
        "inherits_from": old.stem, "plans_name": "mine", "prompting": {"n_points": 3},
        "configurations": {"align": {"loss": {"reduction": "mean"}}, "long": {"inherits_from": "align", "epochs": 9}},
    }
    found = []
    for folder, file in (("old", old), ("short", shortened(old, tmp_path))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / old.name).write_text(file.read_text())
        (tmp_path / folder / "mine.json").write_text(json.dumps(variant))
        plans = load_plans(tmp_path / folder / "mine.json")
        plans = plans.with_overrides("long", ["lr=1e-5", "inference.mirror=false"])
        found.append((settings(plans), dataclasses.replace(plans, configurations={})))
    assert found[0] == found[1]
    assert (plans.stage("long").epochs, plans.stage("long").lr, plans.stage("long").loss.reduction) == (9, 1e-5, "mean")


@pytest.mark.parametrize("labelled", [2, 8, 40, 5000])
def test_an_edit_of_finetune_reaches_the_stages_that_are_compared_with_it(tmp_path: Path, labelled: int) -> None:
    short = short_plans(plan(labelled_slices=labelled, unlabelled_slices=51))
    short["configurations"]["finetune"]["lr"] = short["configurations"]["align"]["lr"] = 3e-4
    plans = parse_plans(short, tmp_path / "p.json")
    assert {name for name, stage in plans.configurations.items() if stage.lr != 3e-4} == {"unet"}


def test_a_stage_that_would_undo_most_of_what_it_inherits_stands_by_itself() -> None:
    paper = load_plans(OLD_PLANS / "paperPlans.json")
    plans = dataclasses.replace(paper, configurations={**paper.configurations, "mine": StagePlan()})
    stages = short_plans(plans)["configurations"]
    assert "inherits_from" not in stages["mine"] and "inherits_from" in stages["sam_med2d"]


def test_planning_again_over_an_old_plan_keeps_what_was_added_to_it(old: Path, tmp_path: Path) -> None:
    content = json.loads(old.read_text())
    content["configurations"]["mine"] = {"inherits_from": "align", "epochs": 9}
    file = tmp_path / "samdpoPlans.json"
    file.write_text(json.dumps(content))
    written = save_with_additions(plan(), file)
    assert written.stage("mine").epochs == 9
    assert load_plans(file) == written
    assert len(file.read_text().splitlines()) < len(json.dumps(content, indent=2).splitlines()) / 3


def test_a_models_plan_has_every_value_of_its_one_stage(tmp_path: Path) -> None:
    made = plan()
    save_plans(made.only("align"), tmp_path / "plans.json")
    content = json.loads((tmp_path / "plans.json").read_text())
    assert content["configurations"] == {"align": to_dict(made.stage("align"))}
    assert content["network"] == to_dict(made.network)
    assert load_plans(tmp_path / "plans.json") == made.only("align")


def test_objectives_and_trainers_are_said_of_keys_that_there_are() -> None:
    keys = {key for key, _ in leaves(to_dict(StagePlan()))}
    objectives = {"chosen", "judge_only", "preferences", "best_candidate", "self_training", "mean_teacher", "fixmatch"}
    for key, readers in plan_sections.READ_BY.items():
        assert key in keys or any(known.startswith(f"{key}.") for known in keys), key
        assert {*readers} <= objectives | OURS["trainer"].keys(), key


def test_the_package_reads_every_key_of_the_plan() -> None:
    """A key that no line reads would be a promise that nothing keeps."""
    said_only = {"experiment_planner_used", "original_median_shape"}  # for people; nnU-Net's plans have them
    root = Path(samdpo.__file__).parent
    own = {root / "plan_sections.py", root / "plans.py", *root.glob("planning/*planner.py")}
    read = set()
    for file in root.rglob("*.py"):
        if file not in own:
            tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            read |= {node.attr for node in tree if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    sections = [value for value in vars(plan_sections).values() if dataclasses.is_dataclass(value)]
    fields = {f.name for section in (*sections, Plans) for f in dataclasses.fields(section)}
    assert fields - read - said_only == set()
    assert len(fields) > 100

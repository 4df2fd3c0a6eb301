"""The plan: what inherits, what overrides, and what a wrong edit by hand is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samdpo.errors import PlansError
from samdpo.plan_sections import LATER_STAGE_KEYS
from samdpo.plans import (
    CandidatePlan,
    ChannelNormalization,
    NetworkPlan,
    Plans,
    PreprocessingPlan,
    PromptingPlan,
    StagePlan,
    StructurePlan,
    apply_overrides,
    load_plans,
    save_plans,
)
from samdpo.schema import from_dict, leaves, merge, to_dict

PLANS = Plans(
    dataset_name="Dataset901_TinyXray",
    plans_name="samdpoPlans",
    experiment_planner_used="LitePlanner",
    file_ending=".png",
    structures={"lung": StructurePlan(label=1, phrase="lung", components=2)},
    original_median_spacing=[999.0, 1.0, 1.0],
    original_median_shape=[1.0, 96.0, 80.0],
    ndim=2,
    preprocessing=PreprocessingPlan(normalization=[ChannelNormalization("minmax", 0.0, 100.0)]),
    prompting=PromptingPlan(),
    network=NetworkPlan(),
    configurations={
        "finetune": StagePlan(),
        "align": StagePlan(trainer="AlignTrainer", previous_stage="finetune", objective="preferences"),
    },
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_plans(PLANS, tmp_path / "samdpoPlans.json")
    return tmp_path / "samdpoPlans.json"


def edit(file: Path, **changes: Any) -> Path:
    file.write_text(json.dumps(merge(json.loads(file.read_text()), changes)))
    return file


def variant(file: Path, **content: Any) -> Path:
    other = file.with_name("mine.json")
    other.write_text(json.dumps(content))
    return other


def test_a_plan_survives_writing_and_reading(file: Path) -> None:
    assert load_plans(file) == PLANS


def test_a_variant_is_a_few_lines_that_inherit(file: Path) -> None:
    mine = variant(
        file, inherits_from="samdpoPlans", configurations={"align": {"loss": {"reduction": "sum"}}}
    )
    plans = load_plans(mine)
    assert plans.plans_name == "mine"
    assert plans.stage("align").loss.reduction == "sum"
    assert plans.stage("align").loss.beta1 == PLANS.stage("align").loss.beta1
    assert plans.stage("finetune") == PLANS.stage("finetune")


def test_a_configuration_inherits_from_another_of_its_file(file: Path) -> None:
    edit(file, configurations={"align_long": {"inherits_from": "align", "epochs": 9}})
    stage = load_plans(file).stage("align_long")
    assert (stage.trainer, stage.objective, stage.epochs) == ("AlignTrainer", "preferences", 9)


def test_a_configuration_of_a_variant_inherits_from_one_of_its_parent(file: Path) -> None:
    mine = variant(
        file, inherits_from="samdpoPlans", configurations={"short": {"inherits_from": "finetune", "epochs": 1}}
    )
    assert load_plans(mine).stage("short").epochs == 1


def test_a_stage_has_sections_of_the_plan_otherwise(file: Path) -> None:
    edit(file, configurations={"finetune": {"plan": {"network": {"train": "lora"}, "prompting": {"n_points": 3}}}})
    plans = load_plans(file)
    own = plans.for_stage("finetune")
    assert (own.network.train, own.prompting.n_points) == ("lora", 3)
    assert own.network.backbone == plans.network.backbone and own.for_stage("finetune") == own
    assert plans.for_stage("align") == plans and plans.network.train == "full"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"network": {"trian": "lora"}}, "network.trian"), ({"configurations": {"align": {}}}, "stands beside it")],
)
def test_a_wrong_section_of_a_stage_is_named(file: Path, wrong: dict[str, Any], said: str) -> None:
    edit(file, configurations={"finetune": {"plan": wrong}})
    with pytest.raises(PlansError, match=said) as error:
        load_plans(file).for_stage("finetune")
    assert "configurations.finetune.plan" in str(error.value)


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("finetune", {"loss": {"beta1": 2.0}}),
        ("finetune", {"candidates": {"kind": "thresholds"}}),
        ("finetune", {"prompt_rounds": 1}),
        ("align", {"consistency": {"weight": 0.5}}),
        ("align", {"keep_features": False}),
        ("align", {"objective": "self_training", "loss": {"beta1": 2.0}}),
        ("align", {"objective": "fixmatch", "consistency": {"ramp_up": 0.1}}),
        ("align", {"encoder_lr": 1e-3}),
        ("align", {"augmentation": {"rotation": 30.0}}),
    ],
)
def test_a_key_that_nothing_reads_in_a_stage_is_refused_where_it_is_written(
    file: Path, stage: str, own: dict[str, Any]
) -> None:
    section, value = list(own.items())[-1]
    key = f"{section}.{next(iter(value))}" if isinstance(value, dict) else section
    mine = variant(file, inherits_from="samdpoPlans", configurations={stage: own})
    with pytest.raises(PlansError, match=f"mine.json: nothing reads 'configurations.{stage}.{key}'"):
        load_plans(mine)
    if "objective" not in own:
        setting = f"{key}={json.dumps(value[key.split('.')[1]] if isinstance(value, dict) else value)}"
        with pytest.raises(PlansError, match=f"with --set: nothing reads 'configurations.{stage}.{key}'"):
            PLANS.with_overrides(stage, [setting])


@pytest.mark.parametrize(("settings", "halving"), [
    (["epochs=24"], 9), (["epochs=4"], 2), (["epochs=1"], 1), (["epochs=8"], 3), (["lr=1e-5"], 3),
    (["epochs=24", "lr_halving_epochs=5"], 5), (["lr_halving_epochs=2"], 2), (["epochs=0"], 1),
])
def test_the_rates_halve_after_the_same_share_of_a_stage_whose_length_is_changed(settings, halving):
    stage = replace(PLANS.stage("finetune"), epochs=8, lr_halving_epochs=3)
    plans = replace(PLANS, configurations={**PLANS.configurations, "finetune": stage})
    changed = plans.with_overrides("finetune", settings)
    assert changed.stage("finetune").lr_halving_epochs == halving
    assert changed.stage("align") == plans.stage("align")


@pytest.mark.parametrize(
    ("trainer", "own"),
    [
        ("NnUNetTrainer", {"lr": 1e-3}),
        ("NnUNetTrainer", {"augmentation": {"flip": False}}),
        ("SamMed3dTrainer", {"segmentation_loss": {"focal_alpha": 0.3}}),
        ("SelfPromptTrainer", {"augmentation": {"box_jitter": 0.1}}),
        ("UNetTrainer", {"encoder_lr": 1e-3}),
    ],
)
def test_a_key_that_the_trainer_of_a_stage_does_not_read_is_refused_by_its_name(
    file: Path, trainer: str, own: dict[str, Any]
) -> None:
    edit(file, configurations={"mine": {"trainer": trainer}})
    plans, ((key, value),) = load_plans(file), leaves(own)
    said = rf"nothing reads 'configurations\.mine\.{key}' in a stage of {trainer}.*another trainer"
    setting = f"{key}={json.dumps(value)}"
    with pytest.raises(PlansError, match=said):
        plans.with_overrides("mine", [setting])
    assert plans.with_overrides("mine", [setting], "mine:Trainer") != plans  # -tr: one's own may read every key
    edit(file, configurations={"mine": own})
    with pytest.raises(PlansError, match=said):
        load_plans(file)


def test_a_key_that_nothing_reads_does_no_harm_where_it_is_as_in_finetune(file: Path) -> None:
    """As the plans of the paper's planner have it, which sets the rates of both stages."""
    def rates(finetune: float, align: float) -> Path:
        stages = {"finetune": {"encoder_lr": finetune}, "align": {"encoder_lr": align}}
        return variant(file, inherits_from="samdpoPlans", configurations=stages)

    assert load_plans(rates(1e-4, 1e-4)).stage("align").encoder_lr == 1e-4
    with pytest.raises(PlansError, match="nothing reads 'configurations.align.encoder_lr'"):
        load_plans(rates(1e-4, 2e-4))


def test_what_a_stage_inherits_without_reading_it_is_not_refused(file: Path) -> None:
    edit(file, configurations={
        "align": {"loss": {"beta1": 2.0}}, "mine": {"inherits_from": "align", "objective": "self_training"},
    })
    assert load_plans(file).stage("mine").objective == "self_training"


def test_a_trainer_or_an_objective_of_ones_own_may_read_every_key(file: Path) -> None:
    edit(file, configurations={
        "finetune": {"trainer": "mine:Trainer", "loss": {"beta1": 2.0}},
        "align": {"objective": "mine", "consistency": {"weight": 0.5}},
    })
    plans = load_plans(file)
    assert (plans.stage("finetune").loss.beta1, plans.stage("align").consistency.weight) == (2.0, 0.5)
    assert {**LATER_STAGE_KEYS, **plans.stage("finetune").settings()} == to_dict(plans.stage("finetune"))


def test_plans_that_inherit_in_a_circle_are_refused(file: Path) -> None:
    variant(file, inherits_from="samdpoPlans")
    edit(file, inherits_from="mine")
    with pytest.raises(PlansError, match="circle"):
        load_plans(file)


@pytest.mark.parametrize("parent", [None, ["finetune"], "finetune", 5])
def test_a_configuration_that_inherits_from_what_is_no_object_is_refused(file: Path, parent: Any) -> None:
    edit(file, configurations={"finetune": parent, "long": {"inherits_from": "finetune"}})
    with pytest.raises(PlansError, match="configurations.long' inherits from 'finetune', which must be an object"):
        load_plans(file)


def test_configurations_that_inherit_in_a_circle_are_refused(file: Path) -> None:
    edit(file, configurations={"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}})
    with pytest.raises(PlansError, match="circle"):
        load_plans(file)


def test_an_unknown_parent_configuration_is_named_with_those_there_are(file: Path) -> None:
    edit(file, configurations={"mine": {"inherits_from": "algin"}})
    with pytest.raises(PlansError, match=r"configurations\.mine\.inherits_from.*'algin'.*finetune, align"):
        load_plans(file)


def test_a_missing_parent_plan_is_named(file: Path) -> None:
    with pytest.raises(PlansError, match=r"other\.json is missing"):
        load_plans(variant(file, inherits_from="other"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"configurations": {"finetune": {"epoch": 3}}}, r"'configurations\.finetune\.epoch'.*'epochs'"),
        ({"configurations": {"finetune": {"epochs": "3"}}}, r"'configurations\.finetune\.epochs' must be a whole"),
        ({"configurations": {"finetune": {"epochs": 2.5}}}, r"epochs' must be a whole number, found float 2\.5"),
        ({"configurations": {"finetune": {"epochs": True}}}, r"epochs' must be a whole number"),
        ({"configurations": {"finetune": {"lr": None}}}, r"lr' must be a number, found null"),
        ({"configurations": {"align": {"loss": {"type": "dpo"}}}}, r"loss\.type' is 'dpo'; expected one of 'sigmoid'"),
        ({"configurations": {"align": {"loss": []}}}, r"loss must be an object"),
        ({"configurations": {"align": {"candidates": {"field_amplitude": [1.0]}}}}, r"a list of 2 values"),
        ({"preprocessing": {"normalization": [{"scheme": "window"}]}}, r"normalization\[0\]\.lower' is missing"),
        ({"structures": {"lung": {"label": [1]}}}, r"structures\.lung\.label' must be a whole number"),
        ({"configurations": []}, r"'configurations' must be an object"),
        ({"networks": {}}, r"unknown key 'networks'.*'network'"),
        ({"ndim": None}, r"'ndim' must be a whole number, found null"),
        ({"ndim": 4}, r"'ndim' is 4; expected 2 or 3"),
        ({"plans_name": "../x"}, r"'plans_name' is '../x', which is a path"),
        ({"plans_name": ""}, r"'plans_name' is '', which is empty"),
        ({"dataset_name": "../Dataset003_X"}, r"'dataset_name' is '../Dataset003_X', which is a path"),
        ({"dataset_name": "Liver"}, r"'dataset_name' is 'Liver'; expected a name like Dataset003_Liver"),
        ({"file_ending": "/../../x.png"}, r"'file_ending' is '/../../x.png'; expected one of .png"),
        ({"file_ending": ".exe"}, r"'file_ending' is '.exe'; expected one of .png"),
        ({"preprocessing": {"data_identifier": "."}}, r"'data_identifier' is '.', which is the name of a folder"),
        ({"preprocessing": {"data_identifier": "/etc"}}, r"'data_identifier' is '/etc', which is a path"),
        ({"preprocessing": {"image_size": 10**9}}, r"'image_size' is 1000000000; expected 1 to 8192"),
        ({"preprocessing": {"slicing_axis": 3}}, r"'slicing_axis' is 3; expected 0 to 2"),
        ({"preprocessing": {"channel_mapping": [0, 1, 0]}}, r"'channel_mapping' is \[0, 1, 0\].*channels 0 to 0"),
        ({"preprocessing": {"orientation": "LPX"}}, r"'orientation' is 'LPX'; expected three letters like LPS"),
        ({"preprocessing": {"normalization": [{"scheme": "percentile", "lower": 1, "upper": 200}]}}, r"'upper' is 200"),
        ({"preprocessing": {"neighbours": -1}}, r"'neighbours' is -1.*; expected 0 to 1000"),
        ({"preprocessing": {"neighbours": 6}}, r"'preprocessing.neighbours' is 6, but the images are pictures"),
        ({"prompting": {"presence": "volume"}}, r"'prompting.presence' is 'volume', but the images are pictures"),
        ({"ndim": 3, "preprocessing": {"neighbours": 6, "channel_mapping": [0, 1, 2], "normalization": [
            {"scheme": "minmax", "lower": 0, "upper": 100}] * 3}}, r"'neighbours' is 6, which is for images of one"),
        ({"prompting": {"n_points": -1}}, r"'n_points' is -1; expected 0 to"),
        ({"network": {"text_dim": 10**9}}, r"network: 'text_dim' is 1000000000; expected 1 to 65536"),
        ({"network": {"lora": {"rank": 0}}}, r"network\.lora: 'rank' is 0; expected 1 to 65536"),
        ({"configurations": {"../x": {}}}, r"'configurations.../x' is '../x', which is a path"),
        ({"configurations": {"finetune": {"lr": float("nan")}}}, r"lr' must be a finite number, found float nan"),
        ({"configurations": {"finetune": {"lr": 10**400}}}, r"lr' must be a finite number"),
        ({"configurations": {"finetune": {"batch_size": 0}}}, r"finetune: 'batch_size' is 0; expected 1 or more"),
        ({"configurations": {"align": {"objective": ["preferences"]}}}, r"objective' must be a text, found list"),
        ({"configurations": {"align": {"inherits_from": ["finetune"]}}}, r"inherits_from' names \['finetune'\]"),
        ({"structures": {"lung": {"label": 0}}}, r"'structures' must have different labels, 1 to 32767, found \[0\]"),
        ({"structures": {"heart": {"label": 1, "phrase": "x"}}}, r"must have different labels.*\[1, 1\]"),
        ({"structures": {"lung": {"label": 10**9}}}, r"must have different labels, 1 to 32767"),
        ({"inference": {"largest_component": ["heart"]}}, r"'inference.largest_component' names 'heart'"),
        ({"inherits_from": "../samdpoPlans"}, r"'inherits_from' is '../samdpoPlans', which is a path"),
        ({"inherits_from": 5}, r"'inherits_from' is '5', which is no text but int"),
    ],
)
def test_an_edit_by_hand_that_does_not_fit_is_named_with_file_and_key(
    file: Path, changes: dict[str, Any], sentence: str
) -> None:
    edit(file, **changes)
    with pytest.raises(PlansError, match=sentence) as caught:
        load_plans(file)
    assert str(file) in str(caught.value)


def test_a_plan_or_a_value_that_is_nested_without_end_is_a_sentence(file: Path) -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"plan": deep}
    edit(file, configurations={"finetune": {"plan": deep}})
    with pytest.raises(PlansError, match="nested too deeply"):
        load_plans(file)
    for value in ("[" * 100_000, "[" * 500 + "]" * 500, "9" * 5000):
        with pytest.raises(PlansError, match="'configurations.finetune.epochs' must be a whole number, found str"):
            PLANS.with_overrides("finetune", [f"epochs={value}"])


def test_a_missing_key_is_named(file: Path) -> None:
    data = json.loads(file.read_text())
    del data["ndim"]
    file.write_text(json.dumps(data))
    with pytest.raises(PlansError, match="'ndim' is missing"):
        load_plans(file)


def test_a_plan_that_is_not_json_is_told_where(file: Path) -> None:
    file.write_text('{"ndim": 2,}')
    with pytest.raises(PlansError, match=r"not valid JSON.*line 1"):
        load_plans(file)


def test_a_plan_that_is_a_list_is_refused(file: Path) -> None:
    file.write_text("[]")
    with pytest.raises(PlansError, match="one JSON object, found list"):
        load_plans(file)


def test_a_missing_plan_says_which_command_makes_it(tmp_path: Path) -> None:
    with pytest.raises(PlansError, match="samdpo_plan_and_preprocess"):
        load_plans(tmp_path / "samdpoPlans.json")


def test_an_unknown_stage_lists_those_there_are() -> None:
    with pytest.raises(PlansError, match="'alignn'.*finetune, align"):
        PLANS.stage("alignn")


def test_overrides_reach_stage_and_plan() -> None:
    plans = PLANS.with_overrides(
        "align", ["epochs=2", "loss.reduction=sum", "prompting.n_points=8", "candidates.thresholds=[0.2,0.8]"]
    )
    assert plans.stage("align").epochs == 2
    assert plans.stage("align").loss.reduction == "sum"
    assert plans.stage("align").candidates.thresholds == (0.2, 0.8)
    assert plans.prompting.n_points == 8
    assert plans.stage("finetune") == PLANS.stage("finetune")


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_an_override_without_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(PlansError, match="key=value"):
        apply_overrides(to_dict(PLANS), "align", [text])


def test_an_override_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(PlansError, match="epoch"):
        PLANS.with_overrides("align", ["epoch=3"])


def test_a_whole_number_is_taken_where_a_number_is_expected() -> None:
    assert from_dict(StagePlan, {"lr": 1}).lr == 1.0


@pytest.mark.parametrize(("objective", "kind"), [("chosen", "fields"), ("judge_only", "thresholds"),
                                                 ("preferences", "places"), ("best_candidate", "places")])
def test_an_objective_learns_from_its_own_kind_of_candidates(objective: str, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"'objective' is '{objective}' where 'candidates.kind' is '{kind}'"):
        StagePlan(objective=objective, candidates=CandidatePlan(kind=kind))

"""``--explain``: every decision of a plan with its reason, made where the decision is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from test_lite_planner import XRAY, changed, dataset
from test_planning_commands import run  # noqa: F401

from samdpo import extensions
from samdpo.cli import plan_and_preprocess as commands
from samdpo.dataset.dataset_json import StructureHints
from samdpo.errors import PlansError
from samdpo.planning.lite_planner import LitePlanner
from samdpo.planning.paper_planner import PaperPlanner
from samdpo.planning.plan_and_preprocess import explained
from samdpo.plans import InferencePlan, NetworkPlan, StagePlan

VOLUMES = changed(modality="mr", shapes=[[200, 30, 200]] * 3, spacings=[[0.78, 5.0, 0.78]] * 3)
CT = changed(modality="ct", shapes=[[30, 200, 200]] * 3, spacings=[[5.0, 0.78, 0.78]] * 3, orientations=["LPS"] * 3,
             value_range_per_channel={"0": [-1024.0, 3000.0]})
COLOURS = {"value_range_per_channel": {str(i): [0, 255] for i in range(3)}, "modality": "other"}
Table = dict[str, tuple[str, str]]


def explain(
    fingerprint: dict[str, Any] = XRAY, contents: Any = None, planner: type[LitePlanner] = LitePlanner, **settings: Any
) -> Table:
    """Key -> value as it is shown, and why."""
    settings = {"device": "cpu", "memory_gib": 8.0, **settings}
    worker = planner(fingerprint, contents or dataset(), "Dataset003_Lung", **settings)
    head, *lines = explained(worker, worker.plan())
    value, why = head.index("value"), head.index("why")
    return {line[:value].strip(): (line[value:why].strip(), line[why:]) for line in lines}


@pytest.mark.parametrize(
    ("fingerprint", "contents"),
    [
        (XRAY, dataset()),
        (XRAY, dataset(hints={"lung": StructureHints("both lungs", "Where?", "Two dark fields.", components=5)})),
        (changed(**COLOURS), dataset({"0": "R", "1": "G", "2": "B"})),
        (VOLUMES, dataset({"0": "T2"})),
        (CT, dataset({"0": "CT"})),
    ],
    ids=["pictures", "hints", "colours", "volumes", "CT"],
)
@pytest.mark.parametrize("planner", [LitePlanner, PaperPlanner])
def test_every_decision_of_our_planners_has_a_reason(
    planner: type[LitePlanner], fingerprint: dict[str, Any], contents: Any
) -> None:
    table = explain(fingerprint, contents, planner, labelled_slices=6, unlabelled_slices=50)
    assert {key for key, (_, why) in table.items() if not why or why.startswith("set by")} == set()
    stages = {"finetune.epochs", "align.epochs", "align_preferences", "align_paper", "align_self_training", "unet",
              "fixmatch"}
    assert stages | {"preprocessing.slicing_axis", "structures.lung.components"} <= table.keys()


def test_reasons_are_the_measurements_of_this_dataset() -> None:
    table = explain(VOLUMES, dataset({"0": "T2"}), labelled_slices=6, device="cuda", memory_gib=16.0)
    assert table["preprocessing.slicing_axis"] == ("1", "spacing 5 mm against 0.78 and 0.78 mm")
    assert table["finetune.epochs"] == ("15", "6 labelled slices")
    assert table["finetune.batch_size"] == ("2", "cuda, 16 GiB, 6 labelled slices")
    assert table["preprocessing.normalization"][1] == "'T2': a burnt-in letter moves no percentile"
    ct = explain(CT, dataset({"0": "CT"}))
    assert ct["preprocessing.normalization"][1] == "'CT': HU of the labelled structures"
    assert ct["preprocessing.slicing_axis"] == ("0", "CT is cut axially; its axes run LPS")


def test_a_hint_of_dataset_json_is_named_as_the_reason() -> None:
    hinted = explain(contents=dataset(hints={"lung": StructureHints("both lungs", components=5)}))
    assert hinted["structures.lung.components"] == ("5", "dataset.json")
    assert hinted["structures.lung.phrase"] == ('"both lungs"', "dataset.json")
    assert explain()["structures.lung.components"][1].startswith("a slice's label has 2 parts")


class SilentPlanner(LitePlanner):
    """Decides otherwise and does not say why."""

    def plan_network(self) -> NetworkPlan:
        return replace(super().plan_network(), frozen_stages=-1)

    def plan_inference(self) -> InferencePlan:
        return InferencePlan(smooth_mm=2.0)

    def plan_finetune(self) -> StagePlan:
        return replace(super().plan_finetune(), trainer="mine:Trainer")


class SpeakingPlanner(LitePlanner):
    def plan_network(self) -> NetworkPlan:
        plan = super().plan_network()
        return replace(plan, frozen_stages=self.because("network.frozen_stages", -1, "as our last study found"))


def test_what_a_planner_of_ones_own_decides_is_said_to_be_its_own() -> None:
    table = explain(planner=SilentPlanner)
    for key, value in (("network.frozen_stages", "-1"), ("inference.smooth_mm", "2.0"),
                       ("finetune.trainer", '"mine:Trainer"')):
        assert table[key] == (value, "set by SilentPlanner")
    assert table["network.backbone"] == explain()["network.backbone"]
    assert explain(planner=SpeakingPlanner)["network.frozen_stages"] == ("-1", "as our last study found")


def test_a_reason_for_a_section_replaces_those_for_its_keys() -> None:
    table = explain(planner=PaperPlanner)
    assert table["network"][1] == "paper Sec. 4: all of SAM-Med2D trains"
    assert not [key for key in table if key.startswith("network.")]


@pytest.fixture
def made_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.setitem(extensions._registered, "stages", {})
    yield lambda name, maker: extensions.register("stages", name)(maker)


def test_stages_of_a_package_of_ones_own_are_planned_and_explained(made_stage: Callable[..., None]) -> None:
    def short_stages(planner: LitePlanner) -> dict[str, StagePlan]:
        epochs = planner.because("short.epochs", 1, "to see it run")
        return {"short": replace(planner.plan_finetune(), epochs=epochs), "other": StagePlan(lr=1e-3)}

    made_stage("studies", short_stages)
    table = explain(labelled_slices=6)
    assert table["short.epochs"] == ("1", "to see it run")
    assert table["other"][1] == "added by studies"
    assert table["finetune.epochs"] == ("15", "6 labelled slices")


def test_a_stage_that_is_there_already_is_not_replaced(made_stage: Callable[..., None]) -> None:
    made_stage("studies", lambda planner: {"unet": StagePlan(), "align": StagePlan()})
    with pytest.raises(PlansError, match="'studies' adds are there already: align, unet"):
        explain()


def test_the_commands_print_the_table(run: Callable[..., str], roots: Any, tiny_dataset: Any) -> None:  # noqa: F811
    assert "finetune.epochs" not in run("-d", "901", "--no_pp")
    for words, command in ((["--no_pp"], commands.main), ([], commands.main_plan_experiment)):
        said = run("-d", "901", "--explain", *words, command=command)
        assert "Planned by LitePlanner for" in said
        lines = [line.split(None, 2) for line in said.splitlines()]
        assert ["network.backbone", '"lite_medsam"'] in [line[:2] for line in lines]

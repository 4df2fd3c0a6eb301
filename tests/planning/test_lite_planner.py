"""What LitePlanner decides, from small fingerprints."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from samdpo.dataset.dataset_json import DatasetJson, StructureHints
from samdpo.errors import ConfigurationError
from samdpo.extensions import find
from samdpo.networks.device import resolve_device
from samdpo.planning import schedule
from samdpo.planning.channels import ABDOMEN, channel_mapping, ct_window, normalization
from samdpo.planning.lite_planner import LitePlanner
from samdpo.planning.memory import detect_machine, gpu_memory_gib, ram_gib
from samdpo.plans import Plans, load_plans, save_plans
from samdpo.prompting.saliency import SALIENCY_SIZE
from samdpo.schema import from_dict, to_dict

HU = {"percentile_00_5": -1000.0, "percentile_25": 0.0, "percentile_75": 100.0, "percentile_99_5": 240.0}
LUNG = {
    "label": 1, "cases": 10, "share_of_cases": 1.0, "share_of_slices": 1.0, "intensities": {"0": HU},
    "components": {"median": 2.0, "slices_with": {"2": 10}, "cases_with": {"2": 10}}, "size_share": {"median": 0.3},
}
XRAY: dict[str, Any] = {
    "modality": "xray", "shapes": [[1, 500, 400]] * 10, "spacings": [[999.0, 1.0, 1.0]] * 10,
    "value_range_per_channel": {"0": [0.0, 255.0]}, "structures": {"lung": LUNG},
    "n_foreground_slices": {f"c{i}": 1 for i in range(10)}, "n_slices": {f"c{i}": 1 for i in range(10)},
}


def dataset(channels: dict[str, str] | None = None, hints: dict[str, StructureHints] | None = None) -> DatasetJson:
    return DatasetJson(channels or {"0": "X-ray"}, {"background": 0, "lung": 1}, 10, ".png", hints=hints or {})


def plan(fingerprint: dict[str, Any] | None = None, contents: DatasetJson | None = None, **settings: Any) -> Plans:
    settings = {"device": "cpu", "memory_gib": 8.0, **settings}
    return LitePlanner(fingerprint or XRAY, contents or dataset(), "Dataset003_Lung", **settings).plan()


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(XRAY), **changes}


def test_the_plan_is_whole_and_survives_its_file(tmp_path: Path) -> None:
    made = plan()
    assert from_dict(Plans, json.loads(json.dumps(to_dict(made)))) == made
    save_plans(made, tmp_path / "p.json")
    assert load_plans(tmp_path / "p.json") == made
    assert made.ndim == 2
    assert list(made.configurations) == [
        "finetune", "align", "align_preferences", "align_paper", "align_self_training", "align_best_candidate", "unet",
        "nnunet", "sam", "sam_med2d", "self_prompt", "prompt_only", "mean_teacher", "fixmatch",
        "mean_teacher_encoder", "fixmatch_encoder",
    ]
    for name, objective in (("align", "chosen"), ("align_preferences", "preferences"), ("align_paper", "preferences"),
                            ("align_self_training", "self_training"), ("align_best_candidate", "best_candidate")):
        assert made.stage(name).objective == objective
        assert made.stage(name).previous_stage == "finetune"
        assert made.stage(name).trainer == "AlignTrainer"


def test_peers_whose_encoder_trains_have_the_rates_of_stage_1_and_fewer_steps_on_a_cpu() -> None:
    made = plan(unlabelled_slices=51)
    for name in ("mean_teacher", "fixmatch"):
        peer, whole, finetune = made.stage(name), made.stage(f"{name}_encoder"), made.stage("finetune")
        assert (peer.consistency.encoder_lr, whole.consistency.encoder_lr) == (0, finetune.encoder_lr)
        assert whole.lr == finetune.lr
        assert whole.trainer == peer.trainer and 0 < whole.epochs < peer.epochs


def test_a_planner_of_ones_own_says_how_long_peers_train_whose_encoder_trains() -> None:
    class Patient(LitePlanner):
        def epochs_with_encoder(self, epochs: int) -> int:
            return 2 * epochs + 7

    made = Patient(XRAY, dataset(), "Dataset003_Lung", device="cpu", memory_gib=8.0, unlabelled_slices=51).plan()
    for name in ("mean_teacher", "fixmatch"):
        peer, whole = made.stage(name), made.stage(f"{name}_encoder")
        assert whole.epochs == 2 * peer.epochs + 7 and whole.lr_halving_epochs == whole.epochs // 3


def test_the_controls_cost_what_preferences_over_pixels_cost() -> None:
    made = plan(unlabelled_slices=51).configurations
    stages = [s for name, s in made.items()
              if s.previous_stage == "finetune" and name != "align" and not name.endswith("_encoder")]
    assert len(stages) == 6 and len({(s.epochs, s.batch_size, s.lr, s.prompt_rounds) for s in stages}) == 1


def test_of_pictures_align_asks_about_places_and_of_volumes_it_orders_pixels() -> None:
    stage = plan(unlabelled_slices=51).stage("align")
    assert (stage.objective, stage.candidates.kind, stage.slices_per_epoch) == ("chosen", "places", 0)
    assert stage.labelled_per_step > 0 and stage.places.asks == "mixture"
    volumes = changed(modality="mr", shapes=[[30, 200, 200]] * 3, spacings=[[3.0, 1.0, 1.0]] * 3)
    made = plan(volumes, unlabelled_slices=51)
    assert made.stage("align") == made.stage("align_preferences")
    assert made.stage("align").candidates.kind != "places"


@pytest.mark.parametrize(("answers", "epochs"), [(0, 40), (10, 40), (70, 13), (100, 9), (1000, 6)])
def test_fewer_answers_get_more_epochs(answers: int, epochs: int) -> None:
    assert schedule.chosen_epochs(answers) == epochs


def test_an_image_is_asked_about_once_and_ten_minutes_end() -> None:
    assert plan(unlabelled_slices=10).stage("align").epochs == schedule.chosen_epochs(10)
    most = schedule.chosen_epochs(schedule.ANSWERS)
    assert plan(unlabelled_slices=5000).stage("align").epochs == plan().stage("align").epochs == most


def test_the_paper_s_own_stage_2_is_there_beside_it() -> None:
    stage = plan(unlabelled_slices=51).stage("align_paper")
    assert (stage.candidates.kind, stage.loss.reduction, stage.labelled_per_step) == ("thresholds", "sum", 0)


def test_baselines_of_sam_train_as_long_as_stage_1() -> None:
    stages = plan().configurations
    names = ("finetune", "sam", "sam_med2d", "self_prompt", "prompt_only")
    assert len({(stages[n].epochs, stages[n].batch_size, stages[n].lr, stages[n].encoder_lr) for n in names}) == 1
    assert plan().for_stage("sam").network.backbone == "mobile_sam"
    assert plan().for_stage("sam_med2d").network.backbone == plan().network.backbone
    assert plan().for_stage("unet").network.outputs == 1


@pytest.mark.parametrize(("device", "size"), [("cpu", 512), ("cuda", 0)])
def test_another_backbone_works_at_a_size_that_the_device_affords(device: str, size: int) -> None:
    network = plan(backbone="mobile_sam", device=device).network
    assert (network.backbone, network.input_size) == ("mobile_sam", size)


def test_components_are_those_of_the_labels_at_most_two() -> None:
    assert plan().structures["lung"].components == 2
    for median, expected in ((0.0, 1), (1.0, 1), (7.0, 2)):
        fingerprint = changed(structures={"lung": {**LUNG, "components": {"median": median}}})
        assert plan(fingerprint).structures["lung"].components == expected


def test_a_structure_missing_from_a_slice_may_be_absent() -> None:
    assert not plan().structures["lung"].may_be_absent
    assert plan(changed(structures={"lung": {**LUNG, "share_of_slices": 0.9}})).structures["lung"].may_be_absent


def test_hints_win_over_what_is_measured() -> None:
    hints = StructureHints("both lungs", "Where?", "Two dark fields.", components=5, may_be_absent=True)
    structure = plan(contents=dataset(hints={"lung": hints})).structures["lung"]
    assert (structure.phrase, structure.question, structure.description) == ("both lungs", "Where?", "Two dark fields.")
    assert (structure.components, structure.may_be_absent) == (5, True)


def test_without_hints_the_phrase_is_the_name() -> None:
    structure = plan().structures["lung"]
    assert structure.phrase == "lung"
    assert "{name}" in structure.question


@pytest.mark.parametrize(
    ("channel", "value_range", "scheme"),
    [("X-ray", [0, 255], "percentile"), ("ultrasound", [0, 255], "minmax"), ("CT", [-1024, 3000], "window"),
     ("CT", [0, 255], "minmax"), ("T1", [0, 9000], "percentile"), ("microscopy", [0, 9], "percentile")],
)
def test_normalisation_follows_the_modality(channel: str, value_range: list[float], scheme: str) -> None:
    fingerprint = changed(value_range_per_channel={"0": value_range})
    assert normalization([channel], 0, fingerprint)[0].scheme == scheme


def test_colours_are_scaled_alike() -> None:
    ranges = {"0": [0, 200], "1": [0, 255], "2": [9, 100]}
    names = {"0": "R", "1": "G", "2": "B"}
    made = plan(changed(value_range_per_channel=ranges, modality="other"), dataset(names)).preprocessing
    assert {(n.scheme, n.lower, n.upper) for n in made.normalization} == {("window", 0.0, 255.0)}
    assert made.channel_mapping == (0, 1, 2)


def test_a_ct_window_shows_the_structures_and_not_their_gas() -> None:
    assert ct_window({"stomach": LUNG}, "0") == (-150.0, 240.0)


def test_a_ct_window_of_a_homogeneous_organ_still_shows_its_surroundings() -> None:
    liver = {"percentile_00_5": 40.0, "percentile_25": 55.0, "percentile_75": 65.0, "percentile_99_5": 90.0}
    lower, upper = ct_window({"liver": {"intensities": {"0": liver}}}, "0")
    assert upper - lower == pytest.approx(250)
    assert lower < 40 < 80 < upper


def test_a_ct_without_any_structure_gets_the_abdominal_window() -> None:
    assert ct_window({"liver": {"intensities": {}}}, "0") == ABDOMEN == (-160.0, 240.0)


def test_channels_fill_the_three_of_the_network() -> None:
    assert [channel_mapping(n) for n in (1, 2, 3, 4)] == [(0, 0, 0), (0, 1, 1), (0, 1, 2), (0, 1, 2)]


@pytest.mark.parametrize(("spacing", "neighbours"), [(1.5, 5.0), (6.0, 6.0), (10.0, 10.0)])
def test_volumes_of_one_channel_show_the_encoder_their_neighbours(spacing: float, neighbours: float) -> None:
    volumes = changed(modality="mr", shapes=[[30, 200, 200]] * 3, spacings=[[spacing, 1.0, 1.0]] * 3)
    made = plan(volumes, dataset({"0": "T2"}))
    assert made.preprocessing.neighbours == neighbours and made.prompting.presence == "volume"
    assert plan().preprocessing.neighbours == 0 and plan().prompting.presence == "slice", "pictures"
    two = {"0": [0, 9], "1": [0, 9]}
    made = plan(dict(volumes, value_range_per_channel=two), dataset({"0": "T1", "1": "T2"}))
    assert made.preprocessing.neighbours == 0 and made.prompting.presence == "volume"


def test_volumes_are_cut_along_the_coarsest_axis() -> None:
    volumes = changed(shapes=[[200, 30, 200]] * 3, spacings=[[1.0, 5.0, 1.0]] * 3, modality="mr")
    made = plan(volumes, dataset({"0": "T2"}))
    assert made.ndim == 3
    assert made.preprocessing.slicing_axis == 1


def test_few_labels_train_the_whole_encoder_and_many_on_a_cpu_do_not() -> None:
    assert plan(labelled_slices=40).network.frozen_stages == 0
    assert plan(labelled_slices=41).network.frozen_stages == 2
    assert plan(labelled_slices=41, device="cuda").network.frozen_stages == 0


@pytest.mark.parametrize(("slices", "epochs"), [(1, 16), (8, 12), (10, 9), (40, 8), (111, 8), (5000, 8)])
def test_fewer_labels_get_more_epochs(slices: int, epochs: int) -> None:
    assert schedule.finetune_epochs(slices) == epochs
    stage = plan(labelled_slices=slices).stage("finetune")
    assert stage.epochs == epochs
    assert 1 <= stage.lr_halving_epochs <= max(1, epochs // 2)
    assert schedule.finetune_epochs(50_000, "cuda") == 2


def test_a_cpu_draws_from_many_slices_what_it_affords_and_a_gpu_sees_all() -> None:
    volumes = changed(modality="mr", shapes=[[30, 200, 200]] * 3, spacings=[[3.0, 1.0, 1.0]] * 3)
    many = {"labelled_slices": 5000, "unlabelled_slices": 9000}
    drawn = plan(volumes, **many)
    for made, steps in ((drawn, schedule.FINETUNE_CPU_VOLUME_IMAGE_STEPS), (plan(**many), 2000)):
        stage = made.stage("finetune")
        assert stage.slices_per_epoch * stage.epochs == steps
    assert drawn.stage("align").slices_per_epoch * drawn.stage("align").epochs in range(340, 401)
    assert plan(volumes, device="cuda", **many).stage("finetune").slices_per_epoch == 0
    assert plan(labelled_slices=111, unlabelled_slices=100).stage("finetune").slices_per_epoch == 0
    assert plan(labelled_slices=111, unlabelled_slices=100).stage("align").slices_per_epoch == 0


def test_slices_of_volumes_are_trained_on_under_views_of_their_own() -> None:
    """Kept features would show each slice in one view, over and over: nothing is mirrored there."""
    volumes = changed(modality="ct", shapes=[[30, 200, 200]] * 3, spacings=[[3.0, 1.0, 1.0]] * 3)
    many = {"labelled_slices": 200}
    assert plan(volumes, **many).network.frozen_stages == plan(**many).network.frozen_stages == schedule.FROZEN_STAGES
    assert not plan(volumes, **many).stage("finetune").keep_features
    assert plan(**many).stage("finetune").keep_features, "pictures have their mirror images"
    sided = DatasetJson({"0": "X-ray"}, {"background": 0, "Left_lung": 1}, 10, ".png")
    assert not plan(changed(structures={"Left_lung": LUNG}), sided, **many).stage("finetune").keep_features


def test_towers_of_many_structures_are_fitted_for_longer_on_a_grid_as_fine_as_the_saliency() -> None:
    assert [schedule.tower_steps(count) for count in (1, 2, 12, 100)] == [200, 320, 1520, 1600]
    assert [schedule.tower_batch_size(count) for count in (1, 2, 12)] == [2, 4, 4]
    assert plan().prompting.tower_batch_size == 2
    assert (plan().prompting.tower_grid,) * 2 == SALIENCY_SIZE


def test_nothing_is_mirrored_where_left_and_right_differ() -> None:
    def mirrors(made: Plans) -> set[bool]:
        flips = {stage.augmentation.flip for stage in made.configurations.values()}
        return flips | {made.prompting.mirror, made.inference.mirror}

    volumes = changed(modality="mr", shapes=[[30, 200, 200]] * 3, spacings=[[3.0, 1.0, 1.0]] * 3)
    assert mirrors(plan()) == {True}
    assert mirrors(plan(volumes)) == {False}
    sided = DatasetJson({"0": "X-ray"}, {"background": 0, "Left_lung": 1}, 10, ".png")
    assert mirrors(plan(changed(structures={"Left_lung": LUNG}), sided)) == {False}


@pytest.mark.parametrize(("slices", "epochs"), [(0, 3), (1, 12), (25, 12), (51, 7), (100, 3), (400, 3), (5000, 3)])
def test_alignment_sees_about_as_many_images_whatever_their_number(slices: int, epochs: int) -> None:
    assert schedule.align_epochs(slices) == epochs
    assert schedule.align_epochs(400, "cuda") == 1


def test_a_judge_chooses_the_place_where_something_of_one_component_can_be_elsewhere() -> None:
    assert plan().prompting.place == "saliency"  # two lungs
    mass = dataset(hints={"lung": StructureHints(components=1)})
    judged = plan(contents=mass)
    assert judged.prompting.place == "judge" and judged.inference.choose_place
    assert {stage.prompt_rounds for stage in judged.configurations.values()} == {0}, "it chooses for every stage"
    volumes = changed(modality="mr", shapes=[[30, 200, 200]] * 3, spacings=[[3.0, 1.0, 1.0]] * 3)
    assert plan(volumes, mass).prompting.place == "saliency"
    assert not plan(volumes, mass).inference.choose_place


def test_of_what_is_always_one_piece_in_a_volume_only_the_largest_part_is_kept() -> None:
    shapes = {"shapes": [[30, 200, 200]] * 3, "spacings": [[3.0, 1.0, 1.0]] * 3}
    for cases_with, kept in (({"1": 3}, ("lung",)), ({"1": 2, "2": 1}, ()), ({}, ())):
        lung = {**LUNG, "components": {**LUNG["components"], "cases_with": cases_with}}
        assert plan(changed(structures={"lung": lung}, **shapes)).inference.largest_component == kept
        assert plan(changed(structures={"lung": lung})).inference.largest_component == ()


def test_batches_grow_with_memory_only_where_labels_are_many() -> None:
    assert schedule.batch_size("cpu", 64, 1000) == 2
    assert schedule.batch_size("cpu", 2, 1000) == 1
    assert schedule.batch_size("cuda", 80, 10) == 2
    assert schedule.batch_size("cuda", 8, 1000) == 4
    assert schedule.batch_size("cuda", 80, 1000) == 8


def test_what_is_not_trained_goes_together_as_the_memory_of_a_gpu_has_room() -> None:
    found = {gib: plan(device="cuda", memory_gib=gib).stage("align").inference_batch_size for gib in (2, 6, 16, 80)}
    assert found == {2: 1, 6: 4, 16: 8, 80: 16}
    assert {stage.inference_batch_size for stage in plan(memory_gib=64.0).configurations.values()} == {4}


def test_the_plans_name_names_the_slices() -> None:
    assert plan(plans_name="mine").preprocessing.data_identifier == "mine_2d_256"


def test_the_machine_is_looked_at_without_torch_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_memory_gib() is None
    assert detect_machine().memory_gib > 0.1
    assert ram_gib() > 0.1


def test_a_mac_is_planned_for_as_it_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for gpu in (None, 8.0):  # an NVIDIA GPU that this torch cannot use
        monkeypatch.setattr("samdpo.planning.memory.gpu_memory_gib", lambda gpu=gpu: gpu)
        assert detect_machine().device == resolve_device("auto").type == "cpu"


class OwnPlanner(LitePlanner):
    def plan_network(self):
        from samdpo.plans import NetworkPlan

        return NetworkPlan(frozen_stages=-1)


def test_planners_are_found_by_name_or_module() -> None:
    assert find("planner", "LitePlanner") is LitePlanner
    assert find("planner", "samdpo.planning.lite_planner:LitePlanner") is LitePlanner
    made = OwnPlanner(XRAY, dataset(), "Dataset003_Lung", device="cpu", memory_gib=8).plan()
    assert made.network.frozen_stages == -1
    assert made.experiment_planner_used == "OwnPlanner"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("PaperPlaner", "Built in: LitePlanner, PaperPlanner"), ("nowhere:X", "cannot be imported"),
     ("samdpo.planning.lite_planner:X", "has no planner 'X'")],
)
def test_an_unknown_planner_lists_those_there_are(name: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        find("planner", name)

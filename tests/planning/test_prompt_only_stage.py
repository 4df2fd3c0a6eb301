"""The stage ``prompt_only`` is planned as stage 1 would be if no label was left out."""

from __future__ import annotations

from test_lite_planner import changed, dataset, plan

from samdpo.planning.paper_planner import PaperPlanner

CASES = {f"c{i}": 1 for i in range(100)}
HUNDRED = changed(shapes=[[1, 500, 400]] * 100, spacings=[[999.0, 1.0, 1.0]] * 100, n_foreground_slices=CASES,
                  n_slices=CASES)


def test_its_length_and_its_frozen_stages_are_those_of_every_label() -> None:
    few, every = plan(HUNDRED, labelled_slices=8), plan(HUNDRED)
    assert few.stage("finetune").epochs > few.stage("prompt_only").epochs == every.stage("finetune").epochs == 8
    assert few.network.frozen_stages == few.for_stage("sam_med2d").network.frozen_stages == 0
    assert few.for_stage("prompt_only").network.frozen_stages == every.network.frozen_stages == 2
    assert few.stage("prompt_only").lr_halving_epochs == every.stage("finetune").lr_halving_epochs


def test_a_gpu_freezes_nothing() -> None:
    assert plan(HUNDRED, labelled_slices=8, device="cuda").for_stage("prompt_only").network.frozen_stages == 0


def test_the_papers_epochs_do_not_depend_on_the_labels() -> None:
    made = PaperPlanner(HUNDRED, dataset(), "Dataset003_Lung", device="cpu", memory_gib=8.0, labelled_slices=8).plan()
    assert made.stage("prompt_only").epochs == made.stage("finetune").epochs == 15
    assert made.for_stage("prompt_only").network.frozen_stages == 0

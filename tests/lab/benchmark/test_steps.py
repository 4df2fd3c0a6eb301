"""What has to be run, in which order, and what happens when something fails or is there already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from fake_runs import DATASET, fake_run, plan_cell
from filelock import FileLock
from waiting import PATIENCE

from samdpo.errors import ConfigurationError
from samdpo.files import write_json
from samdpo.lab.benchmark import runner
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.execute import Cost, cost_of, failed
from samdpo.lab.benchmark.methods import METHODS, chosen_ablations, chosen_methods
from samdpo.lab.benchmark.runner import check_networks, overview, run_here, steps_left
from samdpo.lab.benchmark.settings import Settings, seeds_of
from samdpo.lab.benchmark.steps import Step, all_steps

TWO = {DATASET: 2}
WAITS = "another samdpo_benchmark is running it"


@pytest.fixture(autouse=True)
def _folders(roots):
    """nnU-Net's three, empty."""


def asked(tmp_path, *methods: str, **changes) -> Settings:
    return Settings(tmp_path, [DATASET], chosen_methods(methods), **{"seeds": (1,), "labelled": (0.5,), **changes})


def words(steps: list[Step]) -> list[str]:
    return [" ".join(step.words) for step in steps]


class Commands:
    """Stands for the processes: notes what is typed and makes what it would make, or fails."""

    def __init__(self) -> None:
        self.typed: list[str] = []
        self.fail: set[str] = set()

    def __call__(self, given, log_file, environment) -> Cost:
        typed = " ".join(given)
        self.typed.append(typed)
        if any(word in given for word in self.fail):
            return failed(log_file, typed, "out of luck")
        cell = next(c for c in self.cells if str(c.results) == environment["nnUNet_results"])
        assert environment["nnUNet_preprocessed"] == str(cell.preprocessed)
        if given[0] == "samdpo_plan_and_preprocess":
            plan_cell(cell, [m.stage for m in METHODS.values()])
        elif given[0] == "samdpo_prompt":
            plans = given[given.index("-p") + 1] if "-p" in given else "samdpoPlans"
            write_json(cell.preprocessed / DATASET / f"{plans}_prompts" / "fold_0" / "prompter" / "prompter.json", {})
        else:
            for method in METHODS.values():
                if method.stage == given[2]:
                    fake_run(cell, method)
        return Cost(typed, "done")


@pytest.fixture
def commands(monkeypatch, roots, tmp_path) -> Commands:
    made = Commands()
    made.cells = [Cell(tmp_path, 0.5, 1), Cell(tmp_path, 0.5, 1, 0.1), Cell(tmp_path, 0.5, 2)]
    monkeypatch.setattr(runner, "run_logged", made)
    return made


def test_a_stage_comes_after_the_one_it_needs(tmp_path):
    steps = all_steps(asked(tmp_path, "align"), [], TWO)
    assert words(steps) == [
        "samdpo_plan_and_preprocess -d 901 --labelled 0.5 --seed 1 -np 1",
        "samdpo_prompt 901 0 -device auto",
        "samdpo_train 901 finetune 0 -device auto -np 1 --c --set minutes=3",
        "samdpo_train 901 align 0 -device auto -np 1 --c --set minutes=3",
    ]


@pytest.mark.parametrize("groups", [["components"], ["scoring", "unlabelled", "noise"]])
def test_every_step_comes_after_those_it_needs(tmp_path, groups):
    steps = all_steps(asked(tmp_path, "unet", "align", labelled=(0.1, 0.5)), chosen_ablations(groups), TWO)
    known: set[str] = set()
    for step in steps:
        assert set(step.needs) <= known, step.key
        known.add(step.key)
    first = next(s for s in steps if s.stage == "finetune" and s.cell.unlabelled)
    assert first.key.replace(f"_unlabelled_{first.cell.unlabelled:g}", "") in first.needs


def test_epochs_lift_the_minutes(tmp_path):
    assert words(all_steps(asked(tmp_path, "unet", epochs=3), [], TWO))[-1].endswith("--c --epochs 3 --set minutes=0")
    assert words(all_steps(asked(tmp_path, "unet", minutes=0), [], TWO))[-1].endswith("--c")


def test_methods_that_do_not_suit_are_left_out(tmp_path):
    stages = {s.stage for s in all_steps(asked(tmp_path, labelled=(1.0,)), [], TWO) if s.kind == "train"}
    assert stages == {"unet", "nnunet", "sam", "sam_med2d", "self_prompt", "finetune", "prompt_only"}
    assert "sam_med3d" in {s.stage for s in all_steps(asked(tmp_path), [], {DATASET: 3})}


def test_variants_start_from_the_same_finetune_but_have_their_own_prompts(tmp_path):
    ablations = chosen_ablations(["components", "scoring", "noise"])
    steps = all_steps(asked(tmp_path, "align"), ablations, TWO)
    typed = words(steps)
    assert "samdpo_train 901 align_noise_30 0 -p samdpoPlans_ablations -device auto -np 1 --c --set minutes=3" in typed
    assert "samdpo_prompt 901 0 -p samdpoPlans_no_answers -device auto" in typed
    finetunes = [(s.cell.unlabelled, s.plans_name) for s in steps if s.stage == "finetune"]
    assert sorted(finetunes, key=str) == sorted([
        (None, "samdpoPlans"), (0.1, "samdpoPlans"), (None, "samdpoPlans_no_answers"), (None, "samdpoPlans_no_texts"),
        (None, "samdpoPlans_no_saliency"),
    ], key=str)
    assert len({step.key for step in steps}) == len(steps) == len({step.log for step in steps})


def test_a_second_run_does_nothing(commands, tmp_path):
    steps = all_steps(asked(tmp_path, "align", "sam"), [], TWO)
    run_here(steps)
    assert len(commands.typed) == 5 and steps_left(steps, retry=True) == []
    run_here(steps)
    assert len(commands.typed) == 5


def test_a_run_that_lacks_its_second_validation_is_continued(commands, tmp_path):
    steps = all_steps(asked(tmp_path, "sam"), [], TWO)
    run_here(steps)
    (fake_run(commands.cells[0], "sam_truth_box") / "validation_truth_box" / "summary.json").unlink()
    run_here(steps)
    assert commands.typed[-1].startswith("samdpo_train 901 sam 0") and " --c" in commands.typed[-1]


def test_a_failure_stops_only_what_needs_it(commands, tmp_path, caplog):
    commands.fail = {"finetune"}
    steps = all_steps(asked(tmp_path, "finetune", "align", "unet"), [], TWO)
    with caplog.at_level(logging.INFO):
        run_here(steps)
    states = {s.stage: (s.is_done, cost_of(s.log)) for s in steps if s.kind == "train"}
    assert states["unet"][0]
    assert states["finetune"][1].reason == "out of luck"
    assert states["align"][1].reason == "needs samdpo_train_901_finetune_0, which failed: out of luck"
    assert "samdpo_train_901_align_0 failed: needs" in caplog.text


def test_what_failed_is_run_again_only_with_retry(commands, tmp_path):
    commands.fail = {"finetune"}
    steps = all_steps(asked(tmp_path, "align"), [], TWO)
    run_here(steps)
    commands.fail, before = set(), len(commands.typed)
    assert steps_left(steps, retry=False) == []
    run_here(steps)
    assert len(commands.typed) == before
    run_here(steps, retry=True)
    assert all(step.is_done for step in steps)


@contextmanager
def another_runs(step: Step, ends: Callable[[], object]) -> Iterator[None]:
    """As a second benchmark that began the step before and ends it once this one says that it waits."""
    begun, waited_for = Event(), Event()
    handler = logging.Handler()
    handler.emit = lambda record: waited_for.set() if WAITS in record.getMessage() else None
    logger = logging.getLogger(runner.__name__)
    level = logger.level

    def run_it() -> None:
        with FileLock(step.log.with_suffix(".lock")):
            begun.set()
            assert waited_for.wait(PATIENCE)
            ends()

    thread = Thread(target=run_it)
    thread.start()
    begun.wait()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        waited_for.set()
        thread.join()
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_a_step_that_another_benchmark_runs_is_waited_for_and_not_run_twice(commands, tmp_path, caplog):
    plan, unet = all_steps(asked(tmp_path, "unet"), [], TWO)
    run_here([plan])
    with caplog.at_level(logging.INFO), another_runs(unet, lambda: fake_run(commands.cells[0], "unet")):
        run_here([unet])
        assert unet.is_done
    assert not any("unet" in typed for typed in commands.typed)
    assert WAITS in caplog.text


def test_what_failed_in_another_benchmark_is_not_tried_at_once_again(commands, tmp_path):
    plan, unet = all_steps(asked(tmp_path, "unet"), [], TWO)
    run_here([plan])
    with another_runs(unet, lambda: failed(unet.log, "samdpo_train 901 unet 0", "out of luck")):
        run_here([unet])
    assert cost_of(unet.log).reason == "out of luck" and not any("unet" in typed for typed in commands.typed)


def test_what_was_stopped_in_another_benchmark_is_gone_on_with(commands, tmp_path):
    plan, unet = all_steps(asked(tmp_path, "unet"), [], TWO)
    run_here([plan])
    with another_runs(unet, lambda: None):
        run_here([unet])
    assert unet.is_done and "unet" in commands.typed[-1]


def test_a_command_that_makes_nothing_has_failed(commands, tmp_path, monkeypatch):
    steps = all_steps(asked(tmp_path, "unet"), [], TWO)
    monkeypatch.setattr(runner, "run_logged", lambda given, log_file, environment: Cost(" ".join(given), "done"))
    run_here(steps)
    assert "what it should make is not there" in cost_of(steps[0].log).reason


def test_a_cell_with_fewer_unlabelled_images_takes_finetune_over(commands, tmp_path):
    steps = all_steps(asked(tmp_path, "align"), chosen_ablations(["components"])[:1], TWO)
    run_here(steps)
    assert all(step.is_done for step in steps)
    assert sum(typed.startswith("samdpo_train 901 finetune") for typed in commands.typed) == 1
    assert sum(typed.startswith("samdpo_train 901 align") for typed in commands.typed) == 2


def test_the_overview_says_what_is_there_and_how_long_the_rest_takes(commands, tmp_path):
    settings = asked(tmp_path, "align", "unet", seeds=(1, 2))
    steps = all_steps(settings, [], TWO)
    commands.fail = {"unet"}
    run_here([step for step in steps if step.cell.seed == 1])
    said = "\n".join(overview(steps, settings, retry=False))
    assert "Budget: 3 minutes of computing for every training" in said
    assert "there: finetune, align" in said and "failed: unet" in said and "to run: unet, finetune, align" in said
    assert "6 trainings: 2 there, 3 to run, 1 failed. --retry runs again what failed." in said
    assert "At most 0.1 h" in said


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"labelled": (0.0,)}, "--labelled is 0"), ({"minutes": -1.0}, "--minutes is -1"), ({"epochs": 0}, "--epochs is 0"),
    ({"fold": "one"}, "-f is one"), ({"seeds": (1, 1)}, "--seed_list"),
])
def test_what_cannot_be_meant_is_refused(tmp_path, changes, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        asked(tmp_path, "align", **changes)


def test_a_plan_keeps_the_network_that_it_was_run_with(tmp_path):
    check_networks(asked(tmp_path, "align", backbone="mobile_sam"))
    plan_cell(Cell(tmp_path, 0.5, 1))
    check_networks(asked(tmp_path, "align", backbone="lite_medsam"))
    check_networks(asked(tmp_path, "align", backbone="mobile_sam", plans=("samPlans",)))
    with pytest.raises(ConfigurationError, match=r"-backbone is mobile_sam, but .* has lite_medsam.*--plans"):
        check_networks(asked(tmp_path, "align", backbone="mobile_sam"))


def test_seeds_are_counted_or_named():
    assert seeds_of(3, None) == (12345, 1, 2) and seeds_of(3, [7]) == (7,)
    with pytest.raises(ConfigurationError, match="--seeds is 0; expected 1 to 10"):
        seeds_of(0, None)

"""``samdpo_plan_and_preprocess`` and its parts, as typed, and what bad input gets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from samdpo.cli import plan_and_preprocess as commands
from samdpo.cli.common import log
from samdpo.planning.splits import load_splits
from samdpo.plans import load_plans
from samdpo.preprocessing.store import SliceStore

TINY = "Dataset901_TinyXray"
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Run:
    """Run a command; returns its messages, raises SystemExit as the command would."""

    def typed(*words: str, command: Callable[[], None] = commands.main) -> str:
        monkeypatch.setattr(sys, "argv", ["samdpo", *words])
        monkeypatch.setattr(log, "propagate", True)
        caplog.clear()
        with caplog.at_level("INFO", "samdpo"):
            log.propagate = True
            monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
            command()
        return caplog.text

    return typed


def fails(run: Run, caplog: pytest.LogCaptureFixture, *words: str, command: Callable[[], None] = commands.main) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*words, command=command)
    assert stopped.value.code == 2
    return caplog.text


def test_one_command_does_everything_and_says_what_to_type_next(run: Run, roots, tiny_dataset: Path) -> None:
    said = run("-d", "901", "--labelled", "0.2", "--verify_dataset_integrity", "-np", "1")
    folder = roots.preprocessed / TINY
    plans = load_plans(folder / "samdpoPlans.json")
    assert "samdpo_train 901 finetune 0" in said
    assert all(str(folder / name) in said for name in ("samdpoPlans.json", "splits_final.json"))
    assert len(load_splits(folder)[0].labelled) == 1
    assert len(SliceStore(folder / plans.preprocessing.data_identifier).cases()) == 12
    assert (folder / "dataset_fingerprint.json").is_file()


def test_the_steps_apart_give_the_same(run: Run, roots, tiny_dataset: Path) -> None:
    run("-d", TINY)
    folder = roots.preprocessed / TINY
    together = {f.name: f.read_bytes() for f in folder.glob("*.json")}
    for file in folder.glob("*.json"):
        file.unlink()
    assert "samdpo_plan_experiment -d 901" in run("-d", "901", "-np", "1", command=commands.main_extract_fingerprint)
    assert "samdpo_preprocess -d 901" in run("-d", "901", command=commands.main_plan_experiment)
    assert "samdpo_train 901" in run("-d", "901", "-c", "2d", command=commands.main_preprocess)
    assert {f.name: f.read_bytes() for f in folder.glob("*.json")} == together


def test_published_splits_are_taken_from_the_raw_folder_by_name(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path
) -> None:
    cases = sorted(file.name[:-4] for file in (tiny_dataset / "labelsTr").iterdir())
    lists = {"train": cases[2:], "val": cases[:2], "labelled": cases[3:5]}
    (tiny_dataset / "splits_2_labelled.json").write_text(json.dumps([lists]))
    said = fails(run, caplog, "-d", "901", "--splits", "splits_2.json")
    assert f"{tiny_dataset} holds splits_2_labelled.json" in said
    assert not (roots.preprocessed / TINY / "dataset_fingerprint.json").exists(), "told before any work"
    run("-d", "901", "--splits", "splits_2_labelled.json", "--no_pp", "-np", "1")
    (fold,) = load_splits(roots.preprocessed / TINY)
    assert (fold.train, fold.val, fold.labelled) == (cases[2:], cases[:2], cases[3:5])
    run("-d", "901", command=commands.main_plan_experiment)
    assert load_splits(roots.preprocessed / TINY) == [fold], "and kept"
    for name in ("missing", "splits_2_labelled"):
        words = ["-d", "901", "--labelled", "0.5", "--splits", str(tiny_dataset / f"{name}.json")]
        assert f"{name}.json" in fails(run, caplog, *words, command=commands.main_plan_experiment)


def test_no_pp_cuts_no_slices(run: Run, roots, tiny_dataset: Path) -> None:
    assert "Next: samdpo_preprocess -d 901" in run("-d", "901", "--no_pp")
    assert not (roots.preprocessed / TINY / "samdpoPlans_2d_256").exists()


def test_another_plan_has_its_own_name_and_slices(run: Run, roots, tiny_dataset: Path) -> None:
    assert "samdpo_train 901 finetune 0 -p mine" in run("-d", "901", "-overwrite_plans_name", "mine")
    assert (roots.preprocessed / TINY / "mine_2d_256").is_dir()
    assert load_plans(roots.preprocessed / TINY / "mine.json").plans_name == "mine"


def test_planning_again_keeps_configurations_that_were_added(run: Run, roots, tiny_dataset: Path) -> None:
    run("-d", "901", "--no_pp")
    file = roots.preprocessed / TINY / "samdpoPlans.json"
    content = json.loads(file.read_text())
    content["configurations"]["align_sum"] = {"inherits_from": "align_preferences", "loss": {"reduction": "sum"}}
    file.write_text(json.dumps(content))
    assert "Kept from the old plan: align_sum" in run("-d", "901", command=commands.main_plan_experiment)
    assert load_plans(file).stage("align_sum").loss.reduction == "sum"
    assert json.loads(file.read_text())["configurations"]["align_sum"]["inherits_from"] == "align_preferences"


def test_an_added_configuration_that_does_not_fit_is_named_and_the_plan_left_alone(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path
) -> None:
    run("-d", "901", "--no_pp")
    file = roots.preprocessed / TINY / "samdpoPlans.json"
    content = json.loads(file.read_text())
    content["configurations"]["mine"] = {"inherits_from": "align", "epoch": 3}
    file.write_text(json.dumps(content))
    said = fails(run, caplog, "-d", "901", command=commands.main_plan_experiment)
    assert "configurations.mine.epoch" in said
    assert json.loads(file.read_text()) == content


def test_a_variant_by_hand_is_not_overwritten(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path
) -> None:
    run("-d", "901", "--no_pp")
    (roots.preprocessed / TINY / "mine.json").write_text('{"inherits_from": "samdpoPlans"}')
    said = fails(run, caplog, "-d", "901", "--no_pp", "-overwrite_plans_name", "mine")
    assert "inherits from 'samdpoPlans'" in said


@pytest.mark.parametrize("name", ["splits_final", "dataset", "dataset_fingerprint", "notes"])
def test_what_is_no_plan_is_not_overwritten(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path, name: str
) -> None:
    run("-d", "901", "--no_pp")
    file = roots.preprocessed / TINY / f"{name}.json"
    if name == "notes":
        file.write_text('{"mine": 1}')
    before = file.read_bytes() if file.is_file() else None
    said = fails(run, caplog, "-d", "901", "--no_pp", "-overwrite_plans_name", name)
    assert f"{name}.json is no plan" in said
    assert (file.read_bytes() if file.is_file() else None) == before


@pytest.mark.parametrize("name", ["../mine", "/mine", "a/b", "."])
def test_a_plan_that_is_called_like_a_path_is_refused_before_work(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path, name: str
) -> None:
    assert "-overwrite_plans_name is" in fails(run, caplog, "-d", "901", "-overwrite_plans_name", name)
    assert not list(roots.preprocessed.rglob("*.json"))


def test_an_unset_variable_is_named(
    run: Run, caplog: pytest.LogCaptureFixture, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("nnUNet_results", "nnUNet_preprocessed", "nnUNet_raw"):
        monkeypatch.delenv(variable)
        assert f"{variable} is not set" in fails(run, caplog, "-d", "901")


def test_an_unwritable_folder_is_named_before_any_work(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (roots.results / "file").write_text("")
    monkeypatch.setenv("nnUNet_results", str(roots.results / "file" / "below"))
    assert "cannot be created" in fails(run, caplog, "-d", "901")
    assert list(roots.preprocessed.iterdir()) == []
    monkeypatch.setenv("nnUNet_results", str(roots.results))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "not writable" in fails(run, caplog, "-d", "901")


def test_an_unknown_dataset_lists_those_there_are(
    run: Run, caplog: pytest.LogCaptureFixture, tiny_dataset: Path
) -> None:
    said = fails(run, caplog, "-d", "901", "77")
    assert "no dataset '77'" in said
    assert TINY in said
    assert "==" not in said, "a wrong name is told before any work"


def test_two_datasets_of_one_id_are_named(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path
) -> None:
    (roots.raw / "Dataset901_Other").mkdir()
    said = fails(run, caplog, "-d", "901")
    assert "Dataset901_Other, Dataset901_TinyXray" in said


def test_a_dataset_that_is_not_raw_is_told_so(run: Run, caplog: pytest.LogCaptureFixture, roots) -> None:
    (roots.preprocessed / "Dataset005_Gone").mkdir()
    assert "not as raw images" in fails(run, caplog, "-d", "5")


def test_an_empty_folder_is_told_so(run: Run, caplog: pytest.LogCaptureFixture, roots) -> None:
    (roots.raw / "Dataset005_Empty").mkdir()
    assert "dataset.json" in fails(run, caplog, "-d", "5")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--labelled", "0"), "--labelled is 0"),
        (("--labelled", "0.5", "--unlabelled", "0.8"), "can be 0.5 at most"),
        (("-pl", "PaperPlaner"), "no planner 'PaperPlaner'"),
        (("-np", "0"), "-np is 0"),
    ],
)
def test_wrong_values_are_told_before_work(
    run: Run, caplog: pytest.LogCaptureFixture, roots, tiny_dataset: Path, words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in fails(run, caplog, "-d", "901", *words)
    assert list(roots.preprocessed.glob("*/*")) == []


def test_planning_without_a_fingerprint_says_what_to_type(
    run: Run, caplog: pytest.LogCaptureFixture, tiny_dataset: Path
) -> None:
    assert "samdpo_extract_fingerprint" in fails(run, caplog, "-d", "901", command=commands.main_plan_experiment)


def test_preprocessing_without_a_plan_says_what_to_type(
    run: Run, caplog: pytest.LogCaptureFixture, tiny_dataset: Path
) -> None:
    assert "samdpo_plan_and_preprocess" in fails(run, caplog, "-d", "901", command=commands.main_preprocess)


def test_one_labelled_case_only_is_planned_with_a_warning(run: Run, roots, tiny_dataset: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        for file in sorted((tiny_dataset / folder).iterdir())[1:]:
            file.unlink()
    said = run("-d", "901")
    assert "one labelled case only" in said
    assert "'numTraining' is 8" in said
    assert len(load_splits(roots.preprocessed / TINY)) == 1


def test_preprocessing_imports_no_torch() -> None:
    program = "import sys, samdpo.preprocessing.preprocess; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)

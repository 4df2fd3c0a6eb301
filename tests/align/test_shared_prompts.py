"""Stages that learn from the same choice of places have the same prompts: the first makes them, the others copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trained_models
from trained_models import PLACE_ROUNDS, Phantoms

from samdpo.align import rounds
from samdpo.files import read_json, write_json
from samdpo.schema import merge

MADE = ("align_preferences", "align_self_training")


def begun(phantoms, stage: str, *overrides: str):
    """A trainer just before its first epoch."""
    return trained_models.begun(phantoms, stage, *PLACE_ROUNDS, *overrides)


@pytest.fixture
def made(placed: Phantoms, monkeypatch: pytest.MonkeyPatch) -> Phantoms:
    """Phantoms on which ``align_preferences`` and ``align_self_training`` have made prompts; no more can be made."""

    def again(*_, **__):
        raise AssertionError("the prompts were made a second time")

    monkeypatch.setattr(rounds, "fit_prompter", again)
    return placed


def fold_of(phantoms: Phantoms, stage: str) -> Path:
    return phantoms.folder(stage) / "fold_0"


def key_of(fold: Path) -> str:
    return read_json(next((fold / "prompts").glob("xray_*.json")))["key"]


def content(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_annotator_and_model_choose_otherwise(made):
    assert len({key_of(fold_of(made, stage)) for stage in MADE}) == 2


@pytest.mark.parametrize(
    ("stage", "of"),
    [("align_best_candidate", "align_preferences"), ("mean_teacher", "align_self_training"),
     ("fixmatch", "align_self_training")],
)
def test_a_stage_of_the_same_choice_takes_the_prompts_over(made, stage, of):
    trainer, sibling = begun(made, stage), fold_of(made, of)
    assert trainer.data.prompts.folder == trainer.fold_folder / "prompts"
    assert content(trainer.fold_folder / "prompts") == content(sibling / "prompts")
    assert (trainer.fold_folder / "places.png").read_bytes() == (sibling / "places.png").read_bytes()
    assert not list(trainer.fold_folder.glob(".tmp*"))


@pytest.mark.parametrize("override", ["annotator.noise=0.3", "prompt_rounds=2", "seed=7"])
def test_another_choice_is_made_anew(made, override):
    with pytest.raises(AssertionError, match="second time"):
        begun(made, "align_best_candidate", override)


def test_what_the_annotator_would_be_is_nothing_to_a_stage_that_asks_none(made):
    file = made.preprocessed / "samdpoPlans.json"
    write_json(file, merge(read_json(file), {"configurations": {"align": {"annotator": {"noise": 0.3}}}}))
    trainer = begun(made, "fixmatch", "seed=7")
    assert trainer.stage.annotator.noise == 0.3  # inherited from align
    assert trainer.data.prompts.key == key_of(fold_of(made, "align_self_training"))


def test_prompts_that_are_not_whole_are_not_taken_over(made):
    (fold_of(made, "align_preferences") / "prompts" / "prompter" / "prompter.json").unlink()
    with pytest.raises(AssertionError, match="second time"):
        begun(made, "align_best_candidate")


def test_where_files_cannot_be_linked_they_are_copied(made, monkeypatch):
    def refused(*_, **__):
        raise OSError("no links on this disk")

    monkeypatch.setattr(os, "link", refused)
    ours = begun(made, "align_best_candidate").fold_folder / "prompts"
    theirs = fold_of(made, "align_preferences") / "prompts"
    assert content(theirs) == content(ours)
    assert not any(os.path.samefile(ours / name, theirs / name) for name in content(ours))


def test_a_sibling_that_vanishes_while_it_is_copied_leaves_nothing_behind(made, monkeypatch):
    def vanished(source, target):
        raise FileNotFoundError(source)

    monkeypatch.setattr(rounds, "link_file", vanished)
    with pytest.raises(AssertionError, match="second time"):
        begun(made, "align_best_candidate")
    fold = fold_of(made, "align_best_candidate")
    assert not list(fold.glob(".tmp*")) and not (fold / "prompts").exists()


def test_a_stage_trains_and_predicts_under_prompts_it_took_over(made):
    fold = made.train("fixmatch", *PLACE_ROUNDS).fold_folder
    assert read_json(fold / "validation" / "summary.json")["foreground_mean"]["Dice"] > 0

"""The control that asks nobody, and what a run says of its answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from trained_models import ONE_LUNG, short_fits

from samdpo.align.answers import OwnAnswers
from samdpo.errors import TrainingError
from samdpo.extensions import find
from samdpo.files import read_json
from samdpo.plans import StagePlan
from samdpo.preferences.records import Item, item_id
from samdpo.preferences.stored_candidates import StoredCandidates

SETTINGS = (ONE_LUNG, "epochs=1")
JUDGE = ("annotator.kind=judge", "places.held_back=0")


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch):
    short_fits(monkeypatch)


def item(row: int, candidates: int) -> Item:
    place = (f"case_{row}", 0, "lung")
    return Item(item_id("s" * 16, *place), "s" * 16, *place, 0.5, candidates)


def shown_in(phantoms) -> StoredCandidates:
    """The one set that a training has made; afterwards its own prompts would make another."""
    (file,) = (phantoms.finetuned / "fold_0" / "candidates").glob("*/candidates.json")
    return StoredCandidates.open(file.parent)


def test_its_answers_are_the_order_in_which_masks_are_shown_without_a_look_at_the_images():
    own = OwnAnswers(None, StagePlan())  # no data, so no truth
    said = own.said(SimpleNamespace(items=[item(0, 2), item(1, 6)]))
    assert [one.ranks for one in said] == [(1, 2), (1, 2, 3, 4, 5, 6)]
    assert [(one.verdict, one.seconds) for one in said] == [("ranked", 0.0)] * 2
    assert said == own.said(SimpleNamespace(items=[item(0, 2), item(1, 6)]))
    assert find("annotator", "judge") is OwnAnswers


@pytest.mark.parametrize(("stage", "overrides", "sentence"), [
    ("align_preferences", JUDGE[:1], "'annotator.kind' is 'judge' where 'candidates.kind' is 'fields'"),
    ("align", JUDGE[:1], r"'places.held_back' is 0.2; expected 0, .*--set annotator.kind=judge places.held_back=0"),
])
def test_it_refuses_what_it_would_say_nothing_about(located, stage, overrides, sentence):
    with pytest.raises(TrainingError, match=sentence):
        located.trainer(stage, "structures.lung.components=1", *overrides).initialize()


def test_it_learns_from_its_own_order_of_every_unlabelled_image(asked):
    trainer = asked.train("align", *SETTINGS, *JUDGE)
    stored = shown_in(asked)
    model = read_json(trainer.fold_folder / "model.json")
    assert stored.items and model["kept"]["name"] == "new" and model["kept"]["held_back"] == 0
    assert model["answers"]["seconds"] == 0 and model["answers"]["items"] == len(stored.items)
    assert {kind for kind, count in model["answers"]["counts"].items() if count} == {"ordered"}
    for one in stored.items:  # the model's own mask is taken as meant
        place = (one.case, one.slice_index, one.structure)
        assert (trainer.answered.chosen[place].mask == stored.masks(one)[0]).all()


def test_a_run_says_what_its_answers_took(asked):
    trainer = asked.train("align", *SETTINGS, "places.minutes=0.3", "places.asks=boxes")
    answers = read_json(trainer.fold_folder / "model.json")["answers"]
    said = trainer.answers.said(shown_in(asked))
    assert answers["seconds"] == pytest.approx(sum(one.seconds for one in said)) and 0 < answers["seconds"] <= 18
    assert sum(answers["counts"].values()) == len(said) <= answers["items"]

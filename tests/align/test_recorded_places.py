"""People who answer as the virtual annotator would teach what it teaches: nothing after an answer knows who gave it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trained_models import NUMBER, ONE_LUNG, UNSEEN, short_fits

from samdpo.align.candidate_set import make_candidate_set
from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.locate import VARIABLE, default_database_url
from samdpo.errors import TrainingError
from samdpo.networks.weights import load_weights
from samdpo.training.checkpoints import FINAL

RECORDED = "annotator.kind=recorded"
SETTINGS = (ONE_LUNG, "epochs=1", UNSEEN)


@pytest.fixture(autouse=True)
def _own_database_and_short_fits(monkeypatch):
    short_fits(monkeypatch)
    monkeypatch.delenv(VARIABLE, raising=False)


def record(judgements, stored) -> None:
    """Put answers into the database as the page does."""
    database = PreferenceDatabase.open(default_database_url(NUMBER))
    try:
        database.add_candidate_set(stored.candidate_set, stored.items)
        for one in judgements:
            database.record(dataclasses.replace(one, annotator="Ada"))
    finally:
        database.close()


def test_recorded_answers_train_the_same_model_as_the_virtual_annotators(asked):
    virtual = asked.train("align", *SETTINGS)
    stored = make_candidate_set(NUMBER, 0, overrides=SETTINGS, device="cpu")
    answers = virtual.answers.said(stored)
    kinds = {one.verdict for one in answers}
    assert answers and kinds <= {"accepted", "none_acceptable", "ranked"}
    theirs = load_weights(virtual.fold_folder / FINAL)
    record(answers, stored)
    recorded = asked.train("align", *SETTINGS, RECORDED)
    # Of images without a truth the virtual annotator says nothing; the judges see all that are unlabelled.
    assert recorded.answered.counts == virtual.answered.counts
    assert recorded.answered.chosen.keys() == virtual.answered.chosen.keys()
    for place, one in virtual.answered.chosen.items():
        assert (recorded.answered.chosen[place].mask == one.mask).all()
    ours = load_weights(recorded.fold_folder / FINAL)
    assert ours.keys() == theirs.keys() and all(torch.isfinite(value).all() for value in ours.values())


def test_answers_about_other_proposals_are_refused(asked):
    stored = make_candidate_set(NUMBER, 0, overrides=SETTINGS, device="cpu")
    virtual = asked.trainer("align", *SETTINGS)
    virtual.initialize()
    record(virtual.answers.said(stored), stored)
    other = asked.trainer("align", ONE_LUNG, "epochs=1", "prompting.blobs=12", RECORDED)
    other.initialize()
    with pytest.raises(TrainingError, match=r"are about candidates that this model made with another plan"):
        other.run_training()

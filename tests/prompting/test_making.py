"""Whose towers prompt which case of a fold."""

from __future__ import annotations

import numpy as np
import pytest
from trained_models import Phantoms

from samdpo.planning.splits import load_splits
from samdpo.plans import load_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting import making
from samdpo.prompting.fitting import FittedPrompters, fit_prompter
from samdpo.prompting.prompt_store import PromptStore


@pytest.fixture
def fits(monkeypatch) -> list[FittedPrompters]:
    """What is fitted."""
    found: list[FittedPrompters] = []
    monkeypatch.setattr(
        making, "fit_prompter", lambda *args, **named: found.append(fit_prompter(*args, **named)) or found[-1])
    return found


def prompted(planned: Phantoms, monkeypatch, groups: dict[str, str]) -> PromptStore:
    monkeypatch.setattr(making, "load_case_groups", lambda _: groups)
    return making.make_prompts(load_plans(planned.preprocessed / "samdpoPlans.json"), 0, "cpu")


def looks(store: PromptStore) -> dict[str, bytes]:
    return {case: store.get(case, 0)[0].saliency.tobytes() for case in store.cases()}


def test_unlabelled_cases_of_a_labelled_patient_are_prompted_by_towers_that_have_not_seen_the_patient(
    planned, fits, monkeypatch
):
    split = load_splits(planned.preprocessed)[0]
    labelled, unlabelled, tested = (of[0] for of in (split.labelled, split.unlabelled, split.val))
    alone = prompted(planned, monkeypatch, {})
    before = looks(alone)
    assert not fits, "they were there"
    groups = {unlabelled: labelled, tested: labelled}
    together = prompted(planned, monkeypatch, groups)
    assert together.key == alone.key and len(fits) == 1, "images that are added make nobody else's prompts anew"
    after, slices = looks(together), SliceStore(planned.preprocessed / "samdpoPlans_2d_256")
    assert {case for case in after if after[case] != before[case]} == {unlabelled}, "validation cases are as new ones"
    image = slices.image(unlabelled, 0)
    held_out, full = (fitted.locate(image)[0].saliency for fitted in (fits[0].held_out[labelled], fits[0].full))
    shown = together.get(unlabelled, 0)[0].saliency
    np.testing.assert_allclose(shown, held_out, atol=0.05)
    assert np.abs(shown - full).max() > 0.2
    assert looks(prompted(planned, monkeypatch, groups)) == after and len(fits) == 1
    assert looks(prompted(planned, monkeypatch, {})) == before

"""Candidates for people: made once by the finetuned model, the same however often one is stopped."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from trained_models import NUMBER

from samdpo.align.candidate_set import make_candidate_set
from samdpo.errors import TrainingError
from samdpo.preferences.candidates import DUPLICATE_IOU, disagreement, pairwise_iou
from samdpo.preferences.stored_candidates import CandidateWriter


def make(*overrides: str):
    return make_candidate_set(NUMBER, 0, "align_preferences", device="cpu", overrides=overrides)


def test_every_unlabelled_slice_gets_candidates_whether_there_is_a_truth_or_not(finetuned):
    stored = make()
    unlabelled = finetuned.trainer("align_preferences").data.split.unlabelled
    assert {item.case for item in stored.items} == set(unlabelled) and "xray_ul_001" in unlabelled
    assert stored.folder == finetuned.finetuned / "fold_0" / "candidates" / stored.candidate_set.id
    for item in stored.items:
        masks = torch.from_numpy(stored.masks(item))
        assert masks.shape == (4, 256, 256) and stored.image(item).shape == (256, 256)
        assert item.position == pytest.approx(disagreement(masks)) and item.position > 0
        assert torch.tril(pairwise_iou(masks), -1).max() <= DUPLICATE_IOU
    positions = [item.position for item in stored.items]
    assert positions == sorted(positions, reverse=True)


def test_a_stopped_set_goes_on_where_it_stopped_and_is_the_same(finetuned, monkeypatch):
    whole = make()
    expected = {item.id: whole.masks(item) for item in whole.items}
    shutil.rmtree(whole.folder)
    put, done = CandidateWriter.put, []

    def stopping(self, case, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(case)
        put(self, case, *rest)

    monkeypatch.setattr(CandidateWriter, "put", stopping)
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.setattr(CandidateWriter, "put", lambda *a: done.append(a[1]) or put(*a))
    again = make()
    assert len(done) == len(set(done)) == len({item.case for item in whole.items})
    assert [item.id for item in again.items] == [item.id for item in whole.items]
    for item in again.items:
        np.testing.assert_array_equal(again.masks(item), expected[item.id])


def test_a_second_call_makes_nothing_anew(finetuned, monkeypatch):
    first = make()
    monkeypatch.setattr(CandidateWriter, "put", lambda *_: pytest.fail("made again"))
    second = make("seed=3", "lr=0.1", "loss.reduction=sum")
    assert second.candidate_set == first.candidate_set and second.items == first.items


def test_other_candidate_settings_are_another_set_beside_it(finetuned):
    first, second = make(), make("candidates.kind=thresholds")
    assert first.folder != second.folder and first.folder.parent == second.folder.parent
    assert first.candidate_set.model_hash == second.candidate_set.model_hash
    assert first.candidate_set.plan_hash != second.candidate_set.plan_hash
    assert not {item.id for item in first.items} & {item.id for item in second.items}


def test_other_prompts_are_another_set(finetuned):
    trainer = finetuned.trainer("align_preferences")
    trainer.initialize()
    before = trainer.candidate_set()
    trainer.data.prompts.key = "of other towers"
    after = trainer.candidate_set()
    assert after.id != before.id and after.plan_hash != before.plan_hash


def test_thresholds_come_in_no_order_of_size(finetuned):
    stored = make("candidates.kind=thresholds")
    sizes = [stored.masks(item).sum((1, 2)) for item in stored.items]
    assert any((np.diff(size) > 0).any() for size in sizes) and any((np.diff(size) < 0).any() for size in sizes)


def test_hypotheses_are_candidates_too(finetuned):
    stored = make("candidates.kind=hypotheses")
    assert stored.items and stored.description["settings"]["kind"] == "hypotheses"


def test_candidates_that_are_all_equal_are_nothing_to_rank(finetuned):
    stored = make("candidates.kind=thresholds", "candidates.thresholds=[0.5,0.5,0.5,0.5]")
    assert stored.items == [] and len(list((stored.folder / "cases").glob("*.json"))) == 7


def test_before_finetune_it_says_what_to_type(planned):
    with pytest.raises(TrainingError, match="samdpo_train 901 finetune 0"):
        make()

"""A budget of minutes ends a training; what was computed is written down."""

from __future__ import annotations

import logging

import pytest
import torch

from samdpo.files import read_json
from samdpo.training.budget import Budget
from samdpo.training.checkpoints import FINAL


@pytest.fixture
def computed(monkeypatch):
    """A process that computes ten seconds whenever it is asked, on two threads."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.process_time", lambda: float(next(clock)))
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)


def test_cpu_time_over_threads_is_summed_until_it_is_spent(computed):
    budget = Budget(minutes=0.15, device=torch.device("cpu"))  # 9 s
    for seconds, spent in ((5, False), (10, True)):
        with budget:
            pass
        assert (budget.seconds, budget.spent) == (seconds, spent)


def test_no_minutes_are_no_limit(computed):
    budget = Budget(minutes=0, device=torch.device("cpu"))
    with budget:
        pass
    assert budget.seconds == 5 and not budget.spent


def test_a_spent_budget_ends_the_training_within_an_epoch(planned, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    with caplog.at_level("INFO", "samdpo"):
        trainer = planned.train("finetune", "epochs=50", "minutes=0.0001")
    assert trainer.current_epoch == 1 and trainer.stopwatch.images["train"] == trainer.stage.batch_size
    assert "minutes of the plan are spent after 1 of 50 epochs" in caplog.text
    assert (trainer.fold_folder / FINAL).is_file()
    cost = read_json(trainer.fold_folder / "cost.json")
    assert cost["minutes_allowed"] == 0.0001 < cost["train_minutes"] and cost["peak_memory_gib"] > 0


def test_two_trainings_on_the_same_cases_have_the_same_hashes(planned):
    finetuned = planned.train("finetune", "epochs=1")
    other = planned.train("finetune", "epochs=1", fold=1)
    hashes = [read_json(t.fold_folder / "model.json")["data"] for t in (finetuned, other)]
    assert hashes[0].keys() == {"train", "labelled", "unlabelled", "val"}
    assert hashes[0]["val"] != hashes[1]["val"]

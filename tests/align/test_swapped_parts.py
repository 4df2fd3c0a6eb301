"""The parts of stage 2: who proposes, who judges, what is learned; and what happens when somebody swaps one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from documented import blocks
from ranking_people import people_rank
from trained_models import NUMBER

from samdpo.align.candidate_set import make_candidate_set
from samdpo.align.judge import QualityJudge
from samdpo.align.objectives import Objective, register_objective
from samdpo.align.proposer import EncodedBatch, Origin, Proposals
from samdpo.align.trainer import AlignTrainer
from samdpo.annotate.database.locate import VARIABLE
from samdpo.errors import ConfigurationError, TrainingError
from samdpo.extensions import find, names
from samdpo.files import content_hash, hash_of, read_json
from samdpo.training.checkpoints import FINAL

DOCUMENTATION = Path(__file__).parents[2] / "documentation"
EXAMPLE = "box_size_proposer:BoxSizeTrainer"


@pytest.fixture
def example(finetuned, monkeypatch):
    """The example of the documentation can be found, on finetuned phantoms."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.syspath_prepend(DOCUMENTATION / "examples")
    return finetuned


def encoded(trainer, key) -> EncodedBatch:
    batch = trainer.samples.collate([trainer.samples.sample(key)])
    embeddings, logits = trainer.decode(batch)
    return EncodedBatch(batch, embeddings, trainer.reference, logits)


def begun(phantoms, *overrides: str, **arguments):
    """A trainer just before its first epoch."""
    trainer = phantoms.trainer("align_preferences", "epochs=1", *overrides, **arguments)
    trainer.initialize()
    trainer.on_train_start()
    trainer.run_log.close()
    return trainer


# ---- another proposer -----------------------------------------------------------------------------------------------


def test_the_example_on_the_page_is_the_file():
    file = (DOCUMENTATION / "examples" / "box_size_proposer.py").read_text(encoding="utf-8")
    assert file in [block.code for block in blocks(DOCUMENTATION / "alignment.md")]


def test_training_learns_from_what_another_proposer_proposes(example):
    trainer = begun(example, trainer=EXAMPLE)
    slices = encoded(trainer, trainer.unlabelled_keys[0])
    candidates, ranking = trainer.ask(slices)
    proposed = trainer.proposer.propose(slices, torch.Generator())
    assert torch.equal(candidates, proposed.masks) and ranking.order.shape == candidates.shape[:2] == (1, 4)
    assert [origin.maker for origin in proposed.origins[0]] == ["box size"] * 4
    sides = [origin.box[2] - origin.box[0] for origin in proposed.origins[0]]
    assert sides == sorted(sides) and sides[0] < sides[-1]
    trainer.run_training()
    assert (trainer.fold_folder / FINAL).is_file() and np.isfinite(trainer.run_log.history["loss"]).all()


def test_people_are_shown_what_another_proposer_proposes_in_a_set_of_its_own(example):
    own, other = (make_candidate_set(NUMBER, 0, "align_preferences", device="cpu", trainer=trainer)
                  for trainer in (None, EXAMPLE))
    assert own.candidate_set.model_hash == other.candidate_set.model_hash
    assert own.candidate_set.plan_hash != other.candidate_set.plan_hash and own.folder != other.folder
    assert other.description["proposer"] == "box_size_proposer:BoxSizeProposer"
    assert other.description["settings"] == {"scales": [0.7, 0.9, 1.1, 1.4]}
    assert other.items and all(item.candidates == 4 for item in other.items)


def test_a_stage_that_asks_about_places_does_not_ignore_another_proposer(example):
    with pytest.raises(ConfigurationError, match=r"BoxSizeProposer.*asks about places.*align_preferences 0 -tr"):
        example.trainer("align", trainer=EXAMPLE).initialize()


def test_judgements_of_another_proposers_set_are_not_learned_from(example):
    stored = make_candidate_set(NUMBER, 0, "align_preferences", device="cpu")
    people_rank(stored, stored.items)
    trainer = example.trainer("align_preferences", "annotator.kind=recorded", trainer=EXAMPLE)
    trainer.initialize()
    with pytest.raises(TrainingError, match="who proposes have changed"):
        trainer.run_training()


def test_sets_that_older_versions_made_are_found_under_their_ids(finetuned):
    trainer = finetuned.trainer("align_preferences")
    trainer.initialize()
    plans, described = trainer.plans, trainer.candidate_set()
    preprocessing = asdict(plans.preprocessing)
    assert preprocessing.pop("neighbours") == 0.0  # older versions had no such setting
    plan_hash = hash_of(1, trainer.stage.candidates, trainer.data.prompts.key, plans.structures, preprocessing,
                        plans.network)
    model_hash = content_hash(finetuned.finetuned / "fold_0" / FINAL)
    assert described.id == hash_of(plans.dataset_name, "0", model_hash, plan_hash)


def test_another_setting_of_ones_own_proposer_is_another_set(example):
    trainer = example.trainer("align_preferences", trainer=EXAMPLE)
    trainer.initialize()
    before = trainer.candidate_set().id
    trainer.proposer.settings = lambda: {"scales": (1.0, 2.0)}
    assert trainer.candidate_set().id != before


def test_a_proposal_says_which_box_it_comes_from(finetuned):
    trainer = begun(finetuned, "candidates.kind=hypotheses")
    slices = encoded(trainer, trainer.unlabelled_keys[0])
    origins = trainer.proposer.propose(slices, torch.Generator().manual_seed(0)).origins
    prompt = slices.prompts[0]
    assert len(origins[0]) == 4 and origins[0][0].maker == "hypothesis"
    for origin in origins[0]:
        if origin.maker == "hypothesis":
            assert any(np.array_equal(origin.box, box) for box in prompt.hypotheses)
        else:
            assert origin.maker == "field" and origin.box is None


# ---- judges ---------------------------------------------------------------------------------------------------------


def test_the_model_takes_what_its_quality_head_thinks_best_of_and_never_an_empty_mask():
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    quality = torch.tensor([[0.2, 0.7, -torch.inf], [0.1, 0.2, 0.9]])
    proposals = Proposals(masks, [[Origin("prompt")] * 3] * 2, quality=quality)
    ranking = QualityJudge().rank(proposals, None, torch.Generator())
    assert ranking.order[:, 0].tolist() == [1, 2] and ranking.valid.tolist() == [True, False]


# ---- objectives -----------------------------------------------------------------------------------------------------


def test_a_name_of_an_objective_is_given_once():
    with pytest.raises(ValueError, match="the objective 'preferences' is registered already, by samdpo"):
        register_objective("preferences")(Objective)


def test_an_objective_of_ones_own_is_one_that_the_trainer_reads(monkeypatch):
    monkeypatch.setitem(__import__("samdpo.extensions", fromlist=["_registered"])._registered, "objective", {})

    @register_objective("mine")
    class Mine(Objective):
        def loss(self, slices, ask):
            return slices.logits.square().mean(), {}

    assert find("objective", "mine") is Mine
    assert "mine" in AlignTrainer.objectives and set(AlignTrainer.objectives) == set(names("objective"))
    assert {"preferences", "self_training", "best_candidate"} < set(AlignTrainer.objectives)


def test_a_trainer_may_build_its_own_objective_and_nobody_is_asked(finetuned, monkeypatch):
    class Smaller(Objective):
        """Every mask is to become smaller."""

        def loss(self, slices, ask):
            return slices.logits.sigmoid().mean(), {"size": slices.logits.detach().sigmoid().mean()}

    monkeypatch.setattr(AlignTrainer, "build_objective", lambda self: Smaller(
        self.stage, self.mask_cut, self.loss, self.processes.divisor))
    trainer = begun(finetuned, "epochs=3", "labelled_per_step=0")
    assert trainer.answers is None and len(trainer.unlabelled_keys) == 7  # those without a hidden truth too
    trainer.run_training()
    sizes = trainer.run_log.history["size"]
    assert sizes[-1] < sizes[0]
    assert read_json(trainer.fold_folder / "model.json")["stage"] == "align_preferences"

"""Eq. 5 over pixels on what people said: which judgements count, what is refused, and that they are followed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from made_once import made_once
from ranking_people import judgement, keep, larger_first, people_rank, simulated, smaller_first, without_label
from trained_models import NUMBER, Phantoms, _as_current, copied, interrupt

from samdpo.align.candidate_set import make_candidate_set
from samdpo.align.proposer import EncodedBatch
from samdpo.annotate.database.errors import DatabaseError
from samdpo.annotate.database.locate import VARIABLE
from samdpo.cli.train import main
from samdpo.errors import TrainingError
from samdpo.files import read_json, write_json
from samdpo.model.description import MANIFEST
from samdpo.model.views import FLIPPED, IDENTITY
from samdpo.networks.weights import load_weights, save_weights
from samdpo.preferences.losses import REWARD_METRICS
from samdpo.training import checkpoints
from samdpo.training.checkpoints import FINAL

RECORDED, MIXED = "annotator.kind=recorded", "annotator.kind=mixed"
LEARN = ("lr=0.0005", "loss.anchor_weight=0", "labelled_per_step=0")


@pytest.fixture(scope="module")
def _shown(_finetuned: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    def make(folder: Path) -> None:
        with _as_current(copied(_finetuned, folder / "roots")):
            make_candidate_set(NUMBER, 0, "align_preferences", device="cpu")

    return Phantoms(made_once(tmp_path_factory, "shown", make) / "roots")


@pytest.fixture
def finetuned(_shown: Phantoms, tmp_path: Path) -> Iterator[Phantoms]:
    """Finetuned, with the candidates of fold 0."""
    with _as_current(copied(_shown, tmp_path / "roots")) as own:
        yield own


@pytest.fixture
def stored(finetuned, monkeypatch):
    """The candidates of the finetuned phantoms' fold 0."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return make_candidate_set(NUMBER, 0, "align_preferences", device="cpu")


def begun(phantoms, *overrides: str, stage: str = "align_preferences"):
    """A trainer just before its first epoch."""
    trainer = phantoms.trainer(stage, "epochs=1", *overrides)
    trainer.initialize()
    trainer.on_train_start()
    trainer.run_log.close()
    return trainer


def decoded(trainer, batch) -> EncodedBatch:
    embeddings, logits = trainer.decode(batch)
    return EncodedBatch(batch, embeddings, trainer.reference, logits)


def refused(phantoms, *overrides: str) -> str:
    """What a training says that does not start; it has written nothing."""
    trainer = phantoms.trainer("align_preferences", *overrides)
    trainer.initialize()
    with pytest.raises((TrainingError, DatabaseError)) as error:
        trainer.run_training()
    assert not (trainer.fold_folder / "debug.json").exists()
    return str(error.value)


# ---- people are followed --------------------------------------------------------------------------------------------


def test_the_margins_rise_on_rankings_of_images_that_have_no_label(finetuned, stored):
    people_rank(stored, without_label(stored))
    trainer = finetuned.train("align_preferences", "epochs=5", RECORDED, *LEARN)
    assert {case for case, _ in trainer.unlabelled_keys} == {"xray_ul_001", "xray_ul_002"}
    assert not any(trainer.data.slices.has_label(case) for case, _ in trainer.unlabelled_keys)
    history = trainer.run_log.history
    margins, losses = history["rewards/margins"], history["loss/preference"]
    assert margins[0] == pytest.approx(0, abs=1e-4) and losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert all(later > earlier for earlier, later in pairwise(margins)), margins
    assert losses[-1] < losses[0]
    assert set(REWARD_METRICS) <= set(history) and (trainer.fold_folder / FINAL).is_file()


def test_opposite_people_move_the_masks_in_opposite_directions(finetuned, stored):
    sizes = []
    for person in (larger_first, smaller_first):
        (finetuned.results / "preferences.sqlite").unlink(missing_ok=True)
        people_rank(stored, stored.items[:2], person)
        trainer = begun(finetuned, RECORDED, *LEARN)
        batch = trainer.samples.collate([trainer.samples.sample(k, with_truth=False) for k in trainer.unlabelled_keys])
        before = trainer.probabilities(batch).sum()
        trainer.run_training()
        sizes.append(float(trainer.probabilities(batch).sum() - before))
    assert sizes[0] > 0 > sizes[1]


def test_only_slices_on_which_somebody_prefers_something_are_learned_from(finetuned, stored):
    first, second, third, fourth = stored.items[:4]
    people_rank(stored, [first])
    keep(stored, [judgement(second, verdict="none_acceptable"), judgement(third, verdict="skipped"),
                  judgement(fourth, mode="rating", ratings=(2, 2, 2, 2))])
    assert begun(finetuned, RECORDED).unlabelled_keys == [(first.case, first.slice_index)]


def test_the_candidates_learned_from_are_the_ones_that_were_seen_mirrored_with_the_slice(finetuned, stored):
    people_rank(stored, stored.items)
    trainer = begun(finetuned, RECORDED)
    item = stored.items[0]
    found = {}
    for view in (IDENTITY, FLIPPED):
        batch = trainer.samples.collate([trainer.samples.sample((item.case, item.slice_index), view)])
        found[view], ranking = trainer.ask(decoded(trainer, batch))
        expected = larger_first(stored.masks(item))
        assert ranking.order[0].tolist() == np.argsort(expected, kind="stable").tolist() and ranking.valid.all()
    np.testing.assert_array_equal(found[IDENTITY][0].numpy(), stored.masks(item))
    assert torch.equal(found[FLIPPED], found[IDENTITY].flip(-1))


def test_mixed_lets_the_virtual_annotator_rank_what_no_one_has_judged(finetuned, stored):
    unlabelled, others = without_label(stored), simulated(stored)
    people_rank(stored, [unlabelled[0], others[0]])
    trainer = begun(finetuned, MIXED)
    cases = {case for case, _ in trainer.unlabelled_keys}
    assert cases == {unlabelled[0].case, *(item.case for item in others)} and len(cases) > 2
    keys = [(item.case, item.slice_index) for item in (unlabelled[0], others[0], others[1])]
    batch = trainer.samples.collate([trainer.samples.sample(key) for key in keys])
    candidates, ranking = trainer.ask(decoded(trainer, batch))
    for row, item in enumerate((unlabelled[0], others[0])):
        np.testing.assert_array_equal(candidates[row].numpy(), stored.masks(item))
    assert not np.array_equal(candidates[2].numpy(), stored.masks(others[1])), "drawn from the present policy"
    assert ranking.valid.all() and ranking.weights[2].abs().max() == 1
    trainer.run_training()
    assert np.isfinite(trainer.run_log.history["loss"]).all()


def test_the_best_candidate_control_takes_what_people_put_first(finetuned, stored):
    people_rank(stored, stored.items[:1])
    trainer = begun(finetuned, RECORDED, stage="align_best_candidate")
    trainer.run_training()
    assert len(trainer.unlabelled_keys) == 1 and "rewards/margins" not in trainer.run_log.history


def test_rounds_about_places_are_left_out_and_the_log_says_so(finetuned, stored, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    people_rank(stored, stored.items)
    people_rank(stored, stored.items[:2], smaller_first, "bob")
    with caplog.at_level("INFO", "samdpo"):
        trainer = begun(finetuned, RECORDED, "prompt_rounds=2")
    assert "2 rounds about places (prompt_rounds) are left out" in caplog.text
    assert trainer.data.prompts.folder.is_relative_to(finetuned.preprocessed)
    assert f"{len(stored.items) + 2} judgements of 2 people" in caplog.text
    assert "Kendall's tau -1.00 over 2 comparisons" in caplog.text


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_without_a_database_it_says_what_makes_one(finetuned, stored):
    assert "samdpo_annotate" in refused(finetuned, RECORDED)


@pytest.mark.parametrize("kind", [RECORDED, MIXED])
def test_without_judgements_it_says_how_many_there_are_and_what_to_type(finetuned, stored, kind):
    keep(stored, [])
    said = refused(finetuned, kind)
    assert "There are 0 judgements of fold 0" in said and said.endswith("samdpo_annotate 901 0")


def test_judgements_that_prefer_nothing_are_not_enough(finetuned, stored):
    keep(stored, [judgement(stored.items[0], verdict="none_acceptable"), judgement(stored.items[1], verdict="skipped")])
    assert "0 ranked, 0 accepted, 1 with none acceptable, 1 skipped" in refused(finetuned, RECORDED)


def test_candidates_of_another_model_are_refused(finetuned, stored):
    people_rank(stored, stored.items)
    file = finetuned.finetuned / "fold_0" / FINAL
    weights = load_weights(file)
    name = next(iter(weights))
    save_weights({**weights, name: weights[name] + 1}, file)
    file.with_name(MANIFEST).unlink()  # the word of who put them there
    said = refused(finetuned, RECORDED)
    assert f"The {len(stored.items)} judgements" in said and "another model" in said and "samdpo_annotate 901 0" in said


@pytest.mark.parametrize("change", ["candidates.count=3", "candidates.kind=thresholds"])
def test_candidates_of_another_plan_are_refused(finetuned, stored, change):
    people_rank(stored, stored.items)
    assert "this model made with another plan" in refused(finetuned, RECORDED, change)


def test_settings_that_shape_no_candidate_may_change(finetuned, stored):
    people_rank(stored, stored.items[:1])
    begun(finetuned, RECORDED, "seed=7", "loss.reduction=sum", "lr=0.01", "annotator.noise=0.1")


def test_the_virtual_annotator_names_the_people_where_it_has_no_truth(finetuned, stored):
    file = finetuned.preprocessed / "splits_final.json"
    splits = read_json(file)
    splits[0]["unlabelled"] = ["xray_ul_001"]
    write_json(file, splits)
    with pytest.raises(TrainingError, match="samdpo_annotate 901 0"):
        finetuned.trainer("align_preferences").initialize()


# ---- stop and go on -------------------------------------------------------------------------------------------------


def test_a_continued_training_ends_with_the_same_bytes_whatever_people_said_meanwhile(
    finetuned, stored, tmp_path, monkeypatch
):
    people_rank(stored, stored.items[:3])
    other = copied(finetuned, tmp_path / "other")
    own = other.results / "preferences.sqlite"  # is written in place, so that a link is no copy
    content = own.read_bytes()
    own.unlink()
    own.write_bytes(content)
    fold = stopped_after_two_epochs(finetuned)
    people_rank(stored, stored.items[3:], smaller_first)
    people_rank(stored, stored.items[:3], smaller_first, "bob")
    resumed = finetuned.train("align_preferences", "epochs=4", RECORDED, resume=True)
    assert len(resumed.unlabelled_keys) == 3 and len(resumed.run_log.history["loss"]) == 4
    for name, value in other.environment().items():
        monkeypatch.setenv(name, value)
    uninterrupted = other.train("align_preferences", "epochs=4", RECORDED)
    assert (fold / FINAL).read_bytes() == (uninterrupted.fold_folder / FINAL).read_bytes()
    assert read_json(fold / "judgements.json") == read_json(uninterrupted.fold_folder / "judgements.json")


def stopped_after_two_epochs(phantoms) -> Path:
    """A training on recorded judgements that is interrupted in its third epoch; its fold."""
    trainer = interrupt(phantoms, "align_preferences", "epochs=4", RECORDED, after=2)
    assert checkpoints.load_latest(trainer.fold_folder)[1]["epoch"] == 2
    return trainer.fold_folder


def test_training_anew_learns_from_what_is_there_now(finetuned, stored):
    people_rank(stored, stored.items[:1])
    begun(finetuned, RECORDED)
    people_rank(stored, stored.items[1:3])
    assert len(begun(finetuned, RECORDED).unlabelled_keys) == 3


def test_a_model_folder_holds_no_names(finetuned, stored):
    people_rank(stored, stored.items[:2], name="Dr. Grey")
    people_rank(stored, stored.items[:1], name="bob")
    file = begun(finetuned, RECORDED).fold_folder / "judgements.json"
    assert "Grey" not in file.read_text() and "bob" not in file.read_text()
    people = [one["annotator"] for one in read_json(file)["judgements"]]
    assert people == ["person 1", "person 1", "person 2"]


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_takes_annotator_and_database(finetuned, stored, tmp_path, monkeypatch):
    people_rank(stored, stored.items[:2])
    elsewhere = tmp_path / "elsewhere.sqlite"
    (finetuned.results / "preferences.sqlite").rename(elsewhere)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr("sys.argv", ["samdpo_train", "901", "align_preferences", "0", "-device", "cpu", "--annotator",
                                     "recorded", "--database", f"sqlite:///{elsewhere}", "--epochs", "1"])
    main()
    assert len(read_json(finetuned.folder("align_preferences") / "fold_0" / "judgements.json")["judgements"]) == 2
    assert (finetuned.folder("align_preferences") / "fold_0" / FINAL).is_file()

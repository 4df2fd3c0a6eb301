"""Align on what people said: which judgements a training learns from, and its candidates and rankings."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from samdpo.align.candidate_set import describe_set
from samdpo.errors import TrainingError
from samdpo.files import read_json, write_json
from samdpo.model.views import view_mask
from samdpo.paths import number_of, plans_option
from samdpo.preferences.agreement import mean_tau, scores_of
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.as_json import judgement_from_json, judgement_to_json
from samdpo.preferences.losses import candidate_weights
from samdpo.preferences.recorded import RecordedAnnotator
from samdpo.preferences.records import CandidateSet, Judgement
from samdpo.preferences.stored_candidates import StoredCandidates
from samdpo.training.batches import Batch
from samdpo.training.slice_labels import SliceKey

if TYPE_CHECKING:
    from samdpo.align.trainer import AlignTrainer
    from samdpo.annotate.database.database import PreferenceDatabase

log = logging.getLogger(__name__)

SNAPSHOT = "judgements.json"


def recorded_annotator(trainer: AlignTrainer) -> RecordedAnnotator:
    """The people a training learns from.

    When a training begins, the judgements that are there then are written to ``fold_X/judgements.json``, people as
    numbers; it is read again when the training goes on, so that judgements made meanwhile change nothing.

    Args:
        trainer: initialised; a checkpoint, if any, is loaded.

    Raises:
        TrainingError: there are no judgements, or they are about candidates of another model or other settings.
    """
    wanted = describe_set(trainer)
    snapshot = trainer.fold_folder / SNAPSHOT


    def write() -> None:
        judgements = [judgement_to_json(judgement) for judgement in _judgements(trainer, wanted)]
        write_json(snapshot, {"candidate_set": wanted.id, "judgements": judgements})

    if trainer.current_epoch == 0:
        trainer.processes.once(write)
    content = read_json(snapshot, error=TrainingError, remedy="Start the training again without --c.")
    annotator = RecordedAnnotator(
        StoredCandidates.open(wanted.folder), [judgement_from_json(one) for one in content["judgements"]],
        trainer.stage.loss,
    )
    judgements = annotator.judgements
    if not annotator.slices() and trainer.stage.annotator.kind == "recorded":
        raise TrainingError(
            f"The {len(judgements)} judgements of fold {trainer.data.fold} of {trainer.plans.dataset_name} prefer no "
            f"candidate to another ({_counts(annotator)}), so there is nothing to learn. Go on with: "
            f"{annotate(trainer)}"
        )
    log.info("Learning from %d judgements of %d people on %d of %d items: %s.", len(judgements),
             len({judgement.annotator for judgement in judgements}), len({j.item for j in judgements}),
             len(annotator.stored.items), _counts(annotator))
    tau, compared = mean_tau(scores_of(judgements, {item.id: item.candidates for item in annotator.stored.items}))
    if compared:
        log.info("Agreement between people: Kendall's tau %.2f over %d comparisons.", tau, compared)
    return annotator


def judged_slices(trainer: AlignTrainer) -> list[SliceKey]:
    """The unlabelled slices on which people prefer something; with ``mixed`` also those that have a hidden truth."""
    judged = trainer.people.slices()
    if trainer.stage.annotator.kind == "mixed":
        judged |= {key for key in trainer.unlabelled_keys if trainer.data.slices.has_label(key[0])}
    return [key for key in trainer.unlabelled_keys if key in judged]


def ranked_by_people(
    trainer: AlignTrainer, batch: Batch, embeddings: Tensor, logits: Tensor
) -> tuple[Tensor, Ranking]:
    """Stored candidates of a batch's slices and people's word on them.

    With ``mixed`` the virtual annotator ranks candidates of the current policy for the prompts that no one has
    judged, where there is a truth; otherwise those prompts carry no signal.

    Args:
        trainer: after ``on_train_start``.
        batch: N prompts on slices under views that only flip.
        embeddings: (B, C, h, w) of the batch.
        logits: (N, H, W) of the current policy.

    Returns:
        (N, K, H, W) bool and a ranking that brings its weights, on the device of ``logits``.
    """
    annotator, n = trainer.people, len(logits)
    k = annotator.stored.items[0].candidates
    candidates = torch.zeros(n, k, *logits.shape[-2:], dtype=torch.bool)
    weights, valid = torch.zeros(n, k), torch.zeros(n, dtype=torch.bool)
    if trainer.stage.annotator.kind == "mixed":
        truth, known = _truths(batch, logits)
        drawn, ranking = trainer.drawn_candidates(batch, embeddings, logits, truth)
        candidates, weights = drawn.cpu(), candidate_weights(ranking, trainer.stage.loss).cpu()
        valid = ranking.valid.cpu() & known
    rows = [(sample, prompt) for sample in batch.samples for prompt in sample.prompts]
    for row, (sample, prompt) in enumerate(rows):
        place = (*sample.key, prompt.structure)
        said = annotator.weights(place)
        if said is not None:
            candidates[row] = view_mask(annotator.candidates(place), sample.view)
            weights[row], valid[row] = said, said.any()
    order = torch.argsort(weights, dim=1, descending=True, stable=True)
    ranking = Ranking(order, weights, torch.zeros_like(order), valid, "ranking", weights)
    return candidates.to(logits.device), ranking.to(logits.device)


def _truths(batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
    """(N, H, W) bool, empty where there is no truth, and (N,) bool whether there is one."""
    known = torch.cat([torch.full((len(s.prompts),), s.truth is not None) for s in batch.samples])
    truth = torch.zeros(logits.shape, dtype=torch.bool)
    found = [sample.truth for sample in batch.samples if sample.truth is not None]
    if found:
        truth[known] = torch.cat(found)
    return truth, known


def annotate(trainer: AlignTrainer) -> str:
    """The command with which people go on ranking."""
    number = number_of(trainer.plans.dataset_name)
    return f"samdpo_annotate {number} {trainer.data.fold}{plans_option(trainer.plans.plans_name)}"


def _judgements(trainer: AlignTrainer, wanted: CandidateSet) -> list[Judgement]:
    """The judgements of a set; people as numbers, since a model folder may be passed on."""
    # Imported here: without people a training needs no database.
    from samdpo.annotate.database.database import PreferenceDatabase
    from samdpo.annotate.database.locate import database_url

    database = PreferenceDatabase.open(database_url(trainer.plans.dataset_name), create=False)
    try:
        found = database.judgements(wanted.id)
        if not found:
            raise TrainingError(_refusal(trainer, wanted, database))
    finally:
        database.close()
    people = {name: f"person {i}" for i, name in enumerate(dict.fromkeys(j.annotator for j in found), 1)}
    return [dataclasses.replace(judgement, annotator=people[judgement.annotator]) for judgement in found]


def _refusal(trainer: AlignTrainer, wanted: CandidateSet, database: PreferenceDatabase) -> str:
    """Why there is nothing to learn from: nothing is judged, or the candidates are another model's or plan's."""
    where = f"fold {wanted.fold} of {wanted.dataset} in {database.url}"
    others = {
        one.id: (one, len(database.judgements(one.id)))
        for one in database.candidate_sets() if (one.dataset, one.fold) == (wanted.dataset, wanted.fold)
    }
    judged = [(one, count) for one, count in others.values() if count]
    if not judged:
        return f"There are 0 judgements of {where}, so there is nothing to learn from. Type first: {annotate(trainer)}"
    total = sum(count for _, count in judged)
    if any(one.model_hash == wanted.model_hash for one, _ in judged):
        return (
            f"The {total} judgements of {where} are about candidates that this model made with another plan: the "
            "settings under 'candidates', the prompts or the preprocessing have changed since. Train with the settings "
            f"they were made with, or rank the candidates of the present ones: {annotate(trainer)}"
        )
    made, found = judged[-1][0].model_hash[:12], wanted.model_hash[:12]
    return (
        f"The {total} judgements of {where} are about candidates of another model (SHA-256 {made}…) than the one this "
        f"training starts from ({trainer.reference_file}, {found}…), which was trained anew since. Put the earlier "
        f"weights back, or rank the candidates of the present ones: {annotate(trainer)}"
    )


def _counts(annotator: RecordedAnnotator) -> str:
    verdicts = annotator.verdicts()
    return (f"{verdicts['ranked']} ranked, {verdicts['none_acceptable']} with none acceptable, "
            f"{verdicts['skipped']} skipped")

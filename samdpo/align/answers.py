"""Who says which proposals are better: the kinds of a plan's ``annotator`` differ in nothing else.

People's answers come out of a database, which stands on a higher floor: it is found by its name.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from samdpo.align.judge import Judge, VirtualJudge
from samdpo.align.proposer import EncodedBatch, Proposer
from samdpo.errors import TrainingError
from samdpo.extensions import find
from samdpo.files import read_json, write_json
from samdpo.model.slice_labels import known_part
from samdpo.model.views import view_mask
from samdpo.paths import number_of, plans_option
from samdpo.preferences.agreement import mean_tau, scores_of
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.as_json import judgement_from_json, judgement_to_json
from samdpo.preferences.losses import candidate_weights
from samdpo.preferences.page_annotator import PageAnnotator, own_order
from samdpo.preferences.recorded import RecordedAnnotator
from samdpo.preferences.records import CandidateSet, Judgement
from samdpo.preferences.stored_candidates import StoredCandidates
from samdpo.preprocessing.store import IGNORED, SliceKey
from samdpo.training.distributed import Processes
from samdpo.training.fold_data import FoldData

if TYPE_CHECKING:
    from samdpo.plans import StagePlan

log = logging.getLogger(__name__)

SNAPSHOT = "judgements.json"


class JudgementSource(Protocol):
    """Where judgements come from: what the extension ``database`` of the kind ``judgements`` opens for a dataset."""

    url: str

    def candidate_sets(self) -> list[CandidateSet]:
        """Every set about which anything may have been said."""

    def judgements(self, candidate_set: str) -> list[Judgement]:
        """Of a set, those that were not undone."""

    def close(self) -> None:
        """Nothing more is asked."""


class Answers(ABC):
    """Says something about proposals on unlabelled slices.

    Args:
        data: the fold.
        stage: ``annotator``, ``loss`` and seed.
    """

    judge: Judge | None = None  # who ranks places; None where nobody has seen any

    def __init__(self, data: FoldData, stage: StagePlan) -> None:
        self.data, self.stage = data, stage

    @abstractmethod
    def begin(self, wanted: CandidateSet, folder: Path, resumed: bool, processes: Processes) -> None:
        """Find out what was said; called once before a training begins or goes on.

        Args:
            wanted: the set that the training's proposer and its starting model make.
            folder: of the fold, for what a training that goes on has to find again.
            resumed: whether it goes on.
            processes: that train together.
        """

    @abstractmethod
    def usable(self, keys: Sequence[SliceKey]) -> list[SliceKey]:
        """Those of some unlabelled slices about which something is said, or may be."""

    @abstractmethod
    def said(self, stored: StoredCandidates) -> list[Judgement]:
        """What was said about the items of a set, each item once a person; after :meth:`begin`."""

    @abstractmethod
    def ask(self, slices: EncodedBatch, proposer: Proposer, generator: torch.Generator) -> tuple[Tensor, Ranking]:
        """Proposals (N, K, H, W) bool, 0 on ignored pixels, and what is said about them, on the logits' device."""


class VirtualAnswers(Answers):
    """The virtual annotator ranks what is proposed at each step; it needs the hidden truth."""

    def __init__(self, data: FoldData, stage: StagePlan) -> None:
        super().__init__(data, stage)
        self.judge = VirtualJudge(stage.annotator, stage.seed)

    def begin(self, wanted: CandidateSet, folder: Path, resumed: bool, processes: Processes) -> None:
        """Nothing was said: it is asked at each step."""

    def usable(self, keys: Sequence[SliceKey]) -> list[SliceKey]:
        """Those that have a hidden truth.

        Raises:
            TrainingError: none has.
        """
        judged = [key for key in keys if self.data.slices.has_label(key[0])]
        plans, number = self.data.plans, number_of(self.data.plans.dataset_name)
        if not judged:
            raise TrainingError(
                f"None of the {len(keys)} unlabelled slices has a hidden truth, which the virtual annotator compares "
                f"candidates with. Simulate with: samdpo_plan_and_preprocess -d {number} --labelled 0.1, let people "
                f"rank them with: {annotation_command(self.data)}, or learn from the model's own masks with: "
                f"samdpo_train {number} align_self_training {self.data.fold}" + plans_option(plans.plans_name)
            )
        if len(judged) < len(keys):
            log.warning("%d unlabelled slices have no hidden truth; the virtual annotator leaves them out.",
                        len(keys) - len(judged))
        return judged

    def said(self, stored: StoredCandidates) -> list[Judgement]:
        """Item by item in the order of work, until the plan's minutes are spent."""
        structures, places = self.data.plans.structures, self.stage.places
        annotator = PageAnnotator(places, self.stage.annotator.noise, self.stage.seed)
        found, seconds = [], 0.0
        for item in stored.items:
            if not self.data.slices.has_label(item.case):
                continue
            plan = structures[item.structure]
            label = self.data.slices.label(item.case, item.slice_index)
            masks = stored.masks(item) & (label != IGNORED)  # which nobody can judge
            answer = annotator.answer(item, masks, label == plan.label, has_box=plan.components == 1)
            seconds += answer.seconds
            if places.minutes and seconds > 60 * places.minutes:
                break
            found.append(answer)
        return found

    def ask(self, slices: EncodedBatch, proposer: Proposer, generator: torch.Generator) -> tuple[Tensor, Ranking]:
        """Proposed now."""
        proposals = proposer.propose(slices, generator)
        # Proposals agree on ignored pixels, which nobody can judge, so that these carry no signal.
        proposals = dataclasses.replace(proposals, masks=known_part(proposals.masks, slices.batch.counted))
        return proposals.masks, self.judge.rank(proposals, slices, generator)


class OwnAnswers(VirtualAnswers):
    """Control: the judge's own order of what is shown stands for the answers. Nobody is asked, no truth is looked at.

    Without it nobody could say whether ``align`` learns from what somebody said, or from its own guesses once more.
    Answers to hold back there are none: a model always agrees with itself (``places.held_back`` is to be 0).
    """

    def usable(self, keys: Sequence[SliceKey]) -> list[SliceKey]:
        """All of them.

        Raises:
            TrainingError: the stage asks about pixels, of which no judge has an order, or holds answers back.
        """
        command = f"samdpo_train {number_of(self.data.plans.dataset_name)} STAGE {self.data.fold}"
        if self.stage.candidates.kind != "places":
            raise TrainingError(
                f"'annotator.kind' is 'judge' where 'candidates.kind' is {self.stage.candidates.kind!r}; a judge has "
                f"an order of places alone. Choose a stage about places, or: {command} --set annotator.kind=virtual"
            )
        if self.stage.places.held_back:
            raise TrainingError(
                f"'annotator.kind' is 'judge' where 'places.held_back' is {self.stage.places.held_back:g}; expected "
                "0, since its own answers held back would always be for the model before. Type: "
                f"{command} --set annotator.kind=judge places.held_back=0"
            )
        return list(keys)

    def said(self, stored: StoredCandidates) -> list[Judgement]:
        """Of every item the order in which it is shown, the model's own mask first; it takes no time."""
        return [own_order(item) for item in stored.items]


class RecordedAnswers(Answers):
    """People have ranked stored proposals; what nobody has judged carries no signal."""

    people: RecordedAnnotator | None = None
    alone = True  # whether nobody says anything about the rest

    def usable(self, keys: Sequence[SliceKey]) -> list[SliceKey]:
        """Those on which people prefer something; all of them before it is known what people said."""
        if self.people is None:
            return list(keys)
        if self.stage.candidates.kind == "places":
            return list(keys)  # the judge is of use on all of them
        judged = self.people.slices()
        return [key for key in keys if key in judged or self.has_other_answer(key)]

    def has_other_answer(self, key: SliceKey) -> bool:
        """Whether something is said about a slice that nobody has judged."""
        return False

    def begin(self, wanted: CandidateSet, folder: Path, resumed: bool, processes: Processes) -> None:
        """Read the judgements.

        When a training begins, those that are there then are written to ``judgements.json``, people as numbers; it is
        read again when the training goes on, so that judgements made meanwhile change nothing.

        Raises:
            TrainingError: there are none, or they are about candidates of another model or other settings.
        """
        snapshot = folder / SNAPSHOT

        def write() -> None:
            judgements = [judgement_to_json(judgement) for judgement in self._judgements(wanted)]
            write_json(snapshot, {"candidate_set": wanted.id, "judgements": judgements})

        if not resumed:
            processes.once(write)
        content = read_json(snapshot, error=TrainingError, remedy="Start the training again without --c.")
        stored = StoredCandidates.open(wanted.folder)
        judgements = [judgement_from_json(one) for one in content["judgements"]]
        self.people = RecordedAnnotator(stored, judgements, self.stage.loss)
        judgements, verdicts = self.people.judgements, self.people.verdicts()
        counts = (f"{verdicts['ranked']} ranked, {verdicts['accepted']} accepted, "
                  f"{verdicts['none_acceptable']} with none acceptable, "
                  f"{verdicts['skipped']} skipped")
        places = self.stage.candidates.kind == "places"
        learnable = [j for j in judgements if j.box or j.point] if places else []
        if not self.people.slices() and not learnable and self.alone:
            raise TrainingError(
                f"The {len(judgements)} judgements of fold {wanted.fold} of {wanted.dataset} prefer no candidate to "
                f"another ({counts}), so there is nothing to learn. Go on with: {annotation_command(self.data)}"
            )
        log.info("Learning from %d judgements of %d people on %d of %d items: %s.", len(judgements),
                 len({judgement.annotator for judgement in judgements}), len({j.item for j in judgements}),
                 len(stored.items), counts)
        tau, compared = mean_tau(scores_of(judgements, {item.id: item.candidates for item in stored.items}))
        if compared:
            log.info("Agreement between people: Kendall's tau %.2f over %d comparisons.", tau, compared)

    def said(self, stored: StoredCandidates) -> list[Judgement]:
        """The people's judgements."""
        return list(self.people.judgements)

    def ask(self, slices: EncodedBatch, proposer: Proposer, generator: torch.Generator) -> tuple[Tensor, Ranking]:
        """The stored ones, under the view of each slice; the ranking brings its weights."""
        candidates, weights, valid = self.unjudged(slices, proposer, generator)
        rows = [(sample, prompt) for sample in slices.batch.samples for prompt in sample.prompts]
        for row, (sample, prompt) in enumerate(rows):
            place = (*sample.key, prompt.structure)
            said = self.people.weights(place)
            if said is not None:
                candidates[row] = view_mask(self.people.candidates(place), sample.view)
                weights[row], valid[row] = said, said.any()
        order = torch.argsort(weights, dim=1, descending=True, stable=True)
        ranking = Ranking(order, weights, torch.zeros_like(order), valid, "ranking", weights)
        return candidates.to(slices.logits.device), ranking.to(slices.logits.device)

    def unjudged(
        self, slices: EncodedBatch, proposer: Proposer, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What stands for prompts that nobody has judged: proposals (N, K, H, W), weights (N, K), valid (N,); CPU."""
        n, k = len(slices.logits), self.people.stored.items[0].candidates
        candidates = torch.zeros(n, k, *slices.logits.shape[-2:], dtype=torch.bool)
        return candidates, torch.zeros(n, k), torch.zeros(n, dtype=torch.bool)

    def _judgements(self, wanted: CandidateSet) -> list[Judgement]:
        """The judgements of a set; people as numbers, since a model folder may be passed on."""
        source: JudgementSource = find("judgements", "database")(wanted.dataset)
        try:
            found = source.judgements(wanted.id)
            if not found:
                raise TrainingError(_refusal(wanted, source, annotation_command(self.data)))
        finally:
            source.close()
        people = {name: f"person {i}" for i, name in enumerate(dict.fromkeys(j.annotator for j in found), 1)}
        return [dataclasses.replace(judgement, annotator=people[judgement.annotator]) for judgement in found]


class MixedAnswers(RecordedAnswers):
    """People where somebody has judged, the virtual annotator where nobody has and there is a hidden truth."""

    alone = False

    def __init__(self, data: FoldData, stage: StagePlan) -> None:
        super().__init__(data, stage)
        self.virtual = VirtualAnswers(data, stage)

    def has_other_answer(self, key: SliceKey) -> bool:
        """Where there is a hidden truth."""
        return self.data.slices.has_label(key[0])

    def said(self, stored: StoredCandidates) -> list[Judgement]:
        """The people's judgements, and the virtual annotator's on the other items."""
        people = super().said(stored)
        judged = {judgement.item for judgement in people}
        return [*people, *(one for one in self.virtual.said(stored) if one.item not in judged)]

    def unjudged(
        self, slices: EncodedBatch, proposer: Proposer, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Proposed now and ranked by the virtual annotator."""
        batch, logits = slices.batch, slices.logits
        known = torch.cat([torch.full((len(s.prompts),), s.truth is not None) for s in batch.samples])
        truth = torch.zeros(logits.shape, dtype=torch.bool)  # empty where there is none
        if known.any():
            truth[known] = torch.cat([sample.truth for sample in batch.samples if sample.truth is not None])
        with_truth = dataclasses.replace(slices, batch=dataclasses.replace(batch, truth=truth))
        drawn, ranking = self.virtual.ask(with_truth, proposer, generator)
        return drawn.cpu(), candidate_weights(ranking, self.stage.loss).cpu(), ranking.valid.cpu() & known


def annotation_command(data: FoldData) -> str:
    """What people type to go on ranking."""
    plans = data.plans
    return f"samdpo_annotate {number_of(plans.dataset_name)} {data.fold}{plans_option(plans.plans_name)}"


def _refusal(wanted: CandidateSet, source: JudgementSource, command: str) -> str:
    """Why there is nothing to learn from: nothing is judged, or the candidates are another model's or plan's."""
    where = f"fold {wanted.fold} of {wanted.dataset} in {source.url}"
    others = {
        one.id: (one, len(source.judgements(one.id)))
        for one in source.candidate_sets() if (one.dataset, one.fold) == (wanted.dataset, wanted.fold)
    }
    judged = [(one, count) for one, count in others.values() if count]
    if not judged:
        return f"There are 0 judgements of {where}, so there is nothing to learn from. Type first: {command}"
    total = sum(count for _, count in judged)
    if any(one.model_hash == wanted.model_hash for one, _ in judged):
        return (
            f"The {total} judgements of {where} are about candidates that this model made with another plan: the "
            "settings under 'candidates', the prompts, the preprocessing or who proposes have changed since. Train "
            f"with the settings they were made with, or rank the candidates of the present ones: {command}"
        )
    made, found = judged[-1][0].model_hash[:12], wanted.model_hash[:12]
    return (
        f"The {total} judgements of {where} are about candidates of another model (SHA-256 {made}…) than the one this "
        f"training starts from (SHA-256 {found}…), which was trained anew since. Put the earlier weights back, or rank "
        f"the candidates of the present ones: {command}"
    )

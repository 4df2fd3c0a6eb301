"""Stage 2: learn from preferences over proposals of unlabelled images (paper Sec. 3.2, Eq. 5)."""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from samdpo.align.answers import Answers, VirtualAnswers
from samdpo.align.candidate_set import CandidateMaker, PlaceSetMaker, describe_set
from samdpo.align.judge import Judge, QualityJudge
from samdpo.align.next_stage import UnlabelledTrainer
from samdpo.align.objectives import Objective, ObjectiveNames
from samdpo.align.places import BEFORE, JUDGE_ALONE, NEW, Answered, Kept, PlaceLearning
from samdpo.align.proposer import EncodedBatch, Proposer
from samdpo.align.reference import ReferenceModel
from samdpo.align.rounds import PlaceRounds
from samdpo.errors import ConfigurationError
from samdpo.extensions import find
from samdpo.files import content_hash
from samdpo.model.batches import Batch
from samdpo.model.views import IDENTITY
from samdpo.paths import number_of
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.records import CandidateSet
from samdpo.preferences.stored_candidates import StoredCandidates
from samdpo.preprocessing.store import SliceKey
from samdpo.schema import to_dict
from samdpo.training.finetune import batch_dice
from samdpo.training.fold_data import FoldData, own_prompts
from samdpo.training.trainer import Metrics

log = logging.getLogger(__name__)


class AlignTrainer(UnlabelledTrainer):
    """Trains the mask decoder alone; encoder outputs and reference logits are computed once and kept.

    Its parts are made by four hooks: ``build_objective`` (what is learned), ``build_proposer`` (what is asked about),
    ``build_answers`` (who answers) and ``build_judge`` (who decides between places). No part knows the trainer.
    """

    objectives: Collection[str] = ObjectiveNames()
    answered: Answered  # of places: what was said, read
    original: FoldData  # of places: the fold under the prompts before
    kept: Kept | None = None  # of places: which model was kept, and why

    def build_objective(self) -> Objective | None:
        """What is learned from unlabelled slices: the plan's ``objective``; None where the trainer itself says it."""
        objective = find("objective", self.stage.objective)
        return objective(self.stage, self.mask_cut, self.loss, self.processes.divisor)

    def build_proposer(self) -> Proposer:
        """What somebody is asked about: the same in training, in the rounds about places, and on the page."""
        return Proposer(self.plans, self.stage.candidates)

    def build_answers(self) -> Answers | None:
        """Who is asked: the plan's ``annotator.kind``; None where the objective asks nobody."""
        asks = self.objective is not None and self.objective.asks
        return find("annotator", self.stage.annotator.kind)(self.data, self.stage) if asks else None

    def build_judge(self) -> Judge | None:
        """Who decides between places: whoever answers, else the model itself; None where nobody has seen them."""
        return QualityJudge(self.mask_cut) if self.answers is None else self.answers.judge

    def build_places(self) -> PlaceLearning | None:
        """What learns from answers about places; None where the plan's ``candidates`` are of another kind."""
        if self.stage.candidates.kind != "places" or self.answers is None:
            return None
        return PlaceLearning(self.data, self.stage, self.fold_folder, self.device, self.samples, self.processes)

    # ---- set-up -------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Also make the parts and find the unlabelled slices; refuse to start without any.

        Raises:
            ConfigurationError: a proposer of one's own where places are asked about.
        """
        super().initialize()
        self.objective, self.proposer = self.build_objective(), self.build_proposer()
        self.answers = self.build_answers()
        self.places = self.build_places()
        if type(self.places) is PlaceLearning and type(self.proposer) is not Proposer:
            raise ConfigurationError(
                f"{type(self).__name__}.build_proposer gives a {type(self.proposer).__name__}, and the stage "
                f"{self.stage_name} asks about places, whose masks come from prompting.blobs and prompting.proposals. "
                f"Type: samdpo_train {number_of(self.plans.dataset_name)} align_preferences {self.data.fold} -tr …"
            )
        if self.objective is not None and not self.objective.trains:
            self.num_epochs = 0
        self.unlabelled_keys = self.unlabelled_slices()

    def drawn(self, keys: list[SliceKey]) -> list[SliceKey]:
        """Of places, those that somebody is asked about."""
        return keys if self.places is None else self.places.drawn(keys)

    def rankable(self, keys: list[SliceKey]) -> list[SliceKey]:
        """The unlabelled slices this stage can use; whoever answers may know nothing about some of them."""
        keys = super().rankable(keys)
        return keys if self.answers is None else self.answers.usable(keys)

    def on_train_start(self) -> None:
        """Find what people said; compute what the frozen encoder says, once; align the prompts."""
        if self.places is not None and isinstance(self.answers, VirtualAnswers):
            self.store_candidates()  # people have had theirs made by the page
        if self.answers is not None:
            self.answers.begin(self.candidate_set(), self.fold_folder, self.current_epoch > 0, self.processes)
            self.unlabelled_keys = self.answers.usable(self.unlabelled_keys)
        super().on_train_start()
        if self.places is not None:
            self.reference = ReferenceModel(self.starting_network(), self.plans)
            self.learn_places()
            return
        self.fill_features()
        self.reference = ReferenceModel(self.starting_network(), self.plans)
        aligned = self.place_rounds().run()
        if aligned is not self.data:
            self.use_prompts(aligned)

    def learn_places(self) -> None:
        """Read what was said, let the judges learn it, and train on what was meant, under the judges' prompts."""
        stored = StoredCandidates.open(self.candidate_set().folder).of_cases(set(self.unlabelled_cases()))
        self.answered = self.places.read(stored, self.answers.said(stored), self.unlabelled_keys)
        self.original, self.data = self.data, self.places.learn(self.answered, self.unlabelled_keys)
        self.samples = self.data.samples(self.stage.augmentation)
        self.unlabelled_keys = [key for key in self.unlabelled_keys if key in self.answered.slices]
        if self.data is not self.original:  # refitted towers may see a structure where there was none, or none
            train, held_back = self.do_split()
            self.train_keys, self.held_back_keys = self.samples.keys(train), self.samples.keys(held_back)
            shown = self.data.prompts.shown(sorted({case for case, _ in self.unlabelled_keys}))
            self.unlabelled_keys = [key for key in self.unlabelled_keys if key in shown]
        if not self.unlabelled_keys:
            log.warning("No answer says which mask is right, so the network stays as it is.")
            self.num_epochs = 0
        elif self.num_epochs and not self.places.can_train(self.answered):
            self.num_epochs = 0
        self.fill_features()

    def place_rounds(self) -> PlaceRounds:
        """The rounds about places before the first epoch."""
        return PlaceRounds(
            self.data, self.stage, self.fold_folder, self.unlabelled_keys, self.epoch_slices.seen(self.unlabelled_keys),
            self.proposer, self.build_judge(), self.reference, content_hash(Path(self.reference_file)), self.embeddings,
            self.generator, self.device, self.processes,
        )

    def use_prompts(self, data: FoldData) -> None:
        """Train on the same fold under other prompts; a slice may show more structures or fewer."""
        self.data, self.samples = data, data.samples(self.stage.augmentation)
        train, held_back = self.do_split()
        self.train_keys, self.held_back_keys = self.samples.keys(train), self.samples.keys(held_back)
        self.unlabelled_keys = self.rankable(self.samples.keys(self.unlabelled_cases()))
        self.fill_features()

    # ---- what people are shown ----------------------------------------------------------------------------------

    def candidate_set(self) -> CandidateSet:
        """The set of stored proposals that people may have judged for this training."""
        return describe_set(self.data, self.stage_name, self.proposer, Path(self.reference_file))

    def store_candidates(self) -> StoredCandidates:
        """Make what is missing of :meth:`candidate_set`; after ``initialize``."""
        def prepare(keys: list[SliceKey]) -> ReferenceModel:
            self.keep_features(keys, (IDENTITY,))
            return ReferenceModel(self.starting_network(), self.plans, memory_gib=0)

        if self.places is not None:
            return PlaceSetMaker(self.candidate_set(), self.data, self.samples, self.unlabelled_keys, prepare,
                                 self.embeddings, self.places, self.mask_cut).run()
        return CandidateMaker(self.candidate_set(), self.data, self.samples, self.unlabelled_keys, prepare,
                              self.embeddings, self.proposer).run()

    # ---- steps --------------------------------------------------------------------------------------------------

    def unlabelled_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Loss on the unlabelled slices of a step, weighted as it is summed, and what to log."""
        embeddings, logits = self.decode(batch)
        slices = EncodedBatch(batch, embeddings, self.reference, logits)
        loss, metrics = self.objective.loss(slices, lambda: self.ask(slices))
        if batch.truth is not None:  # simulated: what the annotator sees; logged, never learned from
            metrics["unlabelled_dice"] = batch_dice(logits.detach(), batch.truth.to(self.device), batch.counted)
        return loss, metrics

    def ask(self, slices: EncodedBatch) -> tuple[Tensor, Ranking]:
        """Proposals (N, K, H, W) of a step and the annotator's word on them: made now, or stored ones.

        Of places it is the mask that was meant, (N, 1, H, W), and its weight.
        """
        if self.places is not None:
            return self.places.labels(slices, self.answered)
        # Salted by what is in the batch, so that a continued run draws what an uninterrupted one would.
        salt = zlib.crc32(repr([sample.key for sample in slices.batch.samples]).encode())
        return self.answers.ask(slices, self.proposer, self.generator(self.current_epoch, salt))

    def on_train_end(self) -> None:
        """Of places: keep the new model only where it is no worse by what is known; see :meth:`keep_best`."""
        if self.places is not None:
            self.keep_best()
            self.places.tidy()
        super().on_train_end()

    def keep_best(self) -> None:
        """Of the model before, the same network under the judge's prompts, and the new one, keep the best.

        Answers and outlines decide: see :meth:`samdpo.align.places.PlaceLearning.best_of`.
        """
        before = self.reference.network
        models = {NEW: (self.network, self.data)} if self.num_epochs else {}
        if self.data is not self.original:
            models[JUDGE_ALONE] = (before, self.data)
        models[BEFORE] = (before, self.original)
        self.kept = self.places.best_of(models, self.answered.held_back, self.mask_cut, self.precision)
        if self.kept.name != NEW:
            self.network.load_state_dict(before.state_dict())
        if self.kept.name == BEFORE and self.data is not self.original:
            self.processes.meet()  # another may still read them
            self.processes.once(lambda: shutil.rmtree(own_prompts(self.fold_folder), ignore_errors=True))
            self.data, self.samples = self.original, self.places.samples

    def describe(self) -> dict[str, Any]:
        """Of places also which model was kept, how far each agreed with the answers held back, and what was asked."""
        if self.kept is None:
            return super().describe()
        said = self.answered
        asked = {"seconds": said.seconds, "counts": said.counts, "items": said.items}
        return super().describe() | {"kept": to_dict(self.kept), "answers": asked}

"""What is said about places: a judge learns it by Eq. 5, prompts follow the judge, what was meant is a label.

A fold's unlabelled slices get proposals of different places (:mod:`samdpo.prompting.proposals`). The judge is fitted to
the outlines first, where every proposal's overlap is known. Of each slice a few proposals are shown, the model's own
mask first; somebody accepts one, orders them, or says with a box where the structure is. The judge of the outlines is
the reference of the judge of the answers; that one chooses the place at prediction.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samdpo.align.places_figure import FIGURE, draw_places
from samdpo.align.proposer import EncodedBatch
from samdpo.align.reference import ReferenceModel
from samdpo.files import hash_of
from samdpo.model.batches import Batch, SliceSamples
from samdpo.model.places import decode_places
from samdpo.model.slices import predict_slices
from samdpo.model.views import view_mask
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.sam import SamNetwork
from samdpo.plans import StagePlan
from samdpo.preferences.annotators import Ranking
from samdpo.preferences.candidates import disagreement
from samdpo.preferences.page_annotator import NAME as VIRTUAL
from samdpo.preferences.recorded import scores
from samdpo.preferences.records import Item, Judgement
from samdpo.preferences.stored_candidates import ItemCandidates, StoredCandidates
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.fitting import MAX_SLICES, of_labelled_patients, prompted_as
from samdpo.prompting.judge import (
    SAME_PLACE,
    Outlined,
    PlaceJudge,
    Preferred,
    diverse_first,
    learn_from_answers,
)
from samdpo.prompting.making import fit_towers_of, write_prompts
from samdpo.prompting.outline_judges import OutlineJudges, Place, Unseen
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter
from samdpo.prompting.proposal_store import MeasuredProposals
from samdpo.prompting.proposals import PlaceProposer
from samdpo.prompting.regions import mask_iou
from samdpo.training.distributed import Processes
from samdpo.training.fold_data import FoldData, own_prompts
from samdpo.training.measures import evenly

log = logging.getLogger(__name__)

VERSION = 3  # raise when the code makes other sets or prompts from the same settings
GAP = 0.04  # of overlaps below which nobody tells two masks apart (Jang et al. 2026)
SHOWN_DUPLICATE = 0.9  # overlap with the model's own mask from which a proposal is not shown beside it
LEAST_HELD_BACK = 4  # answers, below which nothing is said about a model
MOST_OUTLINES = 64  # that a model is compared with
ANSWER_FOLDS = 5  # of a judge's cross-validation on the answers
_LOCATED, _PROPOSALS = "located", "proposals"  # folders in that of a fold's own prompts, of towers that are refitted
NEW, JUDGE_ALONE, BEFORE = "new", "judge alone", "before"


@dataclass(frozen=True)
class Chosen:
    """What was meant by an answer.

    Attributes:
        mask: (H, W) bool, taken as the structure; None where the answer only compares.
        weight: of the mask as a label, in [0, 1].
        seconds: the answer took.
    """

    mask: np.ndarray | None
    weight: float
    seconds: float


@dataclass(frozen=True)
class Said:
    """An answer on a place that says anything.

    Attributes:
        place: case, slice and structure.
        judgement: as it is recorded.
        masks: (K, H, W) bool that were shown.
        meant: what it comes to.
    """

    place: Place
    judgement: Judgement
    masks: np.ndarray
    meant: Chosen


@dataclass(frozen=True)
class Answered:
    """The answers of a fold, read.

    Attributes:
        chosen: what was meant, by place; those that are held back are not among them.
        held_back: likewise, of cases of which nothing is learned.
        preferred: of each structure, what the judge learns.
        said: the answers that are not held back, of which all this is.
        counts: how many were accepted, ordered, boxed, none, skipped.
        seconds: of all answers together, those that are held back among them.
        items: that could have been answered.
    """

    chosen: dict[Place, Chosen]
    held_back: dict[Place, Chosen]
    preferred: dict[str, list[Preferred]]
    counts: dict[str, int]
    seconds: float
    items: int
    said: tuple[Said, ...] = ()

    @property
    def right(self) -> dict[Place, np.ndarray]:
        """(H, W) bool masks that somebody has accepted or boxed, by place; the first of an order is not right yet."""
        return {place: one.mask for place, one in self.chosen.items() if one.mask is not None and one.weight > 0.5}

    @property
    def slices(self) -> set[SliceKey]:
        """Case and slice of the masks to learn from."""
        return {place[:2] for place, one in self.chosen.items() if one.mask is not None and one.weight > 0}


@dataclass(frozen=True)
class Kept:
    """Which model was kept after a stage.

    Attributes:
        name: ``new``, ``judge alone`` (the network before, under the judge's prompts) or ``before``.
        agreement: of each of them with the answers that were held back and with the outlines, see :func:`agreement`.
        held_back: how many these answers are; where none were asked for, the newest model is kept unseen.
        outlines: how many outlines were compared with.
        cross_validated: where answers were too few to hold any back, on what share of them the judge before points at
            the place that was meant, and judges that have learned the answers on other patients; see
            :meth:`PlaceLearning.cross_validated`.
    """

    name: str
    agreement: dict[str, float]
    held_back: int
    outlines: int = 0
    cross_validated: dict[str, float] = field(default_factory=dict)


@dataclass
class PlaceLearning:
    """Stage 2 over places, for one fold.

    Attributes:
        data: the fold, under the prompts of its plan.
        stage: ``places`` and the seed.
        folder: of the fold; new prompts lie in it.
        device: of the networks.
        samples: the fold's slices under the plan's prompts.
        processes: that train together; one of them makes what is kept.
        choices: of :meth:`cross_validated`, once answers are learned that are too few to hold any back.
    """

    data: FoldData
    stage: StagePlan
    folder: Path
    device: torch.device
    samples: SliceSamples
    processes: Processes
    choices: list[list[bool]] | None = field(default=None, init=False)

    def drawn(self, keys: Sequence[SliceKey]) -> list[SliceKey]:
        """The ``places.slices`` of some unlabelled slices that somebody is asked about, in their order; 0 is all.

        Each slice's lot depends on itself alone, so that images added later displace few of those there were.
        """
        most = self.stage.places.slices
        if not most or len(keys) <= most:
            return list(keys)
        lots = set(sorted(keys, key=lambda key: hash_of("lot", self.stage.seed, *key))[:most])
        log.info("%d of %d unlabelled slices are asked about (places.slices).", most, len(keys))
        return [key for key in keys if key in lots]

    # ---- proposals and the judge of the outlines ---------------------------------------------------------------

    @cached_property
    def outlines(self) -> OutlineJudges:
        """Proposals of the fold's slices, and the judges of its outlines: those that chose the fold's prompts."""
        data = self.data
        found = OutlineJudges(data.plans, data.slices, data.prompts.located, data.split.labelled,
                              data.split.unlabelled, data.groups, self.device)
        if data.prompter.judges:
            found.judges = dict(data.prompter.judges)
        return found

    @property
    def judges(self) -> dict[str, PlaceJudge]:
        """Of the outlines, by structure; see :meth:`prepare`."""
        return self.outlines.judges

    def prepare(self, keys: Sequence[SliceKey]) -> None:
        """Make the proposals of some slices, and of the outlines, where they are missing. All processes call it."""
        cases = sorted({case for case, _ in keys})
        self.processes.once(lambda: self.outlines.prepare(cases))

    # ---- what is shown -----------------------------------------------------------------------------------------

    def items(
        self, key: SliceKey, batch: Batch, embeddings: Tensor, reference: ReferenceModel, cut: float
    ) -> list[tuple[ItemCandidates, float]]:
        """What is shown of one slice: of each structure the model's own mask, then what the judge likes, diverse.

        Args:
            key: case and slice.
            batch: of that slice alone.
            embeddings: (1, C, h, w) of the finetuned encoder.
            reference: the finetuned model.
            cut: probability above which a pixel belongs to its mask.

        Returns:
            items, each with what the judge is unsure of: 1 less its confidence.
        """
        proposals, found = self.outlines.proposals.get(*key) if self.judges else {}, []
        prompts = batch.samples[0].prompts
        places = decode_places(reference.network, embeddings, [prompts], self.data.plans)
        own = places.at(places.chosen).sigmoid().cpu()
        for prompt, probability in zip(prompts, own):
            mask = (probability > cut)[None]
            judge, several = self.judges.get(prompt.structure), proposals.get(prompt.structure)
            if judge is None or several is None or not len(several):
                others, unsure = self._other_readings(probability, prompt), 0.5
            else:
                said = judge.judge(several.measured, several.small)
                others, unsure = self._other_places(mask, said.score, several), 1 - said.confidence
            masks = torch.cat([mask, others])[: self.stage.places.shown]
            if len(masks) > 1 and disagreement(masks) > 0:
                found.append((ItemCandidates(key[1], prompt.structure, masks.numpy(), prompt.boxes,
                                             disagreement(masks)), unsure))
        return found

    def _other_places(self, own: Tensor, score: np.ndarray, several: MeasuredProposals) -> Tensor:
        masks = torch.from_numpy(several.masks)
        unlike = (mask_iou(masks, own)[:, 0] < SHOWN_DUPLICATE).numpy().nonzero()[0]
        chosen = diverse_first(score[unlike], several.small[unlike], self.stage.places.shown - 1)
        return masks[unlike[chosen]]

    def _other_readings(self, probability: Tensor, prompt: StructurePrompt) -> Tensor:
        """Of a structure that is never elsewhere: the saliency's mask, and the network's own, smaller and larger."""
        masks = [torch.from_numpy(prompt.coarse_mask), *(probability > cut for cut in (0.3, 0.7, 0.15, 0.85))]
        kept = [probability > 0.5]
        for mask in masks:
            if mask.any() and all(float(mask_iou(mask[None], one[None])) < 0.95 for one in kept):
                kept.append(mask)
        return torch.stack(kept[1:]) if len(kept) > 1 else probability[None][:0] > 1

    # ---- what was said -----------------------------------------------------------------------------------------

    def read(
        self, stored: StoredCandidates, judgements: Sequence[Judgement], unlabelled: Sequence[SliceKey]
    ) -> Answered:
        """What was meant by every answer; several people's answers on an item all count.

        Args:
            stored: what was shown.
            judgements: not undone ones.
            unlabelled: slices of the stage, see :meth:`prepare`.
        """
        self.prepare(unlabelled)
        items = {item.id: item for item in stored.items}
        counts = dict.fromkeys(("accepted", "ordered", "boxed", "none", "skipped"), 0)
        by_place: dict[Place, list[Said]] = {}
        for said in judgements:
            item = items.get(said.item)
            if item is None:
                continue
            place = (item.case, item.slice_index, item.structure)
            masks = stored.masks(item)
            meant, kind = self._meant(said, masks, item)
            counts[kind] += 1
            if meant is not None:
                by_place.setdefault(place, []).append(Said(place, said, masks, meant))
        held = self._held_back({place[0] for place in by_place})
        chosen = {place: agreed([one.meant for one in of]) for place, of in by_place.items()}
        learned = [one for place, of in by_place.items() if place[0] not in held for one in of]
        found = Answered(
            {place: one for place, one in chosen.items() if place[0] not in held},
            {place: one for place, one in chosen.items() if place[0] in held and one.mask is not None},
            self._preferences(learned, self.outlines),
            counts, float(sum(said.seconds for said in judgements if said.item in items)), len(items), tuple(learned),
        )
        log.info("%d answers in %.1f minutes (%s); masks to learn from on %d slices, %d answers are held back.",
                 sum(counts.values()), found.seconds / 60,
                 ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "none",
                 len(found.slices), len(found.held_back))
        return found

    def _meant(self, said: Judgement, masks: np.ndarray, item: Item) -> tuple[Chosen | None, str]:
        if said.verdict == "skipped":
            return None, "skipped"
        if said.verdict == "accepted":
            return Chosen(masks[said.best], 1.0, said.seconds), "accepted"
        if said.verdict == "ranked":
            best = int(np.argmax(scores(said, len(masks))))
            return Chosen(masks[best], 0.5, said.seconds), "ordered"
        given = said.box if said.box is not None else said.point
        if given is None:
            return None, "none"
        at = {"boxes": np.array([given])} if said.box is not None else {"points": np.array([given])}
        if self.stage.places.asks == "outlines" and said.annotator == VIRTUAL:  # it stands for a whole outline
            label = self.data.slices.label(item.case, item.slice_index)
            return Chosen(label == self.data.plans.structures[item.structure].label, 1.0, said.seconds), "boxed"
        features = self.outlines.features
        proposer = PlaceProposer(features.extractor.network)
        decoded = proposer.decode(features(item.case, item.slice_index), masks.shape[-2:], **at)
        mask = decoded.masks[0].numpy()
        return (Chosen(mask, 1.0, said.seconds) if mask.any() else None), "boxed"

    def _preferences(self, said: Sequence[Said], outlines: OutlineJudges) -> dict[str, list[Preferred]]:
        """What answers prefer among the proposals that ``outlines`` has, by structure that can be elsewhere."""
        found: dict[str, list[Preferred]] = {name: [] for name in outlines.movable}
        for one in said:
            if (preferred := self._preferred(one, outlines)) is not None:
                found[one.place[2]].append(preferred)
        return found

    def _preferred(self, said: Said, outlines: OutlineJudges) -> Preferred | None:
        """The pairs of proposals that an answer tells apart."""
        place, meant = said.place, said.meant
        several = outlines.proposals.get(*place[:2]).get(place[2]) if place[2] in outlines.judges else None
        if several is None or len(several) < 2:
            return None
        pool = torch.from_numpy(several.masks)
        if said.judgement.verdict == "ranked":
            # Each shown mask is a proposal, or nearly one of refitted towers, or the model's own, which no judge sees.
            same = mask_iou(torch.from_numpy(said.masks), pool)
            worth = np.full(len(several), np.nan)
            enough, shown = 0.99 if outlines is self.outlines else SHOWN_DUPLICATE, scores(said.judgement, len(same))
            for row in same.amax(1).argsort(stable=True).tolist():  # of two that are nearly one the nearer counts
                if float(same[row].max()) > enough:
                    worth[int(same[row].argmax())] = shown[row]
            better, worse = np.nonzero(worth[:, None] > worth[None])  # comparisons with NaN are False
        else:
            overlap = mask_iou(pool, torch.from_numpy(meant.mask)[None])[:, 0].numpy()
            better, worse = np.nonzero(overlap[:, None] > overlap[None] + GAP)
        if not len(better):
            return None
        group = self.data.groups.get(place[0], place[0])
        return Preferred(several.measured, better, worse, np.full(len(better), 1 / len(better)), group)

    def can_train(self, answered: Answered) -> bool:
        """Whether the network may learn from the answers; where not, the log says why, and the judges learn alone.

        Where answers are to be held back and are too few for it, nobody could say whether the trained network is
        better. Outlines are what stage 1 learns from, and train it however few they are.
        """
        if not self._too_few(answered):
            return True
        log.warning("Too few answers to hold any back (on images of %d patients; expected %d or more), so nobody could "
                    "say whether a network that has learned them is better. It stays as it was, and the judge alone "
                    "learns where to look. Ask for more answers, or train it unseen: --set places.held_back=0",
                    len({self.data.groups.get(place[0], place[0]) for place in answered.chosen}),
                    self._least_answers())
        return False

    def _too_few(self, answered: Answered) -> bool:
        """Whether answers were to be held back, of a model that outlines do not train, and are too few for it."""
        asked = self.stage.places
        return bool(not answered.held_back and asked.held_back and asked.asks != "outlines")

    def _least_answers(self) -> int:
        """Patients with an answer from which on some are held back."""
        share = self.stage.places.held_back
        return next(count for count in itertools.count(1) if round(share * count) >= LEAST_HELD_BACK)

    def _held_back(self, cases: set[str]) -> set[str]:
        """Cases whose answers only say whether the new model is better; whole groups, none where there are few."""
        groups = sorted({self.data.groups.get(case, case) for case in cases})
        wanted = round(self.stage.places.held_back * len(groups))
        if wanted < LEAST_HELD_BACK:
            return set()
        chosen = set(np.random.default_rng(self.stage.seed).permutation(groups)[:wanted].tolist())
        return {case for case in cases if self.data.groups.get(case, case) in chosen}

    def best_of(
        self, models: Mapping[str, tuple[SamNetwork, FoldData]], held_back: Mapping[Place, Chosen], cut: float,
        precision: str,
    ) -> Kept:
        """Which of some models agrees most with what is known of places that it was not told; the first of equals.

        Known are answers that none of them has learned from, and the outlines, whose slices are prompted as if they
        were new, by judges that have not seen the patient. Outlines tell judges apart alone: the networks have learned
        these masks, the new one for longer, so that on them it counts as the one before does under the same prompts.
        Where no answers are held back, the judge that has learned them gives way where judges that learn from other
        patients' answers point at the right place less often than the judge before (:meth:`cross_validated`); and where
        it falls on the outlines by what chance would not do to so few, more than twice the standard error.

        Args:
            models: name -> network on the device, and the fold under its prompts: ``new`` where the network was
                trained, ``judge alone`` where a judge has learned, ``before``.
            held_back: what was meant by those answers.
            cut: probability above which a pixel belongs to a mask.
            precision: of the encoder.
        """
        newest = next(iter(models))
        if newest == BEFORE:
            return Kept(BEFORE, {}, len(held_back))
        if not self.stage.places.held_back or (newest == NEW and not held_back):
            log.warning("No answers are held back (places.held_back), so nobody can say whether this model is better "
                        "than the one before. Compare their validation.")
            return Kept(newest, {}, 0)
        enough, outlined = self.stage.places.accept_from, self.outlined() if JUDGE_ALONE in models else {}
        known, crossed = {**held_back, **outlined}, {}
        if not held_back and newest == JUDGE_ALONE and self.choices is not None:
            crossed = {name: round(float(np.mean(right)), 4)
                       for name, right in zip((BEFORE, JUDGE_ALONE), self.choices)}
            log.info("The chosen place is the one that was meant on this share of %d answers, by judges that have "
                     "learned those on other patients: %s.", len(self.choices[0]), _listed(crossed))
        if not known and not crossed:
            return Kept(newest, {}, 0)
        misled = crossed.get(newest, 0) < crossed.get(BEFORE, 0)

        def compare() -> tuple[dict[str, float], str]:
            every = {name: self.masks_of(*model, held_back if name == NEW else known, cut, precision)
                     for name, model in models.items()} if known else {}
            if NEW in every:
                every[NEW] = {**every.get(JUDGE_ALONE, every[BEFORE]), **every[NEW]}
            said = {name: round(agreement(masks, known, enough), 4) for name, masks in every.items()}
            if held_back:
                return said, max(said, key=said.__getitem__)
            fallen = bool(known) and _falls(every[BEFORE], every[newest], known, enough)
            return said, BEFORE if misled or fallen else newest

        said, best = self.processes.once(compare)  # so that all of them keep the same one
        if known:
            log.info("Agreement with %d answers that were held back and %d outlines (mean IoU, counted up to %g): %s.",
                     len(held_back), len(outlined), enough, _listed(said))
        if best != newest:
            then = ("this stage changes nothing: weights and prompts of the stage before are kept" if best == BEFORE
                    else "the network stays as it was, and the judge chooses its places")
            why = ("Judges that learn from other patients' answers find the place less often than the one before does"
                   if misled else "The new model agrees less with what is known than the one before does")
            log.warning("%s, so %s.", why, then)
        return Kept(best, said, len(held_back), len(outlined), crossed)

    def outlined(self) -> dict[Place, Chosen]:
        """Outlines that a judge can be asked about which has not seen the patient, of ``MOST_OUTLINES`` slices at most.

        Slices with pixels of the label ``ignore`` are left out.
        """
        found: dict[Place, Chosen] = {}
        for key in evenly(self.outlines.outlines, MOST_OUTLINES) if self.judges else []:
            for name in self.judges:
                mask, counted = self.outlines.outline((*key, name))
                unseen = self.data.groups.get(key[0], key[0]) in self.outlines.unseen[name]
                if unseen and mask.any() and counted.all():
                    found[(*key, name)] = Chosen(mask, 1.0, 0.0)
        return found

    def labels(self, slices: EncodedBatch, answered: Answered) -> tuple[Tensor, Ranking]:
        """The mask that was meant of every prompt of a step, under the view of its slice, and its weight as score.

        Args:
            slices: a batch.
            answered: of :meth:`read`.

        Returns:
            masks (N, 1, H, W) bool; a ranking of them whose ``score`` (N, 1) is the weight, 0 where nothing is known.
        """
        masks = torch.zeros(len(slices.prompts), 1, *slices.logits.shape[-2:], dtype=torch.bool)
        weights = torch.zeros(len(masks), 1)
        rows = [(sample, prompt) for sample in slices.batch.samples for prompt in sample.prompts]
        for row, (sample, prompt) in enumerate(rows):
            one = answered.chosen.get((*sample.key, prompt.structure))
            if one is not None and one.mask is not None:
                masks[row], weights[row] = view_mask(torch.from_numpy(one.mask)[None], sample.view), one.weight
        none = torch.zeros(len(masks), 1, dtype=torch.long)
        device = slices.logits.device
        return masks.to(device), Ranking(none, weights, none, weights[:, 0] > 0, "best").to(device)

    def masks_of(
        self, network: SamNetwork, data: FoldData, places: Collection[Place], cut: float, precision: str
    ) -> dict[Place, np.ndarray]:
        """What a network says of some places as prediction would, were their slices new: (H, W) bool each.

        Args:
            network: on the device.
            data: the fold, under the prompts to decode.
            places: case, slice and structure.
            cut: probability above which a pixel belongs to a mask.
            precision: of the encoder.
        """
        plans, prompts, found, order = data.plans, data.prompts.as_new, {}, list(data.plans.structures)
        encode = FrozenEncoder(network.eval(), self.device, precision)
        for case, index in sorted({place[:2] for place in places}):
            image = torch.from_numpy(data.slices.seen_image(case, index))[None]
            said = predict_slices(network, image, [prompts.get(case, index)], plans, self.device, precision,
                                  plans.inference.mirror, encode=encode)
            found |= {(case, index, name): said.probabilities[0, row] > cut for row, name in enumerate(order)}
        return {place: found[place] for place in places}

    # ---- what is learned ---------------------------------------------------------------------------------------

    def learn(self, answered: Answered, unlabelled: Sequence[SliceKey]) -> FoldData:
        """The fold under the prompts of the judges that have learned from the answers.

        Args:
            answered: of :meth:`read`.
            unlabelled: slices of the stage.

        Returns:
            the same fold where no structure has a judge.
        """
        split, own = self.data.split, own_prompts(self.folder)
        cases = sorted({*split.labelled, *(case for case, _ in unlabelled), *split.val})
        if not self.judges:
            # of a training with other settings
            self.processes.once(lambda: shutil.rmtree(own, ignore_errors=True))
            return self.data
        seed, outlines, located = self.stage.seed, self.outlines, self.data.prompter
        if known := self._known_labels(answered):
            outlines, located = self.refitted(answered, known, cases)
            preferred = self._preferences(answered.said, outlines)
            answered = dataclasses.replace(answered, preferred=preferred)
        full: dict[str, PlaceJudge] = {}
        held_out: Unseen = {}
        for name, judge in outlines.judges.items():
            # A mask that was accepted or boxed is known as an outline is, and anchors the judge likewise.
            preferred, told = answered.preferred[name], outlines.told(name, answered.right)
            full[name] = learn_from_answers(judge, preferred, [*outlines.outlined(name), *told], seed)
            # An outline's own prompt comes from a judge that has not seen it, as a new image's does, and that has been
            # told of no other image of the patient.
            unseen, learned = outlines.unseen[name], {}
            for one in unseen.values():
                if id(one) not in learned:
                    theirs = {group for group, other in unseen.items() if other is one}
                    learned[id(one)] = _learn_without(theirs, one, preferred, told, seed)
            held_out[name] = {group: learned[id(one)] for group, one in unseen.items()}
            self._log_choices(name, outlines, full[name], unlabelled)
        if self._too_few(answered):
            self.choices = self.processes.once(lambda: self.cross_validated(answered, outlines))
        prompter = outlines.prompter(located, full, held_out)
        store = PromptStore(own, self.key(answered, cases, outlines), outlines.located)

        def write() -> None:
            if not set(cases) <= set(store.cases()):
                # what is there is of a training with other answers
                _remove_but(own, [] if outlines is self.outlines else [_LOCATED, _PROPOSALS])
                outlines.prepare(cases)
                meant = {place: one.mask for place, one in answered.chosen.items() if one.mask is not None}
                outlines.write(store, cases, prompter, held_out, meant)
            prompter.save(store.prompter_folder)
            self._draw(store, answered)

        self.processes.once(write)
        return dataclasses.replace(self.data, prompts=store, prompter=prompter)

    def cross_validated(self, answered: Answered, outlines: OutlineJudges) -> list[list[bool]] | None:
        """Whether the place is right that is chosen, by judges that were told nothing of the patient.

        Where answers are too few to hold any back they teach and measure in turn: of each of ``ANSWER_FOLDS`` parts,
        by patient, a judge chooses that has learned the others.

        Args:
            answered: what they prefer is of the proposals of ``outlines``.
            outlines: whose judges learn the answers.

        Returns:
            whether the choice is at the place (``SAME_PLACE``) of the mask that was accepted, ordered first or boxed:
            N of the judges before, and N of those that have learned. Patients with an outline, whom the judges
            before know, are left out. None with fewer than ``LEAST_HELD_BACK`` patients.
        """
        group = {place: self.data.groups.get(place[0], place[0]) for place in answered.chosen}
        judged = self.judges.keys() | outlines.judges.keys()
        places = [place for place, one in answered.chosen.items()
                  if one.mask is not None and place[2] in judged and place[0] not in self.outlines.patients]
        patients = sorted({group[place] for place in places})
        if len(patients) < LEAST_HELD_BACK:
            return None
        np.random.default_rng(self.stage.seed).shuffle(patients)
        parts = [set(patients[number::ANSWER_FOLDS]) for number in range(min(ANSWER_FOLDS, len(patients)))]
        before: list[bool] = []
        after: list[bool] = []
        for name in sorted({place[2] for place in places}):
            judge, told = outlines.judges.get(name), []
            if judge is not None:
                told = [*outlines.outlined(name), *outlines.told(name, answered.right)]
            for part in parts:
                of_part = [place for place in places if place[2] == name and group[place] in part]
                learned = judge
                if judge is not None and of_part:
                    learned = _learn_without(part, judge, answered.preferred[name], told, self.stage.seed)
                for place in of_part:
                    meant = answered.chosen[place].mask
                    before.append(_finds(self.judges.get(name), self.outlines, place, meant))
                    after.append(_finds(learned, outlines, place, meant))
        return [before, after]

    def _known_labels(self, answered: Answered) -> dict[SliceKey, np.ndarray]:
        """(H, W) label ids of slices that towers are fitted to beside the outlines; none where they are not refitted.

        Those on which every structure was accepted or boxed: elsewhere nothing is known of what surrounds the one that
        was, and towers that are told where something is and never where it is not find it everywhere. Not so many that
        they crowd out the outlines; none where they are few beside the outlines.
        """
        enough = self.stage.places.refit * len(self.outlines.outlines)
        if not enough or not self.data.plans.prompting.fits_towers:
            return {}
        structures, right = self.data.plans.structures, answered.right
        slices = sorted({place[:2] for place in right})
        whole = [key for key in slices if all((*key, name) in right for name in structures)]
        room = max(MAX_SLICES // 2, MAX_SLICES - len(self.outlines.outlines))
        if not whole or len(whole) < enough:
            log.info("The towers stay as %d outlined slices made them: they are fitted anew where masks were accepted "
                     "or boxed on %d others; these are %d (places.refit).", len(self.outlines.outlines),
                     math.ceil(enough), len(whole))
            return {}
        found = {}
        for key in evenly(whole, room):
            found[key] = np.zeros(right[(*key, next(iter(structures)))].shape, np.int16)
            for name, plan in structures.items():
                found[key][right[(*key, name)]] = plan.label
        return found

    def refitted(
        self, answered: Answered, known: Mapping[SliceKey, np.ndarray], cases: Sequence[str]
    ) -> tuple[OutlineJudges, Prompter]:
        """Towers fitted to the outlines and to the masks that were meant, what they propose, and judges of that.

        Towers that have seen fifty masks find what those of six outlines miss, so that proposals start from their
        saliency and are measured by it. Each slice that is known is prompted by towers that have not seen its patient,
        as in stage 1. Made by one process, kept beside the fold's own prompts.

        Args:
            answered: of :meth:`read`; held-back answers are not among what was said.
            known: labels of slices that were answered, of :meth:`_known_labels`.
            cases: to prompt.

        Returns:
            judges of the outlines over the new proposals, and the prompter of the new towers.
        """
        data, plans, own, labelled = self.data, self.data.plans, own_prompts(self.folder), set(self.data.split.labelled)
        cases = sorted({*cases, *self.outlines.usual_cases, *(one.place[0] for one in answered.said)})
        learned_from = sorted({*labelled, *(case for case, _ in known)})
        patients = of_labelled_patients(learned_from, data.split.unlabelled, data.groups)
        made_of = {case: prompted_as(data.slices, case, patients, data.groups) for case in cases}
        located = PromptStore(own / _LOCATED, hash_of(
            "refitted", VERSION, data.prompts.located.key,
            [(key, label.tobytes().hex()) for key, label in known.items()],
            {case: (made_of[case], data.groups.get(case, case)) for case in learned_from},
        ))
        outlines = OutlineJudges(plans, data.slices, located, data.split.labelled, data.split.unlabelled, data.groups,
                                 self.device, own / _PROPOSALS)
        outlines.features = self.outlines.features  # one published network is enough

        def label(case: str, index: int) -> np.ndarray | None:
            return data.slices.label(case, index) if case in labelled else known.get((case, index))

        def fit() -> None:
            there = located.summaries()
            if located.has_prompter and all(case in there and there[case].case_key == made_of[case] for case in cases):
                return
            shutil.rmtree(own, ignore_errors=True)
            log.info("The towers are fitted anew to %d outlined cases and to the masks that were meant on %d slices.",
                     len(labelled), len(known))
            features = self.outlines.features
            fitted = fit_towers_of(plans, data.slices, learned_from, data.groups, cases, features, self.device, label)
            write_prompts(located, fitted.beside(patients), data.slices, features, cases, made_of)
            located.save_prompter(fitted.full)

        self.processes.once(fit)
        self.processes.once(lambda: outlines.prepare(cases))
        return outlines, Prompter.load(located.prompter_folder, self.device)

    def tidy(self) -> None:
        """Remove the proposals of refitted towers, which nothing needs after the training."""
        self.processes.once(lambda: shutil.rmtree(own_prompts(self.folder) / _PROPOSALS, ignore_errors=True))

    def _draw(self, store: PromptStore, answered: Answered) -> None:
        """``places.png``: six of the slices that were answered."""
        learned: dict[SliceKey, np.ndarray] = {}
        for (case, index, name), one in answered.chosen.items():
            if one.mask is not None:
                label = learned.setdefault((case, index), np.zeros(one.mask.shape, np.int16))
                label[one.mask] = self.data.plans.structures[name].label
        if learned:
            file = self.folder / FIGURE
            draw_places(self.data.slices, self.data.prompts, store, learned, file)
            log.info("Where the prompts pointed, what was meant, and where they point now: %s", file)

    def key(self, answered: Answered, cases: Sequence[str], outlines: OutlineJudges | None = None) -> str:
        """Of what makes the prompts of some cases, by judges that begin with those of ``outlines``."""
        said = [(place, one.weight, one.mask is not None and np.packbits(one.mask).tobytes().hex())
                for place, one in sorted(answered.chosen.items(), key=lambda item: item[0])]
        pairs = {name: [(one.better, one.worse) for one in of] for name, of in answered.preferred.items()}
        # Cases of a patient who has an outline are prompted by the judge that has not seen it, and is not told of them.
        theirs = {*cases, *(case for case, *_ in answered.chosen)} & self.outlines.patients.keys()
        shared = {case: self.data.groups.get(case, case) for case in theirs}
        return hash_of("answered", VERSION, (outlines or self.outlines).key(), self.stage.seed, said, pairs,
                       {case: self.data.slices.hash_of_case(case) for case in cases},
                       *([shared] if shared else []))  # without any as it has always been

    def _log_choices(
        self, name: str, outlines: OutlineJudges, after: PlaceJudge, unlabelled: Sequence[SliceKey]
    ) -> None:
        """Where images are simulated as unlabelled: how the judge's own choice overlaps the hidden truth."""
        label, found = self.data.plans.structures[name].label, []
        for case, index in unlabelled:
            if not self.data.slices.has_label(case):
                continue
            truth = torch.from_numpy(self.data.slices.label(case, index) == label)[None]
            row: list[float] = []
            for judge, of in ((self.judges.get(name), self.outlines), (after, outlines)):
                one = of.proposals.get(case, index).get(name)
                if judge is not None and one is not None and len(one):
                    overlap = mask_iou(torch.from_numpy(one.masks), truth)[:, 0].numpy()
                    row += [overlap[judge.judge(one.measured, one.small).first], overlap.max()]
            if len(row) == 4:
                found.append([row[0], row[2], row[3]])
        if found:
            mean = np.mean(found, 0)
            log.info("%s: overlap (IoU) of the judge's choice with the hidden truth of %d unlabelled slices: %.3f "
                     "before the answers, %.3f after; the best proposal %.3f.", name, len(found), *mean)


def _learn_without(
    groups: Collection[str], judge: PlaceJudge, preferred: Sequence[Preferred], anchors: Sequence[Outlined], seed: int
) -> PlaceJudge:
    """A judge that has learned what was said, but nothing of some patients."""
    return learn_from_answers(judge, [one for one in preferred if one.group not in groups],
                              [one for one in anchors if one.group not in groups], seed)


def _finds(judge: PlaceJudge | None, of: OutlineJudges, place: Place, meant: np.ndarray) -> bool:
    """Whether what a judge likes best, or the saliency's mask where none chooses, is at the place of a mask (H, W)."""
    several = of.proposals.get(*place[:2]).get(place[2])
    if judge is not None and several is not None and len(several):
        chosen = several.masks[judge.judge(several.measured, several.small).first]
    else:
        chosen = {prompt.structure: prompt.coarse_mask for prompt in of.located.get(*place[:2])}[place[2]]
    return float(mask_iou(torch.from_numpy(chosen)[None], torch.from_numpy(meant)[None])) >= SAME_PLACE


def _remove_but(folder: Path, names: Collection[str]) -> None:
    """Remove what is in a folder, but for what has one of some names."""
    for one in folder.iterdir() if folder.is_dir() else ():
        if one.name in names:
            continue
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one, ignore_errors=True)
        else:
            one.unlink(missing_ok=True)


def agreed(of: Sequence[Chosen]) -> Chosen:
    """One label of what several people meant: the pixels that most of them took; its weight is how far they agree.

    Two people who put it at different places leave a label of weight 0: nobody knows who is right.
    """
    meant = [one for one in of if one.mask is not None]
    masks, seconds = [one.mask for one in meant], sum(one.seconds for one in of)
    if not meant:
        return Chosen(None, 0.0, seconds)
    if len(meant) == 1:
        return Chosen(masks[0], meant[0].weight, seconds)
    stack = torch.from_numpy(np.stack(masks))
    same = mask_iou(stack, stack)
    pairs = same[~torch.eye(len(masks), dtype=torch.bool)]
    majority = np.mean(masks, 0) > 0.5
    if float(pairs.mean()) < SAME_PLACE or not majority.any():
        return Chosen(None, 0.0, seconds)
    return Chosen(majority, float(pairs.mean()) * max(one.weight for one in meant), seconds)


def agreement(masks: Mapping[Place, np.ndarray], held_back: Mapping[Place, Chosen], enough: float) -> float:
    """Mean overlap (IoU) of a model's masks with what was meant, on held-back answers.

    An overlap of ``enough`` or more counts as ``enough``: a mask that somebody accepted was one model's own, and
    another model is not to lose by a pixel of its border.
    """
    found = _agreements(masks, held_back, enough)
    return float(np.mean(found)) if len(found) else float("nan")


def _agreements(masks: Mapping[Place, np.ndarray], known: Mapping[Place, Chosen], enough: float) -> np.ndarray:
    """Of each known place what :func:`agreement` is the mean of."""
    both = [mask_iou(torch.from_numpy(masks[place])[None], torch.from_numpy(one.mask)[None])
            for place, one in known.items()]
    return np.array([min(float(overlap), enough) for overlap in both])


def _listed(said: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in said.items())


def _falls(
    before: Mapping[Place, np.ndarray], after: Mapping[Place, np.ndarray], known: Mapping[Place, Chosen], enough: float
) -> bool:
    """Whether masks agree less with what is known than those before do, by more than twice the standard error."""
    change = _agreements(after, known, enough) - _agreements(before, known, enough)
    if len(change) < 2:
        return bool(change.mean() < 0)
    return bool(change.mean() < -2 * change.std(ddof=1) / len(change) ** 0.5)


def in_order_of_work(unsure: Sequence[float], seen: np.ndarray) -> list[int]:
    """Rows in the order in which they are asked: unsure ones first, and unlike those before.

    Args:
        unsure: of each item, in [0, 1].
        seen: (N, D) mean embedding of each item's slice.

    Returns:
        the N rows; each next one has the largest uncertainty times its distance to the nearest before it.
    """
    if not len(unsure):
        return []
    worth = np.asarray(unsure) + 0.05
    normed = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-9)
    nearest, order = np.full(len(worth), 2.0), []
    for _ in range(len(worth)):
        gain = worth * nearest
        gain[order] = -1.0
        row = int(gain.argmax())
        order.append(row)
        nearest = np.minimum(nearest, np.maximum(1 - normed @ normed[row], 1e-6))
    return order

"""The candidates that people rank: made once, by the finetuned model, for every unlabelled slice of a fold."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from samdpo.align.places import VERSION as PLACES_VERSION
from samdpo.align.places import PlaceLearning, in_order_of_work
from samdpo.align.proposer import EncodedBatch, Proposer
from samdpo.align.reference import ReferenceModel
from samdpo.files import content_hash, hash_of, remove_abandoned
from samdpo.model.batches import Batch, Sample, SliceSamples
from samdpo.paths import CANDIDATES, PLANS_NAME
from samdpo.preferences.candidates import disagreement, without_near_duplicates
from samdpo.preferences.records import CandidateSet
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates
from samdpo.preprocessing.store import SliceKey
from samdpo.schema import as_before, to_dict
from samdpo.training.fold_data import FoldData
from samdpo.training.get_trainer import get_trainer

log = logging.getLogger(__name__)

_VERSION = 1  # raise when the code makes other candidates from the same settings


def make_candidate_set(
    dataset: int | str,
    fold: int | str,
    stage: str = "align",
    trainer: str | None = None,
    plans_name: str = PLANS_NAME,
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> StoredCandidates:
    """The stored candidates of a fold: those of simulated unlabelled images and of ``imagesUl/``.

    What is there of the same model and settings is kept; new images are added.

    Args:
        dataset: id or name.
        fold: number or ``all``.
        stage: whose candidate settings are used, and whose previous stage's model makes them.
        trainer: see :func:`samdpo.extensions.find`; default is the stage's.
        plans_name: file name of the plan without ``.json``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        overrides: ``key=value`` texts of the stage; training on the judgements needs the same.

    Raises:
        TrainingError: the previous stage is not trained, or nothing is unlabelled.
    """
    # People need no truth to compare with, so that images without one are kept.
    overrides = [*overrides, "annotator.kind=recorded"]
    found = get_trainer(dataset, stage, fold, trainer, plans_name, device, overrides)
    found.initialize()
    return found.store_candidates()


def describe_set(data: FoldData, stage: str, proposer: Proposer, model: Path) -> CandidateSet:
    """The candidate set that a training would make, and the only one whose judgements it may learn from.

    Its id is a hash of the weights and of what shapes candidates and prompts, a proposer of one's own included;
    settings of the loss, epochs and seed are free to change. The candidates lie in the fold of the model that made
    them: it is there before any stage that learns from them, several such stages may share them, and a set never
    overwrites another.

    Args:
        data: the fold.
        stage: its name in the plan.
        proposer: of the stage.
        model: file of the weights that training starts from.
    """
    plans = data.plans
    # The built-in one has no part in it, so that sets of older versions are found under their ids.
    own = [] if type(proposer) is Proposer else [proposer.describe()]
    if plans.stage(stage).candidates.kind == "places":
        places = plans.stage(stage).places
        own += ["places", PLACES_VERSION, places.shown, plans.prompting.blobs, plans.prompting.proposals,
                plans.stage(stage).seed, sorted(data.split.labelled)]
        own += [plans.prompting.proposal_grid] if plans.prompting.proposal_grid else []
    model_hash = content_hash(model)
    plan_hash = hash_of(_VERSION, plans.stage(stage).candidates, data.prompts.key, plans.structures,
                        as_before(plans.preprocessing, "neighbours"), plans.network, *own)
    number = hash_of(plans.dataset_name, str(data.fold), model_hash, plan_hash)
    return CandidateSet(
        id=number, dataset=plans.dataset_name, fold=str(data.fold), stage=stage, plans_name=plans.plans_name,
        model_hash=model_hash, plan_hash=plan_hash, created=datetime.now(timezone.utc),
        folder=str(model.absolute().parent / CANDIDATES / number),
    )


@dataclass(frozen=True)
class SetMaker:
    """Makes what is missing of a set, whatever it is of.

    Attributes:
        described: the set.
        data: the fold.
        samples: its slices under the prompts of the plan.
        keys: unlabelled slices.
        prepare: called with the slices to come, before the first of them is encoded; gives their reference model.
        encode: batch -> embeddings (B, C, h, w) float32.
    """

    described: CandidateSet
    data: FoldData
    samples: SliceSamples
    keys: Sequence[SliceKey]
    prepare: Callable[[Sequence[SliceKey]], ReferenceModel]
    encode: Callable[[Batch], torch.Tensor]

    def write_case(
        self, writer: CandidateWriter, case: str, hashes: Mapping[str, str], items: Sequence[ItemCandidates]
    ) -> None:
        """The items of a case, and its slices that have some: as people see them and, if they see more, as encoders."""
        slices, indices = self.data.slices, sorted({item.slice_index for item in items})
        images = {index: _one_channel(slices.image(case, index)) for index in indices}
        seen = {index: slices.seen_image(case, index) for index in indices} if slices.neighbours(case) else {}
        writer.put(case, hashes[case], images, items, seen)

    def finish(self, writer: CandidateWriter, proposer: str, settings: Mapping[str, Any]) -> None:
        """The list of all cases, which makes a set of them."""
        plans = self.data.plans
        writer.finish(self.described, {
            "proposer": proposer, "settings": settings,
            "labels": {name: one.label for name, one in plans.structures.items()},
            "data_identifier": plans.preprocessing.data_identifier,
        })

    def finished(self) -> StoredCandidates:
        """The whole set."""
        stored = StoredCandidates.open(self.described.folder)
        log.info("%d items to judge on %d slices of %d unlabelled cases, in %s", len(stored.items), len(self.keys),
                 len({case for case, _ in self.keys}), stored.folder)
        return stored


@dataclass(frozen=True)
class CandidateMaker(SetMaker):
    """Makes candidates, which people rank.

    Attributes:
        proposer: proposes.
    """

    proposer: Proposer

    def run(self) -> StoredCandidates:
        """The whole set, on disk."""
        folder = Path(self.described.folder)
        remove_abandoned(folder, recursive=True)
        writer, slices = CandidateWriter(folder), self.data.slices
        by_case: dict[str, list[SliceKey]] = {}
        for key in self.keys:
            by_case.setdefault(key[0], []).append(key)
        hashes = {case: slices.hash_of_case(case) for case in by_case}
        missing = [case for case in by_case if not writer.has(case, hashes[case])]
        if missing:
            reference = self.prepare([key for case in missing for key in by_case[case]])
            for case in tqdm(missing, desc="candidates", unit="case"):
                items = []
                for key in by_case[case]:
                    sample = self.samples.sample(key, with_truth=False)
                    of_slice = self._items(sample, reference)
                    items += of_slice
                self.write_case(writer, case, hashes, items)
        by = self.proposer.describe()
        self.finish(writer, by["class"], by["settings"])
        return self.finished()

    @torch.no_grad()
    def _items(self, sample: Sample, reference: ReferenceModel) -> list[ItemCandidates]:
        """Candidates of each structure of a slice; those that are all equal are left out."""
        batch = self.samples.collate([sample])
        embeddings = self.encode(batch)
        slices = EncodedBatch(batch, embeddings, reference, reference.logits(batch, embeddings))
        # A slice's own seed: a set that was stopped and goes on is the same, and so is one of another seed of training.
        generator = torch.Generator().manual_seed(int(hash_of("candidates", *sample.key)[:12], 16))
        drawn = self.proposer.propose(slices, generator).masks.cpu()
        items = []
        for prompt, masks, logits in zip(sample.prompts, drawn, slices.logits.cpu()):
            masks = self._told_apart(masks, logits, generator)
            differ = disagreement(masks)
            if differ > 0:
                # In random order, so that a place in the list says nothing: thresholds come by size.
                masks = masks[torch.randperm(len(masks), generator=generator)]
                items.append(ItemCandidates(sample.key[1], prompt.structure, masks.numpy(), prompt.boxes, differ))
        return items

    def _told_apart(self, masks: torch.Tensor, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        def others() -> torch.Tensor:
            drawn = self.proposer.others(logits, len(masks), generator)
            return masks if drawn is None else drawn

        return without_near_duplicates(masks, others)


@dataclass(frozen=True)
class PlaceSetMaker(SetMaker):
    """Makes a set of places: what the model and the judge of the outlines show, in the order of work.

    All cases that are missing are made at once, since the order is over their items; what is dear of it, the proposals,
    is kept.

    Attributes:
        places: proposals and judges.
        cut: probability above which a pixel belongs to the model's own mask.
    """

    places: PlaceLearning
    cut: float

    def run(self) -> StoredCandidates:
        """The whole set, on disk. All processes that train together call it; one of them writes."""
        writer, processes = CandidateWriter(Path(self.described.folder)), self.places.processes
        cases = sorted({case for case, _ in self.keys})
        hashes = {case: self.data.slices.hash_of_case(case) for case in cases}
        # What was shown stays as it is, since judgements may be about it: images added since come as they are. Of a set
        # that was never finished nothing was shown, and the order is over all of it.
        missing = set(processes.once(
            lambda: [case for case in cases if not (writer.has(case, hashes[case]) and writer.finished)]
        ))
        reference = None
        keys = [key for key in self.keys if key[0] in missing]
        if missing:
            self.places.prepare(self.keys)
            reference = self.prepare(keys)
        processes.once(lambda: self._write(writer, keys, hashes, reference))
        return self.finished()

    @torch.no_grad()
    def _write(
        self, writer: CandidateWriter, keys: Sequence[SliceKey], hashes: Mapping[str, str],
        reference: ReferenceModel | None,
    ) -> None:
        """The items of some slices in the order of work, and the list of all."""
        remove_abandoned(writer.folder, recursive=True)
        shown: list[tuple[str, ItemCandidates, float, np.ndarray]] = []
        for key in tqdm(keys, desc="candidates", unit="slice", disable=not keys):
            batch = self.samples.collate([self.samples.sample(key, with_truth=False)])
            if not len(batch.prompts):
                continue
            embeddings = self.encode(batch)
            seen = embeddings[0].mean((1, 2)).cpu().numpy()
            for item, unsure in self.places.items(key, batch, embeddings, reference, self.cut):
                shown.append((key[0], item, unsure, seen))
        order = in_order_of_work([unsure for _, _, unsure, _ in shown], np.array([seen for *_, seen in shown]))
        position = {row: 1 - place / max(1, len(shown)) for place, row in enumerate(order)}
        by_case: dict[str, list[ItemCandidates]] = {case: [] for case in sorted({case for case, _ in keys})}
        for row, (case, item, _, _) in enumerate(shown):
            by_case[case].append(dataclasses.replace(item, disagreement=position[row]))
        for case, items in by_case.items():
            self.write_case(writer, case, hashes, items)
        self.finish(writer, "places", to_dict(self.places.stage.places))


def _one_channel(image: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (H, W) where the channels are equal."""
    return image[0] if (image == image[0]).all() else image

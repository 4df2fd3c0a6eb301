"""Make the candidates that people rank: once, by the finetuned model, for every unlabelled slice of a fold."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from samdpo.align.candidate_set import describe_set
from samdpo.align.reference import ReferenceModel
from samdpo.align.trainer import AlignTrainer
from samdpo.files import hash_of, remove_abandoned
from samdpo.model.views import IDENTITY
from samdpo.paths import PLANS_NAME
from samdpo.preferences.candidates import make_candidates
from samdpo.preferences.distinct import disagreement, without_near_duplicates
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates
from samdpo.schema import to_dict
from samdpo.training.batches import Sample
from samdpo.training.features import FeatureCache
from samdpo.training.run import get_trainer
from samdpo.training.slice_labels import SliceKey

log = logging.getLogger(__name__)


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
    return store_candidates(found)


def store_candidates(trainer: AlignTrainer) -> StoredCandidates:
    """Make and store what is missing of the candidate set of an initialised trainer."""
    described = describe_set(trainer)
    remove_abandoned(described.folder, recursive=True)
    writer, slices = CandidateWriter(Path(described.folder)), trainer.data.slices
    by_case: dict[str, list[SliceKey]] = {}
    for key in trainer.unlabelled_keys:
        by_case.setdefault(key[0], []).append(key)
    hashes = {case: slices.hash_of_case(case) for case in by_case}
    missing = [case for case in by_case if not writer.has(case, hashes[case])]
    if missing:
        trainer.features = FeatureCache(trainer, n_stages=-1)
        trainer.features.fill([key for case in missing for key in by_case[case]], (IDENTITY,))
        trainer.reference = ReferenceModel(trainer.network, trainer.plans, memory_gib=0)
        for case in tqdm(missing, desc="candidates", unit="case"):
            images: dict[int, np.ndarray] = {}
            items = []
            for key in by_case[case]:
                sample = trainer.samples.sample(key, with_truth=False)
                of_slice = _of_slice(trainer, sample)
                if of_slice:
                    images[key[1]] = _one_channel(sample.image.numpy())
                items += of_slice
            writer.put(case, hashes[case], images, items)
    labels = {name: structure.label for name, structure in trainer.plans.structures.items()}
    writer.finish(described, {
        "settings": to_dict(trainer.stage.candidates), "labels": labels,
        "data_identifier": trainer.plans.preprocessing.data_identifier,
    })
    stored = StoredCandidates.open(described.folder)
    log.info("%d items to rank on %d slices of %d unlabelled cases, in %s", len(stored.items),
             len(trainer.unlabelled_keys), len(by_case), stored.folder)
    return stored


@torch.no_grad()
def _of_slice(trainer: AlignTrainer, sample: Sample) -> list[ItemCandidates]:
    """Candidates of each structure of a slice; those that are all equal are left out."""
    plan = trainer.stage.candidates
    batch = trainer.samples.collate([sample])
    embeddings = trainer.embeddings(batch)
    logits = trainer.reference.logits(batch, embeddings)
    hypotheses = trainer.reference.hypotheses(batch, embeddings) if plan.kind == "hypotheses" else None
    # A slice's own seed: a set that was stopped and goes on is the same, and so is one of another seed of training.
    generator = torch.Generator().manual_seed(int(hash_of("candidates", *sample.key)[:12], 16))
    drawn = make_candidates(logits, plan, generator, hypotheses).cpu()
    items = []
    for row, prompt in enumerate(sample.prompts):
        masks = drawn[row]
        if plan.kind != "thresholds":  # whose masks are what they are
            others = dataclasses.replace(plan, kind="fields")
            own = logits[row : row + 1].cpu()
            masks = without_near_duplicates(masks, lambda own=own, p=others: make_candidates(own, p, generator)[0])
        differ = disagreement(masks)
        if differ > 0:
            # In random order, so that a place in the list says nothing: thresholds come by size.
            masks = masks[torch.randperm(len(masks), generator=generator)]
            items.append(ItemCandidates(sample.key[1], prompt.structure, masks.numpy(), prompt.boxes, differ))
    return items


def _one_channel(image: np.ndarray) -> np.ndarray:
    """(3, H, W) -> (H, W) where the channels are equal."""
    return image[0] if (image == image[0]).all() else image

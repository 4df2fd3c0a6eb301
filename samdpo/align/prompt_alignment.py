"""Preferences that say *where*: the image-text model is refitted to the places that were ranked best.

Candidates that are cut from one mask differ in outline and size; all of them are where the box was. Here a slice's
candidates are the masks decoded from each of its hypothesis boxes, an annotator ranks them, and the best one joins
the masks that the image-text model is fitted to. Its new saliency gives new boxes, and the next round ranks those.
Every slice is prompted by a model that has seen neither its mask nor what was preferred on it.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from samdpo.align.places_figure import draw_places
from samdpo.align.shared_prompts import FIGURE, copy_from_sibling
from samdpo.files import content_hash, hash_of
from samdpo.model.places import Places, decode_places
from samdpo.preferences.annotators import VirtualAnnotator, overlap
from samdpo.preferences.losses import best_candidate_target
from samdpo.prompting.fitting import fit_prompter
from samdpo.prompting.prompt_store import PromptStore, slice_features, write_prompts
from samdpo.prompting.prompter import Prompter
from samdpo.training.batches import Batch, SliceSamples
from samdpo.training.fold_data import FoldData, own_prompts
from samdpo.training.slice_labels import SliceKey, known_part

if TYPE_CHECKING:
    from samdpo.align.trainer import AlignTrainer

log = logging.getLogger(__name__)

_VERSION = 2  # raise when the code makes other prompts from the same settings


def align_prompts(trainer: AlignTrainer) -> FoldData:
    """The fold with prompts refitted in ``prompt_rounds`` rounds; they lie in ``fold_X/prompts``.

    What is there of the same settings is kept, so that a training that was stopped goes on with the same prompts, and
    what another stage of the fold has made of the same choice of places is taken over.

    Args:
        trainer: after its embeddings and its reference model are there.

    Returns:
        the trainer's data with the new prompts and their prompter; as it was where there are no rounds, no structure
        has other places, the image-text model is not one that is fitted, or nothing was preferred.
    """
    folder, rounds = own_prompts(trainer.fold_folder), trainer.stage.prompt_rounds
    if rounds and trainer.people is not None:
        log.info("The %d rounds about places (prompt_rounds) are left out: people have ranked the stored candidates "
                 "and no places, so the prompts stay as they are.", rounds)
        rounds = 0
    movable = any(structure.components == 1 for structure in trainer.plans.structures.values())
    fitted = trainer.plans.prompting.fits_towers
    if rounds and movable and not fitted:
        log.info("%s is pretrained and is not refitted to the places that were ranked best; its prompts stay.",
                 trainer.plans.prompting.image_text_model)
    if rounds == 0 or not movable or not fitted:
        if trainer.processes.is_main:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier training with other settings
        return trainer.data
    store = PromptStore(folder, _key(trainer))

    def make() -> bool:
        if not _is_whole(store, trainer):
            shutil.rmtree(folder, ignore_errors=True)
            if not copy_from_sibling(store, trainer.fold_folder, trainer.plans.plans_name,
                                     lambda found: _is_whole(found, trainer)):
                _run_rounds(trainer, store, rounds)
        return _is_whole(store, trainer)

    if not trainer.processes.once(make):  # nothing was preferred
        return trainer.data
    return dataclasses.replace(trainer.data, prompts=store, prompter=Prompter.load(store.prompter_folder))


def _run_rounds(trainer: AlignTrainer, store: PromptStore, rounds: int) -> None:
    data, samples, fitted = trainer.data, trainer.samples, None
    masks: dict[SliceKey, np.ndarray] = {}
    labelled = set(data.split.labelled)
    features = slice_features(trainer.plans, data.slices, trainer.device)
    learned_from = {*labelled, *(case for case, _ in trainer.unlabelled_keys)} if trainer.plans.prompting.mirror else ()
    features.prepare([
        (case, index, mirrored)
        for case in _cases(trainer)
        for index in range(data.slices.slices(case))
        for mirrored in ((False, True) if case in learned_from else (False,))
    ])
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        found = preferred_masks(trainer, samples, number)
        if not found:
            log.warning("Round %d: nothing is preferred on any unlabelled slice; the prompts stay.", number)
            break
        masks = found

        def label(case: str, index: int, masks: Mapping[SliceKey, np.ndarray] = masks) -> np.ndarray | None:
            return data.slices.label(case, index) if case in labelled else masks.get((case, index))

        cases = sorted({*labelled, *(case for case, _ in masks)})
        fitted = fit_prompter(trainer.plans, data.slices, cases, features, data.groups, features.extractor,
                              trainer.device, labels=label)
        write_prompts(store, fitted, data.slices, features, _cases(trainer))
        samples = SliceSamples(trainer.plans, data.slices, store, trainer.stage.augmentation)
        log.info("Round %d of %d: prompts refitted to %d labelled cases and %d ranked slices, %.0f s.", number, rounds,
                 len(labelled), len(masks), time.perf_counter() - started)
    if fitted is not None:
        figure = trainer.fold_folder / FIGURE
        draw_places(data.slices, data.prompts, store, masks, figure)
        log.info("Where the prompts pointed and where they point now: %s", figure)
        fitted.full.save(store.prompter_folder)  # comes last: the store is whole when it is there


@torch.no_grad()
def preferred_masks(trainer: AlignTrainer, samples: SliceSamples, number: int) -> dict[SliceKey, np.ndarray]:
    """What each unlabelled slice is taken to show: (H, W) label map of the places chosen by the stage's objective.

    ``preferences`` and ``best_candidate`` take what the annotator ranked first; the objectives without an annotator
    take the place that the finetuned model itself thinks best of, and no hidden truth is read for them. A slice on
    which nothing is preferred has none.

    Args:
        trainer: gives the unlabelled slices, their embeddings, the reference model and the annotator.
        samples: under the prompts to decode.
        number: of the round, counted from 1; salts the annotator's noise.
    """
    masks, own, best = {}, [], []
    keys = trainer.epoch_slices.seen(trainer.unlabelled_keys)  # of which there are embeddings
    for i, key in enumerate(keys):
        batch = samples.collate([samples.sample(key, with_truth=trainer.asks_annotator)])
        if not len(batch.prompts):
            continue
        places = decode_places(trainer.reference.network, trainer.embeddings(batch), [batch.samples[0].prompts],
                               trainer.plans)
        found, valid = _best_places(trainer, batch, places, trainer.generator(number, i))
        movable = places.quality.isfinite().sum(1) > 1
        if batch.truth is not None:
            truth = batch.truth.to(found.device)
            chosen = known_part(places.at(places.chosen) > 0, batch.counted)
            own.append(overlap(chosen[:, None], truth)[movable].cpu())
            best.append(overlap(known_part(found, batch.counted)[:, None], truth)[movable].cpu())
        if not movable.any() or not bool(valid[movable].all()):
            continue
        label = np.zeros(tuple(found.shape[-2:]), np.int16)
        for prompt, mask in zip(batch.samples[0].prompts, found.cpu().numpy()):
            label[mask] = prompt.label
        masks[key] = label
    if own and len(torch.cat(own)):
        log.info("Round %d: overlap (IoU) with the hidden truth: the model's own choice %.3f, what is learned from "
                 "%.3f; %d of %d slices.", number, torch.cat(own).mean(), torch.cat(best).mean(), len(masks),
                 len(keys))
    return masks


def _best_places(
    trainer: AlignTrainer, batch: Batch, places: Places, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (N, H, W) bool of the places to learn from, and (N,) bool whether anything is preferred."""
    if not trainer.asks_annotator:
        own = places.at(places.chosen).sigmoid() > trainer.mask_cut
        return own, own.flatten(1).any(1)
    candidates = places.logits > 0
    annotator = VirtualAnnotator(trainer.stage.annotator, generator)
    ranking = annotator.rank(known_part(candidates, batch.counted), batch.truth.to(candidates.device))
    return best_candidate_target(candidates, ranking), ranking.valid


def _cases(trainer: AlignTrainer) -> list[str]:
    split = trainer.data.split
    return sorted({*split.labelled, *split.unlabelled, *split.val})


def _is_whole(store: PromptStore, trainer: AlignTrainer) -> bool:
    return all(store.has(case) for case in _cases(trainer)) and (store.prompter_folder / "prompter.json").is_file()


def _key(trainer: AlignTrainer) -> str:
    """Of what makes the prompts: whose choice of places it is, whatever the objective learns from it afterwards."""
    stage, data = trainer.stage, trainer.data
    choice = [stage.annotator, stage.seed] if trainer.asks_annotator else ["the model's own", trainer.mask_cut]
    return hash_of(
        _VERSION, data.prompts.key, content_hash(Path(trainer.reference_file)),
        trainer.unlabelled_keys, choice, stage.slices_per_epoch, stage.prompt_rounds, trainer.plans.inference,
        {case: data.slices.hash_of_case(case) for case in _cases(trainer)},
    )

"""Rounds about places: the image-text model is refitted to the places that were ranked best.

Candidates that are cut from one mask differ in outline and size; all of them are where the box was. Here a slice's
proposals are the masks decoded from each of its hypothesis boxes, a judge ranks them, and the best one joins the masks
that the image-text model is fitted to. Its new saliency gives new boxes, and the next round ranks those. Every slice is
prompted by a model that has seen neither its mask nor what was preferred on it.
"""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from samdpo.align.judge import Judge, QualityJudge
from samdpo.align.places_figure import FIGURE, draw_places
from samdpo.align.proposer import EncodedBatch, Proposer
from samdpo.align.reference import ReferenceModel
from samdpo.errors import ConfigurationError
from samdpo.files import hash_of, link_file, temporary_beside
from samdpo.model.batches import Batch, SliceSamples
from samdpo.model.slice_labels import known_part
from samdpo.plans import StagePlan
from samdpo.preferences.annotators import iou
from samdpo.preferences.losses import best_candidate_target
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.fitting import fit_prompter, of_labelled_patients
from samdpo.prompting.frozen_features import slice_features
from samdpo.prompting.making import write_prompts
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter
from samdpo.training.distributed import Processes
from samdpo.training.fold_data import FoldData, own_prompts

log = logging.getLogger(__name__)

_VERSION = 2  # raise when the code makes other prompts from the same settings


@dataclass(frozen=True)
class PlaceRounds:
    """Refits the prompts of a fold to the places that a judge prefers; they lie in ``fold_X/prompts``.

    Attributes:
        data: the fold, under the prompts of its plan.
        stage: ``prompt_rounds`` and the seed.
        folder: of the fold.
        unlabelled: its unlabelled slices that the stage uses.
        seen: of them those that some epoch sees, of which there are embeddings.
        proposer: proposes places.
        judge: ranks them; None where nobody has seen any.
        reference: the finetuned network.
        model_hash: SHA-256 of its weights' file.
        encode: batch -> embeddings (B, C, h, w) float32.
        generator: (round, number of the slice) -> random numbers, for judges that err.
        device: of the network.
        processes: that train together; one of them makes the prompts.
    """

    data: FoldData
    stage: StagePlan
    folder: Path
    unlabelled: Sequence[SliceKey]
    seen: Sequence[SliceKey]
    proposer: Proposer
    judge: Judge | None
    reference: ReferenceModel
    model_hash: str
    encode: Callable[[Batch], torch.Tensor]
    generator: Callable[[int, int], torch.Generator]
    device: torch.device
    processes: Processes

    def run(self) -> FoldData:
        """The fold with prompts refitted in ``prompt_rounds`` rounds.

        What is there of the same settings is kept, so that a training that was stopped goes on with the same prompts,
        and what another stage of the fold has made of the same choice of places is taken over.

        Returns:
            the data with the new prompts and their prompter; as it was where there are no rounds, nobody can rank
            places, no structure has other places, the image-text model is not one that is fitted, or nothing was
            preferred.
        """
        if not self._are_wanted():
            if self.processes.is_main:
                shutil.rmtree(own_prompts(self.folder), ignore_errors=True)  # of a training with other settings
            return self.data
        store = PromptStore(own_prompts(self.folder), self.key())

        def make() -> bool:
            if not self._is_whole(store):
                shutil.rmtree(store.folder, ignore_errors=True)
                if not copy_from_sibling(store, self.folder, self.data.plans.plans_name, self._is_whole):
                    self._make(store)
            return self._is_whole(store)

        if not self.processes.once(make):  # nothing was preferred
            return self.data
        return dataclasses.replace(self.data, prompts=store, prompter=Prompter.load(store.prompter_folder))

    def _are_wanted(self) -> bool:
        plans, rounds = self.data.plans, self.stage.prompt_rounds
        if rounds and self.judge is None:
            log.info("The %d rounds about places (prompt_rounds) are left out: people have ranked the stored "
                     "candidates and no places, so the prompts stay as they are.", rounds)
            return False
        if rounds and plans.prompting.place == "judge":
            log.info("The %d rounds about places (prompt_rounds) are left out: a judge of the outlines chooses them "
                     "(prompting.place).", rounds)
            return False
        movable = any(structure.components == 1 for structure in plans.structures.values())
        if rounds and movable and not plans.prompting.fits_towers:
            log.info("%s is pretrained and is not refitted to the places that were ranked best; its prompts stay.",
                     plans.prompting.image_text_model)
        return bool(rounds) and movable and plans.prompting.fits_towers

    def key(self) -> str:
        """Of what makes the prompts: whose choice of places it is, whatever the objective learns from it afterwards."""
        data, stage = self.data, self.stage
        return hash_of(
            _VERSION, data.prompts.key, self.model_hash, self.unlabelled, self.judge.describe(),
            stage.slices_per_epoch, stage.prompt_rounds, data.plans.inference,
            {case: data.slices.hash_of_case(case) for case in self._cases()},
            *self._patients(),
            *([] if type(self.proposer) is Proposer else [self.proposer.describe()]),
        )

    def _patients(self) -> list[dict[str, str]]:
        """Groups of the unlabelled cases, by which towers are cross-fitted; the key of the prompts has the others."""
        groups = {case: group for case in self.data.split.unlabelled
                  if (group := self.data.groups.get(case, case)) != case}
        return [groups] if groups else []  # without any the key is as it has always been

    def _make(self, store: PromptStore) -> None:
        data, plans, fitted = self.data, self.data.plans, None
        samples = data.samples(self.stage.augmentation)
        masks: dict[SliceKey, np.ndarray] = {}
        labelled, rounds = set(data.split.labelled), self.stage.prompt_rounds
        features = slice_features(plans, data.slices, self.device)
        learned_from = {*labelled, *(case for case, _ in self.unlabelled)} if plans.prompting.mirror else ()
        features.prepare([
            (case, index, mirrored)
            for case in self._cases()
            for index in range(data.slices.slices(case))
            for mirrored in ((False, True) if case in learned_from else (False,))
        ])
        for number in range(1, rounds + 1):
            started = time.perf_counter()
            found = self.preferred_masks(samples, number)
            if not found:
                log.warning("Round %d: nothing is preferred on any unlabelled slice; the prompts stay.", number)
                break
            masks = found

            def label(case: str, index: int, masks: Mapping[SliceKey, np.ndarray] = masks) -> np.ndarray | None:
                return data.slices.label(case, index) if case in labelled else masks.get((case, index))

            cases = sorted({*labelled, *(case for case, _ in masks)})
            fitted = fit_prompter(plans, data.slices, cases, features, data.groups, features.extractor, self.device,
                                  labels=label)
            fitted = fitted.beside(of_labelled_patients(cases, data.split.unlabelled, data.groups))
            write_prompts(store, fitted, data.slices, features, self._cases())
            samples = SliceSamples(plans, data.slices, store, self.stage.augmentation)
            log.info("Round %d of %d: prompts refitted to %d labelled cases and %d ranked slices, %.0f s.", number,
                     rounds, len(labelled), len(masks), time.perf_counter() - started)
        if fitted is not None:
            figure = self.folder / FIGURE
            draw_places(data.slices, data.prompts, store, masks, figure)
            log.info("Where the prompts pointed and where they point now: %s", figure)
            fitted.full.save(store.prompter_folder)  # comes last: the store is whole when it is there

    @torch.no_grad()
    def preferred_masks(self, samples: SliceSamples, number: int) -> dict[SliceKey, np.ndarray]:
        """What each unlabelled slice is taken to show: (H, W) label map of the places that the judge ranks first.

        No hidden truth is read for a judge that needs none. A slice on which nothing is preferred has no map.

        Args:
            samples: under the prompts to decode.
            number: of the round, counted from 1.
        """
        masks, own, best = {}, [], []
        for i, key in enumerate(self.seen):
            batch = samples.collate([samples.sample(key, with_truth=self.judge.needs_truth)])
            if not len(batch.prompts):
                continue
            slices = EncodedBatch(batch, self.encode(batch), self.reference)
            places = self.proposer.places(slices, self.judge.cut)
            ranking = self.judge.rank(places, slices, self.generator(number, i))
            found = best_candidate_target(places.masks, ranking)
            movable = places.quality.isfinite().sum(1) > 1
            if batch.truth is not None:
                truth = batch.truth.to(found.device)
                models = QualityJudge().rank(places, slices, self.generator(number, i))
                for overlaps, chosen in ((own, best_candidate_target(places.masks, models)), (best, found)):
                    overlaps.append(iou(known_part(chosen, batch.counted)[:, None], truth)[movable].cpu())
            if not movable.any() or not bool(ranking.valid[movable].all()):
                continue
            label = np.zeros(tuple(found.shape[-2:]), np.int16)
            for prompt, mask in zip(slices.prompts, found.cpu().numpy()):
                label[mask] = prompt.label
            masks[key] = label
        if own and len(torch.cat(own)):
            log.info("Round %d: overlap (IoU) with the hidden truth: the model's own choice %.3f, what is learned from "
                     "%.3f; %d of %d slices.", number, torch.cat(own).mean(), torch.cat(best).mean(), len(masks),
                     len(self.seen))
        return masks

    def _cases(self) -> list[str]:
        split = self.data.split
        return sorted({*split.labelled, *split.unlabelled, *split.val})

    def _is_whole(self, store: PromptStore) -> bool:
        return set(self._cases()) <= set(store.cases()) and (store.prompter_folder / "prompter.json").is_file()


def copy_from_sibling(
    store: PromptStore, fold_folder: Path, plans_name: str, is_whole: Callable[[PromptStore], bool]
) -> bool:
    """Put a sibling stage's prompts of the same key where ``store`` is, and its figure beside them.

    Stages that learn from the same choice of places would refit the same prompts for minutes. Files are linked where
    the disk can: prompt files are only ever replaced whole. The copy is renamed when it is complete, so that it is
    there or not at all, whatever the sibling does meanwhile.

    Args:
        store: with the wanted key; its folder does not exist.
        fold_folder: ``TRAINER__PLANS__STAGE/fold_X`` whose prompts they are.
        plans_name: of the siblings: ``*__PLANS__*/fold_X``.
        is_whole: whether a store has the prompts of every case, and the prompter that made them.

    Returns:
        whether one was found.
    """
    temporary = temporary_beside(store.folder)
    for sibling in sorted(fold_folder.parent.parent.glob(f"*__{glob.escape(plans_name)}__*/{fold_folder.name}")):
        theirs = PromptStore(own_prompts(sibling), store.key)
        if sibling == fold_folder or not is_whole(theirs):
            continue
        try:
            shutil.copytree(theirs.folder, temporary, copy_function=link_file)
            if not is_whole(PromptStore(temporary, store.key)):
                continue
            os.replace(temporary, store.folder)
            if (sibling / FIGURE).is_file():
                link_file(sibling / FIGURE, fold_folder / FIGURE)
        except (OSError, ConfigurationError) as error:  # the sibling's were removed meanwhile, or the disk is full
            log.warning("The prompts in %s could not be copied: %s", theirs.folder, error)
            continue
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        log.info("%s has prompts refitted to the same choice of places; they are taken over.", theirs.folder)
        return True
    return False

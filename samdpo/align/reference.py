"""The reference model of DPO: the finetuned decoder, frozen. Its logits are computed once a slice and view."""

from __future__ import annotations

import copy
import glob
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from samdpo.errors import TrainingError
from samdpo.model.batches import Batch, Sample, prompt_tensors
from samdpo.model.description import check_fold, read_description
from samdpo.model.places import hypothesis_prompts
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.sam import SamNetwork
from samdpo.paths import model_folder, plans_option
from samdpo.plans import Plans
from samdpo.training import checkpoints, manifest

log = logging.getLogger(__name__)


class ReferenceModel:
    """pi_fine of Eq. 5, with a memory of its logits.

    Args:
        network: the finetuned network; its decoder is copied, its frozen parts are shared.
        plans: for building hypothesis prompts.
        memory_gib: logits are kept up to this size and computed again beyond it.
    """

    def __init__(self, network: SamNetwork, plans: Plans, memory_gib: float = 2.0) -> None:
        self.network = copy.copy(network)
        self.network._modules = {**network._modules, "mask_decoder": copy.deepcopy(network.mask_decoder)}
        self.network.mask_decoder.requires_grad_(False).eval()
        self.plans = plans
        self._kept: dict[tuple, torch.Tensor] = {}
        self._room = int(memory_gib * 1024**3)

    def logits(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """Reference logits (N, H, W), float32, of the prompts of ``batch``."""
        return torch.cat([
            self._decoded("logits", sample, embedding, lambda s: prompt_tensors([s.prompts], self.plans))
            for sample, embedding in zip(batch.samples, embeddings)
        ])

    def hypotheses(self, batch: Batch, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (N, M, H, W) decoded from each of the M = ``n_hypotheses`` boxes of a prompt alone."""
        return torch.cat([
            self._decoded("hypotheses", sample, embedding,
                          lambda s: hypothesis_prompts([s.prompts], self.plans), torch.float16)
            .unflatten(0, (len(sample.prompts), -1))
            for sample, embedding in zip(batch.samples, embeddings)
        ])

    @torch.no_grad()
    def _decoded(
        self, what: str, sample: Sample, embedding: torch.Tensor, prompts_of: Callable[[Sample], PromptBatch],
        kept_as: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Kept logits of a slice, or new ones, decoded for this slice alone.

        In a batch the last bits would depend on the other slices, and so on which are kept: a continued run would
        differ from an uninterrupted one.
        """
        key = (what, sample.key, sample.view, len(sample.prompts))
        if key in self._kept:
            return self._kept[key].to(embedding.device).float()
        logits = self.network.decode(embedding[None], prompts_of(sample).to(embedding.device))[0].to(kept_as)
        size = logits.numel() * logits.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[key] = logits.cpu().clone()
        return logits.float()


def require_finished(plans: Plans, stage: str, fold: int | str) -> None:
    """Raise TrainingError, with what to type, unless the stage before ``stage`` is trained."""
    file = previous_fold_folder(plans, stage, fold) / checkpoints.FINAL
    if not file.is_file():
        previous, number = plans.stage(stage).previous_stage, int(plans.dataset_name[7:10])
        raise TrainingError(
            f"{file} does not exist: the stage {stage!r} starts from a finished {previous!r}. "
            f"Type first: samdpo_train {number} {previous} {fold}{plans_option(plans.plans_name)}"
        )


def starting_model(plans: Plans, stage: str, fold: int | str, given: Path | None = None) -> tuple[Path, float]:
    """The file of weights that a stage starts from, and the mask cut of the stage before it.

    Args:
        plans: names the stage before.
        stage: its name.
        fold: number or ``all``.
        given: weights that replace those of the stage before.
    """
    previous = previous_fold_folder(plans, stage, fold)
    if given is None:
        check_fold(previous)
    if not manifest.is_finished(previous):
        log.warning("%s is being trained anew, or was begun anew and has not finished: this stage starts from the "
                    "model that was there before.", previous)
    return given or previous / checkpoints.FINAL, read_description(previous / "model.json")["mask_cut"]


def previous_fold_folder(plans: Plans, stage: str, fold: int | str) -> Path:
    """Where the stage before ``stage`` lies: under the plan's trainer, or under the only other one there is."""
    previous = plans.stage(stage).previous_stage or "finetune"
    trainer = plans.stage(previous).trainer.rpartition(":")[2]
    folder = model_folder(plans.dataset_name, trainer, plans.plans_name, previous)
    if not folder.is_dir():
        found = sorted(folder.parent.glob(f"*__{glob.escape(plans.plans_name)}__{glob.escape(previous)}"))
        folder = found[0] if len(found) == 1 else folder
    return folder / f"fold_{fold}"

"""The reference model of DPO: the finetuned decoder, frozen. Its logits are computed once a slice and view."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from samdpo.model.batches import Batch, Sample, prompt_tensors
from samdpo.model.places import hypothesis_prompts
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.sam import SamNetwork
from samdpo.plans import Plans


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

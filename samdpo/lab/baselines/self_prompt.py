"""The baseline ``self_prompt``: stage 1's network prompted by its own first mask."""

from __future__ import annotations

import torch

from samdpo.lab.baselines.mask_samples import MaskBatch
from samdpo.lab.baselines.prompt_free import PromptFreeTrainer
from samdpo.lab.baselines.self_prompt_network import SelfPromptNetwork
from samdpo.networks.freezing import set_trainable
from samdpo.networks.lora import with_lora_names
from samdpo.networks.prompt_free import structures_of
from samdpo.networks.published.loading import as_own
from samdpo.networks.published.reading import read_checkpoint
from samdpo.networks.registry import build_network
from samdpo.networks.weights import load_into
from samdpo.plans import NetworkPlan
from samdpo.training.finetune import FinetuneTrainer, batch_dice
from samdpo.training.trainer import Metrics


class SelfPromptTrainer(PromptFreeTrainer, FinetuneTrainer):
    """SAM-SP (Zhou et al. 2024) without its distillation, as the paper compares with it (Sec. 4.1).

    Encoder, decoder, weights, epochs, rates, loss and kept features are stage 1's; see
    :class:`~samdpo.lab.baselines.self_prompt_network.SelfPromptNetwork` for the two passes. Both are trained on the
    truth.
    """

    network: SelfPromptNetwork  # type: ignore[assignment]

    @staticmethod
    def build_network_architecture(plan: NetworkPlan) -> SelfPromptNetwork:  # type: ignore[override]
        """The plan's backbone with its published weights, and one token a structure."""
        return SelfPromptNetwork(build_network(plan, pretrained=True), structures_of(plan)).eval()

    def load_initial_weights(self) -> None:
        """``-pretrained_weights``, if given: of this network, of a prompted one, or as published."""
        if self.pretrained_weights:
            state = with_lora_names(as_own(read_checkpoint(self.pretrained_weights), self.network), self.network)
            state.setdefault("structure_tokens", self.network.structure_tokens.detach())
            load_into(self.network, state, str(self.pretrained_weights))

    def configure_trainable(self) -> None:
        """What stage 1 trains, and the structures' tokens; not the text projection, which has no part in it."""
        set_trainable(self.network, self.plans.network.frozen_stages, self.plans.network.train)
        self.network.text_projection.requires_grad_(False)
        self.network.structure_tokens.requires_grad_(True)

    def both_passes(self, batch: MaskBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the first and of the second pass, (B * L, H, W) each."""
        first, second = self.network.decode_twice(self.embeddings(batch), batch.images.shape[-2:])
        return first.flatten(0, 1), second.flatten(0, 1)

    def logits(self, batch: MaskBatch) -> torch.Tensor:
        """Of the second pass."""
        return self.both_passes(batch)[1]

    def train_step(self, batch: MaskBatch) -> Metrics:  # type: ignore[override]
        """Encode once, decode twice, step on the sum of both passes' segmentation losses."""
        return self.step_of_parts(batch, self.part_loss, len(batch.truth))

    def part_loss(self, part: MaskBatch, divisor: int | torch.Tensor) -> tuple[torch.Tensor, Metrics]:  # type: ignore[override]
        """Segmentation losses of both passes, summed and divided."""
        first, second = self.both_passes(part)
        truth = part.truth.to(self.device)
        loss = sum(self.loss(logits, truth, part.counted).sum() for logits in (first, second))
        first_dice, dice = (batch_dice(logits.detach(), truth, part.counted) for logits in (first, second))
        return loss / divisor, {"first_dice": first_dice, "train_dice": dice}

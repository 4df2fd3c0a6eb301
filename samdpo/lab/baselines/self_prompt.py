"""The baseline ``self_prompt``: stage 1's network prompted by its own first mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from samdpo.lab.baselines.prompt_free import MaskBatch, PromptFreeTrainer
from samdpo.networks.freezing import set_trainable
from samdpo.networks.lora import with_lora_names
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.prompt_free import PromptFreeNetwork, structures_of
from samdpo.networks.published.loading import as_own
from samdpo.networks.published.reading import read_checkpoint
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import load_into
from samdpo.plans import NetworkPlan
from samdpo.training.finetune import FinetuneTrainer, batch_dice
from samdpo.training.trainer import Metrics

POINTS = 5  # as many as the default plan's prompts have
LEAST_SHARE = 0.15  # of the largest part of a mask: smaller parts give no prompt


class SelfPromptTrainer(PromptFreeTrainer, FinetuneTrainer):
    """SAM-SP (Zhou et al. 2024) without its distillation, as the paper compares with it (Sec. 4.1).

    Encoder, decoder, weights, epochs, rates, loss and kept features are stage 1's; see
    :class:`~samdpo.lab.baselines.self_prompt.SelfPromptNetwork` for the two passes. Both are trained on the
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


class SelfPromptNetwork(SamNetwork, PromptFreeNetwork):
    """SAM-SP (Zhou et al. 2024, arXiv:2408.12364) without its knowledge distillation, for L structures.

    The first pass has no prompt. What tells the structures apart is one learned vector each, added to the dense
    prompt; it is 0 at the start, so that the first pass begins as SAM without a prompt. The second pass has a box,
    points and the logits of the first pass's mask, and no gradient flows through these prompts.

    Where the first mask is empty, the second pass has a box round the whole slice, no point, and the first pass's
    logits, so that it can still find the structure, or leave it out.

    Args:
        sam: its modules are taken over, under the same names.
        outputs: structures L.
    """

    def __init__(self, sam: SamNetwork, outputs: int) -> None:
        text_dim = sam.text_projection.in_features
        super().__init__(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, text_dim, sam.slice_input)
        self.text_projection = sam.text_projection  # not used here; with it the weights are those of a SamNetwork
        self.structure_tokens = nn.Parameter(torch.zeros(outputs, sam.prompt_encoder.embed_dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """As :meth:`segment`."""
        return self.segment(images)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1] -> logits (B, L, H, W) of the second pass."""
        embeddings = self.encode_image(images).float()
        with torch.autocast(images.device.type, enabled=False):  # the decoder runs as it was trained
            return self.decode_twice(embeddings, images.shape[-2:])[1]

    def decode_twice(self, embeddings: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Both passes.

        Args:
            embeddings: (B, C, h, w) from :meth:`encode_image`.
            size: (H, W) of the slices.

        Returns:
            logits of the first and of the second pass, (B, L, H, W) each.
        """
        shape = (len(embeddings), len(self.structure_tokens), *size)
        nothing = self.no_prompts(len(embeddings), size).to(embeddings.device)
        first, _ = self.decode(embeddings, nothing)
        second, _ = self.decode(embeddings, prompts_from(first.detach(), nothing))
        return first.view(shape), second.view(shape)

    def encode_prompts(self, batch: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`SamNetwork.encode_prompts`; the rows of ``batch`` are the L structures of every image in turn."""
        sparse, dense = super().encode_prompts(batch)
        tokens = self.structure_tokens.repeat(len(batch) // len(self.structure_tokens), 1)
        return sparse, dense + tokens[..., None, None]

    def no_prompts(self, n_images: int, size: Sequence[int]) -> PromptBatch:
        """Rows of every image and structure, none of which has a prompt."""
        n = n_images * len(self.structure_tokens)
        return PromptBatch(
            image_index=torch.arange(n_images).repeat_interleave(len(self.structure_tokens)),
            boxes=torch.zeros(n, 1, 4), boxes_valid=torch.zeros(n, 1, dtype=torch.bool),
            points=torch.zeros(n, POINTS, 2), points_valid=torch.zeros(n, POINTS, dtype=torch.bool),
            text=torch.zeros(n, self.text_projection.in_features), text_valid=torch.zeros(n, dtype=torch.bool),
            mask_logits=torch.zeros(n, *size), mask_valid=torch.zeros(n, dtype=torch.bool),
        )


def prompts_from(logits: torch.Tensor, nothing: PromptBatch) -> PromptBatch:
    """Box, points and mask prompt of each first mask; see :class:`SelfPromptNetwork` for empty ones.

    Args:
        logits: (N, H, W) of the first pass.
        nothing: the same N rows without prompts.
    """
    found = [main_parts(mask) for mask in (logits > 0).cpu().numpy()]
    boxes = np.stack([box_round(mask) for mask in found])
    points = np.stack([points_inside(mask) for mask in found])
    given = torch.tensor([bool(mask.any()) for mask in found], device=logits.device)
    return dataclasses.replace(
        nothing,
        boxes=torch.from_numpy(boxes)[:, None].to(logits.device),
        boxes_valid=torch.ones_like(nothing.boxes_valid),
        points=torch.from_numpy(points).to(logits.device),
        points_valid=given[:, None].expand_as(nothing.points_valid),
        mask_logits=logits.to(nothing.mask_logits.dtype),
        mask_valid=torch.ones_like(nothing.mask_valid),
    )


def main_parts(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool without connected parts below :data:`LEAST_SHARE` of the largest: one speck makes no box."""
    labelled, count = ndimage.label(mask)
    if count < 2:
        return mask
    areas = np.bincount(labelled.ravel())
    areas[0] = 0
    return (areas >= LEAST_SHARE * areas.max())[labelled] & mask


def box_round(mask: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) float32 in pixels, x1 and y1 after the last pixel of (H, W) bool; the slice where none is."""
    if not mask.any():
        return np.array([0, 0, mask.shape[1], mask.shape[0]], np.float32)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def points_inside(mask: np.ndarray) -> np.ndarray:
    """:data:`POINTS` pixels of (H, W) bool, (P, 2) float32 x y, at even steps in reading order; zeros where none is.

    Nothing is drawn at random, so that the same image always has the same prediction. Pixels of the border are left
    out where there are others.
    """
    inner = ndimage.binary_erosion(mask)
    rows, columns = np.nonzero(inner if inner.any() else mask)
    if not len(rows):
        return np.zeros((POINTS, 2), np.float32)
    ranks = ((np.arange(POINTS) + 0.5) * len(rows) / POINTS).astype(int)
    return np.stack([columns[ranks], rows[ranks]], axis=1).astype(np.float32)

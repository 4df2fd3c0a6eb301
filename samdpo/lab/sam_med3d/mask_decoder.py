"""SAM-Med3D's mask decoder: SAM's two-way transformer over a cube of tokens, then two transposed convolutions."""

from __future__ import annotations

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.mask_decoder import MLP
from torch import nn

from samdpo.lab.sam_med3d.layers import LayerNorm3d
from samdpo.lab.sam_med3d.shapes import Shape3d

MASKS = 4  # tokens: one mask for a clear prompt, three for one that could mean several things


class MaskDecoder3d(nn.Module):
    """Embedding and prompts -> the mask of a clear prompt and its predicted overlap.

    The three further masks are part of the published layout, but neither its training nor its use decodes them.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape3d) -> None:
        super().__init__()
        channels = shape.channels
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=8, mlp_dim=shape.mlp)
        self.iou_token, self.mask_tokens = nn.Embedding(1, channels), nn.Embedding(MASKS, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(channels, channels // 4, kernel_size=2, stride=2),
            LayerNorm3d(channels // 4),
            nn.GELU(),
            nn.ConvTranspose3d(channels // 4, channels // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(channels, channels, channels // 8, 3) for _ in range(MASKS))
        self.iou_prediction_head = MLP(channels, shape.head, MASKS, 3)

    def forward(
        self, embedding: torch.Tensor, positions: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode one mask a sample.

        Args:
            embedding: (B, C, g, g, g) of the images.
            positions: (1, C, g, g, g) codes of its places.
            sparse: (B, K, C) tokens of the clicks.
            dense: (B, C, g, g, g) of the mask before.

        Returns:
            logits (B, 1, 4g, 4g, 4g) and predicted overlap (B, 1).
        """
        batch, grid = len(embedding), embedding.shape[2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(batch, -1, -1)
        # The transformer flattens two axes of places; it sees the same tokens when three come as one.
        places = (embedding + dense).flatten(2)[..., None]
        codes = positions.expand(batch, -1, -1, -1, -1).flatten(2)[..., None]
        tokens, places = self.transformer(places, codes, torch.cat([own, sparse], dim=1))
        upscaled = self.output_upscaling(places.transpose(1, 2).unflatten(2, grid))
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])
        logits = torch.einsum("bc,bcdhw->bdhw", weights, upscaled)[:, None]
        return logits, self.iou_prediction_head(tokens[:, 0])[:, :1]

"""SAM-Med3D: patches of a volume and clicks in, one mask a patch out.

A ViT over cubes of voxels, a prompt encoder of clicks and of the mask of the clicks before (it has no boxes and no
text), and SAM's two-way transformer over a cube of tokens. The state dict has the published names and shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.mask_decoder import MLP
from torch import nn

from samdpo.errors import PlansError
from samdpo.networks.prompt_free import VolumeNetwork
from samdpo.networks.published.loading import load_published
from samdpo.plans import NetworkPlan

if TYPE_CHECKING:
    from samdpo.lab.sam_med3d.predictor import VolumePredictor

PUBLISHED = "sam_med3d_turbo"  # the name of its weights in the catalogue
MASK_CHANNELS = 16  # of the mask's embedding, before the last convolution
MASKS = 4  # tokens: one mask for a clear prompt, three for one that could mean several things


@dataclass(frozen=True)
class Shape3d:
    """What the weights' shapes follow from.

    Attributes:
        width: of the encoder's tokens.
        depth: blocks of the encoder.
        heads: of the encoder's attention.
        global_blocks: the others attend in windows.
        window: side of a window, tokens.
        patch: side of a token, voxels.
        channels: of the embedding and the prompts.
        size: side of the input, voxels.
        mlp: hidden width of the mask decoder's transformer.
        head: hidden width of the head that predicts a mask's overlap.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    patch: int = 16
    channels: int = 384
    size: int = 128
    mlp: int = 2048
    head: int = 256

    @property
    def grid(self) -> int:
        """Side of the embedding, tokens."""
        return self.size // self.patch


# The published network is the repository's ``vit_b_ori``; the tiny one is for tests and has no published weights.
SHAPES = {
    "sam_med3d": Shape3d(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "sam_med3d_tiny": Shape3d(
        width=48, depth=2, heads=2, global_blocks=(1,), window=5, patch=8, channels=48, size=32, mlp=64, head=16
    ),
}


def shape_of(plan: NetworkPlan) -> Shape3d:
    """The shape that a plan's ``network.backbone`` and ``network.input_size`` name.

    Raises:
        PlansError: another backbone, or a size that is no multiple of a token's.
    """
    if plan.backbone not in SHAPES:
        raise PlansError(f"'network.backbone' is {plan.backbone!r}; SAM-Med3D is one of {', '.join(SHAPES)}.")
    shape = SHAPES[plan.backbone]
    size = plan.input_size or shape.size
    if size < shape.patch or size % shape.patch:
        raise PlansError(
            f"'network.input_size' is {plan.input_size}; {plan.backbone} takes multiples of {shape.patch}, or 0 for "
            f"{shape.size}."
        )
    return replace(shape, size=size)


class SamMed3d(VolumeNetwork):
    """The published network; its state dict has the published names and shapes and nothing else.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape3d) -> None:
        super().__init__()
        self.shape = shape
        self.image_encoder = ImageEncoder3d(shape)
        self.prompt_encoder = PromptEncoder3d(shape)
        self.mask_decoder = MaskDecoder3d(shape)

    @property
    def size(self) -> int:
        """Side of a patch, voxels."""
        return self.shape.size

    @staticmethod
    def predictor_class() -> type[VolumePredictor]:
        """A click where each structure usually is, and patches round what was found."""
        from samdpo.lab.sam_med3d.predictor import VolumePredictor

        return VolumePredictor

    def encode_image(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches (B, 1, s, s, s) in [0, 1] -> embedding (B, C, g, g, g)."""
        return self.image_encoder(normalised(patches))

    def decode(
        self, embedding: torch.Tensor, points: torch.Tensor, inside: torch.Tensor, before: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B, 1, 4g, 4g, 4g) of the structures clicked on; see :meth:`enlarged`.

        Args:
            embedding: (B, C, g, g, g).
            points: (B, K, 3) voxels of the patch.
            inside: (B, K) bool, whether a click is in the structure.
            before: (B, 1, 4g, 4g, 4g) logits of the clicks before; None before the first.
        """
        if before is None:  # an empty mask, not no mask: as published, in training and in use
            before = embedding.new_zeros(len(embedding), 1, *(4 * side for side in embedding.shape[2:]))
        sparse, dense = self.prompt_encoder(points, inside, before)
        return self.mask_decoder(embedding, self.prompt_encoder.dense_positions(), sparse, dense)[0]

    def enlarged(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, 4g, 4g, 4g) -> (B, 1, s, s, s), trilinear as published."""
        return F.interpolate(logits, size=(self.size,) * 3, mode="trilinear", align_corners=False)


def normalised(patches: torch.Tensor) -> torch.Tensor:
    """Each patch (B, 1, s, s, s) less the mean of its voxels above 0, over their standard deviation, as published.

    Padding and air are 0 and do not count. A patch of nothing else, or of one value, is only shifted.
    """
    counted = (patches > 0).to(patches.dtype)
    axes = (1, 2, 3, 4)
    number = counted.sum(axes, keepdim=True).clamp(min=2)
    mean = (patches * counted).sum(axes, keepdim=True) / number
    variance = ((patches - mean).square() * counted).sum(axes, keepdim=True) / (number - 1)
    return (patches - mean) / torch.where(variance > 0, variance, 1.0).sqrt()


def build_sam_med3d(plan: NetworkPlan, pretrained: bool) -> SamMed3d:
    """The network of a plan, with its published weights if wanted; others are drawn from the current seed.

    Raises:
        PlansError: the plan names another backbone, an input size that it cannot have, or LoRA or adapters.
        ConfigurationError: the published file is not there.
        ModelFolderError: it cannot be read or does not fit.
    """
    if plan.train not in ("full", "decoder"):
        raise PlansError(f"'network.train' is {plan.train!r}; SAM-Med3D trains 'full' or 'decoder'.")
    network = SamMed3d(shape_of(plan))
    return load_published(network, PUBLISHED) if pretrained else network


class ImageEncoder3d(nn.Module):
    """Patches (B, 1, s, s, s) -> embedding (B, C, g, g, g), g = s / 16.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape3d) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed3d(shape.patch, shape.width)
        self.pos_embed = nn.Parameter(torch.empty(1, shape.grid, shape.grid, shape.grid, shape.width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            Block3d(shape.width, shape.heads, shape.grid if i in shape.global_blocks else shape.window)
            for i in range(shape.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(shape.width, shape.channels, kernel_size=1, bias=False),
            LayerNorm3d(shape.channels),
            nn.Conv3d(shape.channels, shape.channels, kernel_size=3, padding=1, bias=False),
            LayerNorm3d(shape.channels),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalised patches (B, 1, s, s, s) -> (B, C, g, g, g)."""
        tokens = self.patch_embed(patches) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.neck(tokens.permute(0, 4, 1, 2, 3))


class PatchEmbed3d(nn.Module):
    """Cubes of voxels to tokens: (B, 1, s, s, s) -> (B, g, g, g, C)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, kernel_size=patch, stride=patch)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.proj(patches).permute(0, 2, 3, 4, 1)


class Block3d(nn.Module):
    """Attention and MLP, each behind a layer norm and beside a residual."""

    def __init__(self, width: int, heads: int, span: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention3d(width, heads, span)
        self.mlp = MLPBlock(width, 4 * width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, g, g, g, C) -> the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Attention3d(nn.Module):
    """Multi-head attention over a cube of tokens with relative positions, in windows or over all of it.

    A window that reaches beyond the grid is filled with zero tokens, as in SAM's ViT. SAM-Med3D has windows of 14 on a
    grid of 8, so 4 of 5 tokens of a window are filling. Their queries, keys and values are the projection's bias, and
    nobody asks what they attend to: only real tokens attend, which gives the same result from a fifth of the work.

    Relative positions are meant to be decomposed by axis (Li et al. 2022, MViTv2, Sec. 4.1). The published network
    adds them otherwise, by what seems to be a slip in the order of axes: see :meth:`positions`. Its weights were
    trained with that and only work with it, so it is the same here.

    Args:
        width: of a token.
        heads: that divide it.
        span: side of the cube that attends to itself: the window's, or the grid's for global attention.
    """

    def __init__(self, width: int, heads: int, span: int) -> None:
        super().__init__()
        self.heads, self.span = heads, span
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_d, self.rel_pos_h, self.rel_pos_w = (
            nn.Parameter(torch.zeros(2 * span - 1, width // heads)) for _ in range(3)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (B, D, H, W, C) -> the same shape."""
        sides = tokens.shape[1:4]
        if max(sides) <= self.span:
            return self._attend(tokens)
        attended = torch.zeros_like(tokens)
        for corner in product(*(range(0, side, self.span) for side in sides)):
            window = (slice(None), *(slice(start, start + self.span) for start in corner))
            attended[window] = self._attend(tokens[window]).to(attended.dtype)
        return attended

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """One window, (B, d, h, w, C), none of d, h and w above the span."""
        batch, d, h, w, width = tokens.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        # One row of queries is filled: the published sum of positions asks filling tokens of the same row.
        row = _filled(F.linear(tokens, weight[:width]), (0, 0, 0, self.span - w), bias[:width])
        row = row.unflatten(-1, (self.heads, -1)).permute(0, 4, 1, 2, 3, 5)  # (B, heads, d, h, span, c)
        filling = (0, 0, 0, self.span - w, 0, self.span - h, 0, self.span - d)
        pairs = _filled(F.linear(tokens, weight[width:]), filling, bias[width:])
        keys, values = pairs.flatten(1, 3).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries = row[..., :w, :].flatten(2, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values, self.positions(row, w).to(queries.dtype))
        return self.proj(attended.transpose(1, 2).reshape(batch, d, h, w, width))

    def positions(self, row: torch.Tensor, w: int) -> torch.Tensor:
        """What relative positions add to the logits of real queries.

        With q(d, h, w) the query of a token and D, H, W the tables, the logit of query (d, h, w) and key (d', h', w')
        gets ``q(d, h, w) D[d - w'] + q(d, h, d') H[h - w'] + q(d, h, h') W[h' - w']``.

        Args:
            row: queries (B, heads, d, h, span, c), filled along the last axis of places.
            w: how many of them are real.

        Returns:
            (B, heads, d h w, span^3).
        """
        d, h = row.shape[2:4]
        of_d = torch.einsum("bndhwc,dkc->bndhwk", row[..., :w, :], self._table(self.rel_pos_d, d))
        of_h = torch.einsum("bndhwc,hkc->bndhwk", row, self._table(self.rel_pos_h, h))
        of_w = torch.einsum("bndhwc,wkc->bndhwk", row, self._table(self.rel_pos_w, self.span))
        keys = of_h[..., :, None, :] + of_w[..., None, :, :]  # (B, heads, d, h, span, span, span)
        added = of_d[..., None, None, :] + keys[:, :, :, :, None]
        return added.flatten(5).flatten(2, 4)

    def _table(self, table: torch.Tensor, n: int) -> torch.Tensor:
        """Entries of a table (2 span - 1, c) by a first place of n and a second of the span: (n, span, c)."""
        first, second = torch.arange(n, device=table.device), torch.arange(self.span, device=table.device)
        return table[first[:, None] - second[None] + self.span - 1]


def _filled(projected: torch.Tensor, filling: tuple[int, ...], bias: torch.Tensor) -> torch.Tensor:
    """Tokens projected without the bias, and zero tokens around them, all with the bias; in the projection's type."""
    return F.pad(projected, filling) + bias.to(projected.dtype)


class PromptEncoder3d(nn.Module):
    """Clicks and a mask -> sparse tokens (B, K + 1, C) and a dense embedding (B, C, g, g, g).

    Args:
        shape: of the network.
    """

    def __init__(self, shape: Shape3d) -> None:
        super().__init__()
        self.size, self.grid = shape.size, shape.grid
        self.pe_layer = PositionCode3d(shape.channels // 3)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, shape.channels) for _ in range(2))  # outside, inside
        self.not_a_point_embed = nn.Embedding(1, shape.channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm3d(MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv3d(MASK_CHANNELS // 4, MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm3d(MASK_CHANNELS),
            nn.GELU(),
            nn.Conv3d(MASK_CHANNELS, shape.channels, kernel_size=1),
        )
        # Part of the published layout; training and prediction always hand in a mask, an empty one at first.
        self.no_mask_embed = nn.Embedding(1, shape.channels)

    def forward(
        self, points: torch.Tensor, inside: torch.Tensor, mask_logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed prompts.

        Args:
            points: (B, K, 3) voxels, counted along the patch's three axes.
            inside: (B, K) bool, whether a click is in the structure.
            mask_logits: (B, 1, 4g, 4g, 4g) of the clicks before, zeros before the first; None is no mask.
        """
        codes = self.pe_layer((points + 0.5) / self.size)  # centres of voxels
        kinds = torch.where(inside[..., None], self.point_embeddings[1].weight, self.point_embeddings[0].weight)
        padding = self.not_a_point_embed.weight.expand(len(points), 1, -1)  # SAM's, where there is no box
        sparse = torch.cat([codes + kinds, padding], dim=1)
        if mask_logits is not None:
            return sparse, self.mask_downscaling(mask_logits)
        dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1, 1)
        return sparse, dense.expand(len(points), -1, self.grid, self.grid, self.grid)

    def dense_positions(self) -> torch.Tensor:
        """Codes (1, C, g, g, g) of the embedding's places.

        The published network was trained with the first two axes of these codes exchanged, while those of clicks are
        not. Its weights have learned that, so it is kept.
        """
        device = self.not_a_point_embed.weight.device
        line = (torch.arange(self.grid, device=device, dtype=torch.float32) + 0.5) / self.grid
        first, second, third = torch.meshgrid(line, line, line, indexing="ij")
        return self.pe_layer(torch.stack([second, first, third], dim=-1)).permute(3, 0, 1, 2)[None]


class PositionCode3d(nn.Module):
    """Random Fourier features (Tancik et al. 2020) of places in [0, 1]^3.

    SAM's sine and cosine fill the channels in two halves; a third part, the sine once more, makes them divide by 3.

    Args:
        features: a third of the channels.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, features))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """(..., 3) in [0, 1] -> (..., 3 * features)."""
        with torch.autocast(places.device.type, enabled=False):  # angles need more than 8 bits
            angles = 2 * math.pi * ((2 * places.float() - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos(), angles.sin()], dim=-1)


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


class LayerNorm3d(nn.Module):
    """Layer norm over the channels of (B, C, D, H, W), as SAM's ``LayerNorm2d``; eps 1e-6.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, D, H, W) -> the same shape."""
        last = torch.movedim(x, 1, -1)
        normed = nn.functional.layer_norm(last, self.weight.shape, self.weight, self.bias, eps=1e-6)
        return torch.movedim(normed, -1, 1)

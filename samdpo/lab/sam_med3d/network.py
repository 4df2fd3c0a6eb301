"""SAM-Med3D: patches of a volume and clicks in, one mask a patch out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from samdpo.lab.sam_med3d.image_encoder import ImageEncoder3d
from samdpo.lab.sam_med3d.mask_decoder import MaskDecoder3d
from samdpo.lab.sam_med3d.prompt_encoder import PromptEncoder3d
from samdpo.lab.sam_med3d.shapes import Shape3d, shape_of
from samdpo.plans import NetworkPlan


class SamMed3d(nn.Module):
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


def build_sam_med3d(plan: NetworkPlan) -> SamMed3d:
    """The network of a plan, float32 on the CPU, in eval mode; its weights are drawn from the current seed.

    Raises:
        PlansError: the plan names another backbone, or an input size that it cannot have.
    """
    return SamMed3d(shape_of(plan)).eval()

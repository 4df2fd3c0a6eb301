"""SAM-Med3D: patches of a volume and clicks in, one mask a patch out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from samdpo.errors import PlansError
from samdpo.lab.sam_med3d.image_encoder import ImageEncoder3d
from samdpo.lab.sam_med3d.mask_decoder import MaskDecoder3d
from samdpo.lab.sam_med3d.prompt_encoder import PromptEncoder3d
from samdpo.lab.sam_med3d.shapes import Shape3d, shape_of
from samdpo.networks.prompt_free import VolumeNetwork
from samdpo.networks.published.loading import load_published
from samdpo.plans import NetworkPlan

if TYPE_CHECKING:
    from samdpo.lab.sam_med3d.predictor import VolumePredictor

PUBLISHED = "sam_med3d_turbo"  # the name of its weights in the catalogue


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

"""What the saliency asks of an image-text model: CLIPs and the lite towers answer through the same few methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageView:
    """One slice as the image-text model takes it.

    Attributes:
        image: (3, H, W) in [0, 1].
        features: (C, h, w) of the frozen image encoder, where the model works on such features; else None.
    """

    image: torch.Tensor
    features: torch.Tensor | None = None


@dataclass(frozen=True)
class ChannelActivations:
    """The target layer of gScoreCAM for one image and T texts.

    Attributes:
        activations: (C, h, w) raw activations of the target layer.
        importance: (T, C) signed spatial mean of the gradient of each text's image-text logit, by channel.
    """

    activations: torch.Tensor
    importance: torch.Tensor


@runtime_checkable
class ImageTextModel(Protocol):
    """Texts and images in one space."""

    def embed_text(self, phrases: Sequence[str]) -> torch.Tensor:
        """(T, D) embeddings, one a phrase; each distinct phrase is computed once."""
        ...

    def image_input(self, image: torch.Tensor) -> torch.Tensor:
        """An image (3, H, W) in [0, 1] as the image tower takes it: (3, h, w), normalised, on the model's device.

        Masks are multiplied with this, not with the image: what is masked out is then the tower's mean grey.
        """
        ...

    def image_scores(self, inputs: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(B, T) image-text logits of inputs (B, 3, h, w); an image is embedded once, whatever the number of texts."""
        ...

    def channel_activations(self, view: ImageView, texts: torch.Tensor) -> ChannelActivations:
        """Activations and importances for gScoreCAM; ``texts`` (T, D) as :meth:`embed_text` gives them."""
        ...


@runtime_checkable
class SimilarityModel(ImageTextModel, Protocol):
    """An image-text model that compares each pixel with the structures' texts."""

    def similarity(self, view: ImageView) -> torch.Tensor:
        """(S, h, w) similarity map of each structure the model prompts, as logits before calibration."""
        ...

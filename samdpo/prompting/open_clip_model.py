"""Any CLIP of open_clip, BiomedCLIP first, behind the interface of every image-text model; never fitted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from samdpo.errors import ConfigurationError
from samdpo.networks.precision import autocast, resolve_precision
from samdpo.prompting.image_text import ChannelActivations, ImageView
from samdpo.prompting.open_clip_loading import OpenClip
from samdpo.prompting.text_encoder import TextEncoder


@dataclass(frozen=True)
class SaliencyLayer:
    """gScoreCAM's target layer in an image tower: where activations and gradients are taken.

    A ViT that is pooled by its CLS token works on every token alone after its last attention. Behind it, at the last
    block's ``norm2`` for example, the patch tokens' gradient is therefore exactly zero, and channels chosen by it are
    arbitrary. The output of the norm *before* the last attention is the last place where the patches still count.

    Attributes:
        module: whose output they are of.
        prefix_tokens: tokens before those of the patches; None for a layer that gives maps (B, C, h, w).
    """

    module: nn.Module
    prefix_tokens: int | None

    def maps(self, output: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The layer's output for one image, (1, N, C) tokens or (1, C, h, w), as maps (C, h, w).

        Args:
            output: activations or their gradient.
            size: (H, W) of the tower's input, whose shape the grid of patches has.
        """
        if self.prefix_tokens is None:
            return output[0]
        patches = output[0, self.prefix_tokens :]
        rows = round((len(patches) * size[0] / size[1]) ** 0.5)
        return patches.T.unflatten(1, (rows, -1))


def find_saliency_layer(visual: nn.Module) -> SaliencyLayer:
    """The target layer of open_clip's image towers: timm's ViTs and CNNs, CLIP's own ViTs and ResNets.

    Raises:
        ConfigurationError: a tower of another kind.
    """
    trunk = getattr(visual, "trunk", visual)
    if hasattr(trunk, "blocks") and hasattr(trunk.blocks[-1], "norm1"):  # timm's ViT
        return SaliencyLayer(trunk.blocks[-1].norm1, trunk.num_prefix_tokens)
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):  # CLIP's ViT
        return SaliencyLayer(visual.transformer.resblocks[-1].ln_1, 1)
    for name in ("layer4", "stages"):  # CLIP's ModifiedResNet and timm's ResNets; ConvNeXt and its kind
        if hasattr(trunk, name):
            return SaliencyLayer(getattr(trunk, name), None)
    raise ConfigurationError(
        f"The image tower {type(trunk).__name__} has no layer that gScoreCAM knows; expected a ViT, a ResNet or a "
        "ConvNeXt. Choose another 'prompting.image_text_model'."
    )


class OpenClipTextEncoder(TextEncoder):
    """A CLIP's own text tower: unit embeddings, each distinct text embedded once.

    Args:
        load: gives the model; called at the first text.
    """

    def __init__(self, load: Callable[[], OpenClip]) -> None:
        super().__init__()
        self._load = load

    @property
    def dim(self) -> int:
        """D of the common space."""
        return self._load().embed_dim

    @torch.inference_mode()
    def _forward(self, texts: list[str]) -> np.ndarray:
        clip = self._load()
        tokens = clip.tokenizer(texts).to(clip.module.logit_scale.device)
        return clip.module.encode_text(tokens, normalize=True).float().cpu().numpy()


class OpenClipModel:
    """An :class:`~samdpo.prompting.image_text.ImageTextModel` of a pretrained CLIP.

    Args:
        load: gives the model, always the same; called when first needed, since training needs only its prompts.
        precision: of the image tower's passes without gradients: ``fp32``, ``bf16``, or ``auto`` for bf16 where the
            device computes with it.
    """

    def __init__(self, load: Callable[[], OpenClip], precision: str = "auto") -> None:
        self._load, self._precision = load, precision
        self.text_encoder = OpenClipTextEncoder(load)

    @functools.cached_property
    def clip(self) -> OpenClip:
        """The model, loaded."""
        return self._load()

    @functools.cached_property
    def _layer(self) -> SaliencyLayer:
        return find_saliency_layer(self.clip.module.visual)

    @property
    def _device(self) -> torch.device:
        return self.clip.module.logit_scale.device

    def embed_text(self, phrases: Sequence[str]) -> torch.Tensor:
        """(T, D) unit embeddings."""
        return torch.from_numpy(self.text_encoder.encode(list(phrases))).to(self._device)

    def image_input(self, image: torch.Tensor) -> torch.Tensor:
        """An image (3, H, W) in [0, 1] squashed to the tower's size and normalised by its mean and deviation.

        Squashed and not cropped at the centre, so that the saliency covers the whole image.
        """
        clip = self.clip
        image = image.to(_antialiasing_device(self._device), torch.float32)
        if tuple(image.shape[-2:]) != clip.size:
            image = functional.interpolate(
                image[None], size=clip.size, mode=clip.interpolation, align_corners=False, antialias=True
            )[0].clamp(0, 1)
        image = image.to(self._device)
        return (image - image.new_tensor(clip.mean)[:, None, None]) / image.new_tensor(clip.std)[:, None, None]

    @torch.inference_mode()
    def embed_images(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, D) float32 unit embeddings of inputs (B, 3, h, w), see :meth:`image_input`."""
        with autocast(self._device, resolve_precision(self._precision, self._device)):
            embeddings = self.clip.module.encode_image(inputs.to(self._device))
        return functional.normalize(embeddings.float(), dim=-1)

    @torch.inference_mode()
    def image_scores(self, inputs: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(B, T) logits: cosines times CLIP's scale."""
        return self.clip.module.logit_scale.exp() * self.embed_images(inputs) @ texts.T

    def channel_activations(self, view: ImageView, texts: torch.Tensor) -> ChannelActivations:
        """The target layer's activations and each text's signed mean gradient there, in float32."""
        inputs, taken = self.image_input(view.image)[None], []

        def take(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            # The graph begins here, and holds only what comes after the layer.
            taken.append(output.detach().requires_grad_(True))
            return taken[0]

        hook = self._layer.module.register_forward_hook(take)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                embedding = self.clip.module.encode_image(inputs, normalize=True)[0]
                scores = self.clip.module.logit_scale.exp() * texts.detach().clone() @ embedding  # (T,)
        finally:
            hook.remove()
        size = tuple(inputs.shape[-2:])
        importance = [
            self._layer.maps(torch.autograd.grad(score, taken[0], retain_graph=True)[0], size).mean((-2, -1))
            for score in scores
        ]
        return ChannelActivations(self._layer.maps(taken[0].detach(), size), torch.stack(importance))


def _antialiasing_device(device: torch.device) -> torch.device:
    """Where an image for ``device`` is resampled: mps has no antialiased bicubic interpolation in all its versions."""
    return torch.device("cpu") if device.type == "mps" else device

"""gScoreCAM (Chen et al. 2022): the channels a text's gradient points at, weighted by the score they alone give.

Two corrections to common uses: the number of channels never exceeds what the layer has, and one masked pass of a
channel serves all texts, since the masked image does not depend on the text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from samdpo.prompting.image_text import ImageTextModel, ImageView

_RANGE_EPSILON = 1e-6  # gScoreCAM's guard of the min-max
_BATCH_SIZES = {"cpu": 8}  # masked images a pass: on a CPU more gain nothing, and leave its cache
_BATCH_SIZE = 128  # of other devices


def gscorecam(
    model: ImageTextModel, view: ImageView, texts: torch.Tensor, top_k: int, batch_size: int | None = None
) -> torch.Tensor:
    """Saliency of each text.

    Args:
        model: any image-text model.
        view: one slice, image (3, H, W) in [0, 1].
        texts: (T, D) text embeddings of the model.
        top_k: channels per text (300 in the paper); all of them where the layer has fewer.
        batch_size: masked images per pass; None for what suits the device.

    Returns:
        (T, h, w) float32 in [0, 1]; all zero for a text whose weighted activations are nowhere positive.
    """
    layer = model.channel_activations(view, texts)
    activations = layer.activations.float()
    chosen = layer.importance.topk(min(top_k, len(activations)), dim=1).indices  # (T, k)
    channels = chosen.unique()  # sorted; every text's channels, each masked once
    batch_size = batch_size or batch_size_on(activations.device)
    scores = _masked_scores(model, model.image_input(view.image), activations[channels], texts, batch_size)
    position = torch.searchsorted(channels, chosen)  # (T, k) row of `scores`
    maps = []
    for text in range(len(texts)):
        weights = scores[position[text], text].softmax(0)
        maps.append(_normalised(torch.einsum("k,khw->hw", weights, activations[chosen[text]]).clamp(min=0)))
    return torch.stack(maps)


def batch_size_on(device: torch.device) -> int:
    """Masked images a pass."""
    return _BATCH_SIZES.get(device.type, _BATCH_SIZE)


def masks_of(activations: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Activations (K, h, w) as masks (K, 1, H, W) in [0, 1] of an image of ``size``."""
    masks = functional.interpolate(activations[:, None], size=size, mode="bilinear", align_corners=False)
    return _normalised(masks)


@torch.inference_mode()
def _masked_scores(
    model: ImageTextModel, image: torch.Tensor, activations: torch.Tensor, texts: torch.Tensor, batch_size: int
) -> torch.Tensor:
    """(K, T) float32 logits of the image (3, H, W) seen through each of the activations (K, h, w)."""
    size = (image.shape[-2], image.shape[-1])
    parts = activations.split(batch_size)
    return torch.cat([model.image_scores(image * masks_of(part, size), texts).float() for part in parts])


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Min-max over the last two axes; a constant map becomes zero."""
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + _RANGE_EPSILON)

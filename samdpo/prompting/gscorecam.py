"""gScoreCAM (Chen et al. 2022): the channels a text's gradient points at, weighted by the score they alone give.

Two corrections to common uses: the number of channels never exceeds what the layer has, and one masked pass of a
channel serves all texts, since the masked image does not depend on the text.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from samdpo.prompting.image_text import ImageTextModel, ImageView

_RANGE_EPSILON = 1e-6  # gScoreCAM's guard of the min-max


def gscorecam(
    model: ImageTextModel, view: ImageView, texts: torch.Tensor, top_k: int, batch_size: int = 16
) -> torch.Tensor:
    """Saliency of each text.

    Args:
        model: any image-text model.
        view: one slice, image (3, H, W) in [0, 1].
        texts: (T, D) text embeddings of the model.
        top_k: channels per text (300 in the paper); all of them where the layer has fewer.
        batch_size: masked images per pass.

    Returns:
        (T, h, w) float32 in [0, 1]; all zero for a text whose weighted activations are nowhere positive.
    """
    layer = model.channel_activations(view, texts)
    activations = layer.activations.float()
    n_channels = activations.shape[0]
    chosen = layer.importance.topk(min(top_k, n_channels), dim=1).indices  # (T, k)
    channels = chosen.unique()  # sorted; every text's channels, each masked once
    scores = _masked_scores(model, view.image, activations[channels], texts, batch_size)  # (channels, T)
    position = torch.searchsorted(channels, chosen)  # (T, k) row of `scores`
    maps = []
    for text in range(texts.shape[0]):
        weights = scores[position[text], text].softmax(0)
        maps.append(_normalised(torch.einsum("k,khw->hw", weights, activations[chosen[text]]).clamp(min=0)))
    return torch.stack(maps)


@torch.inference_mode()
def _masked_scores(
    model: ImageTextModel, image: torch.Tensor, activations: torch.Tensor, texts: torch.Tensor, batch_size: int
) -> torch.Tensor:
    size = image.shape[-2:]
    scores = []
    for part in activations.split(batch_size):
        masks = functional.interpolate(part[:, None], size=size, mode="bilinear", align_corners=False)
        scores.append(model.image_scores(image[None] * _normalised(masks), texts).float())
    return torch.cat(scores)


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Min-max over the last two axes; a constant map becomes zero."""
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + _RANGE_EPSILON)

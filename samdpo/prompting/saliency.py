"""One call from a view to raw saliency maps, whichever image-text model and method the plan names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from samdpo.errors import PlansError
from samdpo.prompting.gscorecam import gscorecam
from samdpo.prompting.image_text import ImageTextModel, ImageView, SimilarityModel
from samdpo.prompting.towers import resize_maps

SALIENCY_SIZE = (64, 64)  # SAM's low-resolution mask prompt at 256 px
_FLOOR = 0.02  # a CAM of 0 or 1 has no finite logit


def raw_saliency(
    model: ImageTextModel, view: ImageView, phrases: Sequence[str], method: str, top_k: int
) -> np.ndarray:
    """Saliency of every structure before calibration.

    Args:
        model: image-text model, fitted or pretrained.
        view: one slice.
        phrases: one phrase a structure, for gScoreCAM.
        method: ``similarity`` (the model's own map) or ``gscorecam``.
        top_k: gScoreCAM's channels.

    Returns:
        (S, 64, 64) float32; gScoreCAM's maps in [0, 1] as log-odds.

    Raises:
        PlansError: the model has no similarity map.
    """
    if method == "gscorecam":
        maps = gscorecam(model, view, model.embed_text(phrases), top_k)
        maps = torch.logit(resize_maps(maps, SALIENCY_SIZE).clamp(_FLOOR, 1 - _FLOOR))
        maps = maps.half()  # as it is kept on disk: prompts of kept and of new slices are then made alike
    elif isinstance(model, SimilarityModel):
        maps = model.similarity(view)
    else:
        raise PlansError(
            f"{type(model).__name__} gives no similarity map of its own; set 'prompting.saliency' to 'gscorecam'."
        )
    return resize_maps(maps.float(), SALIENCY_SIZE).cpu().numpy()

"""How sure a mask is of itself, and below which sureness a person should look at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from samdpo.model.views import FLIPPED, IDENTITY
from samdpo.training.batches import Batch
from samdpo.training.slice_labels import SliceKey

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer

MOST_SLICES = 64  # the percentile hardly moves with more
PERCENTILE = 10  # of the training slices: 9 of 10 are surer


def confidence_of(probabilities: np.ndarray, cut: float) -> float:
    """The Dice a mask expects of itself: 2 sum(p y) / (sum(p) + sum(y)) with y = p > cut; 1 is certain.

    Args:
        probabilities: of one structure, any shape.
        cut: probability at which a pixel is foreground.

    Returns:
        a number in [0, 1]; 0 for an empty mask.
    """
    mask = probabilities > cut
    if not mask.any():
        return 0.0
    return float(2 * probabilities[mask].sum() / (probabilities.sum() + mask.sum()))


@torch.no_grad()
def confidence_thresholds(
    trainer: Trainer, keys: Sequence[SliceKey], names_of: Callable[[Any], list[str]] | None = None
) -> dict[str, float]:
    """Of each structure the 10th percentile of its confidence on training slices.

    Args:
        trainer: gives samples and probabilities.
        keys: training slices; up to 64, evenly chosen, are looked at, averaged with their mirror image where
            prediction does so.
        names_of: batch -> structure of each row of its probabilities; by default those of its prompts.

    Returns:
        structure -> confidence; a structure of which nothing was found is left out.
    """
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, min(len(keys), MOST_SLICES)).round().astype(int)]
    found: dict[str, list[float]] = {}
    names_of = names_of or _prompted
    batch_size = trainer.stage.inference_batch_size
    for start in range(0, len(chosen), batch_size):
        of_views, chunk = [], chosen[start : start + batch_size]
        for view in (IDENTITY, FLIPPED) if trainer.plans.inference.mirror else (IDENTITY,):
            batch = trainer.samples.collate([trainer.samples.sample(k, view, with_truth=False) for k in chunk])
            of_views.append(trainer.probabilities(batch))
        views = [of_views[0], *(probabilities.flip(-1) for probabilities in of_views[1:])]
        mean = torch.stack(views).mean(0).cpu().numpy()
        for name, probability in zip(names_of(batch), mean):
            confidence = confidence_of(probability, trainer.mask_cut)
            if confidence > 0:
                found.setdefault(name, []).append(confidence)
    return {name: round(float(np.percentile(values, PERCENTILE)), 4) for name, values in found.items()}


def _prompted(batch: Batch) -> list[str]:
    return [prompt.structure for sample in batch.samples for prompt in sample.prompts]

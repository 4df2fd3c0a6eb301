"""The planner's formulas for how long and how large: the one place to tune them.

An image-step is one slice seen once in training. With the encoder trained it takes about 1.2 s on 2 CPU cores, with
kept embeddings about 0.2 s, so these numbers are minutes on a laptop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

FINETUNE_IMAGE_STEPS = 90  # aimed at; few labels get more epochs
FINETUNE_EPOCHS = (8, 16)  # at least, at most
FINETUNE_MOST_IMAGE_STEPS = 2000  # volumes have thousands of slices: fewer epochs than the least above
ALIGN_EPOCHS = 3
ALIGN_IMAGE_STEPS = (340, 400)  # at least, at most
ALIGN_MOST_EPOCHS = 12
ALIGN_HALVING_EPOCHS = 3
PROMPT_ROUNDS = 2
MANY_LABELLED_SLICES = 40  # above, a CPU trains the last encoder stages only
FROZEN_STAGES = 2  # then, of LiteMedSAM's 4
LEAST_GIB = 3.0  # below, one slice at a time
GIB_PER_SLICE = 1.0  # of GPU memory, training LiteMedSAM's encoder at 256 pixels, with room to spare
LARGEST_BATCH = 8


def finetune_epochs(labelled_slices: int) -> int:
    """Epochs of stage 1."""
    least, most = FINETUNE_EPOCHS
    epochs = min(max(math.ceil(FINETUNE_IMAGE_STEPS / labelled_slices), least), most)
    return max(1, min(epochs, FINETUNE_MOST_IMAGE_STEPS // labelled_slices))


def align_epochs(unlabelled_slices: int) -> int:
    """Epochs of stage 2; the plain number where nothing is unlabelled yet."""
    if unlabelled_slices == 0:
        return ALIGN_EPOCHS
    least, most = ALIGN_IMAGE_STEPS
    image_steps = min(max(ALIGN_EPOCHS * unlabelled_slices, least), most)
    return min(max(1, round(image_steps / unlabelled_slices)), ALIGN_MOST_EPOCHS)


def prompt_rounds(ndim: int, components: Iterable[int]) -> int:
    """Rounds of stage 2's refitting of the prompts: where something of one component can be in another place.

    None for volumes, whose structures are mostly absent from a slice and whose slices are many.
    """
    return PROMPT_ROUNDS if ndim == 2 and any(count == 1 for count in components) else 0


def halving_epochs(epochs: int) -> int:
    """Epochs after which stage 1's learning rate halves: at most twice in a run."""
    return max(1, math.ceil(epochs / 3))


def frozen_stages(device: str, labelled_slices: int) -> int:
    """Leading encoder stages that stage 1 leaves alone: none, unless many labels meet a slow device."""
    return FROZEN_STAGES if device == "cpu" and labelled_slices > MANY_LABELLED_SLICES else 0


def batch_size(device: str, memory_gib: float, labelled_slices: int) -> int:
    """Slices a step of stage 1. Few labels need the many small steps of a batch of 2, whatever the memory."""
    if memory_gib < LEAST_GIB:
        return 1
    if device == "cpu" or labelled_slices <= MANY_LABELLED_SLICES:
        return 2
    return int(min(max(2, memory_gib // GIB_PER_SLICE // 2), LARGEST_BATCH))

"""The planner's formulas for how long and how large: the one place to tune them.

An image-step is one slice seen once in training. With the encoder trained it takes about 1.2 s on 2 CPU cores, with
kept embeddings about 0.2 s, so these numbers are minutes on a laptop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

FINETUNE_IMAGE_STEPS = 90  # aimed at; few labels get more epochs
FINETUNE_EPOCHS = (8, 16)  # at least, at most
FINETUNE_MOST_IMAGE_STEPS = 100_000  # of a GPU; more slices get fewer epochs
FINETUNE_CPU_IMAGE_STEPS = 2000  # of a CPU; more slices are drawn anew for each epoch
FINETUNE_CPU_VOLUME_IMAGE_STEPS = 640  # a slice of a volume shows many structures, each of which is decoded
ALIGN_EPOCHS = 3
ALIGN_IMAGE_STEPS = (340, 400)  # at least, at most
ALIGN_MOST_EPOCHS = 12
ALIGN_HALVING_EPOCHS = 3
ANSWERS = 70  # that ten minutes buy: accepted in 2 s, or a box in 9
CHOSEN_IMAGE_STEPS = 900  # over the masks that were meant
CHOSEN_EPOCHS = (6, 40)
TOWER_STEPS = (200, 120, 1600)  # for one structure, for each further one, at most
TOWER_GRID = 64  # of a slice of 256 pixels: what saliency maps have
MANY_LABELLED_SLICES = 40  # above, a CPU trains the last encoder stages only
FROZEN_STAGES = 2  # then, of LiteMedSAM's 4
CPU_INPUT_SIZE = {"mobile_sam": 512}  # a quarter of the cost of its own 1024 pixels
LEAST_NEIGHBOURS = 5.0  # mm to the slices seen beside a slice
LEAST_GIB = 3.0  # below, one slice at a time
GIB_PER_SLICE = 1.0  # of GPU memory, training LiteMedSAM's encoder at 256 pixels, with room to spare
LARGEST_BATCH = 8
INFERENCE_BATCH, LARGEST_INFERENCE_BATCH = 4, 16  # of a CPU and of a small GPU; more hardly make a large one faster


def finetune_epochs(labelled_slices: int, device: str = "cpu") -> int:
    """Epochs of stage 1; a CPU, which draws slices where there are many, keeps to the least number."""
    least, most = FINETUNE_EPOCHS
    epochs = min(max(math.ceil(FINETUNE_IMAGE_STEPS / labelled_slices), least), most)
    return epochs if device == "cpu" else max(1, min(epochs, FINETUNE_MOST_IMAGE_STEPS // labelled_slices))


def slices_per_epoch(device: str, ndim: int, slices: int, epochs: int, image_steps: int | None = None) -> int:
    """Slices an epoch sees where a CPU could not afford all of them; 0 is every slice.

    Args:
        device: to plan for.
        ndim: 2 for pictures, 3 for volumes.
        slices: there are.
        epochs: of the stage.
        image_steps: of the whole stage that a CPU affords; stage 1's where None.
    """
    if image_steps is None:
        image_steps = FINETUNE_CPU_VOLUME_IMAGE_STEPS if ndim == 3 else FINETUNE_CPU_IMAGE_STEPS
    affordable = max(1, image_steps // epochs)
    return affordable if device == "cpu" and slices > affordable else 0


def mirrors(ndim: int, structures: Iterable[str]) -> bool:
    """Whether a slice's left-right mirror image could be a slice as well.

    Not of a volume: a body has its liver on one side. Not where a structure's name says left or right.
    """
    words = {word for name in structures for word in re.split(r"[^a-z]+", name.lower())}
    return ndim == 2 and not words & {"left", "right"}


def align_epochs(unlabelled_slices: int, device: str = "cpu") -> int:
    """Epochs of stage 2; the plain number where nothing is unlabelled yet, and where a CPU draws slices."""
    if unlabelled_slices == 0 or (device == "cpu" and ALIGN_EPOCHS * unlabelled_slices > ALIGN_IMAGE_STEPS[1]):
        return ALIGN_EPOCHS
    least, most = ALIGN_IMAGE_STEPS
    image_steps = min(max(ALIGN_EPOCHS * unlabelled_slices, least), most)
    return min(max(1, round(image_steps / unlabelled_slices)), ALIGN_MOST_EPOCHS)


def chosen_epochs(answers: int) -> int:
    """Epochs over the masks that were meant by some answers; few get more."""
    least, most = CHOSEN_EPOCHS
    return min(max(math.ceil(CHOSEN_IMAGE_STEPS / max(answers, 1)), least), most)


def place(ndim: int, components: Iterable[int]) -> tuple[str, str]:
    """Who chooses where a structure is, and why: a judge of proposals where something of one component is in a picture.

    Not in volumes, whose structures are mostly absent from a slice and whose slices are many.
    """
    if ndim == 3:
        return "saliency", "volumes: thirty masks of every slice"
    if any(count == 1 for count in components):
        return "judge", "a structure of one part can be elsewhere in a picture"
    return "saliency", "every structure has several parts"


def tower_steps(n_structures: int) -> int:
    """Steps of the image-text model's fit: 15 organs are not told apart in the time that one tumour takes."""
    least, each, most = TOWER_STEPS
    return min(least + each * (n_structures - 1), most)


def tower_batch_size(n_structures: int) -> int:
    """Slices a step of the fit: two find a single structure as well as four (BUS-BRA, 7 draws: .000 +- .007 Dice)."""
    return 2 if n_structures == 1 else 4


def halving_epochs(epochs: int) -> int:
    """Epochs after which stage 1's learning rate halves: at most twice in a run."""
    return max(1, math.ceil(epochs / 3))


def frozen_stages(device: str, labelled_slices: int) -> int:
    """Leading encoder stages that stage 1 leaves alone: none, unless many labels meet a slow device."""
    return FROZEN_STAGES if device == "cpu" and labelled_slices > MANY_LABELLED_SLICES else 0


def input_size(device: str, backbone: str) -> int:
    """Side of the encoder's input that a device affords; 0 is the backbone's own."""
    return CPU_INPUT_SIZE.get(backbone, 0) if device == "cpu" else 0


def batch_size(device: str, memory_gib: float, labelled_slices: int) -> int:
    """Slices a step of stage 1. Few labels need the many small steps of a batch of 2, whatever the memory."""
    if memory_gib < LEAST_GIB:
        return 1
    if device == "cpu" or labelled_slices <= MANY_LABELLED_SLICES:
        return 2
    return int(min(max(2, memory_gib // GIB_PER_SLICE // 2), LARGEST_BATCH))


def inference_batch_size(device: str, memory_gib: float) -> int:
    """Slices that go through the network together where nothing is trained."""
    if device == "cpu":
        return INFERENCE_BATCH
    if memory_gib < LEAST_GIB:
        return 1
    return int(min(max(INFERENCE_BATCH, memory_gib // GIB_PER_SLICE // 2), LARGEST_INFERENCE_BATCH))

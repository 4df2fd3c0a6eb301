"""The baseline ``sam_med3d``: SAM-Med3D on volumes (Wang et al. 2023, arXiv 2310.15161).

Clicks are drawn from the truth in training. A fold is validated by clicks that no person gives, and once more by clicks
into the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from samdpo.dataset.orientation import Turn
from samdpo.errors import TrainingError
from samdpo.lab.sam_med3d.cubes import Cubes, DrawnPatch, PatchBatch, PatchSamples, innermost
from samdpo.lab.sam_med3d.network import SamMed3d, shape_of
from samdpo.lab.sam_med3d.predictor import Clicks, VolumePredictor
from samdpo.model.masks import confidence_of
from samdpo.model.predictor import Prediction
from samdpo.networks.precision import autocast
from samdpo.paths import number_of
from samdpo.plans import Plans
from samdpo.training.finetune import batch_dice
from samdpo.training.fold_data import FoldData
from samdpo.training.measures import confidence_thresholds, dice_at_cuts, evenly
from samdpo.training.trainer import Metrics, Trainer
from samdpo.training.validation import write_validation

CLICKS = 11  # a step (the published training script)
WEIGHT_DECAY = 0.1  # likewise
MOST_PATCHES = 16  # on which confidence is measured; a full-size patch takes seconds on a CPU
TRUTH_CLICK = "validation_truth_click"
_SMOOTH = 1e-5  # MONAI's


class SamMed3dTrainer(Trainer):
    """Trains SAM-Med3D with clicks drawn from the truth, one structure a patch.

    A sample is a case and a structure. At test the network needs a click, and two validations are written:
    ``validation/`` clicks on the mean place that the structure has in the training cases, which needs no person;
    ``validation_truth_click/`` clicks into the middle of the truth, which sees the test's truth and is listed apart.
    """

    uses_prompts = False
    network: SamMed3d
    samples: PatchSamples

    def __init__(
        self, data: FoldData, stage: str, folder: Path, device: str = "auto", pretrained_weights: Path | None = None
    ) -> None:
        super().__init__(data, stage, folder, device, pretrained_weights)
        labels = [structure.label for structure in self.plans.structures.values()]
        self.samples = PatchSamples(data.slices, labels, shape_of(self.plans.network).size)
        self.positions: dict[int, list[float]] = {}  # label -> (x, y, z) as fractions of the volume

    @classmethod
    def check_prerequisites(cls, plans: Plans, stage: str, fold: int | str) -> None:
        """SAM-Med3D takes volumes."""
        if plans.ndim != 3:
            raise TrainingError(
                f"{plans.dataset_name} has single images, and SAM-Med3D segments volumes. Its 2D relative is: "
                f"samdpo_train {number_of(plans.dataset_name)} sam_med2d {fold}"
            )
        shape_of(plans.network)

    # ---- set-up -------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """As every trainer; also where each structure lies in the training cases."""
        super().initialize()
        self.positions = self.samples.mean_positions(sorted({case for case, _ in self.train_keys}))
        # A held-back structure that no training case shows could not be clicked on.
        self.held_back_keys = [key for key in self.held_back_keys if key[1] in self.positions]

    def place(self, network: SamMed3d) -> SamMed3d:
        """Move to the device; memory layouts for pictures do not fit volumes."""
        return network.to(self.device)

    def configure_trainable(self) -> None:
        """``full``: all of it, as published; ``decoder``: the mask decoder alone."""
        self.network.requires_grad_(self.plans.network.train == "full")
        self.network.mask_decoder.requires_grad_(True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW as published, with the plan's rate for the encoder and its rate for the rest."""
        groups = super().configure_optimizers().param_groups
        return torch.optim.AdamW(
            [{"params": group["params"], "lr": group["lr"]} for group in groups], weight_decay=WEIGHT_DECAY
        )

    # ---- a step -------------------------------------------------------------------------------------------------

    feeds_by_workers = False  # a recipe is drawn from the volume, which is then in this process's memory

    def recipes(self, epoch: int) -> Iterator[list[DrawnPatch]]:
        """Shuffled structures of the labelled cases, each in a fresh patch; drawn one step after another, since a
        place in a volume is drawn by looking at it, and few volumes are held in memory."""
        generator = self.generator(epoch)
        for keys in self.epoch_slices.batches(self.train_keys, epoch, generator):
            yield self.samples.places(keys, generator)

    def train_step(self, batch: PatchBatch) -> Metrics:
        """Encode once, then click, decode and compare ``CLICKS`` times; one step on the mean loss."""
        loss, metrics = self.replicated(self.step_loss, batch)
        self.optimizer_step(loss)
        return {"loss": loss.detach(), **metrics}

    def step_loss(self, batch: PatchBatch) -> tuple[torch.Tensor, Metrics]:
        """Mean loss over the clicks, and what to log."""
        truth, counted = batch.truth.to(self.device), batch.counted.to(self.device)
        embedding = self.embeddings(batch)
        points, inside = next_clicks(truth, counted)
        before, losses = None, []
        for _ in range(CLICKS):
            small = self.network.decode(embedding, points, inside, before)
            logits = self.network.enlarged(small)
            losses.append(dice_ce_loss(logits, truth, counted))
            more, where = next_clicks(truth, counted, logits.detach())
            points, inside = torch.cat([points, more], 1), torch.cat([inside, where], 1)
            before = small.detach()
        # Means over the patches of this process: those of all count the same.
        loss = torch.stack(losses).mean() * (len(batch) / self.processes.divisor(len(batch)))
        dice = batch_dice(_planes(logits.detach()), _planes(truth), _planes(counted))
        return loss, {"first_click_loss": losses[0].detach(), "train_dice": dice}

    def embeddings(self, batch: PatchBatch) -> torch.Tensor:
        """Embeddings (B, C, g, g, g) of a batch, float32."""
        with autocast(self.device, self.precision):
            return self.network.encode_image(batch.images.to(self.device)).float()

    # ---- what the network says without a person -----------------------------------------------------------------

    def validation_batches(self) -> Iterator[PatchBatch]:
        """Structures of held-back cases, clicked on as in ``validation/``."""
        for key in self.held_back_keys[self.processes.rank :: self.processes.world]:
            yield self.samples.around([key], self.positions)

    @torch.no_grad()
    def validation_step(self, batch: PatchBatch) -> np.ndarray:
        """Dice of each patch at each of ``CUTS``: (B, len(CUTS))."""
        return dice_at_cuts(_planes(self.probabilities(batch) * batch.counted), _planes(batch.truth))

    @torch.no_grad()
    def probabilities(self, batch: PatchBatch) -> torch.Tensor:
        """Of patches that are centred on their click: (B, 1, s, s, s) in [0, 1], on the CPU."""
        self.network.eval()
        points = torch.full((len(batch), 1, 3), float(self.network.size // 2), device=self.device)
        inside = torch.ones(len(batch), 1, dtype=torch.bool, device=self.device)
        small = self.network.decode(self.embeddings(batch), points, inside)
        return self.network.enlarged(small).sigmoid().cpu()

    def measure_confidence(self) -> dict[str, float]:
        """Of each structure the 10th percentile of its confidence on training patches."""
        names = {structure.label: name for name, structure in self.plans.structures.items()}
        found: dict[str, list[float]] = {}
        for key in evenly(self.train_keys, MOST_PATCHES):
            probability = self.probabilities(self.samples.around([key], self.positions)).numpy()
            if (confidence := confidence_of(probability, self.mask_cut)) > 0:
                found.setdefault(names[key[1]], []).append(confidence)
        return confidence_thresholds(found)

    def describe(self) -> dict[str, Any]:
        """Also where each structure is clicked on: fractions (x, y, z) of the volume."""
        names = {structure.label: name for name, structure in self.plans.structures.items()}
        clicks = {names[label]: [round(f, 5) for f in place] for label, place in self.positions.items()}
        return {**super().describe(), "clicks": clicks}

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """Write both validations; returns the summary of the one that needs no person."""
        arguments = self.predictor(), self.data, self.folder
        summary = validate_volumes(*arguments, "validation", save_probabilities=save_probabilities)
        validate_volumes(*arguments, TRUTH_CLICK, lambda case: truth_clicks(self.samples.cubes.get(case), self.plans))
        return summary


def next_clicks(
    truth: torch.Tensor, counted: torch.Tensor, logits: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One more click a sample, drawn evenly from the voxels at which the mask so far is wrong (Wang et al. 2023).

    Before the first click there is no mask, so it falls into the structure. Where nothing is wrong any more, it falls
    into the structure once more.

    Args:
        truth: (B, 1, s, s, s) bool.
        counted: (B, 1, s, s, s) bool, False where nothing is known.
        logits: (B, 1, s, s, s) of the mask so far.

    Returns:
        points (B, 1, 3) voxels, float, and whether each lies in the structure, (B, 1) bool.
    """
    wrong = truth if logits is None else (truth != (logits > 0)) & counted
    points, inside = [], []
    for of_sample, structure in zip(wrong[:, 0], truth[:, 0]):
        places = of_sample.nonzero()
        if not len(places):
            places = structure.nonzero()
        place = places[int(torch.randint(len(places), ()))]
        points.append(place.float())
        inside.append(structure[tuple(place)])
    return torch.stack(points)[:, None], torch.stack(inside)[:, None]


def _planes(volumes: torch.Tensor) -> torch.Tensor:
    """(B, 1, s, s, s) -> (B, s * s, s), as what measures slices takes them."""
    return volumes.flatten(1, 3)


def dice_ce_loss(logits: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean over samples of 1 - 2 sum(p y) / (sum(p^2) + sum(y)) plus the mean binary cross-entropy.

    As SAM-Med3D was trained: MONAI's ``DiceCELoss(sigmoid=True, squared_pred=True)``.

    Args:
        logits: (B, 1, s, s, s).
        truth: (B, 1, s, s, s) bool.
        counted: (B, 1, s, s, s) bool; other voxels have no part in either sum.
    """
    weight, target = counted.flatten(1).float(), truth.flatten(1).float()
    flat = logits.flatten(1).float()
    probability = flat.sigmoid() * weight
    target = target * weight
    overlap = (probability * target).sum(1)
    dice = 1 - (2 * overlap + _SMOOTH) / (probability.square().sum(1) + target.sum(1) + _SMOOTH)
    entropy = F.binary_cross_entropy_with_logits(flat, target, weight=weight, reduction="none").sum(1)
    return (dice + entropy / weight.sum(1).clamp(min=1)).mean()


def validate_volumes(
    predictor: VolumePredictor, data: FoldData, model_folder: Path, folder: str,
    clicks_of: Callable[[str], Clicks] | None = None, save_probabilities: bool = False,
) -> dict[str, Any]:
    """Predict and evaluate volumes; see :func:`samdpo.training.validation.write_validation`.

    Args:
        predictor: of the fold's model.
        data: the fold.
        model_folder: ``TRAINER__PLANS__STAGE``.
        folder: name of the folder that is written.
        clicks_of: case -> where to click; by default where the structures lie in the training cases.
        save_probabilities: beside the masks.
    """

    def predict(case: str, properties: Mapping[str, Any]) -> Prediction:
        return predictor.predict_prepared(
            data.slices.geometry(case), lambda index: data.slices.image(case, index), None,
            properties["spacing"], properties["image_properties"], save_probabilities,
            Turn.of(properties), None if clicks_of is None else clicks_of(case),
        )

    return write_validation(predict, data, model_folder, folder, save_probabilities)


def truth_clicks(cubes: Cubes, plans: Plans) -> dict[str, list[float]]:
    """Of each structure that is in a case the voxel deepest in the truth, as a fraction (x, y, z) of the volume.

    Published results click on a voxel drawn from the truth; the deepest one is where a person aims, and is the same
    each time.
    """
    found = {}
    for name, structure in plans.structures.items():
        mask = (cubes.label == structure.label).numpy()
        if mask.any():
            found[name] = cubes.grid.fraction(innermost(mask))
    return found

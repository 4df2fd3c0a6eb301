"""The stages that others are compared with: baselines of the paper, and semi-supervised peers of ``align``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from samdpo.planning.schedule import input_size
from samdpo.plans import AugmentationPlan, StagePlan

UNET_EPOCHS = 42  # with the slices of an epoch about 6 minutes of one core
UNET_SLICES_PER_EPOCH = {"cpu": 40, "gpu": 400}  # however many there are
NNUNET_EPOCHS = 1000  # nnU-Net's own
SAM_MED3D_EPOCHS = 30
CPU_MINUTES = 10.0  # of a stage that would take days on a CPU

# SAM is prompted with a box and nothing else, and decodes that box alone.
BOX_ONLY: dict[str, Any] = {
    "prompting": {"use_points": False, "use_saliency": False, "use_answers": False, "use_descriptions": False},
    "inference": {"choose_place": False},
}


def baseline_stages(
    finetune: StagePlan,
    every_label: StagePlan,
    every_label_frozen: int,
    n_structures: int,
    sam_backbone: str,
    device: str,
) -> dict[str, StagePlan]:
    """Stages that learn from masks alone.

    Args:
        finetune: stage 1, whose epochs and rates the SAM-type baselines share.
        every_label: stage 1 as it were planned if every label of a fold's training cases was used.
        every_label_frozen: encoder stages that it would then leave alone.
        n_structures: that networks without prompts tell apart.
        sam_backbone: of ``sam``; ``sam_med2d`` has the plan's own, which has seen medical images.
        device: to plan for.
    """
    prompt_free = {"pretrained": False, "frozen_stages": 0, "train": "full", "outputs": n_structures}
    lora = {"frozen_stages": 0, "train": "lora"}
    affordable = CPU_MINUTES if device == "cpu" else 0.0
    return {
        "unet": replace(
            finetune, trainer="UNetTrainer", epochs=UNET_EPOCHS, minutes=affordable, batch_size=4, lr=1e-3,
            slices_per_epoch=UNET_SLICES_PER_EPOCH["cpu" if device == "cpu" else "gpu"],
            lr_halving_epochs=max(1, UNET_EPOCHS // 3), augmentation=unet_augmentation(finetune.augmentation.flip),
            plan={"network": {"backbone": "unet", **prompt_free}},
        ),
        "nnunet": replace(
            finetune, trainer="NnUNetTrainer", epochs=NNUNET_EPOCHS, slices_per_epoch=0, minutes=affordable,
        ),
        "sam": replace(
            finetune, trainer="SamTrainer",
            plan={
                "network": {"backbone": sam_backbone, "input_size": input_size(device, sam_backbone), **lora},
                **BOX_ONLY,
            },
        ),
        "sam_med2d": replace(finetune, trainer="SamTrainer", plan={"network": lora, **BOX_ONLY}),
        "self_prompt": replace(
            finetune, trainer="SelfPromptTrainer", plan={"network": {"outputs": n_structures}},
        ),
        "prompt_only": replace(
            every_label, trainer="PromptOnlyTrainer", plan={"network": {"frozen_stages": every_label_frozen}},
        ),
    }


def volume_stages(finetune: StagePlan, device: str) -> dict[str, StagePlan]:
    """Stages for volumes alone; rates and epochs of SAM-Med3D are ours, since the published ones are of large batches.

    Args:
        finetune: stage 1.
        device: to plan for.
    """
    whole = {"backbone": "sam_med3d", "input_size": 0, "frozen_stages": 0, "train": "full", "pretrained": True}
    return {
        "sam_med3d": replace(
            finetune, trainer="SamMed3dTrainer", epochs=SAM_MED3D_EPOCHS, slices_per_epoch=0,
            minutes=CPU_MINUTES if device == "cpu" else 0.0, batch_size=1 if device == "cpu" else 2,
            lr=8e-5, encoder_lr=8e-5, lr_halving_epochs=SAM_MED3D_EPOCHS // 3,
            plan={"network": whole, "inference": {"smooth_mm": 0.0}},
        ),
    }


def unet_augmentation(flip: bool) -> AugmentationPlan:
    """Wider than stage 1's: a network without published weights has only these views to learn from."""
    return AugmentationPlan(flip=flip, rotation=20.0, scale=0.25, translation=0.1, brightness=0.15, contrast=0.3)


def peer_stages(align: StagePlan) -> dict[str, StagePlan]:
    """Stages that learn from the unlabelled images without anybody's preferences, at the cost of ``align``."""
    return {
        "mean_teacher": replace(align, trainer="MeanTeacherTrainer", objective="mean_teacher"),
        "fixmatch": replace(align, trainer="FixMatchTrainer", objective="fixmatch"),
    }

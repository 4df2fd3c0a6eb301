"""The stages that others are compared with: baselines of the paper, and semi-supervised peers of ``align``."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from samdpo.planning import schedule
from samdpo.planning.lite_planner import LitePlanner
from samdpo.plans import AugmentationPlan, ConsistencyPlan, StagePlan

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
_WHY = {
    "unet": "baseline: from nothing, without prompts",
    "nnunet": "baseline: nnU-Net itself",
    "sam": "baseline: SAM with LoRA, prompted with a box",
    "sam_med2d": "baseline: the plan's network with LoRA, prompted with a box",
    "self_prompt": "baseline: prompted by its own first mask (SAM-SP)",
    "prompt_only": "upper bound: stage 1 on every label",
    "sam_med3d": "baseline: SAM-Med3D",
    "mean_teacher": "peer of align: a teacher's masks instead of preferences",
    "fixmatch": "peer of align: confident masks instead of preferences",
    "mean_teacher_encoder": "peer of align: as mean_teacher, its encoder trains too",
    "fixmatch_encoder": "peer of align: as fixmatch, its encoder trains too",
}


def baseline_stages(planner: LitePlanner) -> dict[str, StagePlan]:
    """What a planner's stages are compared with, at the cost of these where that can be."""
    stages = {
        **_trained_by_themselves(planner), **_like_finetune(planner),
        **(_of_volumes(planner) if planner.ndim == 3 else {}), **_like_align(planner),
    }
    return {name: planner.because(name, stage, _WHY[name]) for name, stage in stages.items()}


def _trained_by_themselves(planner: LitePlanner) -> dict[str, StagePlan]:
    """Networks that need no prompt. Their settings are not a paper's to give, so that they are LitePlanner's."""
    finetune, n_structures = LitePlanner.plan_finetune(planner), len(planner.dataset_json.structures)
    affordable = CPU_MINUTES if planner.device == "cpu" else 0.0
    network = {"backbone": "unet", "pretrained": False, "frozen_stages": 0, "train": "full", "outputs": n_structures}
    return {
        "unet": replace(
            finetune, trainer="UNetTrainer", epochs=UNET_EPOCHS, minutes=affordable, batch_size=4, lr=1e-3,
            slices_per_epoch=UNET_SLICES_PER_EPOCH["cpu" if planner.device == "cpu" else "gpu"],
            lr_halving_epochs=max(1, UNET_EPOCHS // 3), augmentation=unet_augmentation(finetune.augmentation.flip),
            plan={"network": network},
        ),
        "nnunet": replace(
            finetune, trainer="NnUNetTrainer", epochs=NNUNET_EPOCHS, slices_per_epoch=0, minutes=affordable,
        ),
    }


def _like_finetune(planner: LitePlanner) -> dict[str, StagePlan]:
    """SAM-type networks, with the epochs and rates of stage 1; ``prompt_only`` with those that every label asks for."""
    finetune, every_label = planner.plan_finetune(), planner.with_every_label()
    backbone, lora = planner.sam_backbone, {"frozen_stages": 0, "train": "lora"}
    sam = {"backbone": backbone, "input_size": schedule.input_size(planner.device, backbone), **lora}
    outputs, frozen = len(planner.dataset_json.structures), every_label.plan_network().frozen_stages
    return {
        "sam": replace(finetune, trainer="SamTrainer", plan={"network": sam, **BOX_ONLY}),
        "sam_med2d": replace(finetune, trainer="SamTrainer", plan={"network": lora, **BOX_ONLY}),
        "self_prompt": replace(finetune, trainer="SelfPromptTrainer", plan={"network": {"outputs": outputs}}),
        "prompt_only": replace(
            every_label.plan_finetune(), trainer="PromptOnlyTrainer", plan={"network": {"frozen_stages": frozen}}
        ),
    }


def _of_volumes(planner: LitePlanner) -> dict[str, StagePlan]:
    """SAM-Med3D; its rates and epochs are ours, since the published ones are of large batches."""
    whole = {"backbone": "sam_med3d", "input_size": 0, "frozen_stages": 0, "train": "full", "pretrained": True}
    cpu = planner.device == "cpu"
    return {
        "sam_med3d": replace(
            LitePlanner.plan_finetune(planner), trainer="SamMed3dTrainer", epochs=SAM_MED3D_EPOCHS, slices_per_epoch=0,
            minutes=CPU_MINUTES if cpu else 0.0, batch_size=1 if cpu else 2,
            lr=8e-5, encoder_lr=8e-5, lr_halving_epochs=SAM_MED3D_EPOCHS // 3,
            plan={"network": whole, "inference": {"smooth_mm": 0.0}},
        ),
    }


def _like_align(planner: LitePlanner) -> dict[str, StagePlan]:
    """Learn from the unlabelled images without anybody's preferences, at the cost of ``align``, or with the encoder.

    They cannot do without labelled images, even where ``align`` sees none. An encoder is trained at the rates and with
    the batches of stage 1, for as long as :meth:`LitePlanner.epochs_with_encoder` says.
    """
    align = planner.plan_align_preferences()
    if not align.labelled_per_step:
        anchored = replace(align.loss, anchor_weight=1.0)
        align = replace(align, labelled_per_step=align.batch_size, loss=anchored)
    peers = {
        "mean_teacher": replace(align, trainer="MeanTeacherTrainer", objective="mean_teacher"),
        "fixmatch": replace(align, trainer="FixMatchTrainer", objective="fixmatch"),
    }
    finetune = copy.copy(planner).plan_finetune()  # a copy, whose reasons are not stage 1's
    epochs = planner.epochs_with_encoder(align.epochs)
    whole = {
        "batch_size": finetune.batch_size, "labelled_per_step": min(finetune.batch_size, align.labelled_per_step),
        "epochs": epochs, "lr": finetune.lr, "lr_halving_epochs": max(1, epochs // 3),
        "consistency": ConsistencyPlan(encoder_lr=finetune.encoder_lr),
    }
    return peers | {f"{name}_encoder": replace(peer, **whole) for name, peer in peers.items()}


def unet_augmentation(flip: bool) -> AugmentationPlan:
    """Wider than stage 1's: a network without published weights has only these views to learn from."""
    return AugmentationPlan(flip=flip, rotation=20.0, scale=0.25, translation=0.1, brightness=0.15, contrast=0.3)

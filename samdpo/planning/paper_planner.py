"""The paper's own configuration, as far as the paper and its supplement state it.

Where they are silent, SAM-Med2D's training, on which they build, is followed; then nothing is added that they do not
mention. The networks have to be downloaded: see ``samdpo_weights list`` and ``documentation/models.md``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from samdpo.planning.lite_planner import LitePlanner, as_in_the_paper
from samdpo.plans import (
    BIOMEDCLIP,
    AugmentationPlan,
    InferencePlan,
    NetworkPlan,
    PreprocessingPlan,
    PromptingPlan,
    SegmentationLossPlan,
    StagePlan,
)

FINETUNE_EPOCHS, ALIGN_EPOCHS = 15, 30  # paper Sec. 4
LR, HALVING_EPOCHS = 1e-4, 10  # paper Sec. 4; of both stages and every part of the network
BATCH_SIZE = 2  # SAM-Med2D's; the paper gives none
TOP_K = 300  # channels, gScoreCAM (Chen et al. 2022)
TEXT_DIM = 512  # BiomedCLIP's

# The paper mentions no augmentation.
NO_AUGMENTATION = AugmentationPlan(
    flip=False, rotation=0.0, scale=0.0, translation=0.0, brightness=0.0, contrast=0.0, box_jitter=0.0
)


class PaperPlanner(LitePlanner):
    """SAM-Med2D with adapters, BiomedCLIP, gScoreCAM, candidates by threshold.

    Normalisation, slicing axis and structures are planned as :class:`LitePlanner` does; the arguments are its own.
    """

    sam_backbone = "sam_vit_b"

    def plan_preprocessing(self) -> PreprocessingPlan:
        """As :class:`LitePlanner`, each slice by itself."""
        planned = super().plan_preprocessing()
        alone = self.because("preprocessing.neighbours", 0.0, "the paper's networks see one slice")
        return replace(planned, neighbours=alone)

    def plan_prompting(self) -> PromptingPlan:
        """BiomedCLIP's gScoreCAM gives box and points, its text tower the text token (paper Sec. 3.1).

        The saliency itself is no prompt there.
        """
        plan = PromptingPlan(
            image_text_model=BIOMEDCLIP,
            saliency="gscorecam",
            gscorecam_top_k=TOP_K,
            text_encoder="image_text_model",
            mirror=False,
            use_saliency=False,
        )
        return self.because("prompting", plan, "paper Sec. 3.1")

    def plan_network(self) -> NetworkPlan:
        """SAM-Med2D, all of which trains in stage 1: "all components are fine-tuned" (paper Sec. 4)."""
        backbone = self.backbone or "sam_med2d_b"
        plan = NetworkPlan(backbone=backbone, adapters=True, text_dim=TEXT_DIM, train="full", frozen_stages=0)
        return self.because("network", plan, "-backbone" if self.backbone else "paper Sec. 4: all of SAM-Med2D trains")

    def plan_inference(self) -> InferencePlan:
        """One mask for the prompt there is."""
        return self.because("inference", InferencePlan(choose_place=False, mirror=False), "the paper mentions no more")

    def plan_finetune(self) -> StagePlan:
        """Stage 1."""
        return self._as_in_the_paper("finetune", super().plan_finetune(), FINETUNE_EPOCHS)

    def plan_align(self) -> StagePlan:
        """Stage 2, of Eq. 5, which is a sum, on candidates by threshold."""
        return self.plan_align_preferences()

    def plan_align_preferences(self) -> StagePlan:
        """The paper's own; the stage ``align_paper`` is the same."""
        stage = as_in_the_paper(super().plan_align_preferences())
        return replace(
            self._as_in_the_paper("align", stage, ALIGN_EPOCHS),
            prompt_rounds=self.because("align.prompt_rounds", stage.prompt_rounds, "the paper mentions none"),
            labelled_per_step=self.because(
                "align.labelled_per_step", stage.labelled_per_step, "stage 2 sees no labelled image"
            ),
            candidates=self.because("align.candidates", stage.candidates, "paper's supplement"),
            annotator=self.because("align.annotator", stage.annotator, "paper's supplement"),
            loss=self.because("align.loss", stage.loss, "paper Eq. 5 and supplement"),
        )

    def epochs_with_encoder(self, epochs: int) -> int:
        """The paper's, whatever trains."""
        return epochs

    def _as_in_the_paper(self, name: str, stage: StagePlan, epochs: int) -> StagePlan:
        loss = SegmentationLossPlan(focal_weight=20.0, dice_weight=1.0, focal_alpha=0.25, focal_gamma=2.0)
        decided: dict[str, tuple[Any, str]] = {
            "epochs": (epochs, "paper Sec. 4"),
            "slices_per_epoch": (0, "all of them"),
            "batch_size": (BATCH_SIZE, "SAM-Med2D's; the paper gives none"),
            "lr": (LR, "paper Sec. 4"),
            "encoder_lr": (LR, "paper Sec. 4"),
            "lr_halving_epochs": (HALVING_EPOCHS, "paper Sec. 4"),
            "augmentation": (NO_AUGMENTATION, "the paper mentions none"),
            "segmentation_loss": (loss, "20:1 is the paper's (Sec. 4), the rest SAM-Med2D's"),
        }
        return replace(stage, **{key: self.because(f"{name}.{key}", *said) for key, said in decided.items()})

    def describe(self) -> str:
        """What was planned for, and what it needs, in a line."""
        return (
            f"{super().describe()} As in the paper it needs SAM-Med2D and BiomedCLIP, which must be downloaded: "
            "samdpo_weights list shows what is there."
        )

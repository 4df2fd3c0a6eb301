"""The paper's own configuration, as far as the paper and its supplement state it.

Where they are silent, SAM-Med2D's training, on which they build, is followed; then nothing is added that they do not
mention. The networks have to be downloaded: see ``samdpo_weights list`` and ``documentation/models.md``.
"""

from __future__ import annotations

from dataclasses import replace

from samdpo.planning.lite_planner import LitePlanner
from samdpo.plans import (
    BIOMEDCLIP,
    AnnotatorPlan,
    AugmentationPlan,
    CandidatePlan,
    InferencePlan,
    NetworkPlan,
    PreferenceLossPlan,
    PromptingPlan,
    SegmentationLossPlan,
    StagePlan,
)

FINETUNE_EPOCHS, ALIGN_EPOCHS = 15, 30  # paper Sec. 4
LR, HALVING_EPOCHS = 1e-4, 10  # paper Sec. 4; of both stages and every part of the network
BATCH_SIZE = 2  # SAM-Med2D's; the paper gives none
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)  # paper's supplement
RATING_BINS = (0.4, 0.55, 0.7)  # IoU, paper's supplement
BETAS = (1.0, 0.5)  # paper's supplement
TOP_K = 300  # channels, gScoreCAM (Chen et al. 2022)
TEXT_DIM = 512  # BiomedCLIP's
KEPT = ("unet", "nnunet", "sam_med3d")  # stages whose settings are not the paper's to give
PEERS = ("mean_teacher", "fixmatch")  # of stage 2's length, but they cannot do without labelled images

# The paper mentions no augmentation.
NO_AUGMENTATION = AugmentationPlan(
    flip=False, rotation=0.0, scale=0.0, translation=0.0, brightness=0.0, contrast=0.0, box_jitter=0.0
)


class PaperPlanner(LitePlanner):
    """SAM-Med2D with adapters, BiomedCLIP, gScoreCAM, candidates by threshold.

    Normalisation, slicing axis and structures are planned as :class:`LitePlanner` does; the arguments are its own.
    """

    sam_backbone = "sam_vit_b"

    def plan_prompting(self) -> PromptingPlan:
        """BiomedCLIP's gScoreCAM gives box and points, its text tower the text token (paper Sec. 3.1).

        The saliency itself is no prompt there.
        """
        return PromptingPlan(
            image_text_model=BIOMEDCLIP,
            saliency="gscorecam",
            gscorecam_top_k=TOP_K,
            text_encoder="image_text_model",
            mirror=False,
            use_saliency=False,
        )

    def plan_network(self) -> NetworkPlan:
        """SAM-Med2D, all of which trains in stage 1: "all components are fine-tuned" (paper Sec. 4)."""
        backbone = self.backbone or "sam_med2d_b"
        return NetworkPlan(backbone=backbone, adapters=True, text_dim=TEXT_DIM, train="full", frozen_stages=0)

    def plan_inference(self) -> InferencePlan:
        """One mask for the prompt there is."""
        return InferencePlan(choose_place=False, mirror=False)

    def plan_stages(self) -> dict[str, StagePlan]:
        """Both stages, and the two controls, with the paper's rates, losses and candidates."""
        loss = SegmentationLossPlan(focal_weight=20.0, dice_weight=1.0, focal_alpha=0.25, focal_gamma=2.0)  # SAM-Med2D
        beta1, beta2 = BETAS

        def as_in_the_paper(stage: StagePlan) -> StagePlan:
            return replace(
                stage,
                epochs=FINETUNE_EPOCHS if stage.previous_stage is None else ALIGN_EPOCHS,
                slices_per_epoch=0,
                batch_size=BATCH_SIZE,
                lr=LR,
                encoder_lr=LR,
                lr_halving_epochs=HALVING_EPOCHS,
                prompt_rounds=0,
                labelled_per_step=0,  # stage 2 sees no labelled image
                augmentation=NO_AUGMENTATION,
                segmentation_loss=loss,
                candidates=CandidatePlan(kind="thresholds", count=len(THRESHOLDS), thresholds=THRESHOLDS),
                annotator=AnnotatorPlan(scoring="ranking", rating_bins=RATING_BINS),
                loss=PreferenceLossPlan(
                    type="sigmoid", beta1=beta1, beta2=beta2, reduction="sum", anchor_weight=0.0  # Eq. 5 is a sum
                ),
            )

        def planned(name: str, stage: StagePlan) -> StagePlan:
            if name in KEPT:
                return stage
            papers = as_in_the_paper(stage)
            if name in PEERS:
                anchored = replace(papers.loss, anchor_weight=1.0)
                return replace(papers, labelled_per_step=BATCH_SIZE, loss=anchored)
            return papers

        return {name: planned(name, stage) for name, stage in super().plan_stages().items()}

    def describe(self) -> str:
        """What was decided, in a line for the log."""
        return (
            f"Planned as in the paper for {self.device} with {self.memory_gib:.0f} GiB, {self.labelled_slices} "
            f"labelled and {self.unlabelled_slices} unlabelled slices a fold: SAM-Med2D, BiomedCLIP, "
            f"{FINETUNE_EPOCHS} and {ALIGN_EPOCHS} epochs. Both networks must be downloaded: samdpo_weights list "
            "shows what is there."
        )

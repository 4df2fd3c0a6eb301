"""The default planner: everything it plans runs from packages that pip installs, on a laptop."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np

from samdpo.dataset.dataset_json import DatasetJson, StructureHints
from samdpo.dataset.orientation import most_common, turn_to
from samdpo.paths import PLANS_NAME
from samdpo.planning import schedule
from samdpo.planning.baseline_stages import baseline_stages, peer_stages, volume_stages
from samdpo.planning.case_measures import slicing_axis
from samdpo.planning.channels import channel_mapping, normalization
from samdpo.planning.memory import detect_machine
from samdpo.plans import (
    AugmentationPlan,
    InferencePlan,
    NetworkPlan,
    Plans,
    PreprocessingPlan,
    PromptingPlan,
    StagePlan,
    StructurePlan,
    TrainingImages,
)
from samdpo.schema import from_dict

log = logging.getLogger(__name__)

MOST_COMPONENTS = 2  # guessed from the labels; more only where dataset.json says so
_TRAIN_SHARE = 0.8  # of the cases: a fold's training cases


class LitePlanner:
    """LiteMedSAM, MiniLM and two small towers.

    Args:
        fingerprint: of :func:`samdpo.planning.fingerprint.extract_fingerprint`.
        dataset_json: of the dataset; its hints win over what is measured.
        dataset_name: ``DatasetXXX_Name``.
        plans_name: name of the file, and head of the folder of slices.
        device: ``cpu``, ``cuda`` or ``mps``; None looks.
        memory_gib: of the device; None looks.
        labelled_slices: of a fold that show a structure; None for 80% of all.
        unlabelled_slices: of a fold.
        seed: of training.
        backbone: of the network; None for LiteMedSAM.
    """

    sam_backbone = "mobile_sam"  # of the baseline ``sam``: a SAM that has seen no medical image

    def __init__(
        self,
        fingerprint: dict[str, Any],
        dataset_json: DatasetJson,
        dataset_name: str,
        memory_gib: float | None = None,
        device: str | None = None,
        plans_name: str = PLANS_NAME,
        labelled_slices: int | None = None,
        unlabelled_slices: int = 0,
        seed: int = 12345,
        backbone: str | None = None,
    ) -> None:
        self.fingerprint, self.dataset_json, self.dataset_name = fingerprint, dataset_json, dataset_name
        self.plans_name, self.seed, self.unlabelled_slices = plans_name, seed, unlabelled_slices
        self.backbone = backbone
        machine = detect_machine() if device is None or memory_gib is None else None
        self.device = device or machine.device
        self.memory_gib = memory_gib or machine.memory_gib
        every = sum(fingerprint["n_foreground_slices"].values())
        self.every_slice = max(1, round(_TRAIN_SHARE * every))  # of a fold's training cases that shows a structure
        self.labelled_slices = self.every_slice if labelled_slices is None else max(1, labelled_slices)

    @property
    def ndim(self) -> int:
        """2 for pictures, 3 for volumes."""
        return 3 if any(shape[0] > 1 for shape in self.fingerprint["shapes"]) else 2

    @property
    def mirrors(self) -> bool:
        """Whether left and right are alike; see :func:`samdpo.planning.schedule.mirrors`."""
        return schedule.mirrors(self.ndim, self.dataset_json.structures)

    @property
    def orientation(self) -> str:
        """That of most labelled volumes, to which the others are turned; "" for pictures."""
        return most_common(self.fingerprint.get("orientations", ())) if self.ndim == 3 else ""

    def median(self, key: str) -> tuple[float, ...]:
        """Median of the fingerprint's ``spacings`` or ``shapes``, (Z, Y, X) of the volumes as they are turned."""
        found = self.fingerprint.get("orientations") or [""] * len(self.fingerprint[key])
        turned = [turn_to(one, self.orientation).along(values) for one, values in zip(found, self.fingerprint[key])]
        return tuple(np.median(turned, axis=0).tolist())

    def plan(self) -> Plans:
        """The whole plan; each hook below decides one part and may be overridden."""
        return Plans(
            dataset_name=self.dataset_name,
            plans_name=self.plans_name,
            experiment_planner_used=type(self).__name__,
            file_ending=self.dataset_json.file_ending,
            structures={name: self.plan_structure(name) for name in self.dataset_json.structures},
            original_median_spacing=list(self.median("spacings")),
            original_median_shape=list(self.median("shapes")),
            ndim=self.ndim,
            preprocessing=self.plan_preprocessing(),
            prompting=self.plan_prompting(),
            network=self.plan_network(),
            configurations=self.plan_stages(),
            inference=self.plan_inference(),
            training_images=from_dict(TrainingImages, self.fingerprint.get("images", {})),
        )

    def plan_structure(self, name: str) -> StructurePlan:
        """Phrase, question, description, components, absence: a hint of dataset.json, else what the labels show."""
        measured = self.fingerprint["structures"][name]
        hints = self.dataset_json.hints.get(name, StructureHints())
        components = int(np.clip(round(measured["components"]["median"]), 1, MOST_COMPONENTS))
        absent = measured["share_of_slices"] < 1
        return StructurePlan(
            label=measured["label"],
            phrase=hints.phrase or name,
            components=components if hints.components is None else hints.components,
            may_be_absent=absent if hints.may_be_absent is None else hints.may_be_absent,
            question=hints.question or StructurePlan(0, "").question,
            description=hints.description or "",  # the prompts fill in a bundled one
        )

    def plan_preprocessing(self) -> PreprocessingPlan:
        """Normalisation, slicing axis, channels."""
        plan = PreprocessingPlan()
        spacing, shape = self.median("spacings"), self.median("shapes")
        names = list(self.dataset_json.channel_names.values())
        return PreprocessingPlan(
            data_identifier=f"{self.plans_name}_2d_{plan.image_size}",
            image_size=plan.image_size,
            slicing_axis=slicing_axis(self.fingerprint["modality"], spacing, shape, self.orientation),
            orientation=self.orientation,
            normalization=[normalization(names, channel, self.fingerprint) for channel in range(len(names))],
            channel_mapping=channel_mapping(len(names)),
        )

    def plan_prompting(self) -> PromptingPlan:
        """How prompts are made."""
        return PromptingPlan(mirror=self.mirrors, tower_steps=schedule.tower_steps(len(self.dataset_json.structures)))

    def plan_network(self) -> NetworkPlan:
        """The network, and how much of its encoder stage 1 trains."""
        backbone = self.backbone or NetworkPlan.backbone
        return NetworkPlan(
            backbone=backbone,
            input_size=schedule.input_size(self.device, backbone),
            frozen_stages=schedule.frozen_stages(self.device, self.labelled_slices),
        )

    def plan_inference(self) -> InferencePlan:
        """Whether other places are decoded too: not for volumes, where it would cost six times the decoder.

        And of which structures of a volume only the largest part is kept: those of one part in every labelled case.
        """
        if self.ndim == 2:
            return InferencePlan(mirror=self.mirrors)
        counts = {name: entry["components"]["cases_with"] for name, entry in self.fingerprint["structures"].items()}
        return InferencePlan(
            choose_place=False,
            mirror=self.mirrors,
            largest_component=tuple(name for name, found in counts.items() if set(found) == {"1"}),
        )

    def plan_finetune(self) -> StagePlan:
        """Stage 1, as long as its labelled slices ask for."""
        epochs = schedule.finetune_epochs(self.labelled_slices, self.device)
        return StagePlan(
            epochs=epochs,
            slices_per_epoch=schedule.slices_per_epoch(self.device, self.ndim, self.labelled_slices, epochs),
            batch_size=schedule.batch_size(self.device, self.memory_gib, self.labelled_slices),
            lr_halving_epochs=schedule.halving_epochs(epochs),
            seed=self.seed,
            augmentation=AugmentationPlan(flip=self.mirrors),
        )

    def with_every_label(self) -> LitePlanner:
        """This planner, were no label of a fold's training cases left out."""
        other = copy.copy(self)
        other.labelled_slices = max(self.labelled_slices, self.every_slice)
        return other

    def plan_stages(self) -> dict[str, StagePlan]:
        """``finetune``, ``align``, its controls on the same images without preferences, and what they compare with."""
        align_epochs = schedule.align_epochs(self.unlabelled_slices, self.device)
        finetune, every_label = self.plan_finetune(), self.with_every_label()
        components = [self.plan_structure(name).components for name in self.dataset_json.structures]

        def align(objective: str) -> StagePlan:
            return StagePlan(
                trainer="AlignTrainer",
                previous_stage="finetune",
                objective=objective,  # type: ignore[arg-type]
                epochs=align_epochs,
                slices_per_epoch=schedule.slices_per_epoch(
                    self.device, self.ndim, self.unlabelled_slices, align_epochs, schedule.ALIGN_IMAGE_STEPS[1]
                ),
                batch_size=4,
                prompt_rounds=schedule.prompt_rounds(self.ndim, components),
                labelled_per_step=2,
                lr=1e-4,
                lr_halving_epochs=schedule.ALIGN_HALVING_EPOCHS,
                seed=self.seed,
                augmentation=finetune.augmentation,
            )

        return {
            "finetune": finetune,
            "align": align("preferences"),
            "align_self_training": align("self_training"),
            "align_best_candidate": align("best_candidate"),
            **baseline_stages(
                finetune, every_label.plan_finetune(), every_label.plan_network().frozen_stages,
                len(self.dataset_json.structures), self.sam_backbone, self.device,
            ),
            **(volume_stages(finetune, self.device) if self.ndim == 3 else {}),
            **peer_stages(align("preferences")),
        }

    def describe(self) -> str:
        """What was decided and why, in a line for the log."""
        frozen = schedule.frozen_stages(self.device, self.labelled_slices)
        trained = "the whole encoder" if frozen == 0 else f"the encoder after its first {frozen} stages"
        return (
            f"Planned for {self.device} with {self.memory_gib:.0f} GiB, {self.labelled_slices} labelled and "
            f"{self.unlabelled_slices} unlabelled slices a fold: finetune trains {trained}."
        )

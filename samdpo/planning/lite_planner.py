"""The default planner: everything it plans runs from packages that pip installs, on a laptop.

Every hook says why it decides as it does, where it decides: :meth:`LitePlanner.because`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np

from samdpo.dataset.dataset_json import DatasetJson, StructureHints
from samdpo.dataset.orientation import most_common, turn_to
from samdpo.errors import PlansError
from samdpo.extensions import find, names
from samdpo.paths import PLANS_NAME
from samdpo.planning import schedule
from samdpo.planning.case_measures import ndim_of, slicing_axis
from samdpo.planning.channels import channel_mapping, normalization
from samdpo.planning.memory import detect_machine
from samdpo.plans import (
    AnnotatorPlan,
    AugmentationPlan,
    CandidatePlan,
    InferencePlan,
    NetworkPlan,
    Plans,
    PreferenceLossPlan,
    PreprocessingPlan,
    PromptingPlan,
    StagePlan,
    StructurePlan,
    TrainingImages,
)
from samdpo.schema import from_dict

T = TypeVar("T")

MOST_COMPONENTS = 2  # guessed from the labels; more only where dataset.json says so
_TRAIN_SHARE = 0.8  # of the cases: a fold's training cases

# Of the paper's supplement and Eq. 5.
THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
RATING_BINS = (0.4, 0.55, 0.7)
BETAS = (1.0, 0.5)


def as_in_the_paper(align: StagePlan) -> StagePlan:
    """Stage 2 to the letter of the paper (Sec. 3.2, Eq. 5 and its supplement).

    Candidates are cuts of one mask, Eq. 5 is a sum over their pixels, the mask decoder alone trains, and neither other
    places nor labelled images are looked at.
    """
    beta1, beta2 = BETAS
    return replace(
        align,
        objective="preferences",
        prompt_rounds=0,
        labelled_per_step=0,
        candidates=CandidatePlan(kind="thresholds", count=len(THRESHOLDS), thresholds=THRESHOLDS),
        annotator=AnnotatorPlan(scoring="ranking", rating_bins=RATING_BINS),
        loss=PreferenceLossPlan(type="sigmoid", beta1=beta1, beta2=beta2, reduction="sum", anchor_weight=0.0),
    )


class LitePlanner:
    """LiteMedSAM, MiniLM and two small towers.

    Args:
        fingerprint: of :func:`samdpo.planning.fingerprint.extract_fingerprint`.
        dataset_json: of the dataset; its hints win over what is measured.
        dataset_name: ``DatasetXXX_Name``.
        plans_name: name of the file, and head of the folder of slices.
        device: ``cpu`` or ``cuda``; None looks.
        memory_gib: of the device; None looks.
        labelled_slices: of a fold that show a structure; None for 80% of all.
        unlabelled_slices: of a fold.
        seed: of training.
        backbone: of the network; None for LiteMedSAM.
    """

    sam_backbone = "mobile_sam"  # a SAM that has seen no medical image, which baselines start from

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
        self.reasons: dict[str, tuple[Any, str]] = {}

    def because(self, key: str, value: T, why: str) -> T:
        """``value``, with the reason for it, which ``--explain`` shows as long as the plan has this value there.

        Args:
            key: dotted, of the plan or beginning with a stage's name, as ``network.backbone`` or ``finetune.epochs``.
                The reason for a section replaces those for its keys.
            value: that is decided.
            why: in a few words, with the measurements that led to it.
        """
        self.reasons = {k: v for k, v in self.reasons.items() if not k.startswith(f"{key}.")}
        self.reasons[key] = value, why
        return value

    @property
    def ndim(self) -> int:
        """2 for pictures, 3 for volumes."""
        return ndim_of(self.fingerprint["shapes"])

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
        median, share = measured["components"]["median"], measured["share_of_slices"]
        usual = StructurePlan(self.because(f"structures.{name}.label", measured["label"], "dataset.json"), name)
        found: dict[str, tuple[Any, str]] = {  # what is planned without a hint, and why
            "phrase": (usual.phrase, "the structure's name; dataset.json has no phrase"),
            "components": (
                int(np.clip(round(median), 1, MOST_COMPONENTS)),
                f"a slice's label has {median:g} parts in the median; at most {MOST_COMPONENTS} are taken",
            ),
            "may_be_absent": (share < 1, f"in {share:.0%} of the labelled slices"),
            "question": (usual.question, "the paper's; dataset.json has none"),
            "description": ("", "dataset.json has none; a bundled one is taken where there is one"),
        }
        decided = {}
        for key, (value, why) in found.items():
            hint = getattr(hints, key)
            hinted = hint is not None if key in ("components", "may_be_absent") else bool(hint)
            self.because(f"structures.{name}.{key}", hint if hinted else value, "dataset.json" if hinted else why)
            decided[key] = hint if hinted else value
        return replace(usual, **decided)

    def plan_preprocessing(self) -> PreprocessingPlan:
        """Normalisation, slicing axis, channels."""
        size, why = PreprocessingPlan.image_size, self.because
        spacing, shape = self.median("spacings"), self.median("shapes")
        names = list(self.dataset_json.channel_names.values())
        axis, reason = slicing_axis(self.fingerprint["modality"], spacing, shape, self.orientation)
        schemes = [normalization(names, channel, self.fingerprint) for channel in range(len(names))]
        reasons = "; ".join(dict.fromkeys(reason for _, reason in schemes))
        return PreprocessingPlan(
            data_identifier=why("preprocessing.data_identifier", f"{self.plans_name}_2d_{size}", "the plan's name"),
            image_size=size,
            slicing_axis=why("preprocessing.slicing_axis", axis, reason),
            orientation=why(
                "preprocessing.orientation", self.orientation,
                "that of most labelled volumes" if self.ndim == 3 else "pictures have none",
            ),
            normalization=why("preprocessing.normalization", [scheme for scheme, _ in schemes], reasons),
            channel_mapping=why("preprocessing.channel_mapping", channel_mapping(len(names)), ", ".join(names)),
            neighbours=why("preprocessing.neighbours", *self._neighbours(spacing[axis], len(names))),
        )

    def plan_prompting(self) -> PromptingPlan:
        """How prompts are made."""
        count = len(self.dataset_json.structures)
        steps = schedule.tower_steps(count)
        components = [self.plan_structure(name).components for name in self.dataset_json.structures]
        place, why = schedule.place(self.ndim, components)
        return PromptingPlan(
            place=self.because("prompting.place", place, why),
            mirror=self.because("prompting.mirror", self.mirrors, self._why_mirrors()),
            presence=self.because("prompting.presence", *self._presence()),
            tower_steps=self.because("prompting.tower_steps", steps, f"structures: {count}"),
            tower_batch_size=self.because(
                "prompting.tower_batch_size", schedule.tower_batch_size(count), f"structures: {count}"
            ),
            tower_grid=self.because("prompting.tower_grid", schedule.TOWER_GRID, "as fine as the saliency"),
        )

    def plan_network(self) -> NetworkPlan:
        """The network, and how much of its encoder stage 1 trains."""
        why, backbone = self.because, self.backbone or NetworkPlan.backbone
        chosen = "-backbone" if self.backbone else "has seen many medical images, and trains on a laptop"
        size = schedule.input_size(self.device, backbone)
        own = f"what a {self.device} affords of its own size" if size else "the backbone's own"
        frozen = schedule.frozen_stages(self.device, self.labelled_slices)
        more = "more" if self.labelled_slices > schedule.MANY_LABELLED_SLICES else "no more"
        slices = f"{self.device}; {self.labelled_slices} labelled slices, {more} than {schedule.MANY_LABELLED_SLICES}"
        return NetworkPlan(
            backbone=why("network.backbone", backbone, chosen),
            input_size=why("network.input_size", size, own),
            frozen_stages=why("network.frozen_stages", frozen, slices),
        )

    def plan_inference(self) -> InferencePlan:
        """Whether other places are decoded too: not for volumes, where it would cost six times the decoder.

        And of which structures of a volume only the largest part is kept: those of one part in every labelled case.
        """
        mirror = self.because("inference.mirror", self.mirrors, self._why_mirrors())
        if self.ndim == 2:
            return InferencePlan(mirror=mirror)
        counts = {name: entry["components"]["cases_with"] for name, entry in self.fingerprint["structures"].items()}
        single = tuple(name for name, found in counts.items() if set(found) == {"1"})
        one_part = "of one part in every labelled case" if single else "no structure is of one part in every case"
        return InferencePlan(
            choose_place=self.because("inference.choose_place", False, "volumes: six times the decoder on every slice"),
            mirror=mirror,
            largest_component=self.because("inference.largest_component", single, one_part),
        )

    def plan_finetune(self) -> StagePlan:
        """Stage 1, as long as its labelled slices ask for."""
        why, slices, device = self.because, self.labelled_slices, self.device
        epochs = schedule.finetune_epochs(slices, device)
        drawn = schedule.slices_per_epoch(device, self.ndim, slices, epochs)
        halving, batch = schedule.halving_epochs(epochs), schedule.batch_size(device, self.memory_gib, slices)
        machine = f"{device}, {self.memory_gib:.0f} GiB, {slices} labelled slices"
        return StagePlan(
            epochs=why("finetune.epochs", epochs, f"{slices} labelled slices"),
            slices_per_epoch=why("finetune.slices_per_epoch", drawn, self._why_drawn(drawn, slices)),
            batch_size=why("finetune.batch_size", batch, machine),
            inference_batch_size=self._inference_batch_size("finetune"),
            lr_halving_epochs=why("finetune.lr_halving_epochs", halving, f"a third of {epochs} epochs"),
            seed=why("finetune.seed", self.seed, "--seed"),
            keep_features=why("finetune.keep_features", self.mirrors, self._why_kept()),
            augmentation=AugmentationPlan(flip=why("finetune.augmentation.flip", self.mirrors, self._why_mirrors())),
        )

    def with_every_label(self) -> LitePlanner:
        """This planner, were no label of a fold's training cases left out."""
        other = copy.copy(self)
        other.labelled_slices = max(self.labelled_slices, self.every_slice)
        return other

    def plan_align(self) -> StagePlan:
        """Stage 2: of pictures, what is said about places; of volumes, preferences over pixels.

        On a volume every slice would be decoded at thirty places, and one answer would serve a single slice.
        """
        pixels = self.plan_align_preferences()
        if self.ndim == 3:
            return pixels
        why = self.because
        slices = self.unlabelled_slices
        answers = min(slices, schedule.ANSWERS) if slices else schedule.ANSWERS
        epochs = schedule.chosen_epochs(answers)
        return replace(
            pixels,
            objective=why("align.objective", "chosen", "what somebody meant is a label; Eq. 5 teaches the judge"),
            candidates=why("align.candidates", CandidatePlan(kind="places"), "where a structure is decides most"),
            epochs=why("align.epochs", epochs, f"about {answers} answers"),
            slices_per_epoch=why("align.slices_per_epoch", 0, "all that were answered"),
            lr_halving_epochs=why("align.lr_halving_epochs", schedule.halving_epochs(epochs),
                                  f"a third of {epochs} epochs"),
        )

    def plan_align_preferences(self) -> StagePlan:
        """Eq. 5 over the pixels of candidates drawn at every step, as long as its unlabelled slices ask for."""
        why, slices = self.because, self.unlabelled_slices
        epochs = schedule.align_epochs(slices, self.device)
        most = schedule.ALIGN_IMAGE_STEPS[1]
        drawn = schedule.slices_per_epoch(self.device, self.ndim, slices, epochs, most)
        return StagePlan(
            trainer=why("align.trainer", "AlignTrainer", "trains on what is ranked"),
            previous_stage=why("align.previous_stage", "finetune", "whose model proposes what is ranked"),
            objective=why("align.objective", "preferences", "paper Eq. 5"),
            epochs=why("align.epochs", epochs, f"{slices} unlabelled slices"),
            slices_per_epoch=why("align.slices_per_epoch", drawn, self._why_drawn(drawn, slices)),
            batch_size=why("align.batch_size", 4, "only the decoder trains"),
            inference_batch_size=self._inference_batch_size("align"),
            prompt_rounds=why("align.prompt_rounds", 0, "a judge of the outlines chooses places, if anybody does"),
            labelled_per_step=2,
            lr=1e-4,
            lr_halving_epochs=why("align.lr_halving_epochs", schedule.ALIGN_HALVING_EPOCHS, "once, if at all"),
            seed=why("align.seed", self.seed, "--seed"),
            augmentation=AugmentationPlan(flip=why("align.augmentation.flip", self.mirrors, self._why_mirrors())),
        )

    def epochs_with_encoder(self, epochs: int) -> int:
        """Of a peer of ``align`` that trains the encoder too, where those of the mask decoder alone have ``epochs``.

        A third, since each of its steps costs several times as much.
        """
        return max(1, epochs // 3)

    def plan_stages(self) -> dict[str, StagePlan]:
        """``finetune``, ``align``, its controls on the same images without preferences, and what others add.

        Others are the makers of stages that :mod:`samdpo.extensions` knows: functions of a planner that give stages.

        Raises:
            PlansError: two of them give a stage of the same name.
        """
        stages = {"finetune": self.plan_finetune(), "align": self.plan_align()}
        apart = copy.copy(self)  # its reasons would replace those for align
        preferences = self.because("align_preferences", apart.plan_align_preferences(), "Eq. 5 over drawn masks")
        stages["align_preferences"] = preferences
        stages["align_paper"] = self.because("align_paper", as_in_the_paper(preferences), "the paper's own stage 2")
        for objective in ("self_training", "best_candidate"):
            control = replace(preferences, objective=objective)
            stages[f"align_{objective}"] = self.because(
                f"align_{objective}", control, "a control: align's images without its preferences"
            )
        for maker in names("stages"):
            other = copy.copy(self)  # which may plan otherwise, and give reasons for that
            added = find("stages", maker)(other)
            if twice := stages.keys() & added.keys():
                raise PlansError(f"The stages that {maker!r} adds are there already: {', '.join(sorted(twice))}.")
            for name, stage in added.items():
                self.because(name, stage, f"added by {maker}")
                self.reasons |= {k: said for k, said in other.reasons.items() if k.partition(".")[0] == name}
            stages |= added
        return stages

    def describe(self) -> str:
        """What was planned for, in a line."""
        return (
            f"Planned by {type(self).__name__} for {self.device} with {self.memory_gib:.0f} GiB, "
            f"{self.labelled_slices} labelled and {self.unlabelled_slices} unlabelled slices a fold."
        )

    def _inference_batch_size(self, stage: str) -> int:
        size = schedule.inference_batch_size(self.device, self.memory_gib)
        return self.because(f"{stage}.inference_batch_size", size, f"{self.device}, {self.memory_gib:.0f} GiB")

    def _presence(self) -> tuple[Literal["slice", "volume"], str]:
        if self.ndim == 2:
            return "slice", "pictures have no slices beside them"
        return "volume", "an organ lies at its place along the body's axis"

    def _neighbours(self, spacing: float, channels: int) -> tuple[float, str]:
        if self.ndim == 2:
            return 0.0, "pictures have no slices beside them"
        if channels > 1:
            return 0.0, f"the network's channels show those of the image, {channels}"
        return max(round(spacing, 3), schedule.LEAST_NEIGHBOURS), (
            f"slices are {spacing:.3g} mm apart; what is nearer than {schedule.LEAST_NEIGHBOURS:g} mm looks the same"
        )

    def _why_mirrors(self) -> str:
        if self.ndim == 3:
            return "volumes: a body has its liver on one side"
        return "left and right are alike" if self.mirrors else "a structure's name says left or right"

    def _why_kept(self) -> str:
        if self.mirrors:
            return "what frozen stages make of a slice and of its mirror image is computed once"
        return "nothing is mirrored, so that kept features would show each slice in one view"

    def _why_drawn(self, drawn: int, slices: int) -> str:
        if drawn:
            return f"drawn from {slices} for each epoch: what a {self.device} affords"
        return f"all {slices}" if slices else "all"

"""The plan: everything a run does that is not in the code, as typed dataclasses <-> ``samdpoPlans.json``.

A plans file may inherit: ``{"inherits_from": "samdpoPlans", "plans_name": "sumPlans",
"configurations": {"align": {"loss": {"reduction": "sum"}}}}`` is a whole variant. A configuration may inherit
from another one of the same file, as in nnU-Net. Stages are configurations linked by ``previous_stage``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from samdpo.errors import PlansError
from samdpo.files import read_json, write_json
from samdpo.schema import from_dict, merge, to_dict


@dataclass(frozen=True)
class StructurePlan:
    """One labelled structure: its label id and what prompts are made from."""

    label: int
    phrase: str  # text of the saliency (paper Sec. 3.1)
    components: int = 1  # components kept of the coarse mask; lungs have 2 (paper Sec. 3.1)
    may_be_absent: bool = False
    question: str = "What is the shape of the {name} and where is it located?"  # paper Sec. 3.1
    description: str = ""  # generic description of the structure (the paper's GPT-4 text)


@dataclass(frozen=True)
class ChannelNormalization:
    """How one channel becomes [0, 1]: ``window`` (fixed bounds), ``percentile`` or ``minmax`` of each image."""

    scheme: Literal["window", "percentile", "minmax", "none"]
    lower: float  # window: intensity; percentile: percent in [0, 100]
    upper: float


@dataclass(frozen=True)
class PreprocessingPlan:
    """Raw volume (C, Z, Y, X) -> slices (3, image_size, image_size) in [0, 1]."""

    data_identifier: str = "samdpoPlans_2d_256"
    image_size: int = 256
    slicing_axis: int = 0  # axis of (Z, Y, X) along which slices are cut
    normalization: list[ChannelNormalization] = field(default_factory=list)  # one a channel
    channel_mapping: tuple[int, int, int] = (0, 0, 0)  # source channel of each of the network's three


@dataclass(frozen=True)
class CrfPlan:
    """Dense CRF. Constants as MedCLIP-SAM uses them with pydensecrf (Krähenbühl & Koltun 2011)."""

    enabled: bool = True
    tau: float = 1.05
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 60.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 5.0
    iterations: int = 1


@dataclass(frozen=True)
class PromptingPlan:
    """From text to boxes, points and sentences (paper Sec. 3.1)."""

    image_text_model: str = "lite_towers"
    saliency: Literal["similarity", "gscorecam"] = "similarity"
    gscorecam_top_k: int = 300  # gScoreCAM, Chen et al. 2022
    tower_steps: int = 200
    tower_dim: int = 64
    tower_lr: float = 2e-3
    cross_fit_folds: int = 4
    crf: CrfPlan = field(default_factory=CrfPlan)
    min_component_share: float = 0.15  # of the largest component; smaller ones are dropped
    n_points: int = 5
    n_hypotheses: int = 5
    use_boxes: bool = True
    use_points: bool = True
    use_saliency: bool = True  # saliency logits as mask prompt
    use_answers: bool = True
    use_descriptions: bool = True
    answers: Literal["measured", "none"] = "measured"


@dataclass(frozen=True)
class NetworkPlan:
    """The SAM-type network."""

    backbone: str = "lite_medsam"
    text_dim: int = 384  # MiniLM
    frozen_stages: int = 0  # leading encoder stages that stage 1 does not train; -1 freezes the whole encoder


@dataclass(frozen=True)
class InferencePlan:
    """How a prompted slice becomes masks."""

    choose_place: bool = True  # decode every hypothesis box of a one-component structure too, keep the best by SAM's
    # own predicted overlap
    largest_component: tuple[str, ...] = ()  # structures of which only the largest part in 3D is kept


@dataclass(frozen=True)
class AugmentationPlan:
    """Views of a training slice."""

    flip: bool = True  # left-right
    rotation: float = 10.0  # degrees, uniform in +-
    scale: float = 0.1  # relative, uniform in +-
    translation: float = 0.05  # of the image size, uniform in +-
    brightness: float = 0.1
    contrast: float = 0.15
    box_jitter: float = 0.03  # of the box's side
    prompt_corruption: float = 0.0  # share of training prompts with a box that is far off and no points


@dataclass(frozen=True)
class SegmentationLossPlan:
    """20:1 focal : Dice (paper Sec. 4); alpha is the focal loss's foreground weight (Lin et al. 2017)."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    focal_alpha: float = 0.5
    focal_gamma: float = 2.0


@dataclass(frozen=True)
class CandidatePlan:
    """The proposals that are ranked (paper Sec. 3.2)."""

    kind: Literal["thresholds", "fields", "hypotheses"] = "fields"
    count: int = 4
    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)  # paper's supplement
    field_sigmas: tuple[float, ...] = (8.0, 16.0, 32.0)  # pixels of the 256 grid
    field_amplitude: tuple[float, float] = (0.7, 3.0)  # logits
    offset_std: float = 1.0  # logits


@dataclass(frozen=True)
class AnnotatorPlan:
    """Who ranks. ``virtual`` scores by overlap with the truth of simulated unlabelled images (paper Sec. 3.2)."""

    kind: Literal["virtual"] = "virtual"
    scoring: Literal["ranking", "rating", "best"] = "ranking"
    rating_bins: tuple[float, ...] = (0.4, 0.55, 0.7)  # IoU, paper's supplement
    noise: float = 0.0  # share of adjacent ranks flipped


@dataclass(frozen=True)
class PreferenceLossPlan:
    """Eq. 5 of the paper and its variants; names as in TRL."""

    type: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    beta1: float = 1.0
    beta2: float = 0.5
    reduction: Literal["sum", "mean", "disagreement"] = "disagreement"
    label_smoothing: float = 0.1  # robust only
    anchor_weight: float = 1.0  # weight of stage 1's loss on labelled images


@dataclass(frozen=True)
class StagePlan:
    """One training stage: a configuration of the plan."""

    trainer: str = "FinetuneTrainer"
    previous_stage: str | None = None
    objective: Literal["supervised", "preferences", "self_training", "best_candidate"] = "supervised"
    epochs: int = 12
    batch_size: int = 2
    lr: float = 1e-4
    encoder_lr: float = 5e-5
    lr_halving_epochs: int = 4
    grad_clip: float = 1.0
    prompt_rounds: int = 0  # align: rounds of refitting the image-text model to the places that were ranked best
    labelled_per_step: int = 2  # align: labelled images of the anchor, beside batch_size unlabelled ones
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 12345
    held_back: float = 0.0  # share of the labelled cases kept from training to choose the mask cut and the best epoch
    mask_cut: float = 0.5  # probability at which a pixel becomes foreground
    save_every: int = 1  # epochs between resumable checkpoints
    augmentation: AugmentationPlan = field(default_factory=AugmentationPlan)
    segmentation_loss: SegmentationLossPlan = field(default_factory=SegmentationLossPlan)
    candidates: CandidatePlan = field(default_factory=CandidatePlan)
    annotator: AnnotatorPlan = field(default_factory=AnnotatorPlan)
    loss: PreferenceLossPlan = field(default_factory=PreferenceLossPlan)


@dataclass(frozen=True)
class Plans:
    """A whole plan. ``configurations`` holds the stages."""

    dataset_name: str
    plans_name: str
    experiment_planner_used: str
    file_ending: str
    structures: dict[str, StructurePlan]
    original_median_spacing: list[float]
    original_median_shape: list[float]
    ndim: int  # 2 for single images, 3 for volumes
    preprocessing: PreprocessingPlan
    prompting: PromptingPlan
    network: NetworkPlan
    configurations: dict[str, StagePlan]
    inference: InferencePlan = field(default_factory=InferencePlan)

    def stage(self, name: str) -> StagePlan:
        """The configuration called ``name``; raises PlansError listing the stages there are."""
        if name not in self.configurations:
            raise PlansError(
                f"{self.plans_name} has no stage {name!r}. Its stages: {', '.join(self.configurations)}. "
                "Add one under 'configurations' with \"inherits_from\": \"align\"."
            )
        return self.configurations[name]

    def with_overrides(self, stage: str, overrides: list[str]) -> Plans:
        """A copy with ``key=value`` texts applied; see :func:`apply_overrides`."""
        self.stage(stage)
        data = apply_overrides(to_dict(self), stage, overrides)
        return from_dict(Plans, data, source=f"{self.plans_name} with --set")


def load_plans(file: Path) -> Plans:
    """Read a plans file, resolve what it inherits, check every key.

    Raises:
        PlansError: missing file, not JSON, wrong key or type, unknown or circular ``inherits_from``.
    """
    return parse_plans(_read_with_parents(Path(file), ()), Path(file))


def parse_plans(data: dict[str, Any], file: Path) -> Plans:
    """Resolve and check the content of a plans file that inherits from no other; ``file`` is for messages."""
    return from_dict(Plans, _resolve(data, file), source=str(file))


def save_plans(plans: Plans, file: Path) -> None:
    """Write the whole resolved plan as JSON, atomically."""
    write_json(file, to_dict(plans))


def apply_overrides(data: dict[str, Any], stage: str, overrides: list[str]) -> dict[str, Any]:
    """Apply ``key=value`` texts: dotted keys of the stage, or of the plan when they start with a plan key.

    Values are JSON where they parse, else text: ``epochs=3``, ``loss.reduction=sum``, ``prompting.n_points=8``.
    """
    top_level = {f.name for f in dataclasses.fields(Plans)}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise PlansError(f"--set expects key=value, for example --set epochs=3; found {text!r}.")
        parts = key.strip().split(".")
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value
        nested: Any = parsed
        for part in reversed(parts):
            nested = {part: nested}
        if parts[0] not in top_level:
            nested = {"configurations": {stage: nested}}
        data = merge(data, nested)
    return data


def _read_with_parents(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    data = read_json(file, error=PlansError, remedy="Make a plan with: samdpo_plan_and_preprocess -d DATASET")
    if not isinstance(data, dict):
        raise PlansError(f"{file}: the file must hold one JSON object, found {type(data).__name__}.")
    parent = data.pop("inherits_from", None)
    if parent is None:
        return data
    parent_file = file.with_name(f"{parent}.json")
    if parent_file in (*seen, file):
        raise PlansError(f"{file}: 'inherits_from' goes in a circle over {parent_file.name}.")
    data.setdefault("plans_name", file.stem)
    return merge(_read_with_parents(parent_file, (*seen, file)), data)


def _resolve(data: dict[str, Any], file: Path) -> dict[str, Any]:
    """Resolve ``inherits_from`` between the configurations of one file."""
    configurations = data.get("configurations")
    if not isinstance(configurations, dict):
        return data  # from_dict says what is wrong

    def resolved(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        if name not in configurations:
            raise PlansError(
                f"{file}: 'configurations.{seen[-1]}.inherits_from' names {name!r}, which is not one of "
                f"{', '.join(configurations)}."
            )
        if name in seen:
            raise PlansError(f"{file}: 'inherits_from' of configuration {name!r} goes in a circle.")
        own = configurations[name]
        if not isinstance(own, dict) or "inherits_from" not in own:
            return own
        rest = {k: v for k, v in own.items() if k != "inherits_from"}
        return merge(resolved(own["inherits_from"], (*seen, name)), rest)

    return {**data, "configurations": {name: resolved(name, ()) for name in configurations}}

"""The sections of a plan, one dataclass each; what a key means and its default stand beside it.

The defaults stand here and nowhere else: a plan's file holds what differs from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from samdpo.extensions import OURS
from samdpo.names import name_problem
from samdpo.schema import as_before, keys_where, leaves, to_dict

LITE_TOWERS, BIOMEDCLIP = "lite_towers", "biomedclip"  # prompting.image_text_model
HIGHEST_LABEL = 32767  # label maps are int16
LARGEST_IMAGE = 8192  # pixels of a slice's side
_BODY_AXES = (set("LR"), set("PA"), set("SI"))
_WIDEST = 1 << 16  # of layers and batches; what is wider is a slip, and would only fill the memory
_RANKING = ("preferences", "best_candidate")  # objectives that learn from an annotator's order
_CHOSEN = ("chosen", "judge_only")  # objectives that learn from what is said about places
_CONSISTENCY = ("mean_teacher", "fixmatch")
_STAGE_2 = (*_RANKING, *_CHOSEN, "self_training", *_CONSISTENCY)  # those that learn from unlabelled images
_STAGE_1 = ("FinetuneTrainer", "SamTrainer", "PromptOnlyTrainer")  # prompted, in views of every kind
_CONSISTENT = ("MeanTeacherTrainer", "FixMatchTrainer")
_OF_SLICES = (*_STAGE_1, "AlignTrainer", *_CONSISTENT, "SelfPromptTrainer", "UNetTrainer")
_OF_OURS = (*_OF_SLICES, "SamMed3dTrainer")  # all but nnU-Net, whose training is its own
# Keys of a stage that only stages of these objectives, or of these trainers, read; every stage reads the others.
READ_BY = {
    **dict.fromkeys(("prompt_rounds", "labelled_per_step", "loss"), _STAGE_2),
    **dict.fromkeys(("candidates", "annotator"), (*_RANKING, *_CHOSEN)),
    **dict.fromkeys(("annotator.scoring", "annotator.rating_bins"), _RANKING),
    **dict.fromkeys(
        [f"candidates.{key}" for key in ("count", "thresholds", "field_sigmas", "field_amplitude", "offset_std")],
        _RANKING,
    ),
    "places": _CHOSEN,
    **{f"loss.{key}": ("preferences",) for key in ("type", "beta1", "beta2", "reduction", "label_smoothing")},
    "consistency": _CONSISTENCY,
    **dict.fromkeys(("consistency.ramp_up", "consistency.ema_decay"), ("mean_teacher",)),
    **dict.fromkeys(("consistency.confidence", "consistency.feature_dropout"), ("fixmatch",)),
    **dict.fromkeys(
        ("slices_per_epoch", "batch_size", "lr", "lr_halving_epochs", "lr_warm_up_steps", "grad_clip", "precision",
         "mask_cut", "save_every"), _OF_OURS,
    ),
    "encoder_lr": (*_STAGE_1, "SelfPromptTrainer", "SamMed3dTrainer"),  # those that train an encoder
    "keep_features": (*_STAGE_1, "SelfPromptTrainer"),
    "segmentation_loss": (*_STAGE_1, "AlignTrainer", *_CONSISTENT, "SelfPromptTrainer"),
    "augmentation": _OF_SLICES,
    **dict.fromkeys(
        [f"augmentation.{key}" for key in ("rotation", "scale", "translation", "brightness", "contrast")],
        (*_STAGE_1, "SelfPromptTrainer", "UNetTrainer"),
    ),
    "augmentation.box_jitter": (*_STAGE_1, "AlignTrainer", *_CONSISTENT),  # the peers inherit that of align
    "augmentation.prompt_corruption": _STAGE_1,
}
LATER_STAGE_KEYS = {"lr_warm_up_steps": 0}  # not in settings where they are so: older versions had not these keys
_ONCE_EVERYWHERE = {"augmentation", "segmentation_loss", "candidates", "annotator", "loss"}


def _check_range(section: object, name: str, least: int, most: int) -> None:
    value = getattr(section, name)
    if not least <= value <= most:
        raise ValueError(f"'{name}' is {value}; expected {least} to {most}")


@dataclass(frozen=True)
class StructurePlan:
    """One labelled structure: its label id and what prompts are made from."""

    label: int
    phrase: str  # text of the saliency (paper Sec. 3.1)
    components: int = 1  # components kept of the coarse mask; lungs have 2 (paper Sec. 3.1)
    may_be_absent: bool = False
    presence_threshold: float | None = None  # score from which it counts as present; None is calibrated in each fold
    question: str = "What is the shape of the {name} and where is it located?"  # paper Sec. 3.1
    description: str = ""  # generic description of the structure (the paper's GPT-4 text)


@dataclass(frozen=True)
class ChannelNormalization:
    """How one channel becomes [0, 1]: ``window`` (fixed bounds), ``percentile`` or ``minmax`` of each image."""

    scheme: Literal["window", "percentile", "minmax", "none"]
    lower: float  # window: intensity; percentile: percent in [0, 100]
    upper: float

    def __post_init__(self) -> None:
        if self.scheme == "percentile":
            _check_range(self, "lower", 0, 100)
            _check_range(self, "upper", 0, 100)


@dataclass(frozen=True)
class PreprocessingPlan:
    """Raw volume (C, Z, Y, X) -> slices (3, image_size, image_size) in [0, 1]."""

    data_identifier: str = "samdpoPlans_2d_256"
    image_size: int = 256
    slicing_axis: int = 0  # axis of (Z, Y, X) along which slices are cut
    orientation: str = ""  # of volumes, where x, y, z run, such as LPS; others are turned to it; "" turns none
    normalization: list[ChannelNormalization] = field(default_factory=list)  # one a channel
    channel_mapping: tuple[int, int, int] = (0, 0, 0)  # source channel of each of the network's three
    neighbours: float = 0.0  # mm to the slices that the encoder sees before and after a grey volume's slice; 0: none

    def __post_init__(self) -> None:
        if problem := name_problem(self.data_identifier):  # a folder is called so
            raise ValueError(f"'data_identifier' is {self.data_identifier!r}, which is {problem}; expected a plain "
                             "name")
        _check_range(self, "image_size", 1, LARGEST_IMAGE)
        _check_range(self, "slicing_axis", 0, 2)
        one_of_each = len(self.orientation) == 3 and all(len(axis & set(self.orientation)) == 1 for axis in _BODY_AXES)
        if self.orientation and not one_of_each:
            raise ValueError(f"'orientation' is {self.orientation!r}; expected three letters like LPS, or none")
        channels = len(self.normalization)
        if min(self.channel_mapping) < 0 or (channels and max(self.channel_mapping) >= channels):
            raise ValueError(
                f"'channel_mapping' is {list(self.channel_mapping)}; expected channels 0 to {max(channels - 1, 0)}, "
                "those of 'normalization'"
            )
        _check_range(self, "neighbours", 0, 1000)
        if self.neighbours and len(set(self.channel_mapping)) > 1:
            raise ValueError(
                f"'neighbours' is {self.neighbours:g}, which is for images of one channel; 'channel_mapping' shows "
                f"channels {list(self.channel_mapping)}. Expected 0"
            )


@dataclass(frozen=True)
class TrainingImages:
    """What the images were like that a model learnt from: prediction says where an input is otherwise.

    Measured, never chosen; empty or 0 where a plan is older than the key.
    """

    files_per_case: int = 0  # 1: all channels in one file; else one a channel
    coloured: bool = False  # whether each of them has colours, of R, G, B in one file
    value_range: list[tuple[float, float]] = field(default_factory=list)  # lowest and highest of all, one a channel
    usual_range: list[tuple[float, float]] = field(default_factory=list)  # medians of the images' own, one a channel
    spacing_range: list[tuple[float, float]] = field(default_factory=list)  # mm, along z, y, x


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

    image_text_model: str = "lite_towers"  # or biomedclip, or any open_clip model: hf-hub:OWNER/NAME, local-dir:FOLDER
    saliency: Literal["similarity", "gscorecam"] = "similarity"
    gscorecam_top_k: int = 300  # gScoreCAM, Chen et al. 2022
    text_encoder: Literal["minilm", "image_text_model"] = "minilm"  # of answer and description; see network.text_dim
    tower_steps: int = 200
    tower_grid: int = 0  # sides of the grid that the towers work on, where the encoder's is coarser; 0: the encoder's
    tower_dim: int = 64
    tower_lr: float = 2e-3
    tower_batch_size: int = 4  # slices a step of their fit
    cross_fit_folds: int = 4
    mirror: bool = True  # the towers are fitted to mirror images too; not where left and right differ
    presence: Literal["slice", "volume"] = "slice"  # decided slice by slice, or over all slices of a volume together
    crf: CrfPlan = field(default_factory=CrfPlan)
    min_component_share: float = 0.15  # of the largest component; smaller ones are dropped
    n_points: int = 5
    n_hypotheses: int = 5
    place: Literal["saliency", "judge"] = "saliency"  # who chooses where: a judge, of proposals, learns the outlines
    blobs: int = 18  # boxes around blobs of several scales that are proposed beside those of the saliency
    proposals: int = 32  # masks of a slice that are kept
    proposal_grid: int = 0  # sides of the grid they are decoded on, where the encoder's is finer; 0: the encoder's
    use_boxes: bool = True
    use_points: bool = True
    use_saliency: bool = True  # saliency logits as mask prompt
    use_answers: bool = True
    use_descriptions: bool = True
    answers: Literal["measured", "vlm", "medvint", "none"] = "measured"  # who answers the structures' questions
    vlm: str = ""  # of vlm and medvint: the model's folder, or for vlm its published name
    vlm_batch_size: int = 8  # questions a pass
    vlm_max_new_tokens: int = 50  # longest answer; MedVInT's (Zhang et al. 2023)

    def __post_init__(self) -> None:
        name = self.image_text_model
        if name not in (LITE_TOWERS, BIOMEDCLIP) and not name.startswith(("hf-hub:", "local-dir:")):
            raise ValueError(
                f"'image_text_model' is {name!r}; expected {LITE_TOWERS}, {BIOMEDCLIP}, hf-hub:OWNER/NAME or "
                "local-dir:FOLDER"
            )
        for name, least in (
            ("tower_dim", 1), ("vlm_batch_size", 1), ("vlm_max_new_tokens", 1), ("gscorecam_top_k", 1),
            ("n_points", 0), ("n_hypotheses", 0), ("tower_batch_size", 1),
        ):
            _check_range(self, name, least, _WIDEST)
        _check_range(self, "tower_grid", 0, 64)  # of the saliency
        _check_range(self, "blobs", 0, 256)
        _check_range(self, "proposal_grid", 0, 64)
        _check_range(self, "proposals", 8, 256)
        if not self.fits_towers and self.saliency == "similarity":
            raise ValueError(f"{name} gives no similarity map of its own; set 'saliency' to 'gscorecam'")
        if self.fits_towers and self.text_encoder == "image_text_model":
            raise ValueError(f"{name} have no text tower of their own; set 'text_encoder' to 'minilm'")
        if self.answers in ("vlm", "medvint") and not self.vlm.strip():
            raise ValueError(f"'answers' is '{self.answers}', so 'vlm' must name the model's folder")

    @property
    def fits_towers(self) -> bool:
        """Whether the image-text model is fitted to the labelled part; a pretrained one is only calibrated on it."""
        return self.image_text_model == LITE_TOWERS


LATER_PROMPTING_KEYS = ("tower_grid", "tower_batch_size", "proposal_grid")
"""Keys of :class:`PromptingPlan` that came later: at their default they are left out of hashes, which stay the same."""


@dataclass(frozen=True)
class LoraPlan:
    """Low-rank matrices beside the encoder's attention projections (Hu et al. 2022)."""

    rank: int = 8
    alpha: float = 16.0  # their product is scaled by alpha / rank
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_range(self, "rank", 1, _WIDEST)


@dataclass(frozen=True)
class NetworkPlan:
    """The SAM-type network."""

    backbone: str = "lite_medsam"
    pretrained: bool = True  # start from the backbone's published weights
    input_size: int = 0  # side to which slices are resampled inside the network; 0 is the backbone's own
    adapters: bool = True  # sam_med2d_b: with its adapter blocks
    text_dim: int = 384  # of prompting.text_encoder: 384 for MiniLM, 512 for BiomedCLIP
    train: Literal["full", "adapters", "lora", "decoder"] = "full"  # what stage 1 trains
    frozen_stages: int = 0  # leading encoder stages that stage 1 does not train; -1 freezes the whole encoder
    lora: LoraPlan = field(default_factory=LoraPlan)
    outputs: int = 0  # structures that a network without prompts tells apart; 0 for networks that are prompted

    def __post_init__(self) -> None:
        for name, least, most in (
            ("input_size", 0, LARGEST_IMAGE), ("text_dim", 1, _WIDEST), ("outputs", 0, HIGHEST_LABEL),
        ):
            _check_range(self, name, least, most)


@dataclass(frozen=True)
class InferencePlan:
    """How a prompted slice becomes masks."""

    choose_place: bool = True  # decode every hypothesis box of a one-component structure too, keep the best by SAM's
    # own predicted overlap
    mirror: bool = True  # average with what is said of the mirror image
    smooth_mm: float = 0.0  # standard deviation of a Gaussian across a volume's slices; 0 is none
    largest_component: tuple[str, ...] = ()  # structures of which only the largest part in 3D is kept

    def __post_init__(self) -> None:
        _check_range(self, "smooth_mm", 0, 1000)


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

    kind: Literal["thresholds", "fields", "hypotheses", "places"] = "fields"
    count: int = 4
    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)  # paper's supplement
    field_sigmas: tuple[float, ...] = (8.0, 16.0, 32.0)  # pixels of the 256 grid
    field_amplitude: tuple[float, float] = (0.7, 3.0)  # logits
    offset_std: float = 1.0  # logits


@dataclass(frozen=True)
class PlacesPlan:
    """Proposals of different places and what is asked about them (``candidates.kind`` is ``places``).

    The virtual annotator answers as people were measured to: it mistakes the order of two masks the more often the
    nearer their overlaps are (Jang et al. 2026: 3, 5 and 16%), its boxes are off by a share of their sides, and every
    answer takes its seconds (Papadopoulos et al. 2016 and 2017; Jang et al. 2026; COCO's polygons).
    """

    slices: int = 150  # unlabelled ones that are asked about; 0 is all
    shown: int = 6  # masks of an item; the first is the model's own
    held_back: float = 0.2  # share of the answers, by patient, that only say whether the new model is better
    refit: float = 3.0  # towers learn masks that were meant where these are so many times the outlines; 0: never
    asks: Literal["mixture", "orders", "boxes", "outlines"] = "mixture"  # accept one, else a box; or one kind alone
    minutes: float = 10.0  # of the virtual annotator; 0 is no limit
    accept_from: float = 0.8  # overlap (IoU) from which a mask is right as it is
    none_below: float = 0.5  # overlap below which none is acceptable
    box_error: float = 0.04  # standard deviation of each side of a box, as a share of the box
    errs: tuple[float, float, float] = (0.16, 0.05, 0.03)  # at a gap of overlaps below .04, below .18, above
    seconds_accept: float = 2.0
    seconds_choose: float = 4.0  # another one than the first
    seconds_order: float = 24.0  # of six
    seconds_box: float = 9.0  # a glance at the masks and two clicks on the extremes
    seconds_outline: float = 79.0

    def __post_init__(self) -> None:
        _check_range(self, "slices", 0, 1 << 31)
        _check_range(self, "shown", 2, 8)
        _check_range(self, "refit", 0, 1 << 31)
        for name in ("held_back", "accept_from", "none_below", "box_error"):
            _check_range(self, name, 0, 1)


@dataclass(frozen=True)
class AnnotatorPlan:
    """Who ranks. ``virtual`` scores by overlap with the truth of simulated unlabelled images (paper Sec. 3.2)."""

    # recorded: people; mixed: virtual where no one has been; judge: a control, places in the judge's own order
    kind: Literal["virtual", "recorded", "mixed", "judge"] = "virtual"
    scoring: Literal["ranking", "rating", "best"] = "ranking"
    rating_bins: tuple[float, ...] = (0.4, 0.55, 0.7)  # IoU, paper's supplement
    noise: float = 0.0  # share of adjacent ranks flipped; of answers about places, share drawn at random


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
class ConsistencyPlan:
    """What the stages ``mean_teacher`` and ``fixmatch`` learn from unlabelled images."""

    weight: float = 1.0  # of the loss on unlabelled images
    ramp_up: float = 0.4  # mean_teacher: share of the steps over which the weight grows (Laine & Aila 2017)
    ema_decay: float = 0.99  # mean_teacher: of the teacher's weights (Tarvainen & Valpola 2017)
    confidence: float = 0.95  # fixmatch: probability from which a pixel's pseudo-label counts (Sohn et al. 2020)
    feature_dropout: float = 0.5  # fixmatch: share of the embedding's channels dropped (Yang et al. 2023)
    encoder_lr: float = 0.0  # 0: the mask decoder trains alone; else all that stage 1 trains, and the encoder at this
    brightness: float = 0.1  # where the encoder trains, of the strong view; as in 'augmentation'
    contrast: float = 0.2  # likewise


@dataclass(frozen=True)
class StagePlan:
    """One training stage: a configuration of the plan."""

    trainer: str = "FinetuneTrainer"
    previous_stage: str | None = None
    objective: str = "supervised"  # stage 2: chosen, judge_only, preferences, self_training, best_candidate, …
    plan: dict[str, Any] = field(default_factory=dict)  # sections of the plan that are otherwise in this stage
    epochs: int = 12
    minutes: float = 0.0  # of computing after which no further step begins; 0 is no limit
    slices_per_epoch: int = 0  # drawn anew for every epoch; 0 is every slice
    batch_size: int = 2
    inference_batch_size: int = 4  # slices that go through the network together where nothing is trained
    lr: float = 1e-4
    encoder_lr: float = 5e-5
    lr_halving_epochs: int = 4
    lr_warm_up_steps: int = 0  # first steps over which both rates rise; 0: they are whole from the first (paper)
    grad_clip: float = 1.0
    prompt_rounds: int = 0  # align: rounds of refitting the image-text model to the places that were ranked best
    labelled_per_step: int = 2  # align: labelled images of the anchor, beside batch_size unlabelled ones
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 12345
    held_back: float = 0.0  # share of the labelled cases kept from training to choose the mask cut and the best epoch
    mask_cut: float = 0.5  # probability at which a pixel becomes foreground
    keep_features: bool = True  # finetune: keep the output of frozen encoder stages; views are then two
    save_every: int = 1  # epochs between resumable checkpoints
    augmentation: AugmentationPlan = field(default_factory=AugmentationPlan)
    segmentation_loss: SegmentationLossPlan = field(default_factory=SegmentationLossPlan)
    candidates: CandidatePlan = field(default_factory=CandidatePlan)
    annotator: AnnotatorPlan = field(default_factory=AnnotatorPlan)
    loss: PreferenceLossPlan = field(default_factory=PreferenceLossPlan)
    places: PlacesPlan = field(default_factory=PlacesPlan)
    consistency: ConsistencyPlan = field(default_factory=ConsistencyPlan)

    def __post_init__(self) -> None:
        for name in ("batch_size", "inference_batch_size", "lr_halving_epochs", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' is {getattr(self, name)}; expected 1 or more")
        if self.lr_warm_up_steps < 0:
            raise ValueError(f"'lr_warm_up_steps' is {self.lr_warm_up_steps}; expected 0 or more")
        asks_where = self.candidates.kind == "places"
        if (self.objective in _CHOSEN and not asks_where) or (self.objective in _RANKING and asks_where):
            raise ValueError(
                f"'objective' is '{self.objective}' where 'candidates.kind' is '{self.candidates.kind}'; "
                f"{' and '.join(_CHOSEN)} learn from places, {' and '.join(_RANKING)} from the other kinds. Inherit "
                "from align for the first, from align_preferences for the second"
            )

    def reads(self, key: str) -> bool:
        """Whether anything reads the dotted ``key`` in this stage; a trainer or objective of one's own may read all."""
        readers = READ_BY.get(key, READ_BY.get(key.partition(".")[0]))
        ours = self.trainer in OURS["trainer"] and self.objective in ("supervised", *_STAGE_2)
        return not ours or readers is None or self.objective in readers or self.trainer in readers

    def settings(self) -> dict[str, Any]:
        """What is read in this stage, as JSON."""
        every = to_dict(self)
        if self.objective in _CONSISTENCY:  # without keys that older versions had not, so that what they began goes on
            every["consistency"] = as_before(self.consistency, "encoder_lr", "brightness", "contrast")
        if not self.places.refit:
            del every["places"]["refit"]  # as older versions had it, which could not refit
        for key, usual in LATER_STAGE_KEYS.items():
            if every[key] == usual:
                del every[key]
        return keys_where(every, self.reads)

    def unread(self, written: dict[str, Any], first: StagePlan | None = None) -> list[str]:
        """Dotted keys that somebody wrote into this stage and that nothing reads there.

        A key at its default does no harm, nor does one that is as in the plan's ``first`` stage: planners set both
        alike. What has every section was written by an older version, not by hand.
        """
        if written.keys() >= _ONCE_EVERYWHERE:
            return []
        usual = [dict(leaves(to_dict(stage))) for stage in (StagePlan(), first) if stage is not None]
        return [key for key, value in leaves(written)
                if not self.reads(key) and all(value != of.get(key) for of in usual)]

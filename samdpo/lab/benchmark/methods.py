"""The methods that are compared: what each learns from, who must do what for it, and where its masks lie.

Ablations are methods whose plans inherit: the paper's Tables 1 and 2, what its supplement varies, and what is asked
about places. Variants of ``align`` and ``align_preferences`` are further stages of one plan file, so that they start
from the very same ``finetune``; so are the points of the effort study. Variants of the prompts have a plan of their
own, since a plan keeps one set of prompts a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from samdpo.errors import ConfigurationError
from samdpo.files import read_json, write_json
from samdpo.lab.benchmark.cells import Cell

STAGES_FILE = "_ablations"  # suffix of the plan file that holds the variants of stages
EFFORT_FILE = "_effort"  # likewise, the points of the effort study


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes:
        name: as typed after ``--methods``.
        stage: configuration of the plan that trains it.
        title: what a table calls it.
        learns_from: ``masks`` of the labelled images; ``images``: also the unlabelled images; ``judgements``: also
            what an annotator says of candidates on them.
        after: stage that must be finished first, or None.
        all_labels: whether it sees the masks of all training cases, whatever ``--labelled`` says.
        truth_prompt: whether the prompt of a test image comes from its truth. Such numbers stand apart.
        ndims: of the data sets it suits: 2 for pictures, 3 for volumes.
        validation: folder of the fold that holds the masks of the test cases.
        needs_prompts: whether the fold's prompts from text are made first.
        companion_of: method that is trained for this row too; only the prompt at test differs.
        plans_suffix: of the plan's name in the model folder, behind the benchmark's own.
        file_suffix: of the plan's file.
    """

    name: str
    stage: str
    title: str
    learns_from: Literal["masks", "images", "judgements"] = "masks"
    after: str | None = None
    all_labels: bool = False
    truth_prompt: bool = False
    ndims: tuple[int, ...] = (2, 3)
    validation: str = "validation"
    needs_prompts: bool = True
    companion_of: str | None = None
    plans_suffix: str = ""
    file_suffix: str = ""

    @property
    def needs_unlabelled(self) -> bool:
        """Whether there is nothing to train where every training case is labelled."""
        return self.learns_from != "masks"

    @property
    def competes(self) -> bool:
        """Whether it has the same labels as the others and needs nobody at test, so that ranks and tests are fair."""
        return not (self.all_labels or self.truth_prompt)


def _baseline(name: str, title: str, **more: Any) -> Method:
    return Method(name, name, title, needs_prompts=False, **more)


def _with_truth(of: Method, prompt: str) -> Method:
    """The same network, prompted by the truth of the test image."""
    return replace(of, name=f"{of.name}_truth_{prompt}", title=f"{of.title}, truth's {prompt} at test",
                   truth_prompt=True, validation=f"validation_truth_{prompt}", companion_of=of.name)


_SAM = _baseline("sam", "SAM, LoRA")  # one that has seen no medical image
_MEDICAL_SAM = _baseline("sam_med2d", "Medical SAM, LoRA")  # the paper's SAM-Med2D; here the plan's own network
_SAM_3D = _baseline("sam_med3d", "SAM-Med3D", ndims=(3,))
_ROWS = (
    _baseline("unet", "U-Net"),
    _baseline("nnunet", "nnU-Net"),
    _SAM,
    _with_truth(_SAM, "box"),
    _MEDICAL_SAM,
    _with_truth(_MEDICAL_SAM, "box"),
    _SAM_3D,
    _with_truth(_SAM_3D, "click"),
    _baseline("self_prompt", "Self-prompt"),
    Method("finetune", "finetune", "Ours, stage 1 (finetune)"),
    Method("self_training", "align_self_training", "Self-training", "images", "finetune"),
    Method("mean_teacher", "mean_teacher", "Mean teacher", "images", "finetune"),
    Method("fixmatch", "fixmatch", "FixMatch", "images", "finetune"),
    Method("mean_teacher_encoder", "mean_teacher_encoder", "Mean teacher, encoder trained", "images", "finetune"),
    Method("fixmatch_encoder", "fixmatch_encoder", "FixMatch, encoder trained", "images", "finetune"),
    Method("best_candidate", "align_best_candidate", "Best candidate", "judgements", "finetune"),
    Method("align_paper", "align_paper", "The paper's stage 2", "judgements", "finetune"),
    Method("align_preferences", "align_preferences", "Eq. 5 over pixels", "judgements", "finetune", ndims=(2,)),
    Method("align", "align", "Ours (align)", "judgements", "finetune"),  # of volumes it is Eq. 5 over pixels
    _baseline("prompt_only", "Prompt-only, all labels", all_labels=True),  # makes prompts of its own
)
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}


def chosen_methods(names: Sequence[str] | None) -> list[Method]:
    """The methods called ``names`` with their companions, in the order of the tables; all of them where None.

    Raises:
        ConfigurationError: there is no such method; the message lists the names.
    """
    trained = [method.name for method in _ROWS if method.companion_of is None]
    for name in names or ():
        if name not in trained:
            known = METHODS.get(name)
            hint = f" It is a row of {known.companion_of!r}; name that." if known else ""
            raise ConfigurationError(f"--methods names {name!r}.{hint} The methods are: {', '.join(trained)}.")
    wanted = set(names or trained)
    return [method for method in _ROWS if (method.companion_of or method.name) in wanted]


def suits(method: Method, ndim: int, everything_labelled: bool) -> bool:
    """Whether a method can be trained.

    Args:
        method: to train.
        ndim: of the data set: 2 for pictures, 3 for volumes.
        everything_labelled: whether no training case is left unlabelled.
    """
    return ndim in method.ndims and not (method.needs_unlabelled and everything_labelled)


@dataclass(frozen=True)
class Ablation:
    """One variant.

    Attributes:
        method: its row.
        group: as typed after ``--ablations``.
        change: of the plan, or of the stage ``base`` where the variant is a stage.
        unlabelled: share of the training cases to take as unlabelled; None for all the rest.
        base: stage that a variant inherits from.
        ndims: of the data sets it suits.
    """

    method: Method
    group: str
    change: dict[str, Any] = field(default_factory=dict)
    unlabelled: float | None = None
    base: str = "align"
    ndims: tuple[int, ...] = (2, 3)


def _prompts(name: str, title: str, **switches: bool) -> Ablation:
    suffix = f"_{name}"
    return Ablation(Method(name, "finetune", title, plans_suffix=suffix, file_suffix=suffix), "components",
                    {"prompting": switches})


def _stage(group: str, name: str, title: str, change: dict[str, Any], file_suffix: str = STAGES_FILE, **more: Any
           ) -> Ablation:
    method = Method(name, f"align_{name}", title, "judgements", "finetune", file_suffix=file_suffix)
    return Ablation(method, group, change, **more)


def _pixels(group: str, name: str, title: str, change: dict[str, Any], unlabelled: float | None = None) -> Ablation:
    """A variant of Eq. 5 over pixels."""
    return _stage(group, name, title, change, unlabelled=unlabelled, base="align_preferences")


def _places(group: str, name: str, title: str, change: dict[str, Any], file_suffix: str = STAGES_FILE) -> Ablation:
    """A variant of what is asked about places, which only pictures are."""
    return _stage(group, name, title, change, file_suffix, ndims=(2,))


def _ranking(group: str, unlabelled: float) -> tuple[Ablation, ...]:
    """The paper's ranking with fewer unlabelled images: of volumes, ``align`` is this very stage."""
    return (Ablation(METHODS["align_preferences"], group, unlabelled=unlabelled, ndims=(2,)),
            Ablation(METHODS["align"], group, unlabelled=unlabelled))


_NO_VISUAL = {"use_boxes": False, "use_points": False, "use_saliency": False}  # all of them come from the saliency map
_NOISE = (0.05, 0.1, 0.2, 0.3)  # paper's supplement
_BETAS = ((2.0, 1.0), (1.5, 0.75))  # paper's supplement; its best pair, 1 and 0.5, is the plan's
_CUTS = {"candidates": {"kind": "thresholds"}}
_REDUCTIONS = ("sum", "mean")
_LOSSES = ("ipo", "hinge", "robust")
_RANDOM = (0.1, 0.2, 0.3, 0.5)
ABLATIONS: tuple[Ablation, ...] = (
    # Table 1: every row leaves out more than the one before, the last all that comes from the saliency map.
    Ablation(METHODS["align"], "components", unlabelled=0.1),
    _prompts("no_answers", "- alignment - answers", use_answers=False),
    _prompts("no_texts", "- alignment - answers - descriptions", use_answers=False, use_descriptions=False),
    _prompts("no_saliency", "- alignment - answers - saliency", use_answers=False, **_NO_VISUAL),
    # Table 2 is about Eq. 5 over pixels; align stands beside it
    Ablation(METHODS["best_candidate"], "scoring", unlabelled=0.1),
    _pixels("scoring", "rating", "Rating", {"annotator": {"scoring": "rating"}}, unlabelled=0.1),
    *_ranking("scoring", 0.1),
    *_ranking("unlabelled", 0.2),
    *_ranking("unlabelled", 0.4),
    # What is ranked: the paper's cuts of one mask instead of the plan's random fields
    _pixels("candidates", "thresholds", "Candidates: cuts of one mask at four thresholds", _CUTS),
    _pixels("candidates", "best_threshold", "Best of four cuts as a label", {"objective": "best_candidate", **_CUTS}),
    # The paper's supplement, and what its Eq. 5 leaves open
    *(_pixels("noise", f"noise_{share * 100:02.0f}", f"{share:.0%} of neighbours flipped",
              {"annotator": {"noise": share}}) for share in _NOISE),
    *(_pixels("beta", f"beta_{a:g}_{b:g}", f"beta {a:g} and {b:g}", {"loss": {"beta1": a, "beta2": b}})
      for a, b in _BETAS),
    *(_pixels("reduction", f"reduction_{name}", f"reward: {name} over pixels", {"loss": {"reduction": name}})
      for name in _REDUCTIONS),
    *(_pixels("loss", f"loss_{name}", f"loss: {name}", {"loss": {"type": name}}) for name in _LOSSES),
    # What is asked about places, and whether it is the answers that teach
    _places("answers", "judge_only", "The judge alone learns", {"objective": "judge_only"}),
    _places("answers", "orders", "Orders alone", {"places": {"asks": "orders"}}),
    _places("answers", "boxes", "Boxes alone", {"places": {"asks": "boxes"}}),
    _places("answers", "own_order", "Nobody asked: the judge's own order",
            {"annotator": {"kind": "judge"}, "places": {"held_back": 0.0}}),
    *(_places("random_answers", f"random_{share * 100:02.0f}", f"{share:.0%} of the answers drawn at random",
              {"annotator": {"noise": share}}) for share in _RANDOM),
)
GROUPS = tuple(dict.fromkeys(ablation.group for ablation in ABLATIONS))

# Dice against an annotator's minutes
ASKS = {"outlines": "outlines", "boxes": "boxes", "orders": "orders", "mixture": "accept one, else a box"}
MINUTES_ASKED = (2, 5, 10, 20, 60)
EFFORT: tuple[Ablation, ...] = tuple(
    _places("effort", f"effort_{asks}_{minutes:02d}", f"{title}, {minutes} minutes",
            {"places": {"asks": asks, "minutes": float(minutes)}}, EFFORT_FILE)
    for asks, title in ASKS.items() for minutes in MINUTES_ASKED
)
ASKING = ("align", "align_orders", "align_boxes")  # stages that differ from a point in its minutes at most
# That the study's figure shows beside the points.
EFFORT_METHODS = ("finetune", "mean_teacher", "fixmatch", "mean_teacher_encoder", "fixmatch_encoder", "prompt_only")
ASKED = {point.method.stage: (point.change["places"]["asks"], point.change["places"]["minutes"]) for point in EFFORT}
VARIANTS = (*ABLATIONS, *EFFORT)
# By name, in the order of the tables: the rows, then the variants.
EVERY: dict[str, Method] = {**METHODS, **{variant.method.name: variant.method for variant in VARIANTS}}


def covering(stage: str) -> tuple[str, ...]:
    """Stages that may have asked what a point of the effort study would ask: where one has, it need not be trained.

    They are those that ask the same in fewer minutes, since they may have asked about everything there is, and those
    that ask the same for as long as the plan says.
    """
    if stage not in ASKED:
        return ()
    asks, minutes = ASKED[stage]
    return (*(name for name, (other, fewer) in ASKED.items() if other == asks and fewer < minutes), *ASKING)


def chosen_ablations(groups: Sequence[str]) -> list[Ablation]:
    """The ablations of ``groups``.

    Raises:
        ConfigurationError: there is no such group.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ConfigurationError(f"--ablations names {unknown[0]!r}; its groups are: {', '.join(GROUPS)}.")
    return [ablation for ablation in ABLATIONS if ablation.group in groups]


def cells_of(ablation: Ablation, cells: Sequence[Cell]) -> list[Cell]:
    """Where an ablation is run, given the cells of the main comparison: not where too few cases are unlabelled."""
    share = ablation.unlabelled
    if share is None:
        return [cell for cell in cells if not ablation.method.needs_unlabelled or cell.labelled < 1]
    return [Cell(cell.root, cell.labelled, cell.seed, share) for cell in cells if cell.labelled + share <= 1 + 1e-9]


def write_plans(cell: Cell, dataset: str, plans: str) -> None:
    """Write the variants' plan files beside the plan they inherit from; those that are there as wanted stay."""
    # The stages keep the plan's name: their folders lie beside those of finetune and align, and they find both, and all
    # of them share the proposals on disk.
    contents: dict[str, Any] = {}
    for name in (STAGES_FILE, EFFORT_FILE):
        of_file = [variant for variant in VARIANTS if variant.method.file_suffix == name]
        stages = {one.method.stage: {"inherits_from": one.base, **one.change} for one in of_file}
        contents[name] = {"inherits_from": plans, "plans_name": plans, "configurations": stages}
    for ablation in ABLATIONS:
        suffix = ablation.method.plans_suffix
        if suffix:
            contents[suffix] = {"inherits_from": plans, "plans_name": f"{plans}{suffix}", **ablation.change}
    for suffix, content in contents.items():
        file = cell.preprocessed / dataset / f"{plans}{suffix}.json"
        if not file.is_file() or read_json(file) != content:
            write_json(file, content)

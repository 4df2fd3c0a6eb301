"""Ablations as plans that inherit: the paper's Tables 1 and 2, and what its supplement varies.

Variants of ``align`` are further stages of one plan file, so that they start from the very same ``finetune``. Variants
of the prompts have a plan of their own, since a plan keeps one set of prompts a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from samdpo.errors import ConfigurationError
from samdpo.files import read_json, write_json
from samdpo.lab.benchmark.cell import Cell
from samdpo.lab.benchmark.methods import METHODS, Method

STAGES_FILE = "_ablations"  # suffix of the plan file that holds the variants of align


@dataclass(frozen=True)
class Ablation:
    """One variant.

    Attributes:
        method: its row.
        group: as typed after ``--ablations``.
        change: of the plan, or of the stage ``align`` where the variant is a stage.
        unlabelled: share of the training cases to take as unlabelled; None for all the rest.
    """

    method: Method
    group: str
    change: dict[str, Any] = field(default_factory=dict)
    unlabelled: float | None = None


def _prompts(name: str, title: str, **switches: bool) -> Ablation:
    suffix = f"_{name}"
    return Ablation(Method(name, "finetune", title, plans_suffix=suffix, file_suffix=suffix), "components",
                    {"prompting": switches})


def _align(group: str, name: str, title: str, change: dict[str, Any], unlabelled: float | None = None) -> Ablation:
    method = Method(name, f"align_{name}", title, "judgements", "finetune", file_suffix=STAGES_FILE)
    return Ablation(method, group, change, unlabelled)


_NO_VISUAL = {"use_boxes": False, "use_points": False, "use_saliency": False}  # all of them come from the saliency map
_NOISE = (0.05, 0.1, 0.2, 0.3)  # paper's supplement
_BETAS = ((2.0, 1.0), (1.5, 0.75))  # paper's supplement; its best pair, 1 and 0.5, is the plan's
_CUTS = {"candidates": {"kind": "thresholds"}}
_REDUCTIONS = ("sum", "mean")
_LOSSES = ("ipo", "hinge", "robust")

ABLATIONS: tuple[Ablation, ...] = (
    # Table 1: every row leaves out more than the one before, the last all that comes from the saliency map.
    Ablation(METHODS["align"], "components", unlabelled=0.1),
    _prompts("no_answers", "- alignment - answers", use_answers=False),
    _prompts("no_texts", "- alignment - answers - descriptions", use_answers=False, use_descriptions=False),
    _prompts("no_saliency", "- alignment - answers - saliency", use_answers=False, **_NO_VISUAL),
    # Table 2
    Ablation(METHODS["best_candidate"], "scoring", unlabelled=0.1),
    _align("scoring", "rating", "Rating", {"annotator": {"scoring": "rating"}}, unlabelled=0.1),
    Ablation(METHODS["align"], "scoring", unlabelled=0.1),
    Ablation(METHODS["align"], "unlabelled", unlabelled=0.2),
    Ablation(METHODS["align"], "unlabelled", unlabelled=0.4),
    # What is ranked: the paper's cuts of one mask, or masks of other places, instead of the plan's random fields
    _align("candidates", "thresholds", "Candidates: cuts of one mask at four thresholds", _CUTS),
    _align("candidates", "hypotheses", "Candidates: masks of other places", {"candidates": {"kind": "hypotheses"}}),
    _align("candidates", "best_threshold", "Best of four cuts as a label", {"objective": "best_candidate", **_CUTS}),
    # The paper's supplement, and what its Eq. 5 leaves open
    *(_align("noise", f"noise_{share * 100:02.0f}", f"{share:.0%} of neighbours flipped",
             {"annotator": {"noise": share}}) for share in _NOISE),
    *(_align("beta", f"beta_{a:g}_{b:g}", f"beta {a:g} and {b:g}", {"loss": {"beta1": a, "beta2": b}})
      for a, b in _BETAS),
    *(_align("reduction", f"reduction_{name}", f"reward: {name} over pixels", {"loss": {"reduction": name}})
      for name in _REDUCTIONS),
    *(_align("loss", f"loss_{name}", f"loss: {name}", {"loss": {"type": name}}) for name in _LOSSES),
)
GROUPS = tuple(dict.fromkeys(ablation.group for ablation in ABLATIONS))


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
    stages = {
        a.method.stage: {"inherits_from": "align", **a.change} for a in ABLATIONS if a.method.file_suffix == STAGES_FILE
    }
    # The stages keep the plan's name: their folders lie beside those of finetune and align, and they find both.
    contents = {STAGES_FILE: {"inherits_from": plans, "plans_name": plans, "configurations": stages}}
    for ablation in ABLATIONS:
        suffix = ablation.method.plans_suffix
        if suffix:
            contents[suffix] = {"inherits_from": plans, "plans_name": f"{plans}{suffix}", **ablation.change}
    for suffix, content in contents.items():
        file = cell.preprocessed / dataset / f"{plans}{suffix}.json"
        if not file.is_file() or read_json(file) != content:
            write_json(file, content)

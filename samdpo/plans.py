"""The plan: everything a run does that is not in the code, as typed dataclasses <-> ``samdpoPlans.json``.

A plans file may inherit: ``{"inherits_from": "samdpoPlans", "plans_name": "sumPlans",
"configurations": {"align": {"loss": {"reduction": "sum"}}}}`` is a whole variant. A configuration may inherit
from another one of the same file, as in nnU-Net. Stages are configurations linked by ``previous_stage``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samdpo.errors import PlansError, SamdpoError
from samdpo.files import parse_json, read_json, write_json
from samdpo.names import SUPPORTED_ENDINGS, check_name, name_problem
from samdpo.paths import DATASET_NAME
from samdpo.plan_sections import (
    BIOMEDCLIP,
    HIGHEST_LABEL,
    LITE_TOWERS,
    AnnotatorPlan,
    AugmentationPlan,
    CandidatePlan,
    ChannelNormalization,
    ConsistencyPlan,
    CrfPlan,
    InferencePlan,
    LoraPlan,
    NetworkPlan,
    PreferenceLossPlan,
    PreprocessingPlan,
    PromptingPlan,
    SegmentationLossPlan,
    StagePlan,
    StructurePlan,
    TrainingImages,
)
from samdpo.schema import from_dict, merge, to_dict

__all__ = [
    "BIOMEDCLIP",
    "LITE_TOWERS",
    "AnnotatorPlan",
    "AugmentationPlan",
    "CandidatePlan",
    "ChannelNormalization",
    "ConsistencyPlan",
    "CrfPlan",
    "InferencePlan",
    "LoraPlan",
    "NetworkPlan",
    "Plans",
    "PreferenceLossPlan",
    "PreprocessingPlan",
    "PromptingPlan",
    "SegmentationLossPlan",
    "StagePlan",
    "StructurePlan",
    "TrainingImages",
    "apply_overrides",
    "load_plans",
    "parse_plans",
    "save_plans",
]


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
    kept_gib: float = 20.0  # of disk for the kept features of one encoder (and fold); what exceeds it is computed anew
    training_images: TrainingImages = field(default_factory=TrainingImages)

    def __post_init__(self) -> None:
        named = {"dataset_name": self.dataset_name, "plans_name": self.plans_name}  # what folders are called after
        for name in self.configurations:
            named[f"configurations.{name}"] = name
        for key, name in named.items():
            if problem := name_problem(name):
                raise ValueError(f"'{key}' is {name!r}, which is {problem}; expected a plain name, as of a folder")
        if not DATASET_NAME.match(self.dataset_name):
            raise ValueError(f"'dataset_name' is {self.dataset_name!r}; expected a name like Dataset003_Liver")
        if self.file_ending not in SUPPORTED_ENDINGS:
            raise ValueError(f"'file_ending' is {self.file_ending!r}; expected one of {', '.join(SUPPORTED_ENDINGS)}")
        if self.ndim not in (2, 3):
            raise ValueError(f"'ndim' is {self.ndim}; expected 2 or 3")
        labels = [structure.label for structure in self.structures.values()]
        if not labels or len(set(labels)) < len(labels) or min(labels) < 1 or max(labels) > HIGHEST_LABEL:
            raise ValueError(f"'structures' must have different labels, 1 to {HIGHEST_LABEL}, found {labels or 'none'}")
        for name in self.inference.largest_component:
            if name not in self.structures:
                raise ValueError(f"'inference.largest_component' names {name!r}, which is not among 'structures'")

    def stage(self, name: str) -> StagePlan:
        """The configuration called ``name``; raises PlansError listing the stages there are."""
        if name not in self.configurations:
            raise PlansError(
                f"{self.plans_name} has no stage {name!r}. Its stages: {', '.join(self.configurations)}. "
                "Add one under 'configurations' with \"inherits_from\": \"align\"."
            )
        return self.configurations[name]

    def for_stage(self, name: str) -> Plans:
        """The plan as the stage called ``name`` has it: the sections under its ``plan`` merged over the others.

        Raises:
            PlansError: no such stage, or a wrong key or type in its ``plan``.
        """
        own = self.stage(name).plan
        source = f"{self.plans_name}, 'configurations.{name}.plan'"
        if "configurations" in own:
            raise PlansError(f"{source} has 'configurations'; what the stage itself has otherwise stands beside it.")
        return from_dict(Plans, merge(to_dict(self), own), source=source) if own else self

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
            parsed = parse_json(value, key)
        except SamdpoError:
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
    check_name(parent, f"{file}: 'inherits_from'", PlansError, "It is the name of another plan beside it.")
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
        if not isinstance(name, str) or name not in configurations:
            raise PlansError(
                f"{file}: 'configurations.{seen[-1]}.inherits_from' names {name!r}, which is not one of "
                f"{', '.join(configurations)}."
            )
        if name in seen:
            raise PlansError(f"{file}: 'inherits_from' of configuration {name!r} goes in a circle.")
        own = configurations[name]
        if seen and not isinstance(own, dict):
            raise PlansError(
                f"{file}: 'configurations.{seen[-1]}' inherits from {name!r}, which must be an object {{...}}, found "
                f"{type(own).__name__}."
            )
        if not isinstance(own, dict) or "inherits_from" not in own:
            return own
        rest = {k: v for k, v in own.items() if k != "inherits_from"}
        return merge(resolved(own["inherits_from"], (*seen, name)), rest)

    return {**data, "configurations": {name: resolved(name, ()) for name in configurations}}

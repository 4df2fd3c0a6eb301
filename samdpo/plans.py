"""The plan: everything a run does that is not in the code, as typed dataclasses <-> ``samdpoPlans.json``.

A file holds what differs from the defaults, which stand in :mod:`samdpo.plan_sections`; a model's folder holds every
value of its one stage, so that no later change of a default changes a trained model.

A plans file may inherit: ``{"inherits_from": "samdpoPlans", "plans_name": "sumPlans",
"configurations": {"align": {"loss": {"reduction": "sum"}}}}`` is a whole variant. A configuration may inherit
from another one of the same file, as in nnU-Net. Stages are configurations linked by ``previous_stage``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samdpo.errors import PlansError, SamdpoError
from samdpo.files import atomic_path, parse_json, read_json
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
    PlacesPlan,
    PreferenceLossPlan,
    PreprocessingPlan,
    PromptingPlan,
    SegmentationLossPlan,
    StagePlan,
    StructurePlan,
    TrainingImages,
)
from samdpo.schema import differences, from_dict, keys_where, leaves, merge, to_dict

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
    "PlacesPlan",
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
    "short_plans",
    "write_plans",
]

_INNERMOST = re.compile(r"[\[{]\n[^\[\]{}]*\n *[\]}]")  # lists and objects that hold no other
_LONGEST_LINE = 90
_UNDONE = 4  # keys more than a stage has by itself that it may have when it inherits


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
        if self.ndim == 2 and self.prompting.presence == "volume":
            raise ValueError("'prompting.presence' is 'volume', but the images are pictures ('ndim' is 2); expected "
                             "'slice'")
        if self.ndim == 2 and self.preprocessing.neighbours:
            raise ValueError(f"'preprocessing.neighbours' is {self.preprocessing.neighbours:g}, but the images are "
                             "pictures ('ndim' is 2); expected 0")
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

    def only(self, name: str) -> Plans:
        """The plan as a trained model of the stage called ``name`` keeps it: without the other stages."""
        return dataclasses.replace(self, configurations={name: self.stage(name)})

    def with_overrides(self, stage: str, overrides: list[str], trainer: str | None = None) -> Plans:
        """A copy with ``key=value`` texts applied; see :func:`apply_overrides`.

        Where they change how many epochs a stage has and not when its rates halve, these halve after the same share of
        it: thrice as many epochs under rates that are down to nothing after the first third would teach nothing.

        Args:
            stage: configuration whose keys are named.
            overrides: the texts.
            trainer: that trains the stage in place of the plan's, and so says which keys are read.

        Raises:
            PlansError: no such stage or key, a wrong type, or a key that the stage does not read.
        """
        self.stage(stage)
        source = f"{self.plans_name} with --set"
        plans = from_dict(Plans, apply_overrides(to_dict(self), stage, overrides), source=source)
        asked = apply_overrides({}, stage, overrides)
        if "lr_halving_epochs" not in asked.get("configurations", {}).get(stage, {}):
            of_the_same_share = halving_of(self.stage(stage), plans.stage(stage).epochs)
            own = dataclasses.replace(plans.stage(stage), lr_halving_epochs=of_the_same_share)
            plans = dataclasses.replace(plans, configurations={**plans.configurations, stage: own})
        reading = plans
        if trainer:
            with_it = dataclasses.replace(plans.stage(stage), trainer=trainer)
            reading = dataclasses.replace(plans, configurations={**plans.configurations, stage: with_it})
        _refuse_unread(reading, asked, source)
        return plans


def halving_of(stage: StagePlan, epochs: int) -> int:
    """Epochs after which the rates of a stage halve where it has ``epochs`` in place of its own number of them."""
    if epochs == stage.epochs or not stage.epochs:
        return stage.lr_halving_epochs
    return max(1, math.ceil(stage.lr_halving_epochs * epochs / stage.epochs))


def load_plans(file: Path) -> Plans:
    """Read a plans file, resolve what it inherits, check every key.

    Raises:
        PlansError: missing file, not JSON, wrong key or type, unknown or circular ``inherits_from``, or a key in a
            stage that nothing reads there.
    """
    file, data = Path(file), {}
    chain = _with_parents(file)
    for _, content in reversed(chain):
        data = merge(data, content)
    plans = from_dict(Plans, _resolve(data, file), source=str(file))
    for source, content in chain:
        _refuse_unread(plans, content, str(source))
    return plans


def parse_plans(data: dict[str, Any], file: Path) -> Plans:
    """As :func:`load_plans`, of the content of a file that inherits from no other; ``file`` is for messages."""
    plans = from_dict(Plans, _resolve(data, file), source=str(file))
    _refuse_unread(plans, data, str(file))
    return plans


def save_plans(plans: Plans, file: Path) -> None:
    """Write every value of a plan as JSON, atomically."""
    write_plans(to_dict(plans), file)


def write_plans(data: dict[str, Any], file: Path) -> None:
    """Write the content of a plan as JSON, atomically; short lists and objects take one line."""
    with atomic_path(file) as temporary:
        text = _INNERMOST.sub(_in_a_line, json.dumps(data, indent=2))
        temporary.write_text(text + "\n", encoding="utf-8")


def _in_a_line(found: re.Match[str]) -> str:
    begin, *parts, end = found[0].splitlines()
    line = begin + " ".join(part.strip() for part in parts) + end.strip()
    return line if len(line) <= _LONGEST_LINE else found[0]


def short_plans(plans: Plans) -> dict[str, Any]:
    """The content of a file of which :func:`load_plans` makes the same plan: what differs from the defaults.

    A stage inherits from the first one that starts where it starts, unless it would have to undo most of it: those
    that begin with published weights from ``finetune``, those that go on with its model from ``align``. So an edit of
    these reaches what they are compared with. What nothing reads in a stage is left out.
    """
    stages: dict[str, Any] = {}
    for name, stage in plans.configurations.items():
        first = next(n for n, other in plans.configurations.items() if other.previous_stage == stage.previous_stage)
        stages[name] = keys_where(differences(stage), stage.reads)
        if first != name:
            with suppress(ValueError):
                own = keys_where(differences(stage, plans.configurations[first]), stage.reads)
                if len(list(leaves(own))) < len(list(leaves(stages[name]))) + _UNDONE:
                    stages[name] = {"inherits_from": first, **own}
    return {**differences(plans), "configurations": stages}


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


def _with_parents(file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A file and those that it inherits from, nearest first, each with its content."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        data = read_json(file, error=PlansError, remedy="Make a plan with: samdpo_plan_and_preprocess -d DATASET")
        if not isinstance(data, dict):
            raise PlansError(f"{file}: the file must hold one JSON object, found {type(data).__name__}.")
        chain.append((file, data))
        parent = data.pop("inherits_from", None)
        if parent is None:
            return chain
        check_name(parent, f"{file}: 'inherits_from'", PlansError, "It is the name of another plan beside it.")
        data.setdefault("plans_name", file.stem)
        parent_file = file.with_name(f"{parent}.json")
        if parent_file in (seen for seen, _ in chain):
            raise PlansError(f"{file}: 'inherits_from' goes in a circle over {parent_file.name}.")
        file = parent_file


def _refuse_unread(plans: Plans, written: dict[str, Any], source: str) -> None:
    for name, own in written.get("configurations", {}).items():
        stage, first = plans.stage(name), None if name == "finetune" else plans.configurations.get("finetune")
        for key in stage.unread(own, first):
            raise PlansError(
                f"{source}: nothing reads 'configurations.{name}.{key}' in a stage of {stage.trainer} whose objective "
                f"is {stage.objective!r}. Take it out, or write it into a stage of another trainer or objective."
            )


_MOVED = ("blobs", "kept")  # of a stage's places, to the plan's prompting, where a model's prompter has its own


def _without_moved(stage: Any) -> Any:
    """A stage without keys that an older version wrote and that are the plan's now."""
    places = stage.get("places") if isinstance(stage, dict) else None
    if not isinstance(places, dict) or not any(key in places for key in _MOVED):
        return stage
    return {**stage, "places": {key: value for key, value in places.items() if key not in _MOVED}}


def _resolve(data: dict[str, Any], file: Path) -> dict[str, Any]:
    """Resolve ``inherits_from`` between the configurations of one file."""
    configurations = data.get("configurations")
    if not isinstance(configurations, dict):
        return data  # from_dict says what is wrong

    configurations = {name: _without_moved(stage) for name, stage in configurations.items()}

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

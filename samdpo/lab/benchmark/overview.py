"""What a benchmark will do, said before it does it."""

from __future__ import annotations

from collections.abc import Sequence

from samdpo.errors import ConfigurationError
from samdpo.files import read_json
from samdpo.lab.benchmark.execute import cost_of
from samdpo.lab.benchmark.run import has_failed
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.steps import Step
from samdpo.paths import PLANS_NAME, preprocessed_root, raw_root
from samdpo.plans import load_plans

PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")


def ndim_of(dataset: str, settings: Settings) -> int:
    """2 for a data set of pictures, 3 for volumes: as planned or measured, else as the files' ending suggests."""
    folders = [preprocessed_root() / dataset, *sorted(settings.root.glob(f"labelled_*/seed_*/preprocessed/{dataset}"))]
    for folder in folders:
        if (folder / "dataset_fingerprint.json").is_file():
            shapes = read_json(folder / "dataset_fingerprint.json")["shapes"]
            return 3 if any(shape[0] > 1 for shape in shapes) else 2
    ending = read_json(raw_root() / dataset / "dataset.json")["file_ending"]
    return 2 if ending.lower() in PICTURES else 3


def check_networks(settings: Settings) -> None:
    """Refuse a backbone that a plan of the benchmark does not have: what was run with another stays.

    Raises:
        ConfigurationError: names the plan, and what to type.
    """
    for plans in settings.plans if settings.backbone else ():
        for file in sorted(settings.root.glob(f"labelled_*/seed_*/preprocessed/*/{plans}.json")):
            found = load_plans(file).network.backbone
            if found != settings.backbone:
                raise ConfigurationError(
                    f"-backbone is {settings.backbone}, but {file} has {found}. Choose another name for the plan: "
                    f"--plans {settings.backbone}Plans"
                )


def overview(steps: Sequence[Step], settings: Settings, retry: bool) -> list[str]:
    """Lines for the log: the budget, the trainings of every cell by what is known of them, how long at most is left."""
    trainings = [step for step in steps if step.kind == "train"]
    lines = [f"Budget: {settings.budget}.", f"Folder: {settings.root}"]
    states = {step.key: _state(step, retry) for step in trainings}
    for place in dict.fromkeys(map(_place, trainings)):
        lines.append(f"  {place}")
        here = [step for step in trainings if _place(step) == place]
        for state in _STATES:
            stages = [_name(step) for step in here if states[step.key] == state]
            lines += [f"    {state}: {', '.join(stages)}"] if stages else []
    counts = {state: list(states.values()).count(state) for state in _STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    hint = " --retry runs again what failed." if counts[_FAILED] else ""
    lines.append(f"{len(trainings)} trainings: {said}.{hint}")
    left = counts[_TO_RUN] + counts[_TO_GO_ON]
    if left and settings.minutes and settings.epochs is None:
        lines.append(f"At most {left * settings.minutes / 60:.1f} h of training on an idle machine; prompts and the "
                     "prediction of test cases come on top.")
    return lines


_STATES = _THERE, _TO_RUN, _TO_GO_ON, _FAILED = "there", "to run", "to go on", "failed"


def _place(step: Step) -> str:
    plans = "" if step.plans == PLANS_NAME else f" {step.plans}"
    return f"{step.dataset}{plans} {step.cell.name}"


def _name(step: Step) -> str:
    """The stage, and the variant of the plan that it has: ``finetune (no_answers)``."""
    variant = step.plans_name.removeprefix(step.plans).removeprefix("_")
    return f"{step.stage} ({variant})" if variant else step.stage


def _state(step: Step, retry: bool) -> str:
    if step.is_done:
        return _THERE
    if has_failed(step) and not retry:
        return _FAILED
    cost = cost_of(step.log)
    return _TO_GO_ON if cost is not None and cost.status in ("started", "stopped") else _TO_RUN

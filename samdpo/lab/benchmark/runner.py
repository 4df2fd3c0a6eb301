"""Run the steps that are left, here one after another or on a Dask cluster; before that, say what will be done."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from samdpo.dask_cluster import check_workers, connect, gone, leave
from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.files import read_json
from samdpo.lab.benchmark.cells import (
    cells_on_disk,
    environment,
    link_dataset,
    link_from_base,
    link_from_other_shares,
    link_tree,
)
from samdpo.lab.benchmark.execute import Cost, cost_of, failed, run_logged
from samdpo.lab.benchmark.methods import ASKED, write_plans
from samdpo.lab.benchmark.settings import Settings
from samdpo.lab.benchmark.steps import Step
from samdpo.names import LOSSY_ENDINGS, NATURAL_ENDINGS
from samdpo.paths import PLANS_NAME, preprocessed_root, raw_root
from samdpo.planning.case_measures import ndim_of
from samdpo.planning.fingerprint import read_fingerprint
from samdpo.plans import load_plans

log = logging.getLogger(__name__)


def ndim_of_dataset(dataset: str, settings: Settings) -> int:
    """2 for a data set of pictures, 3 for volumes: as planned or measured, else as the files' ending suggests."""
    for folder in (preprocessed_root() / dataset, *(c.preprocessed / dataset for c in cells_on_disk(settings.root))):
        if measured := read_fingerprint(folder, missing_ok=True):
            return ndim_of(measured["shapes"])
    ending = read_json(raw_root() / dataset / "dataset.json")["file_ending"]
    return 2 if ending.lower() in NATURAL_ENDINGS + LOSSY_ENDINGS else 3


def check_networks(settings: Settings) -> None:
    """Refuse a backbone that a plan of the benchmark does not have: what was run with another stays.

    Raises:
        ConfigurationError: names the plan, and what to type.
    """
    for plans in settings.plans if settings.backbone else ():
        for file in (f for c in cells_on_disk(settings.root) for f in sorted(c.preprocessed.glob(f"*/{plans}.json"))):
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
        hours = left * settings.minutes / 60
        lines.append(f"At most {hours:.1f} h of training on an idle machine: {left} trainings of {settings.minutes:g} "
                     f"minutes{_core_hours(hours, settings.device)}. Prompts, proposals and the prediction of test "
                     "cases come on top.")
    if any(step.stage in ASKED and states[step.key] == _TO_RUN for step in trainings):
        lines.append("A point of the effort study is left out where a run of fewer minutes has asked about every image "
                     "already.")
    return lines


def _core_hours(hours: float, device: str) -> str:
    """A CPU's minutes are its time over its threads."""
    import torch  # heavy

    if device not in ("auto", "cpu") or (device == "auto" and torch.cuda.is_available()):
        return ""
    threads = torch.get_num_threads()
    return f" on {threads} thread{'s' * (threads > 1)}, or {hours * threads:.1f} core-hours"


_STATES = _THERE, _COVERED, _TO_RUN, _TO_GO_ON, _FAILED = (
    "there", "covered by a run of fewer minutes", "to run", "to go on", "failed"
)


def _place(step: Step) -> str:
    plans = "" if step.plans == PLANS_NAME else f" {step.plans}"
    return f"{step.dataset}{plans} {step.cell.name}"


def _name(step: Step) -> str:
    """The stage, and the variant of the plan that it has: ``finetune (no_answers)``."""
    variant = step.plans_name.removeprefix(step.plans).removeprefix("_")
    return f"{step.stage} ({variant})" if variant else step.stage


def _state(step: Step, retry: bool) -> str:
    if step.is_done:
        return _THERE if step.is_trained else _COVERED
    if has_failed(step) and not retry:
        return _FAILED
    cost = cost_of(step.log)
    return _TO_GO_ON if cost is not None and cost.status in ("started", "stopped") else _TO_RUN


def steps_left(steps: Sequence[Step], retry: bool) -> list[Step]:
    """What is to be run: neither there nor, unless ``retry``, failed before."""
    return [step for step in steps if not step.is_done and (retry or not has_failed(step))]


def has_failed(step: Step) -> bool:
    """Whether the step was run and ended with an error."""
    cost = cost_of(step.log)
    return cost is not None and cost.status == "failed"


def run_step(step: Step) -> Cost:
    """Run one step where what it needs is there; one that another benchmark is running is waited for.

    Raises:
        KeyboardInterrupt: stopped; the same step goes on the next time.
    """
    with _alone(step) as waited:
        if waited and (step.is_done or has_failed(step)):
            return cost_of(step.log) or Cost(shlex.join(step.words), "done")
        return _run(step)


@contextmanager
def _alone(step: Step) -> Iterator[bool]:
    """Until it ends no other process runs the step; yields whether one did, which was waited for."""
    step.log.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(step.log.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
        waited = False
    except Timeout:
        log.info("  another samdpo_benchmark is running it; waiting for it to end.")
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()


def _run(step: Step) -> Cost:
    """The command, once what it needs is in the cell; what fails is noted beside its log."""
    typed = shlex.join(step.words)
    try:
        _prepare(step)
    except SamdpoError as error:
        return failed(step.log, typed, str(error))
    if step.is_done:  # taken over from another cell
        return Cost(typed, "done")
    cost = run_logged(step.words, step.log, environment(step.cell))
    if cost.status == "done" and not step.is_done:
        return failed(step.log, typed, f"ended without an error, but what it should make is not there; see {step.log}")
    return cost


def run_here(steps: Sequence[Step], retry: bool = False) -> None:
    """Run those of ``steps`` that are left, one after another; one that fails does not stop those not needing it."""
    costs: dict[str, Cost] = {}
    left = {step.key for step in steps_left(steps, retry)}
    number = 0
    for step in steps:
        if step.is_done:
            continue
        if step.key in left:
            number += 1
            log.info("[%d/%d] %s: %s", number, len(left), step.cell.name, shlex.join(step.words))
            cost = _run_after(step, costs)
            _say(step, cost)
        else:
            cost = _left_out(step)
        if not step.is_done:
            costs[step.key] = cost


def run_on_dask(steps: Sequence[Step], scheduler: str, retry: bool = False) -> None:
    """Run steps on a Dask cluster whose workers see the same folders; each as soon as what it needs is there.

    Args:
        steps: in an order in which each comes after what it needs.
        scheduler: address, for example ``tcp://host:8786``.
        retry: also run what failed before.

    Raises:
        ConfigurationError: ``distributed`` is not installed, nobody answers, the scheduler goes away, or a worker has
            another version of samdpo or other folders.
    """
    client = connect(scheduler)
    from distributed import CancelledError, as_completed

    try:
        check_workers(client)
        futures: dict[str, Any] = {}
        left = {step.key for step in steps_left(steps, retry)}
        for step in steps:
            if step.key in left:
                needs = {key: futures[key] for key in step.needs if key in futures}
                futures[step.key] = client.submit(_run_on_worker, step, needs, key=step.key, pure=False, retries=0)
            elif not step.is_done:
                futures[step.key] = _left_out(step)
        running = {future: step for step in steps if (future := futures.get(step.key)) and step.key in left}
        for future in as_completed(running, loop=client.loop):
            error = future.exception()
            step = running[future]
            _say(step, future.result() if error is None else failed(step.log, shlex.join(step.words), str(error)))
    except CancelledError as error:
        raise gone(scheduler) from error
    finally:
        leave(client)


def _run_after(step: Step, costs: Mapping[str, Cost]) -> Cost:
    """Run a step unless one of those it needs has failed or was stopped, as far as their costs are known.

    Raises:
        KeyboardInterrupt: stopped; the same step goes on the next time.
    """
    typed = shlex.join(step.words)
    if step.is_done:
        return Cost(typed, "done")
    need = next((key for key in step.needs if key in costs and costs[key].status != "done"), None)
    if need is None:
        return run_step(step)
    if costs[need].status == "stopped":  # and may go on the next time
        return Cost(typed, "stopped")
    return failed(step.log, typed, _needs(need, costs[need].reason))


def _run_on_worker(step: Step, costs: Mapping[str, Cost]) -> Cost:
    try:
        return _run_after(step, costs)
    except KeyboardInterrupt:
        return Cost(shlex.join(step.words), "stopped")


def _prepare(step: Step) -> None:
    """What is computed elsewhere already, and the plans of variants, go into the cell before a step runs."""
    cell, folder = step.cell, step.cell.preprocessed / step.dataset
    if step.kind == "plan":
        link_dataset(cell, step.dataset, step.plans)
        return
    write_plans(cell, step.dataset, step.plans)
    if step.plans_name == step.plans:
        link_from_base(cell, step.dataset, step.plans, step.fold)
        if step.all_labels:
            link_from_other_shares(cell, step.dataset, step.plans, step.stage, step.fold)
        return
    features = folder / f"{step.plans}_features"  # the same images and the same encoder
    if features.is_dir():
        link_tree(features, folder / f"{step.plans_name}_features")


def _left_out(step: Step) -> Cost:
    """Of a step that is neither there nor run again: why it failed before."""
    cost = cost_of(step.log)
    return Cost(shlex.join(step.words), "failed", reason=cost.reason if cost and cost.reason else "it was not run")


def _needs(key: str, reason: str) -> str:
    """Why a step cannot run, by the first one that failed."""
    return reason if reason.startswith("needs ") else f"needs {key.rpartition('/')[2]}, which failed: {reason}"


def _say(step: Step, cost: Cost) -> None:
    if cost.status == "done":
        log.info("  done in %.1f min (%.1f CPU minutes).", cost.wall_seconds / 60, cost.cpu_seconds / 60)
    else:
        log.warning("%s %s: %s", step.key, cost.status, cost.reason)

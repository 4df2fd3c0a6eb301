"""What has to be run, in order: plan and preprocess a cell, make its prompts, train each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from samdpo.lab.benchmark.cells import Cell, is_planned, is_tested, log_file, tested_folders, variants_of_user
from samdpo.lab.benchmark.effort import is_covered
from samdpo.lab.benchmark.methods import METHODS, Ablation, Method, cells_of, suits
from samdpo.lab.benchmark.settings import Settings
from samdpo.paths import PLANS_NAME, number_of, preprocessed_root
from samdpo.planning.near_duplicates import are_unwanted


@dataclass(frozen=True)
class Step:
    """One command in one cell.

    Attributes:
        kind: of command.
        cell: where it runs.
        dataset: ``DatasetXXX_Name``.
        plans: the benchmark's plan, from which variants inherit.
        plans_name: in the names of the folders that the step fills.
        words: the command, as typed.
        stage: of ``train``.
        fold: of ``prompt`` and ``train``.
        stages: of ``plan``: what the plan must have.
        validations: of ``train``: folders with a summary.
        all_labels: of ``train``: whether it learns from all labels, the same in every share.
        needs: the steps' keys that must be done first.
    """

    kind: Literal["plan", "prompt", "train"]
    cell: Cell
    dataset: str
    plans: str
    plans_name: str
    words: tuple[str, ...]
    stage: str = ""
    fold: str = ""
    stages: tuple[str, ...] = ()
    validations: tuple[str, ...] = ("validation",)
    all_labels: bool = False
    needs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names the step in the whole benchmark: ``labelled_0.1/seed_1/samdpo_train_101_align_0``."""
        return f"{self.cell.name}/{self.log.stem}"

    @property
    def log(self) -> Path:
        """Everything the command says."""
        return log_file(self.cell, self.words[0], self.dataset, self.plans_name, self.stage, self.fold)

    @property
    def is_done(self) -> bool:
        """Whether what the step makes is there."""
        if self.kind == "plan":
            return is_planned(self.cell, self.dataset, self.plans_name, self.stages)
        if self.kind == "prompt":
            folder = self.cell.preprocessed / self.dataset / f"{self.plans_name}_prompts" / f"fold_{self.fold}"
            return (folder / "prompter" / "prompter.json").is_file()
        return self.is_trained or is_covered(self.cell, self.dataset, self.plans_name, self.stage, self.fold)

    @property
    def is_trained(self) -> bool:
        """Of ``train``: whether its own run is there; a point of the effort study may be done without one."""
        found = tested_folders(self.cell, self.dataset, self.plans_name, self.stage, self.fold)
        return any(all(is_tested(folder, name) for name in self.validations) for folder in found)


def planning_words(cell: Cell, dataset: str, plans: str, settings: Settings) -> list[str]:
    """``samdpo_plan_and_preprocess`` of a cell, as typed."""
    words = ["samdpo_plan_and_preprocess", "-d", str(number_of(dataset)), "--labelled", f"{cell.labelled:g}"]
    if cell.unlabelled is not None:
        words += ["--unlabelled", f"{cell.unlabelled:g}"]
    words += ["--seed", str(cell.seed), "-np", str(settings.processes)]
    root = variants_of_user(dataset, plans)[1]
    if root != PLANS_NAME:
        words += ["-overwrite_plans_name", root]
    if settings.planner:
        words += ["-pl", settings.planner]
    if settings.backbone:
        words += ["-backbone", settings.backbone]
    if are_unwanted(preprocessed_root() / dataset):
        words += ["--no_near_duplicates"]
    return words


def all_steps(settings: Settings, ablations: Sequence[Ablation], ndims: dict[str, int]) -> list[Step]:
    """Every step of a benchmark, each after those it needs; see :attr:`Step.is_done` for which are left.

    Args:
        settings: of the benchmark.
        ablations: to run too.
        ndims: data set -> 2 for pictures, 3 for volumes.
    """
    wanted: dict[tuple[Cell, str, str], list[Method]] = {}
    for plans in settings.plans:
        for dataset in settings.datasets:
            for cell in settings.cells():
                chosen = [m for m in settings.methods if suits(m, ndims[dataset], cell.labelled == 1)]
                wanted.setdefault((cell, dataset, plans), []).extend(chosen)
            for ablation in ablations:
                for cell in cells_of(ablation, settings.cells()) if ndims[dataset] in ablation.ndims else ():
                    if cell.unlabelled is not None:  # finetune is trained in the cell it is taken over from
                        wanted.setdefault((_base(cell), dataset, plans), []).append(METHODS["finetune"])
                    wanted.setdefault((cell, dataset, plans), []).append(ablation.method)
    # Cells with fewer unlabelled images take the first stage over from the others, so they come last.
    order = sorted(wanted, key=lambda key: key[0].unlabelled is not None)
    steps: dict[str, Step] = {}
    for cell, dataset, plans in order:
        methods = wanted[cell, dataset, plans]
        if methods:
            for step in _steps_of(cell, dataset, plans, methods, settings):
                steps.setdefault(step.key, step)
    return list(steps.values())


def _steps_of(cell: Cell, dataset: str, plans: str, methods: Sequence[Method], settings: Settings) -> list[Step]:
    """Of one cell: planning, then prompts and stages, a stage's earlier one always first."""
    planned = tuple(dict.fromkeys(
        stage for m in methods for stage in (m.after, m.stage) if stage and not (stage == m.stage and m.file_suffix)
    ))
    # The plan makes all of its stages at once; a variant's stage is in a file of its own.
    plan = Step("plan", cell, dataset, plans, plans, tuple(planning_words(cell, dataset, plans, settings)),
                stages=planned)
    steps = [plan]
    for method in methods:
        if method.after is not None:
            steps += _training(METHODS[method.after], plan, settings, methods)
        steps += _training(method, plan, settings, methods)
    return steps


def _training(method: Method, plan: Step, settings: Settings, methods: Sequence[Method]) -> list[Step]:
    """The prompts that a method's stage needs, and its training."""
    cell, dataset, fold = plan.cell, plan.dataset, settings.fold
    plans_name, file = plan.plans + method.plans_suffix, plan.plans + method.file_suffix
    number, option = str(number_of(dataset)), (() if file == PLANS_NAME else ("-p", file))
    device = ("-device", settings.device)
    steps, needs = [], [plan.key]
    if method.needs_prompts:
        prompt_option = () if plans_name == PLANS_NAME else ("-p", plans_name)
        prompt = Step("prompt", cell, dataset, plan.plans, plans_name,
                      ("samdpo_prompt", number, fold, *prompt_option, *device), fold=fold, needs=(plan.key,))
        steps.append(prompt)
        needs.append(prompt.key)
    if method.after is not None:
        earlier = _training(METHODS[method.after], plan, settings, methods)[-1]
        needs.append(earlier.key)
    if cell.unlabelled is not None and method.name == "finetune":
        base = replace(plan, cell=_base(cell))
        needs.append(_training(method, base, settings, methods)[-1].key)
    validations = {m.validation for m in methods if m.stage == method.stage}
    words = ("samdpo_train", number, method.stage, fold, *option, *device, "-np", str(settings.processes), "--c",
             *settings.length)
    steps.append(Step("train", cell, dataset, plan.plans, plans_name, words, method.stage, fold,
                      validations=tuple(sorted(validations | {"validation"})), all_labels=method.all_labels,
                      needs=tuple(needs)))
    return steps


def _base(cell: Cell) -> Cell:
    """The cell with the same labelled cases and all others unlabelled."""
    return replace(cell, unlabelled=None)

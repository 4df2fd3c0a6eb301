"""Runs that a cell need not repeat, since another cell has the very same: they are linked into it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

from samdpo.files import atomic_path
from samdpo.lab.benchmark.cell import Cell
from samdpo.lab.benchmark.cells import cells_on_disk, finished_folders, link_new, link_tree
from samdpo.lab.benchmark.execute import cost_file
from samdpo.lab.benchmark.steps import log_file
from samdpo.paths import EMBEDDINGS
from samdpo.planning.splits import SPLITS_FILE, Fold, load_splits
from samdpo.plans import load_plans
from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)


def link_from_base(cell: Cell, dataset: str, plans: str, fold: str) -> None:
    """Take prompts, features and the finished ``finetune`` over from the cell with all other images unlabelled.

    The two have the same labelled cases, so that both were made from the same; nothing happens where they are not
    there, or where splits or plan differ.
    """
    if cell.unlabelled is None:
        return
    base = Cell(cell.root, cell.labelled, cell.seed)
    if not _same(base, cell, dataset, plans, "finetune", lambda split: (split.labelled, split.val)):
        return
    for name in (f"{plans}_features", f"{plans}_saliency", EMBEDDINGS, f"{plans}_prompts"):
        source, target = (c.preprocessed / dataset / name for c in (base, cell))
        if source.is_dir() and not target.exists():
            link_tree(source, target)
    _link_run(base, cell, dataset, plans, "finetune", fold)


def link_from_other_shares(cell: Cell, dataset: str, plans: str, stage: str, fold: str) -> None:
    """Take a finished run that learned from all labels over from a cell of the same seed and another share of labels.

    Nothing happens where there is none, or where folds or plan differ.
    """
    others = [c for c in cells_on_disk(cell.root) if c.seed == cell.seed and c != cell]
    for other in others:
        if not finished_folders(other, dataset, plans, stage, fold):
            continue
        if _same(other, cell, dataset, plans, stage, lambda split: (sorted(split.train), split.val)):
            _link_run(other, cell, dataset, plans, stage, fold)
            return


def _link_run(source: Cell, cell: Cell, dataset: str, plans: str, stage: str, fold: str) -> None:
    """Link a finished fold, what describes its model, its log and its cost, unless the cell has a run of its own."""
    for found in finished_folders(source, dataset, plans, stage, fold):
        target = cell.results / found.relative_to(source.results)
        if target.exists():
            continue
        log.info("%s: taken over from %s, which has the very same.", target, source.name)
        for file in found.parent.glob("*.json"):  # what describes the model
            link_new(file, target.parent / file.name)
        link_tree(found, target)
        theirs, ours = (log_file(c, "samdpo_train", dataset, plans, stage, fold) for c in (source, cell))
        for one, other in ((theirs, ours), (cost_file(theirs), cost_file(ours))):
            if one.is_file():  # copied: a log is written on where a run is made again
                with atomic_path(other) as temporary:
                    shutil.copy2(one, temporary)


def _same(one: Cell, other: Cell, dataset: str, plans: str, stage: str, cases: Callable[[Fold], Any]) -> bool:
    """Whether a stage learns from the same ``cases`` and images with the same settings in both cells."""
    folders = [cell.preprocessed / dataset for cell in (one, other)]
    if not all((folder / f"{plans}.json").is_file() and (folder / SPLITS_FILE).is_file() for folder in folders):
        return False
    splits = [[cases(split) for split in load_splits(folder)] for folder in folders]
    found = [load_plans(folder / f"{plans}.json") for folder in folders]
    if not all(stage in p.configurations for p in found):
        return False
    found = [p.for_stage(stage) for p in found]
    slices = [SliceStore(f / p.preprocessing.data_identifier).summaries() for f, p in zip(folders, found)]
    if any(slices[0][case].hash != slices[1][case].hash for case in slices[0].keys() & slices[1].keys()):
        return False  # images were replaced between the two
    parts = [(p.network, p.prompting, p.structures, p.preprocessing, p.stage(stage).settings()) for p in found]
    return splits[0] == splits[1] and parts[0] == parts[1]

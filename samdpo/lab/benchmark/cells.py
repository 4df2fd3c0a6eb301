"""The cells of a benchmark, one a share of labels and a seed, and their folders.

What is already computed elsewhere is linked into a cell, so that it is not computed again; so are whole runs of which
another cell has the very same. Every file is only ever replaced as a whole, so a link is a copy of its own: what a cell
writes never reaches the folder that it was linked from.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samdpo.errors import DatasetError
from samdpo.files import atomic_path, link_file, read_json, write_json
from samdpo.lab.benchmark.execute import cost_file
from samdpo.model.description import is_finished
from samdpo.paths import CANDIDATES, EMBEDDINGS, MODEL_SEPARATOR, PLANS_NAME, number_of, preprocessed_root
from samdpo.planning.fingerprint import FINGERPRINT_FILE, load_case_groups
from samdpo.planning.near_duplicates import NEAR_DUPLICATES_FILE
from samdpo.planning.splits import SPLITS_FILE, Fold, load_splits
from samdpo.planning.subsets import usual_cases
from samdpo.plans import load_plans
from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)

_CELL = re.compile(r"^labelled_(?P<labelled>[\d.]+)(_unlabelled_(?P<unlabelled>[\d.]+))?$")
_SEED = re.compile(r"^seed_(\d+)$")


@dataclass(frozen=True)
class Cell:
    """Everything that is trained with the same labelled cases.

    Attributes:
        root: the benchmark's folder.
        labelled: share of each fold's training cases whose labels are used.
        seed: of the choice of labelled cases and of training.
        unlabelled: share of the training cases taken as unlabelled; None for all the rest.
    """

    root: Path
    labelled: float
    seed: int
    unlabelled: float | None = None

    @property
    def name(self) -> str:
        """``labelled_0.1/seed_1`` or ``labelled_0.1_unlabelled_0.2/seed_1``."""
        rest = "" if self.unlabelled is None else f"_unlabelled_{self.unlabelled:g}"
        return f"labelled_{self.labelled:g}{rest}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """The cell's own folder."""
        return self.root / self.name

    @property
    def preprocessed(self) -> Path:
        """``nnUNet_preprocessed`` of the cell: splits, plans, prompts; slices are links."""
        return self.folder / "preprocessed"

    @property
    def results(self) -> Path:
        """``nnUNet_results`` of the cell."""
        return self.folder / "results"

    @property
    def logs(self) -> Path:
        """One log a command, and beside it what the command cost."""
        return self.folder / "logs"

    def model_folder(self, dataset: str, trainer: str, plans: str, stage: str) -> Path:
        """``results/DATASET/TRAINER__PLANS__STAGE``, as nnU-Net names it."""
        return self.results / dataset / MODEL_SEPARATOR.join((trainer, plans, stage))

    def model_folders(self, dataset: str, plans: str, stage: str) -> list[Path]:
        """Those that are there, whatever trainer filled them."""
        return sorted((self.results / dataset).glob(MODEL_SEPARATOR.join(("*", plans, stage))))


def environment(cell: Cell) -> dict[str, str]:
    """The variables with which a command works in this cell."""
    return {**os.environ, "nnUNet_preprocessed": str(cell.preprocessed), "nnUNet_results": str(cell.results)}


def log_file(cell: Cell, command: str, dataset: str, plans_name: str, stage: str = "", fold: str = "") -> Path:
    """``logs/samdpo_train_101_align_0.log``; the plan's name comes last where it is not the usual one."""
    plans = "" if plans_name == PLANS_NAME else plans_name
    parts = [command, str(number_of(dataset)), stage, fold, plans]
    return cell.logs / f"{'_'.join(part for part in parts if part)}.log"


def cells_on_disk(root: Path) -> list[Cell]:
    """The cells that a benchmark's folder holds, in the order of their shares and seeds."""
    found = []
    for folder in root.glob("labelled_*/seed_*"):
        shares, seed = _CELL.match(folder.parent.name), _SEED.match(folder.name)
        if shares and seed and folder.is_dir():
            unlabelled = shares["unlabelled"]
            found.append(Cell(root, float(shares["labelled"]), int(seed[1]),
                              None if unlabelled is None else float(unlabelled)))
    return sorted(found, key=lambda cell: (cell.labelled, cell.unlabelled or 0.0, cell.seed))


def is_planned(cell: Cell, dataset: str, plans: str, stages: Iterable[str]) -> bool:
    """Whether the cell has splits, slices and a plan with all of ``stages``.

    Raises:
        PlansError: the plan has a wrong key or type.
    """
    folder = cell.preprocessed / dataset
    root = variants_of_user(dataset, plans)[1]
    if not all((folder / name).is_file() for name in (f"{plans}.json", f"{root}.json", SPLITS_FILE)):
        return False
    found = load_plans(folder / f"{plans}.json")
    return (folder / found.preprocessing.data_identifier).is_dir() and set(stages) <= set(found.configurations)


def variants_of_user(dataset: str, plans: str) -> tuple[list[Path], str]:
    """Files of a plan that a user wrote as a variant, and the name of the plan that it inherits from in the end.

    A plan that is not among the user's, or inherits from none, has no such files and is planned under its own name.
    """
    files: list[Path] = []
    name = plans
    while (file := preprocessed_root() / dataset / f"{name}.json").is_file() and file not in files:
        parent = read_json(file).get("inherits_from")
        if parent is None:
            break
        files.append(file)
        name = parent
    return files, name


def link_dataset(cell: Cell, dataset: str, plans: str) -> None:
    """Link slices, features, truths and the fingerprint into a cell that has none.

    They come from the user's ``nnUNet_preprocessed``, else from another cell. Slices carry a hash of their images and
    of what the plan does to them: those that do not fit are cut anew. Folds that the user chose are taken over.
    """
    target, own = cell.preprocessed / dataset, preprocessed_root() / dataset
    variants, root = variants_of_user(dataset, plans)
    for file in variants:
        link_new(file, target / file.name)
    others = [other.preprocessed / dataset for other in cells_on_disk(cell.root) if other != cell]
    sources = [folder for folder in (own, target, *others) if folder.is_dir()]
    # Another plan's slices and features have the same names inside, so a plan of another name may begin with them.
    for wanted, names in {
        f"{root}_2d_256": (f"{root}_2d_256", f"{PLANS_NAME}_2d_256"),
        f"{plans}_features": (f"{plans}_features", f"{root}_features"),
        "gt_segmentations": ("gt_segmentations",),
    }.items():
        found = next((source / name for name in names for source in sources if (source / name).is_dir()), None)
        if found is not None and not (target / wanted).exists():
            link_tree(found, target / wanted)
    fingerprint = next((f for s in sources if (f := s / FINGERPRINT_FILE).is_file()), None)
    if fingerprint is not None:
        link_new(fingerprint, target / fingerprint.name)
        if (links := fingerprint.with_name(NEAR_DUPLICATES_FILE)).is_file():
            link_new(links, target / links.name)
    if not (target / SPLITS_FILE).is_file():
        _take_over_folds(own, target)


def tested_folders(cell: Cell, dataset: str, plans: str, stage: str, fold: str) -> list[Path]:
    """Fold folders of a stage that are trained and validated; one, unless several trainers trained it."""
    folders = [model / f"fold_{fold}" for model in cell.model_folders(dataset, plans, stage)]
    return [folder for folder in folders if is_tested(folder)]


def is_tested(fold_folder: Path, validation: str = "validation") -> bool:
    """Whether a fold is trained to its end, describes itself, and has its test cases evaluated."""
    needed = (fold_folder / name for name in ("model.json", f"{validation}/summary.json"))
    return is_finished(fold_folder) and all(file.is_file() for file in needed)


def link_tree(source: Path, target: Path, without: str = "") -> None:
    """Link every file below ``source`` to the same place below ``target``; those that are there stay.

    Args:
        source, target: folders.
        without: name of a folder in ``source`` that is left out.
    """
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.name.startswith(".tmp") and file.relative_to(source).parts[0] != without:
            link_new(file, target / file.relative_to(source))


def link_new(source: Path, target: Path) -> None:
    """Link a file unless ``target`` is there."""
    if not target.exists():
        link_file(source.resolve(), target)


def _take_over_folds(own: Path, target: Path) -> None:
    """Train and val of a user who chose his own; which of them are labelled is the cell's choice."""
    if not (own / SPLITS_FILE).is_file():
        return
    try:
        folds = load_splits(own)
    except DatasetError as error:
        log.warning("%s The benchmark takes nnU-Net's folds.", error)
        return
    if any(fold.origin == "user" for fold in folds):
        log.info("%s: the folds of %s are taken over.", target, own / SPLITS_FILE)
        write_json(target / SPLITS_FILE, [{"train": fold.train, "val": fold.val} for fold in folds])


def link_from_base(cell: Cell, dataset: str, plans: str, fold: str) -> None:
    """Take what was made of the same labelled cases over from the cell with all other images unlabelled.

    Prompts of the saliency, proposals and features are of labelled cases, and of each image for itself. So is the
    finished ``finetune`` under such prompts. A judge of the outlines is not: its inputs are standardised by proposals
    of unlabelled images. Where the cell lacks one of these, its prompts and its ``finetune`` are its own, as for
    somebody who has no more images than the cell. Nothing happens where splits or plan differ.
    """
    if cell.unlabelled is None:
        return
    base = Cell(cell.root, cell.labelled, cell.seed)
    if not _same(base, cell, dataset, plans, "finetune", lambda split: (split.labelled, split.val)):
        return
    found = load_plans(cell.preprocessed / dataset / f"{plans}.json").for_stage("finetune")
    judged = found.prompting.place == "judge" and any(one.components == 1 for one in found.structures.values())
    shared = not judged or _same(base, cell, dataset, plans, "finetune", lambda split: usual_cases(split.unlabelled))
    for name in (f"{plans}_features", f"{plans}_saliency", EMBEDDINGS, f"{plans}_prompts", f"{plans}_proposals"):
        source, target = (c.preprocessed / dataset / name for c in (base, cell))
        if not source.is_dir() or target.exists():
            continue
        of_labels = source.glob("fold_*/located") if name == f"{plans}_prompts" and not shared else (source,)
        for folder in of_labels:
            link_tree(folder, target / folder.relative_to(source))
    if shared:
        _link_run(base, cell, dataset, plans, "finetune", fold)


def link_from_other_shares(cell: Cell, dataset: str, plans: str, stage: str, fold: str) -> None:
    """Take a finished run that learned from all labels over from a cell of the same seed and another share of labels.

    Nothing happens where there is none, or where folds or plan differ.
    """
    others = [c for c in cells_on_disk(cell.root) if c.seed == cell.seed and c != cell]
    for other in others:
        if not tested_folders(other, dataset, plans, stage, fold):
            continue
        if _same(other, cell, dataset, plans, stage, lambda split: (sorted(split.train), split.val)):
            _link_run(other, cell, dataset, plans, stage, fold)
            return


def _link_run(source: Cell, cell: Cell, dataset: str, plans: str, stage: str, fold: str) -> None:
    """Link a finished fold, what describes its model, its log and its cost, unless the cell has a run of its own.

    Not what was shown of the source's unlabelled images: the cell may lack some, and the order of work is over all.
    """
    for found in tested_folders(source, dataset, plans, stage, fold):
        target = cell.results / found.relative_to(source.results)
        if target.exists():
            continue
        log.info("%s: taken over from %s, which has the very same.", target, source.name)
        for file in found.parent.glob("*.json"):  # what describes the model
            link_new(file, target.parent / file.name)
        link_tree(found, target, without=CANDIDATES)
        theirs, ours = (log_file(c, "samdpo_train", dataset, plans, stage, fold) for c in (source, cell))
        for one, other in ((theirs, ours), (cost_file(theirs), cost_file(ours))):
            if one.is_file():  # copied: a log is written on where a run is made again
                with atomic_path(other) as temporary:
                    shutil.copy2(one, temporary)


def _same(one: Cell, other: Cell, dataset: str, plans: str, stage: str, cases: Callable[[Fold], Any]) -> bool:
    """Whether a stage learns from the same ``cases``, patients and images with the same settings in both cells."""
    folders = [cell.preprocessed / dataset for cell in (one, other)]
    if not all((folder / f"{plans}.json").is_file() and (folder / SPLITS_FILE).is_file() for folder in folders):
        return False
    folds = [load_splits(folder) for folder in folders]
    groups = [load_case_groups(folder) for folder in folders]
    if any(groups[0].get(case, case) != groups[1].get(case, case) for split in folds[0] for case in split.train):
        return False  # patients were named, or near-duplicates found, between the two
    splits = [[cases(split) for split in of] for of in folds]
    found = [load_plans(folder / f"{plans}.json") for folder in folders]
    if not all(stage in p.configurations for p in found):
        return False
    found = [p.for_stage(stage) for p in found]
    slices = [SliceStore(f / p.preprocessing.data_identifier).summaries() for f, p in zip(folders, found)]
    if any(slices[0][case].hash != slices[1][case].hash for case in slices[0].keys() & slices[1].keys()):
        return False  # images were replaced between the two
    parts = [(p.network, p.prompting, p.structures, p.preprocessing, p.stage(stage).settings()) for p in found]
    return splits[0] == splits[1] and parts[0] == parts[1]

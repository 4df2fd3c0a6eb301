"""The folders of a cell: what is already computed elsewhere is linked into them, so that it is not computed again.

Every file is only ever replaced as a whole, so a link is a copy of its own: what a cell writes never reaches the
folder that it was linked from.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from samdpo.errors import DatasetError
from samdpo.files import link_file, read_json, write_json
from samdpo.lab.benchmark.cell import Cell
from samdpo.lab.benchmark.settings import Settings
from samdpo.paths import MODEL_SEPARATOR, PLANS_NAME, number_of, preprocessed_root
from samdpo.planning.splits import SPLITS_FILE, load_splits
from samdpo.plans import load_plans

log = logging.getLogger(__name__)

_CELL = re.compile(r"^labelled_(?P<labelled>[\d.]+)(_unlabelled_(?P<unlabelled>[\d.]+))?$")
_SEED = re.compile(r"^seed_(\d+)$")


def environment(cell: Cell) -> dict[str, str]:
    """The variables with which a command works in this cell."""
    return {**os.environ, "nnUNet_preprocessed": str(cell.preprocessed), "nnUNet_results": str(cell.results)}


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
    return words


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
    fingerprint = next((f for s in sources if (f := s / "dataset_fingerprint.json").is_file()), None)
    if fingerprint is not None:
        link_new(fingerprint, target / fingerprint.name)
    if not (target / SPLITS_FILE).is_file():
        _take_over_folds(own, target)


def finished_folders(cell: Cell, dataset: str, plans: str, stage: str, fold: str) -> list[Path]:
    """Fold folders of a stage that are trained and validated; one, unless several trainers trained it."""
    pattern = f"*{MODEL_SEPARATOR}{plans}{MODEL_SEPARATOR}{stage}/fold_{fold}"
    return [folder for folder in sorted((cell.results / dataset).glob(pattern)) if is_finished(folder)]


def is_finished(fold_folder: Path, validation: str = "validation") -> bool:
    """Whether a fold is trained to its end and its test cases are evaluated."""
    trained = any(fold_folder.glob("checkpoint_final*")) and (fold_folder / "model.json").is_file()
    under_way = (fold_folder / "checkpoint_latest").is_dir()  # of a training begun anew
    return trained and not under_way and (fold_folder / validation / "summary.json").is_file()


def link_tree(source: Path, target: Path) -> None:
    """Link every file below ``source`` to the same place below ``target``; those that are there stay."""
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.name.startswith(".tmp"):
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

"""The steps before training, one function a command: fingerprint, plan with splits, slices."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.raw_dataset import AnyDataset, RawDataset
from samdpo.errors import ConfigurationError, PlansError
from samdpo.extensions import find, names
from samdpo.files import read_json, remove_abandoned
from samdpo.names import check_name
from samdpo.parallel import Workers
from samdpo.paths import PLANS_NAME, preprocessed_folder
from samdpo.planning.fingerprint import load_case_groups, load_fingerprint, update_fingerprint
from samdpo.planning.near_duplicates import update_near_duplicates
from samdpo.planning.splits import SPLIT_SEED, Fold, take_splits, update_splits
from samdpo.planning.subsets import check_fractions
from samdpo.plans import Plans, load_plans, parse_plans, short_plans, write_plans
from samdpo.schema import leaves, merge, to_dict

if TYPE_CHECKING:
    from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)

DEFAULT_PLANNER = "LitePlanner"

_FACTS = (  # of a plan, which nobody decides
    "dataset_name", "plans_name", "experiment_planner_used", "file_ending", "ndim", "original_median_spacing",
    "original_median_shape", "training_images",
)
_WIDEST_VALUE = 40  # of the table of --explain
_NO_PLANS = {  # what else lies beside the plans
    "dataset": "the copy of dataset.json", "dataset_fingerprint": "the fingerprint", "splits_final": "the splits",
    "case_groups": "the groups of cases", "near_duplicates": "the near-duplicates",
}


class Planner(Protocol):
    """What a planner is: made from a fingerprint, gives a plan. Keyword arguments as of :class:`LitePlanner`."""

    def __init__(
        self, fingerprint: dict[str, Any], dataset_json: DatasetJson, dataset_name: str, **settings: Any
    ) -> None: ...

    def plan(self) -> Plans:
        """The whole plan."""
        ...


def plan_and_preprocess(
    dataset: AnyDataset,
    planner: str = DEFAULT_PLANNER,
    plans_name: str | None = None,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    seed: int = SPLIT_SEED,
    processes: Workers = 1,
    verify: bool = False,
    preprocess: bool = True,
    clean: bool = False,
    memory_gib: float | None = None,
    backbone: str | None = None,
    explain: bool = False,
    splits: Path | str | None = None,
    near_duplicates: bool = True,
) -> Plans:
    """Everything before training: fingerprint, plan, splits, slices.

    Args:
        dataset: a raw one: id, name, folder, or as it is open.
        planner: name, or ``module:Class``.
        plans_name: of the file; the default is ``samdpoPlans``.
        labelled: share of each fold's training cases whose labels may be used.
        unlabelled: share that counts as unlabelled; None for all the rest.
        seed: of the choice of labelled cases and of training; the folds are always nnU-Net's.
        processes: for case-level work, or an executor.
        verify: read and compare every file first.
        preprocess: also cut the slices.
        clean: make everything anew.
        memory_gib: of the device to plan for; None looks.
        backbone: of the network; None for the planner's own.
        explain: say of every decision of the plan why it was made.
        splits: file of folds to take, here or in the raw dataset's folder; None keeps or makes them. See
            :func:`samdpo.planning.splits.take_splits`.
        near_duplicates: find images of one scene, and keep them on one side of every split.
    """
    find("planner", planner)  # a wrong name is told before minutes of work
    plans_name = checked_plans_name(plans_name)
    if backbone:
        checked_backbone(backbone)
    check_fractions(labelled, unlabelled)
    raw = RawDataset.open(dataset)
    splits = None if splits is None else _splits_file(raw, splits)
    extract(raw, processes, verify, clean)
    plans = plan_experiment(
        raw, planner, plans_name, labelled, unlabelled, seed, memory_gib, backbone, explain, splits, near_duplicates,
        processes,
    )
    if preprocess:
        preprocess_planned(raw, plans.plans_name, processes, clean)
    return plans


def extract(dataset: AnyDataset, processes: Workers = 1, verify: bool = False, clean: bool = False) -> dict[str, Any]:
    """Fingerprint of a dataset, written to its preprocessed folder; see :func:`update_fingerprint`."""
    raw = RawDataset.open(dataset)
    folder = preprocessed_folder(raw.name, writable=True)
    remove_abandoned(folder)
    if verify:
        from samdpo.dataset.integrity import verify_dataset_integrity

        verify_dataset_integrity(raw, processes)
    return update_fingerprint(raw, folder, processes, clean)


def plan_experiment(
    dataset: AnyDataset,
    planner: str = DEFAULT_PLANNER,
    plans_name: str | None = None,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    seed: int = SPLIT_SEED,
    memory_gib: float | None = None,
    backbone: str | None = None,
    explain: bool = False,
    splits: Path | str | None = None,
    near_duplicates: bool = True,
    processes: Workers = 1,
) -> Plans:
    """Write ``splits_final.json`` and the plan; configurations that a user added to an old plan are kept.

    Arguments as in :func:`plan_and_preprocess`.

    Raises:
        PlansError: there is no such backbone.
        ConfigurationError: there is no such file of splits, or it and ``labelled`` contradict each other.
        DatasetError: no fingerprint, splits that do not fit, or an image that cannot be read.
        PlansError: a configuration that the user added does not fit.
    """
    check_fractions(labelled, unlabelled)
    plans_name = checked_plans_name(plans_name)
    planner_class: type[Planner] = find("planner", planner)
    chosen = {"backbone": checked_backbone(backbone)} if backbone else {}
    raw = RawDataset.open(dataset)
    folder = preprocessed_folder(raw.name, writable=True)
    fingerprint = load_fingerprint(folder)
    remove_abandoned(folder)
    update_near_duplicates(raw, folder, fingerprint, near_duplicates, processes)
    asked = (
        folder, fingerprint["cases"], load_case_groups(folder), seed, labelled, unlabelled,
        fingerprint["unlabelled_cases"],
    )
    folds = update_splits(*asked) if splits is None else take_splits(_splits_file(raw, splits), *asked)
    labelled_slices, unlabelled_slices = slices_of_a_fold(folds, fingerprint)
    worker = planner_class(
        fingerprint, raw.meta, raw.name, plans_name=plans_name, memory_gib=memory_gib,
        labelled_slices=labelled_slices, unlabelled_slices=unlabelled_slices, seed=seed,
        **chosen,
    )
    file = folder / f"{plans_name}.json"
    planned = worker.plan()
    plans = save_with_additions(planned, file)
    if hasattr(worker, "describe"):
        log.info("%s", worker.describe())
    if explain:
        log.info("%s", "\n".join(explained(worker, planned)))
    log.info("Plan written: %s (stages: %s)", file, ", ".join(plans.configurations))
    return plans


def _splits_file(raw: RawDataset, given: Path | str) -> Path:
    """The file itself, or that of the raw dataset, where converters leave published splits.

    Raises:
        ConfigurationError: neither is there.
    """
    file = Path(given).expanduser()
    for place in (file, raw.folder / file):
        if place.is_file():
            return place
    there = sorted(one.name for one in raw.folder.glob("splits*.json"))
    raise ConfigurationError(
        f"--splits {file} is not there, nor is {raw.folder / file}. "
        + (f"{raw.folder} holds {', '.join(there)}." if there else "Expected a file of folds like "
           '[{"train": ["case_1", "case_2"], "val": ["case_3"], "labelled": ["case_1"]}].')
    )


def preprocess_planned(
    dataset: AnyDataset, plans_name: str = PLANS_NAME, processes: Workers = 1, clean: bool = False
) -> SliceStore:
    """Cut the slices of a planned dataset; returns the store."""
    from samdpo.preprocessing.preprocess import preprocess_dataset

    raw = RawDataset.open(dataset)
    plans = load_plans(preprocessed_folder(raw.name) / f"{plans_name}.json")
    return preprocess_dataset(raw, plans, processes, clean)


def explained(planner: Planner, plans: Plans) -> list[str]:
    """A table of what a planner has decided: key, value, and why; see :meth:`LitePlanner.because`.

    What it gives no reason for, or what a class derived from it plans otherwise, is said to be set by its class.

    Args:
        planner: that has made the plan.
        plans: of it.
    """
    whole, short = _decisions(to_dict(plans)), _decisions(short_plans(plans))
    written = {key for key, _ in leaves(short)}
    reasons = {
        key: why for key, (value, why) in getattr(planner, "reasons", {}).items() if to_dict(value) == _at(whole, key)
    }
    rows: dict[str, tuple[Any, str]] = {}
    for key, value in leaves(merge(whole, short)):
        decided = next((above for above in _above(key) if above in reasons), None)
        if decided is not None:
            rows[decided] = _at(short, decided, _at(whole, decided)), reasons[decided]
        elif key in written:
            rows[key] = value, f"set by {type(planner).__name__}"
    table = [("key", "value", "why"), *((key, _shown(value), why) for key, (value, why) in rows.items())]
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    return [f"{key:{widths[0]}}  {value:{widths[1]}}  {why}" for key, value, why in table]


def _decisions(data: dict[str, Any]) -> dict[str, Any]:
    """A plan without what nobody decides, its stages beside its sections."""
    return {k: v for k, v in data.items() if k not in (*_FACTS, "configurations")} | data["configurations"]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST_VALUE else f"{text[: _WIDEST_VALUE - 1]}…"


def _above(key: str) -> Iterator[str]:
    """A dotted key, and those that hold it, nearest first."""
    parts = key.split(".")
    yield from (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _at(data: Any, key: str, otherwise: Any = None) -> Any:
    for part in key.split("."):
        if not isinstance(data, dict) or part not in data:
            return otherwise
        data = data[part]
    return data


def checked_plans_name(name: str | None) -> str:
    """``name``, or the usual one where it is None or empty, if a plan and the folders of its slices may be called so.

    Raises:
        PlansError: a path, or the name of what else lies there.
    """
    name = check_name(name or PLANS_NAME, "-overwrite_plans_name", PlansError)
    if name in _NO_PLANS:
        raise PlansError(f"-overwrite_plans_name {name}: {name}.json is no plan but {_NO_PLANS[name]}. Choose another.")
    return name


def checked_backbone(name: str) -> str:
    """``name`` if there is a backbone of this name that the stages can prompt.

    Raises:
        PlansError: there is none; the message lists the names.
    """
    if name not in names("backbone"):
        raise PlansError(f"-backbone {name!r} is no network that is prompted. There are: "
                         f"{', '.join(sorted(names('backbone')))}.")
    return name


def slices_of_a_fold(splits: list[Fold], fingerprint: dict[str, Any]) -> tuple[int, int]:
    """Labelled slices that show a structure, and unlabelled slices, in the mean over the folds."""
    foreground, every = fingerprint["n_foreground_slices"], fingerprint["n_slices"]
    usual = sorted(every.values())[len(every) // 2]  # of cases without label, which the fingerprint does not read
    labelled = [sum(foreground.get(case, 0) for case in fold.labelled) for fold in splits]
    unlabelled = [sum(every.get(case, usual) for case in fold.unlabelled) for fold in splits]
    return round(sum(labelled) / len(splits)), round(sum(unlabelled) / len(splits))


def save_with_additions(plans: Plans, file: Path) -> Plans:
    """Write a new plan over an old one; the old one's configurations that the new one does not have stay.

    Raises:
        PlansError: the old file is no plan, cannot be read, or what it adds has a wrong key or type. It is then left
            alone.
    """
    data = short_plans(plans)
    if file.is_file():
        old = read_json(file, error=PlansError, remedy="Correct it, or delete it and plan again.")
        if not isinstance(old, dict) or not {"inherits_from", "configurations"} & old.keys():
            raise PlansError(
                f"{file} is no plan, and planning would overwrite it. Plan under another name with "
                "-overwrite_plans_name, or delete the file if it is not needed."
            )
        if "inherits_from" in old:
            raise PlansError(
                f"{file} is a variant that inherits from {old['inherits_from']!r}; planning would overwrite it. Plan "
                "under another name with -overwrite_plans_name."
            )
        configurations = old.get("configurations")
        kept = {k: v for k, v in configurations.items() if k not in data["configurations"]} if (
            isinstance(configurations, dict)) else {}
        if kept:
            data["configurations"].update(kept)
            log.info("Kept from the old plan: %s", ", ".join(kept))
    result = parse_plans(data, file)
    write_plans(data, file)
    return result

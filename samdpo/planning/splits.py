"""``splits_final.json``: who trains, validates, is labelled and unlabelled; nnU-Net's file with more keys a fold.

Without groups the folds are exactly nnU-Net's. With ``case_groups.json`` a group (patient) is never in both parts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samdpo.dataset.cases import case_meant
from samdpo.errors import ConfigurationError, DatasetError, PlansError, TrainingError, few
from samdpo.files import hash_of, read_json, write_json
from samdpo.names import check_name, same_text
from samdpo.paths import FOLD_ALL
from samdpo.planning.fingerprint import load_case_groups, read_fingerprint, warn_once
from samdpo.planning.subsets import cases_by_group, check_fractions, choose_labelled, choose_unlabelled, nested_subsets
from samdpo.schema import from_dict

log = logging.getLogger(__name__)

SPLITS_FILE = "splits_final.json"
SPLIT_SEED = 12345  # nnU-Net's
N_FOLDS = 5  # nnU-Net's
Origin = Literal["samdpo", "user"]
_LISTS = ("train", "val", "labelled", "unlabelled")


@dataclass(frozen=True)
class Fold:
    """One fold; lists of case identifiers, sorted.

    Attributes:
        train: cases with a label that do not validate.
        val: cases that validate.
        labelled: part of ``train`` whose labels may be looked at.
        unlabelled: cases whose labels may not be looked at: part of ``train`` (simulated), and of ``imagesUl/`` those
            of whose group none validates.
        labelled_subsets: "0.1", "0.2", "0.5", "1.0" -> that share of ``train``, each within the next.
        labelled_fraction: of ``train``, as asked for.
        unlabelled_fraction: of ``train``, as asked for; None for all that is not labelled.
        seed: of the choice of labelled cases.
        origin: who chose train and val.
        labels_origin: who chose labelled and unlabelled.
        unlabelled_named: whether that one named the unlabelled ones; else they are the rest, whatever that becomes.
    """

    train: list[str]
    val: list[str]
    labelled: list[str]
    unlabelled: list[str]
    labelled_subsets: dict[str, list[str]] = field(default_factory=dict)
    labelled_fraction: float = 1.0
    unlabelled_fraction: float | None = None
    seed: int = SPLIT_SEED
    origin: Origin = "samdpo"
    labels_origin: Origin = "samdpo"
    unlabelled_named: bool = True


def make_splits(
    case_ids: Iterable[str],
    groups: Mapping[str, str],
    n_folds: int = N_FOLDS,
    seed: int = SPLIT_SEED,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    ul_cases: Sequence[str] = (),
) -> list[Fold]:
    """Folds over labelled cases.

    Args:
        case_ids: identifiers of all cases that have a label.
        groups: case -> patient; cases without one stand alone.
        n_folds: fewer where there are fewer groups, but at least 2; with a single group there is one fold that
            trains and validates on the same cases, and a warning.
        seed: of the choice of labelled cases; the folds themselves always use nnU-Net's 12345.
        labelled: share of each fold's training cases that counts as labelled, in (0, 1].
        unlabelled: share that counts as unlabelled; None for all the rest. Never overlaps the labelled ones.
        ul_cases: cases of ``imagesUl/``, unlabelled in every fold whose validation has none of their group.

    Raises:
        ConfigurationError: fractions outside their range, or more than 1 together.
        DatasetError: no case.
    """
    cases = sorted(set(case_ids))
    if not cases:
        raise DatasetError("There is no labelled case, so nothing can be split into folds. Add images and labels.")
    parts = validation_parts(cases, groups, n_folds)
    if len(parts) == 1:
        what = (
            "one labelled case only" if len(cases) == 1 else f"{len(cases)} labelled cases, but all of one group,"
        )
        log.warning(
            "There is %s: fold 0 trains and validates on the same images, so its validation score says nothing about "
            "new ones. Label a second patient if you can.", what,
        )
        bare = [(cases, cases)]
    else:
        bare = [(sorted(set(cases) - set(part)), part) for part in parts]
    return [
        complete_fold(train, val, groups, seed, labelled, unlabelled, ul_cases) for train, val in bare
    ]


def complete_fold(
    train: Sequence[str],
    val: Sequence[str],
    groups: Mapping[str, str],
    seed: int = SPLIT_SEED,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    ul_cases: Sequence[str] = (),
    origin: Origin = "samdpo",
) -> Fold:
    """Choose the labelled and unlabelled cases of one pair of train and val.

    A case of ``imagesUl/`` is left out where its group validates: what learns from it would have seen the patient.
    """
    check_fractions(labelled, unlabelled)
    chosen = choose_labelled(train, groups, seed, labelled)
    others = choose_unlabelled(train, chosen, groups, seed, unlabelled)
    return Fold(
        train=sorted(train),
        val=sorted(val),
        labelled=chosen,
        unlabelled=sorted({*others, *_unseen(ul_cases, train, val, groups)}),
        labelled_subsets=nested_subsets(train, groups, seed),
        labelled_fraction=labelled,
        unlabelled_fraction=unlabelled,
        seed=seed,
        origin=origin,
    )


def _unseen(
    ul_cases: Sequence[str], train: Sequence[str], val: Sequence[str], groups: Mapping[str, str]
) -> list[str]:
    """The cases of ``ul_cases`` of whose group none validates, unless it trains as well."""
    only_val = {groups.get(case, case) for case in val} - {groups.get(case, case) for case in train}
    return [case for case in ul_cases if groups.get(case, case) not in only_val]


def _rest(
    fold: Fold, groups: Mapping[str, str], seed: int, share: float | None, ul_cases: Sequence[str]
) -> list[str]:
    """The unlabelled cases of a fold of which the labelled ones alone were named."""
    return sorted({*choose_unlabelled(fold.train, fold.labelled, groups, seed, share),
                   *_unseen(ul_cases, fold.train, fold.val, groups)})


def validation_parts(cases: Sequence[str], groups: Mapping[str, str], n_folds: int = N_FOLDS) -> list[list[str]]:
    """Cases dealt into the validation parts of the folds; one part where there is a single group."""
    members = cases_by_group(cases, groups)
    n_folds = max(1, min(n_folds, len(members)))
    # numpy's RandomState(seed).shuffle over sorted ids in equal runs is what sklearn's KFold(5, shuffle, 12345) does.
    order = np.arange(len(members))
    np.random.RandomState(SPLIT_SEED).shuffle(order)
    if len(members) == len(cases):
        return [sorted(cases[i] for i in part) for part in np.array_split(order, n_folds)]
    names = [sorted(members)[i] for i in order]
    names.sort(key=lambda name: -len(members[name]))  # large groups first, each to the smallest part: even parts
    parts: list[list[str]] = [[] for _ in range(n_folds)]
    for name in names:
        min(parts, key=len).extend(members[name])
    return [sorted(part) for part in parts]


def update_splits(
    folder: Path,
    case_ids: Sequence[str],
    groups: Mapping[str, str],
    seed: int = SPLIT_SEED,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    ul_cases: Sequence[str] = (),
) -> list[Fold]:
    """Write ``folder/splits_final.json`` where it is missing or asks for something else; say in the log what was done.

    A file with other train and val than ours is the user's: these are kept, and completed. Arguments as in
    :func:`make_splits`.

    Raises:
        DatasetError: the file is damaged, or the user's folds are refused as in :func:`load_splits`.
    """
    file = folder / SPLITS_FILE
    new = make_splits(case_ids, groups, N_FOLDS, seed, labelled, unlabelled, ul_cases)
    if not file.exists():
        return _write(new, folder, "written")
    old, said = _read(file)
    complete, known = all("labelled" in keys for keys in said), _Known(set(case_ids), set(ul_cases))
    if any(f.origin == "user" for f in old) and _bare(old) != _bare(new):
        own = _checked(file, [replace(f, labelled=[], unlabelled=[]) for f in old], known, groups)
        new = [complete_fold(f.train, f.val, groups, seed, labelled, unlabelled, ul_cases, "user") for f in own]
        done = "rewritten, with your train and val" if complete else "completed, with your train and val"
    else:
        done = "rewritten for other cases, groups or fractions" if complete else "completed"
    asked = {(f.labelled_fraction, f.unlabelled_fraction) for f in old}
    by_hand = complete and any(f.labels_origin == "user" for f in old) and asked == {(labelled, unlabelled)}
    if by_hand and _bare(old) == _bare(new):
        told = [fold if fold.unlabelled_named else replace(fold, unlabelled=[]) for fold in old]
        new = [
            replace(n, labelled=o.labelled, labels_origin="user", unlabelled_named=o.unlabelled_named,
                    unlabelled=o.unlabelled if o.unlabelled_named else _rest(o, groups, seed, unlabelled, ul_cases))
            for n, o in zip(new, _checked(file, told, known, groups))
        ]
    if complete and [replace(f, origin=n.origin, labels_origin=n.labels_origin) for f, n in zip(old, new)] == new \
            and len(old) == len(new):
        _say(new, "unchanged", file)
        return new
    return _write(new, folder, done)


def take_splits(
    file: Path,
    folder: Path,
    case_ids: Sequence[str],
    groups: Mapping[str, str],
    seed: int = SPLIT_SEED,
    labelled: float = 1.0,
    unlabelled: float | None = None,
    ul_cases: Sequence[str] = (),
) -> list[Fold]:
    """Write ``folder/splits_final.json`` from another file of its form, such as the lists of a published protocol.

    A fold that names ``labelled`` has these cases labelled; unlabelled are then those that it names so, else the rest
    of ``train`` (or the share ``unlabelled`` of it) and of ``imagesUl/`` the cases of whose group none validates. A
    fold of ``train`` and ``val`` only is completed. Planning again keeps all this, as what was written by hand.

    Args:
        file: to take them from; it is not changed.
        folder: ``nnUNet_preprocessed/DatasetXXX_Name``.
        case_ids, groups, seed, labelled, unlabelled, ul_cases: as in :func:`make_splits`.

    Raises:
        ConfigurationError: both the file and ``labelled`` choose the labelled cases.
        DatasetError: the file is missing or damaged, or its folds are refused as in :func:`load_splits`. What
            ``folder`` holds stays as it was.
    """
    remedy = "Correct it and type the same command again."
    folds, said = _read(file, remedy)
    if labelled != 1 and any("labelled" in keys for keys in said):
        raise ConfigurationError(
            f"--splits {file} names the labelled cases, and --labelled {labelled:g} would choose others. Leave "
            "--labelled out, or 'labelled' in the file."
        )
    taken = []
    for fold, keys in zip(_checked(file, folds, _Known(set(case_ids), set(ul_cases)), groups, remedy), said):
        whole = complete_fold(fold.train, fold.val, groups, seed, labelled, unlabelled, ul_cases, "user")
        if "labelled" in keys:
            named = "unlabelled" in keys
            rest = fold.unlabelled if named else _rest(fold, groups, seed, unlabelled, ul_cases)
            whole = replace(whole, labelled=fold.labelled, unlabelled=rest, labels_origin="user",
                            unlabelled_named=named)
        taken.append(whole)
    return _write(taken, folder, f"taken from {file}")


def load_splits(folder: Path | str, preprocessed: Mapping[str, bool] | None = None) -> list[Fold]:
    """Folds of a preprocessed dataset; a file with train and val only is completed, every label being used.

    A file that was written or edited by hand is checked as planning checks it. A case that is listed twice counts
    once, and one patient in both train and val is a warning.

    Args:
        folder: ``nnUNet_preprocessed/DatasetXXX_Name``.
        preprocessed: cases of the slice store -> whether they have a label; known beside those of the fingerprint.

    Raises:
        ConfigurationError: there is no file.
        DatasetError: the file is damaged, names a case that does not exist or has no label, or has a case in train and
            val, or in unlabelled and val.
    """
    folder = Path(folder)
    file = folder / SPLITS_FILE
    if not file.is_file():
        raise ConfigurationError(
            f"{file} is missing: {folder.name} is not planned. Type: samdpo_plan_and_preprocess -d {folder.name}"
        )
    folds, said = _read(file)
    fingerprint = read_fingerprint(folder, missing_ok=True)
    ul_cases = fingerprint.get("unlabelled_cases", [])
    known = _Known(set(fingerprint.get("cases", ())), set(ul_cases))
    for case, labelled in (preprocessed or {}).items():
        (known.labelled if labelled else known.unlabelled).add(case)
    groups = load_case_groups(folder)
    folds = _checked(file, folds, known, groups)
    if all("labelled" in keys for keys in said):
        return folds
    return [complete_fold(f.train, f.val, groups, ul_cases=ul_cases, origin="user") for f in folds]


def fold_of(splits: Sequence[Fold], fold: int | str, folder: Path) -> Fold:
    """The fold called ``fold``; ``all`` trains on every case of the folds and validates on the same, as in nnU-Net.

    Of ``all``, the share that was asked for is labelled, chosen among all cases as in a fold; where labelled cases were
    chosen by hand, it is these.

    Args:
        splits: the folds.
        fold: its number, or ``all``.
        folder: ``nnUNet_preprocessed/DatasetXXX_Name``, for the groups and for messages.

    Raises:
        TrainingError: there is no such fold.
    """
    if fold == FOLD_ALL:
        cases = sorted({case for one in splits for case in (*one.train, *one.val)})
        ul_cases = sorted({case for one in splits for case in one.unlabelled} - set(cases))
        by_hand = sorted({case for one in splits if one.labels_origin == "user" for case in one.labelled})
        if by_hand:
            return Fold(cases, cases, by_hand, sorted({*cases, *ul_cases} - set(by_hand)), labels_origin="user")
        asked = splits[0]
        return complete_fold(
            cases, cases, load_case_groups(folder), asked.seed, asked.labelled_fraction, asked.unlabelled_fraction,
            ul_cases, asked.origin,
        )
    if str(fold) not in map(str, range(len(splits))):  # "00" would be fold 0 under another name
        raise TrainingError(
            f"Fold {fold!r} does not exist: {folder / SPLITS_FILE} has folds 0 to {len(splits) - 1}, and 'all'."
        )
    return splits[int(fold)]


def save_splits(folds: Sequence[Fold], folder: Path | str) -> None:
    """Write ``splits_final.json``, atomically, with the hashes that tell an edit by hand from our own choice."""
    write_json(Path(folder) / SPLITS_FILE, [{**asdict(fold), "hashes": _hashes(fold)} for fold in folds])


def _hashes(fold: Fold) -> list[str]:
    return [hash_of(fold.train, fold.val), hash_of(fold.labelled, fold.unlabelled)]


def _bare(folds: Sequence[Fold]) -> list[tuple[list[str], list[str]]]:
    return [(f.train, f.val) for f in folds]


def _read(file: Path, remedy: str = "") -> tuple[list[Fold], list[set[str]]]:
    """Folds, and which keys each of them names; foreign keys are dropped."""
    remedy = remedy or _remedy(file)
    content = read_json(file, error=DatasetError, remedy=remedy)
    example = '{"train": […], "val": […]}'
    if not isinstance(content, list) or not content:
        raise DatasetError(f"{file} must hold a list of folds {example}. {remedy}")
    known = {f.name for f in fields(Fold)}
    folds = []
    for number, entry in enumerate(content):
        if not isinstance(entry, dict):
            raise DatasetError(f"{file}: fold {number} must be an object {example}. {remedy}")
        data: dict[str, Any] = {"labelled": entry.get("train", []), "unlabelled": [], **entry}
        try:
            fold = from_dict(Fold, {k: v for k, v in data.items() if k in known}, f"fold {number}", str(file))
        except PlansError as error:
            raise DatasetError(f"{error} {remedy}") from error
        if not fold.train or not fold.val:
            raise DatasetError(f"{file}: fold {number} has no {'val' if fold.train else 'train'} cases. {remedy}")
        as_written = replace(fold, **{key: sorted(getattr(fold, key)) for key in _LISTS})
        fold = _without_repetition(file, number, fold, remedy)
        astray = sorted(set(fold.labelled) - set(fold.train)) or sorted(set(fold.labelled) & set(fold.unlabelled))
        if astray:
            raise DatasetError(
                f"{file}: fold {number} lists {', '.join(astray[:5])} as labelled, which must be in its train and not "
                f"in its unlabelled cases. {remedy}"
            )
        hashes = entry.get("hashes") if isinstance(entry.get("hashes"), list) else []
        edited = [a != b for a, b in zip(_hashes(as_written), [*hashes, "", ""])]
        folds.append(replace(fold, origin="user" if edited[0] else fold.origin,
                             labels_origin="user" if edited[1] else fold.labels_origin,
                             unlabelled_named=edited[1] or fold.unlabelled_named))
    return folds, [set(entry) for entry in content]


@dataclass(frozen=True)
class _Known:
    """Cases of a dataset; none at all where nothing is known about it."""

    labelled: set[str]
    unlabelled: set[str]


def _remedy(file: Path) -> str:
    return f"Correct it, or delete it and plan again: samdpo_plan_experiment -d {file.parent.name}"


def _without_repetition(file: Path, number: int, fold: Fold, remedy: str) -> Fold:
    """A fold with every case once in each list, in composed Unicode; what is no name of a case is refused."""
    lists = {}
    for key in _LISTS:
        names = getattr(fold, key)
        for name in names:
            check_name(name.strip(), f"{file}: a case in {key!r} of fold {number}", DatasetError, remedy)
        names = [same_text(name) for name in names]
        lists[key] = sorted(set(names))
        twice = sorted({name for name in lists[key] if names.count(name) > 1}) if len(names) > len(lists[key]) else []
        if twice:
            warn_once(f"{file}: fold {number} lists {few(twice)} more than once in {key!r}. Each counts once.")
    return replace(fold, **lists)


def _checked(
    file: Path, folds: Sequence[Fold], known: _Known, groups: Mapping[str, str], remedy: str = ""
) -> list[Fold]:
    """Folds with names as the dataset spells them; what no training can mean is refused."""
    remedy = remedy or _remedy(file)
    spelled = {same_text(case): case for case in (*known.labelled, *known.unlabelled)}
    every = known.labelled or {case for fold in folds for case in (*fold.train, *fold.val)}
    single = len({groups.get(case, case) for case in every}) == 1  # which can only be validated on itself
    checked = []
    for number, fold in enumerate(folds):
        fold = replace(fold, **{key: [spelled.get(c, c) for c in getattr(fold, key)] for key in _LISTS})
        where = f"{file}: fold {number}"
        for key in _LISTS if spelled else ():
            _check_names(where, key, getattr(fold, key), known, remedy)
        if not single:
            both = sorted(set(fold.train) & set(fold.val))
            if both:
                raise DatasetError(
                    f"{where} has {few(both)} in train and in val: it would be validated on images that it was "
                    f"trained on. Take them out of one of the two; fold 'all' trains on every case. {remedy}"
                )
            leaks = sorted(set(fold.unlabelled) & set(fold.val))
            if leaks:
                raise DatasetError(
                    f"{where} has {few(leaks)} in unlabelled and in val: stage 2 would learn from the cases that it "
                    f"is validated on. Take them out of one of the two. {remedy}"
                )
        patients = {key: {groups.get(case, case) for case in getattr(fold, key)} for key in _LISTS}
        for key in () if single else ("train", "unlabelled"):
            both = sorted(patients[key] & patients["val"])
            if both:
                warn_once(f"{where} has {few(both)} in {key} and in val; its validation score will be too good.")
                break  # unlabelled cases of train are meant already
        checked.append(fold)
    return checked


def _check_names(where: str, key: str, names: Sequence[str], known: _Known, remedy: str) -> None:
    unknown = sorted(set(names) - known.labelled - known.unlabelled)
    if unknown:
        meant = case_meant(unknown[0], known.labelled | known.unlabelled)
        hint = f"Is {meant} meant? " if meant else ""
        raise DatasetError(
            f"{where} names {few(unknown)} in {key!r}, which the dataset does not hold. {hint}Cases are named "
            f"without _0000 and ending. {remedy}"
        )
    without = sorted(set(names) - known.labelled) if key in ("train", "val") else []
    if without:
        raise DatasetError(
            f"{where} names {few(without)} in {key!r}, which imagesUl holds: without a label it can only stand in "
            f"'unlabelled'. {remedy}"
        )


def _write(folds: list[Fold], folder: Path, done: str) -> list[Fold]:
    save_splits(folds, folder)
    _say(folds, done, folder / SPLITS_FILE)
    return folds


def _say(folds: Sequence[Fold], done: str, file: Path) -> None:
    fold = folds[0]
    log.info(
        "Splits %s: %s (%d folds; fold 0: %d train of which %d labelled, %d unlabelled, %d val).",
        done, file, len(folds), len(fold.train), len(fold.labelled), len(fold.unlabelled), len(fold.val),
    )

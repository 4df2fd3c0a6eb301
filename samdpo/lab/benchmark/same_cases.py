"""That methods are compared fairly is asserted from what lies in their run folders, not trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from samdpo.errors import ConfigurationError
from samdpo.files import hash_of, read_json
from samdpo.lab.benchmark.methods import Method
from samdpo.lab.benchmark.records import Record
from samdpo.paths import FOLD_ALL


@dataclass(frozen=True)
class _Cases:
    """What a run's own files say of its cases."""

    record: Record
    labelled: frozenset[str]
    val: frozenset[str]
    data: Mapping[str, str]  # hashes of the fold's parts; empty in runs of older versions

    @classmethod
    def of(cls, record: Record) -> _Cases:
        model = read_json(record.folder / "model.json", remedy="Train the run again.")
        return cls(record, frozenset(model["labelled_cases"]), frozenset(record.per_case), model.get("data") or {})


def assert_same_cases(records: Iterable[Record], methods: Mapping[str, Method]) -> None:
    """Check that all methods of a cell trained on the same labels, and all runs of a data set were tested alike.

    Methods that see all labels must agree among themselves, and must have all those of the others. No run may have
    trained on a label that it is tested on.

    Args:
        records: those that are done count.
        methods: every row's method by name.

    Raises:
        ConfigurationError: a mismatch; the message names both run folders and the cases.
    """
    tested: dict[tuple[str, str], _Cases] = {}
    trained: dict[tuple[object, ...], _Cases] = {}
    upper: dict[tuple[object, ...], _Cases] = {}
    for run in (_Cases.of(record) for record in records if record.done):
        record = run.record
        leaked = sorted(run.labelled & run.val)
        if leaked and record.fold != FOLD_ALL:  # which validates on what it trains on, as in nnU-Net
            raise ConfigurationError(
                f"{record.folder} trained on labels that it is tested on: {_few(leaked)}. Plan the cell anew."
            )
        _same_val(tested.setdefault((record.dataset, record.fold), run), run)
        cell = (record.dataset, record.labelled, record.unlabelled, record.seed, record.fold)
        everything = methods[record.method].all_labels
        first = (upper if everything else trained).setdefault(cell, run)
        _same_labelled(first, run)
        _same_data(first, run, ("train", "val", "labelled", *(() if everything else ("unlabelled",))))
        other = (trained if everything else upper).get(cell)
        if other is not None:
            some, every = (other, run) if everything else (run, other)
            _all_labels(some, every)
            _same_data(some, every, ("train", "val"))


def _same_val(one: _Cases, other: _Cases) -> None:
    if one.val != other.val:
        raise _mismatch("were tested on different cases", one, other, one.val, other.val)


def _same_labelled(one: _Cases, other: _Cases) -> None:
    if one.labelled == other.labelled:
        return
    # A method that is prompted does not train on a labelled case that shows no structure; the fold is the same.
    told = one.data.get("labelled"), other.data.get("labelled")
    if None in told or told[0] != told[1]:
        raise _mismatch("trained on the labels of different cases", one, other, one.labelled, other.labelled)


def _all_labels(some: _Cases, every: _Cases) -> None:
    missing = some.labelled - every.labelled
    if missing and len(some.data) and some.data.get("train") == every.data.get("train"):
        return  # cases without a structure, as above
    if missing:
        raise ConfigurationError(
            f"{every.record.folder} should have trained on all labels, but lacks {_few(sorted(missing))}, which "
            f"{some.record.folder} has. Train it again."
        )


def _same_data(one: _Cases, other: _Cases, parts: Sequence[str]) -> None:
    for part in parts:
        told = one.data.get(part), other.data.get(part)
        if None not in told and told[0] != told[1]:
            raise ConfigurationError(
                f"{one.record.folder} and {other.record.folder} cannot be compared: their {part!r} cases have the "
                f"hashes {told[0]} and {told[1]} in model.json. Was the cell planned anew between them? Move one away "
                "and run it again."
            )


def _mismatch(
    what: str, one: _Cases, other: _Cases, mine: frozenset[str], theirs: frozenset[str]
) -> ConfigurationError:
    return ConfigurationError(
        f"{one.record.folder} and {other.record.folder} {what} (hashes {hash_of(sorted(mine))} and "
        f"{hash_of(sorted(theirs))}; not in both: {_few(sorted(mine ^ theirs))}), so they cannot be compared. Move "
        "one away and run it again."
    )


def _few(cases: Sequence[str]) -> str:
    return ", ".join(cases[:5]) + (f" and {len(cases) - 5} more" if len(cases) > 5 else "")

"""Which training cases count as labelled: whole groups, in a fixed order, smaller shares within larger ones.

And which of the unlabelled ones say what is usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from samdpo.errors import ConfigurationError
from samdpo.files import hash_of

SUBSETS = ("0.1", "0.2", "0.5", "1.0")  # the shares of the paper's tables
_USUAL = 32  # unlabelled cases whose proposals say, without a label, what is usual


def check_fractions(labelled: float, unlabelled: float | None) -> None:
    """Raise ConfigurationError where the fractions cannot be meant."""
    if not 0 < labelled <= 1:
        raise ConfigurationError(
            f"--labelled is {labelled:g}; expected a share of the training cases, more than 0 and at most 1, like 0.1."
        )
    if unlabelled is None:
        return
    if not 0 <= unlabelled <= 1:
        raise ConfigurationError(f"--unlabelled is {unlabelled:g}; expected a share from 0 to 1, like 0.4.")
    if labelled < 1 and labelled + unlabelled > 1 + 1e-9:
        raise ConfigurationError(
            f"--labelled {labelled:g} and --unlabelled {unlabelled:g} are more than all training cases together. "
            f"With --labelled {labelled:g}, --unlabelled can be {1 - labelled:g} at most."
        )


def cases_by_group(cases: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Group -> its cases, sorted; a case without a group is one of its own."""
    members: dict[str, list[str]] = {}
    for case in sorted(cases):
        members.setdefault(groups.get(case, case), []).append(case)
    return members


def nested_subsets(train: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, list[str]]:
    """"0.1", "0.2", "0.5", "1.0" -> sorted cases; each list holds the one before.

    A share is ``round(share * len(train))`` cases, at least one group, reached as closely from below as whole groups
    allow.
    """
    order = _shuffled_groups(train, groups, seed)
    subsets: dict[str, list[str]] = {}
    taken: dict[str, list[str]] = {}
    for share in SUBSETS:
        taken = _grow(taken, order, _target(float(share), len(train)))
        subsets[share] = _cases(taken)
    return subsets


def choose_labelled(train: Sequence[str], groups: Mapping[str, str], seed: int, share: float) -> list[str]:
    """Cases of the share ``share``; lies between the nested subsets around it, and is the subset where one fits."""
    order = _shuffled_groups(train, groups, seed)
    taken: dict[str, list[str]] = {}
    inside = order
    for known in SUBSETS:
        grown = _grow(taken, order, _target(float(known), len(train)))
        if float(known) > share:
            inside = grown  # what is added to the smaller subset comes from the next larger one
            break
        taken = grown
    return _cases(_grow(taken, inside, _target(share, len(train))))


def choose_unlabelled(
    train: Sequence[str], labelled: Sequence[str], groups: Mapping[str, str], seed: int, share: float | None
) -> list[str]:
    """Cases of ``train`` that are not ``labelled``: all of them, or ``share`` of ``train``; whole groups."""
    rest = sorted(set(train) - set(labelled))
    if share is None or not rest:
        return rest
    wanted = round(share * len(train))
    if wanted == 0:
        return []
    if wanted >= len(rest):
        return rest
    return _cases(_grow({}, _shuffled_groups(rest, groups, seed), wanted))


def usual_cases(unlabelled: Sequence[str]) -> list[str]:
    """Of some unlabelled cases those by which a judge of the outlines is standardised, 32 at most.

    Each one's lot depends on itself alone, so that images added later displace few.
    """
    return sorted(sorted(set(unlabelled)), key=lambda case: hash_of("usual", case))[:_USUAL]


def _target(share: float, n_train: int) -> int:
    return max(1, round(share * n_train))


def _shuffled_groups(cases: Sequence[str], groups: Mapping[str, str], seed: int) -> dict[str, list[str]]:
    members = cases_by_group(cases, groups)
    names = sorted(members)
    np.random.RandomState(seed).shuffle(names)
    return {name: members[name] for name in names}


def _grow(taken: dict[str, list[str]], order: dict[str, list[str]], wanted: int) -> dict[str, list[str]]:
    """Add groups in ``order`` as long as ``wanted`` cases are not passed; the smallest group where none fits."""
    grown, count = dict(taken), sum(map(len, taken.values()))
    for name, cases in order.items():
        if name not in grown and count + len(cases) <= wanted:
            grown[name] = cases
            count += len(cases)
    if not grown:
        name = min(order, key=lambda n: len(order[n]))
        grown[name] = order[name]
    return grown


def _cases(taken: dict[str, list[str]]) -> list[str]:
    return sorted(case for cases in taken.values() for case in cases)

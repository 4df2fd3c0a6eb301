"""In which order candidates are shown: random, so that place does not bias, and always the same for a person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def display_order(candidate_set: str, item: int, annotator: str, count: int) -> list[int]:
    """Stored index of the candidate at each place on the screen.

    A hash of set, item and person orders the candidates: another person sees another order, the same person the same
    one after a reload, an undo, a restart, or under another version of Python.
    """
    def key(candidate: int) -> bytes:
        return hashlib.sha256(f"{candidate_set}\n{item}\n{annotator}\n{candidate}".encode()).digest()

    return sorted(range(count), key=key)


def to_display(values: Sequence[T], order: Sequence[int]) -> list[T]:
    """Values of stored candidates -> as shown."""
    return [values[stored] for stored in order]


def to_stored(values: Sequence[T], order: Sequence[int]) -> list[T]:
    """Values as shown -> of stored candidates; the inverse of :func:`to_display`."""
    stored_values = list(values)
    for shown, stored in enumerate(order):
        stored_values[stored] = values[shown]
    return stored_values

"""What is dear to read or to compute, kept as long as there is room for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def _one(_: Any) -> int:
    return 1


class LruCache(Generic[Key, Value]):
    """Values by key; those that were not asked for the longest make room for new ones. Threads may share one.

    Another process gets an empty one: what is kept does not travel.

    Args:
        room: what the values may take together. The newest one is kept even where it takes more.
        size_of: what a value takes, which must not change; each counts 1 by default, so that ``room`` is their number.
    """

    def __init__(self, room: int, size_of: Callable[[Value], int] = _one) -> None:
        self.room, self.size_of = room, size_of
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._taken = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[LruCache[Key, Value]], tuple[int, Callable[[Value], int]]]:
        return type(self), (self.room, self.size_of)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key) -> Value | None:
        """The value of a key, None where there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, in place of one that was kept under its key."""
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._taken += self.size_of(value)
            while self._taken > self.room and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def drop(self, key: Key) -> None:
        """Keep nothing under a key any more."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Keep nothing any more."""
        with self._lock:
            self._values.clear()
            self._taken = 0

    def _drop(self, key: Key) -> None:
        if key in self._values:
            self._taken -= self.size_of(self._values.pop(key))

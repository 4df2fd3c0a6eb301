from __future__ import annotations

import pickle
from operator import attrgetter

import numpy as np

from samdpo.caches import LruCache


def test_what_was_not_asked_for_the_longest_makes_room() -> None:
    cache = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert "b" not in cache and cache.get("b") is None
    assert (cache.get("a"), cache.get("c"), len(cache)) == (1, 3, 2)


def test_room_may_be_bytes_and_the_newest_value_stays_whatever_it_takes() -> None:
    cache = LruCache(100, attrgetter("nbytes"))
    cache.put("a", np.zeros(40, np.uint8))
    cache.put("b", np.zeros(60, np.uint8))
    assert len(cache) == 2
    cache.put("b", np.zeros(50, np.uint8))  # in place of the one before, whose room is free again
    cache.put("c", np.zeros(10, np.uint8))
    assert len(cache) == 3
    cache.put("d", np.zeros(1000, np.uint8))
    assert len(cache) == 1 and "d" in cache
    cache.drop("d")
    cache.drop("never there")
    cache.put("e", np.zeros(100, np.uint8))
    cache.put("f", np.zeros(0, np.uint8))
    assert len(cache) == 2, "what was dropped takes no room"
    cache.clear()
    assert len(cache) == 0


def test_another_process_gets_an_empty_cache_of_the_same_room() -> None:
    cache = LruCache(100, attrgetter("nbytes"))
    cache.put("a", np.zeros(100, np.uint8))
    other = pickle.loads(pickle.dumps(cache))
    assert len(other) == 0 and len(cache) == 1
    other.put("a", np.zeros(60, np.uint8))
    other.put("b", np.zeros(60, np.uint8))
    assert len(other) == 1

"""Case-level work on several processes or on a cluster: in order, with a progress bar, stoppable by Ctrl-C.

One interface, :class:`Executor`, has two kinds: :class:`Processes` of this machine, and the workers of a Dask cluster
(:mod:`samdpo.dask_cluster`). Functions that spread work take ``processes``: a number, or an executor.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from samdpo.errors import ConfigurationError

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

_PER_PROCESS = 8  # items below which a process costs more to start than it saves
_LARGEST_BATCH = 8  # items sent to a process together
_TRIES_ALONE = 2  # of an item whose process was killed


class Executor(ABC):
    """Who does case-level work."""

    @abstractmethod
    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], description: str,
        per_process: int = _PER_PROCESS,
    ) -> Iterator[Result]:
        """Yield ``function(item)`` in the order of ``items``; arguments as of :func:`map_cases`.

        Only a few items and results are under way at a time, however many there are. A process that is killed costs
        its case only, which is done again; a case that kills its process again and again is named in the error.
        """


Workers = int | Executor
"""Processes of this machine, at most this many, or an executor."""


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    processes: Workers,
    description: str,
    per_process: int = _PER_PROCESS,
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``.

    Args:
        function: picklable: a module's function, or a ``functools.partial`` of one. Doing an item twice does no harm.
        items: picklable; an attribute ``identifier`` names an item in messages.
        processes: at most this many, or an executor; few items are done in this process, without any start-up time.
        description: of the progress bar, which is shown on a terminal only.
        per_process: items that a process must have to be worth starting; 1 for slow items such as volumes.

    Raises:
        ConfigurationError: a case's process was killed each time, usually for lack of memory; the cluster is gone.
    """
    workers = processes if isinstance(processes, Executor) else Processes(processes)
    yield from workers.map(function, items, description, per_process)


def local_threads(processes: Workers) -> int:
    """Threads for what is done in this process beside :func:`map_cases`, such as looking after many files."""
    return min(8, os.cpu_count() or 1) if isinstance(processes, Executor) else max(1, processes)


@contextmanager
def case_workers(processes: int, dask: str | None = None) -> Iterator[Workers]:
    """What a command's ``-np`` and ``--dask`` ask for, as ``processes`` of :func:`map_cases`; left clean at the end.

    Raises:
        ConfigurationError: fewer than one process; as of :class:`samdpo.dask_cluster.DaskCluster`.
    """
    if processes < 1:
        raise ConfigurationError(f"-np is {processes}; expected 1 or more.")
    if dask is None:
        yield processes
        return
    from samdpo.dask_cluster import DaskCluster

    with DaskCluster(dask) as cluster:
        yield cluster


class Processes(Executor):
    """Processes of this machine.

    Args:
        count: at most this many.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], description: str,
        per_process: int = _PER_PROCESS,
    ) -> Iterator[Result]:
        """See :meth:`Executor.map`."""
        workers = min(self.count, len(items) // per_process)
        results = map(function, items) if workers < 2 else _on_processes(
            function, batches(items, workers, per_process), workers, description
        )
        yield from tqdm(results, **progress_bar(len(items), description))


def progress_bar(total: int, description: str) -> dict[str, Any]:
    """Arguments of the bar that every executor shows, on a terminal only."""
    return {"total": total, "desc": description, "unit": "case", "disable": None}


def batches(items: Sequence[Item], workers: int, per_process: int) -> deque[list[Item]]:
    """Items in the portions in which they are sent; small ones, since Ctrl-C waits for what a process has in hand."""
    size = max(1, min(_LARGEST_BATCH, per_process // 2, len(items) // (8 * workers)))
    return deque(list(items[start : start + size]) for start in range(0, len(items), size))


def name_of(item: Any) -> str:
    """How a message calls an item."""
    return str(getattr(item, "identifier", item))


def run_batch(function: Callable[[Item], Result], batch: Sequence[Item]) -> list[Result]:
    """What a process is sent."""
    return [function(item) for item in batch]


def killed(item: Any, description: str, remedy: str) -> ConfigurationError:
    """The error of an item that no process survived."""
    return ConfigurationError(
        f"{description}: the process that worked on {name_of(item)} was killed again and again, most likely because "
        f"memory ran out. What was finished is kept; {remedy}"
    )


def _on_processes(
    function: Callable[[Item], Result], todo: deque[list[Item]], workers: int, description: str
) -> Iterator[Result]:
    begun: deque[tuple[list[Item], Future]] = deque()
    pool = _pool(workers)
    broken = 0
    try:
        while todo or begun:
            try:
                while todo and len(begun) < 3 * workers:  # enough that no process waits for the oldest batch
                    begun.append((todo[0], pool.submit(run_batch, function, todo[0])))
                    todo.popleft()
                results = begun[0][1].result()
            except BrokenProcessPool:
                pool.shutdown(wait=True)  # what was under way is now finished or lost
                broken += 1
                workers = workers if broken == 1 else max(1, workers // 2)  # they may need too much memory together
                log.warning(
                    "%s: a process was killed, most likely because memory ran out. Its cases are done again, and the "
                    "rest by %d processes.", description, workers,
                )
                while begun:
                    batch, future = begun.popleft()
                    lost = isinstance(future.exception(), BrokenProcessPool)
                    yield from _one_by_one(function, batch, workers, description) if lost else future.result()
                pool = _pool(workers)
                continue
            begun.popleft()
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(
    function: Callable[[Item], Result], batch: Sequence[Item], workers: int, description: str
) -> Iterator[Result]:
    """Items one of which killed its process, each alone, so that it is known which."""
    pool = _pool(1)
    try:
        for item in batch:
            for attempt in range(_TRIES_ALONE):
                try:
                    result = pool.submit(function, item).result()
                    break
                except BrokenProcessPool as error:
                    pool.shutdown(wait=True)
                    if attempt + 1 == _TRIES_ALONE:
                        raise killed(
                            item, description, "look at this case, or type the same command again with fewer "
                            f"processes, for example -np {max(1, workers // 2)}."
                        ) from error
                    pool = _pool(1)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned processes start clean: a fork of a process that holds torch's threads may hang.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_follow_the_parent)


def _follow_the_parent() -> None:
    # A terminal sends Ctrl-C to every process of the group: without this each would print its own traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed, it cannot end its processes: they notice by themselves
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()

"""Case-level work on several processes or on a cluster: in order, with a progress bar, stoppable by Ctrl-C.

One interface, :class:`Executor`, has two kinds: :class:`Processes` of this machine, and the workers of a Dask cluster
(:mod:`samdpo.dask_cluster`). Functions that spread work take ``processes``: a number, or an executor.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from tqdm import tqdm

from samdpo.errors import ConfigurationError

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = TypeVar("Work")
Kept = TypeVar("Kept")

log = logging.getLogger(__name__)

_PER_PROCESS = 8  # items below which a process costs more to start than it saves
_LARGEST_BATCH = 8  # items sent to a process together
_TRIES_ALONE = 2  # of an item whose process was killed
_UNGUARDED = 76  # exit code of a process that ran its script's work instead of its own
_KILLED = getattr(signal, "SIGKILL", 9)  # which Windows does not have
_ENDED_BY_THE_POOL = (None, 0, -signal.SIGTERM)  # exit codes of processes that ended because another one had


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
        ConfigurationError: a case's process was killed each time, usually for lack of memory; no process can start,
            since a script begins work outside ``if __name__ == "__main__":``; ``function`` or an item cannot be sent
            to a process; the cluster is gone.
    """
    workers = processes if isinstance(processes, Executor) else Processes(processes)
    yield from workers.map(function, items, description, per_process)


def local_threads(processes: Workers) -> int:
    """Threads for what is done in this process beside :func:`map_cases`, such as looking after many files."""
    return min(8, os.cpu_count() or 1) if isinstance(processes, Executor) else max(1, processes)


def map_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """``function(item)`` of every item, in order, for what waits for the disk: no process is worth starting."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(function, items))


_ONE_AT_A_TIME = threading.Lock()  # a worker may have several threads, but one model and one card
_kept: list[tuple[Any, Any]] = []  # of this process: what the last work was, and what was made for it


@contextmanager
def kept_for(work: Work, make: Callable[[Work], Kept]) -> Iterator[Kept]:
    """What a process keeps from item to item of one work, such as a network; what it kept for another one is let go.

    Args:
        work: what items have in common; one that is equal to the last finds what is kept. It names the run where what
            is kept depends on more than it says.
        make: called where nothing is kept for it.
    """
    with _ONE_AT_A_TIME:
        if not _kept or _kept[0][0] != work:
            _kept.clear()
            _kept.append((work, make(work)))
        yield _kept[0][1]


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


def killed(item: Any, description: str, remedy: str, how: str = "") -> ConfigurationError:
    """The error of an item that no process survived; ``how`` it ended, where that is known."""
    how = how or f"was killed again and again, {_MEMORY}"
    return ConfigurationError(
        f"{description}: the process that worked on {name_of(item)} {how}. What was finished is kept; {remedy}"
    )


_MEMORY = "most likely because memory ran out"


@contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C, and the signals that end a command like it, take effect when the block ends, not in its middle.

    Around calls of libraries whose half-made objects complain when they go. In other threads than the main one, which
    signals do not interrupt, it does nothing.
    """
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))
        handlers = {n: handler for n in numbers if n is not None and callable(handler := signal.getsignal(n))}
    for number in handlers:
        signal.signal(number, lambda *told: came.append(told))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came[:1]:
            handlers[number](number, frame)


class _Pool:
    """Processes, and how those ended that did not end well.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        # Spawned processes start clean: a fork of a process that holds torch's threads may hang.
        context = multiprocessing.get_context("spawn")
        self._started = context.Event()
        self._others = set(multiprocessing.active_children())
        self._seen: set[multiprocessing.process.BaseProcess] = set()
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_follow_the_parent, initargs=(self._started,)
        )

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """As of an executor."""
        future = self._executor.submit(function, *arguments)
        self._seen |= set(multiprocessing.active_children()) - self._others
        return future

    def shutdown(self, cancel: bool = False) -> None:
        """Wait for what is under way; with ``cancel`` what has not begun is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=cancel)

    def how_it_ended(self, description: str) -> str:
        """How the process ended that broke the pool, as the end of a sentence "a process …"; after ``shutdown``.

        Raises:
            ConfigurationError: no process ever came to its work.
        """
        codes = [process.exitcode for process in self._seen]
        if _UNGUARDED in codes or not self._started.is_set():
            raise _never_started(description, _UNGUARDED in codes)
        code = next((code for code in codes if code not in _ENDED_BY_THE_POOL), None)
        if code is None or code == -_KILLED:
            return f"was killed, {_MEMORY}"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"crashed ({name}), as a library does at a damaged file or a fault of its own"
        return f"ended by itself with exit code {code}"


def _never_started(description: str, unguarded: bool) -> ConfigurationError:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if not unguarded and script and Path(script).is_file():
        unguarded = "__main__" not in Path(script).read_text(encoding="utf-8", errors="replace")
    if unguarded:
        return ConfigurationError(
            f"{description}: {script or 'the script'} begins its work outside of a guard, so each process that is "
            'started begins it anew instead of helping. Put the work below the line if __name__ == "__main__": , or '
            "use one process: -np 1, processes=1."
        )
    return ConfigurationError(
        f"{description}: no process could be started; what is said above tells why. One process needs none to be "
        "started: -np 1, processes=1."
    )


def _refuse_unguarded() -> None:
    """End a process that was started to help and runs the script that started it, up to here."""
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        raise SystemExit(_UNGUARDED)


def _refuse_what_cannot_be_sent(function: Callable[[Item], Result], item: Item, description: str) -> None:
    for what, thing in ((f"the function {getattr(function, '__qualname__', function)}", function),
                        (f"the case {name_of(item)}", item)):
        try:
            pickle.dumps(thing)
        except Exception as error:  # whatever a thing's own __reduce__ raises
            raise ConfigurationError(
                f"{description}: {what} cannot be sent to another process ({type(error).__name__}: {error}). Use a "
                "function of a module, with plain values, or one process: -np 1, processes=1."
            ) from error


def _on_processes(
    function: Callable[[Item], Result], todo: deque[list[Item]], workers: int, description: str
) -> Iterator[Result]:
    _refuse_unguarded()
    _refuse_what_cannot_be_sent(function, todo[0][0], description)
    begun: deque[tuple[list[Item], Future]] = deque()
    pool = _Pool(workers)
    broken = 0
    try:
        while todo or begun:
            try:
                while todo and len(begun) < 3 * workers:  # enough that no process waits for the oldest batch
                    begun.append((todo[0], pool.submit(run_batch, function, todo[0])))
                    todo.popleft()
                results = begun[0][1].result()
            except BrokenProcessPool:
                pool.shutdown()  # what was under way is now finished or lost
                how = pool.how_it_ended(description)
                broken += 1
                workers = workers if broken == 1 else max(1, workers // 2)  # they may need too much memory together
                log.warning("%s: a process %s. Its cases are done again, and the rest by %d processes.", description,
                            how, workers)
                while begun:
                    batch, future = begun.popleft()
                    lost = isinstance(future.exception(), BrokenProcessPool)
                    yield from _one_by_one(function, batch, workers, description) if lost else future.result()
                pool = _Pool(workers)
                continue
            begun.popleft()
            yield from results
    finally:
        pool.shutdown(cancel=True)


def _one_by_one(
    function: Callable[[Item], Result], batch: Sequence[Item], workers: int, description: str
) -> Iterator[Result]:
    """Items one of which killed its process, each alone, so that it is known which."""
    pool = _Pool(1)
    try:
        for item in batch:
            for attempt in range(_TRIES_ALONE):
                try:
                    result = pool.submit(function, item).result()
                    break
                except BrokenProcessPool as error:
                    pool.shutdown()
                    how = pool.how_it_ended(description)
                    if attempt + 1 == _TRIES_ALONE:
                        fewer = f"with fewer processes, for example -np {max(1, workers // 2)}"
                        remedy = f"look at this case, or type the same command again {fewer}."
                        if _MEMORY not in how:
                            remedy = "look at this case, whose files may be damaged, or leave it out."
                        raise killed(item, description, remedy, how) from error
                    pool = _Pool(1)
            yield result
    finally:
        pool.shutdown(cancel=True)


def _follow_the_parent(started: multiprocessing.synchronize.Event) -> None:
    started.set()
    # A terminal sends Ctrl-C to every process of the group: without this each would print its own traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:  # killed, it cannot end its processes: they notice by themselves
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()

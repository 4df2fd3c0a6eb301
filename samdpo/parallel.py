"""Case-level work on several processes, in order, with a progress bar, stoppable by Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from samdpo.errors import ConfigurationError

Item = TypeVar("Item")
Result = TypeVar("Result")

_PER_PROCESS = 8  # items below which a process costs more to start than it saves


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    processes: int,
    description: str,
    per_process: int = _PER_PROCESS,
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``.

    Args:
        function: picklable: a module's function, or a ``functools.partial`` of one.
        items: picklable.
        processes: at most this many; few items are done in this process, without any start-up time.
        description: of the progress bar, which is shown on a terminal only.
        per_process: items that a process must have to be worth starting; 1 for slow items such as volumes.

    Raises:
        ConfigurationError: a process was killed from outside, usually for lack of memory.
    """
    bar = {"total": len(items), "desc": description, "unit": "case", "disable": None}
    workers = min(processes, len(items) // per_process)
    if workers < 2:
        yield from tqdm(map(function, items), **bar)
        return
    # Spawned processes start clean: a fork of a process that holds torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    # Few at a time: Ctrl-C waits for what a process has in hand.
    chunk = max(1, min(8, per_process // 2, len(items) // (8 * workers)))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_ctrl_c_to_the_parent)
    try:
        yield from tqdm(pool.map(function, items, chunksize=chunk), **bar)
    except BrokenProcessPool as error:
        raise ConfigurationError(
            f"A process was killed while {description.lower()}, most likely because memory ran out. What was finished "
            f"is kept; type the same command again with fewer processes, for example -np {max(1, workers // 2)}."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_ctrl_c_to_the_parent() -> None:
    # A terminal sends Ctrl-C to every process of the group: without this each would print its own traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Case-level work on a Dask cluster, ``--dask SCHEDULER``: the workers see the same folders as this machine."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from tqdm import tqdm

import samdpo
from samdpo.errors import ConfigurationError
from samdpo.parallel import Executor, Item, Result, batches, killed, progress_bar, run_batch, signals_held

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")
_TO_ANSWER = 20.0  # seconds
_TO_GET_A_WORKER = 60.0  # seconds: a new one may be on its way where the last one died
_TO_PART = 5.0  # seconds that leaving a cluster may take
_PER_THREAD = 2  # batches under way: one at work, one waiting


class DaskCluster(Executor):
    """The workers of a Dask cluster, as a context manager that leaves it.

    Args:
        scheduler: address such as ``tcp://host:8786``, or a scheduler file.

    Raises:
        ConfigurationError: ``distributed`` is not installed; nobody answers; there is no worker; a worker has another
            version of samdpo or other folders.
    """

    def __init__(self, scheduler: str) -> None:
        self.scheduler = scheduler
        self._handed_over: WeakSet[Future] = WeakSet()
        self.client = connect(scheduler)
        try:
            self._wait_for_workers()
            check_workers(self.client)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DaskCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; what it has in hand is dropped.

        Futures that something still holds, such as the traceback of what stopped the work, are let go before: those
        that go after their client complain.
        """
        for future in list(self._handed_over):
            with suppress(Exception):  # the scheduler may be gone
                future.release()
        leave(self.client)

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], description: str, per_process: int = 8
    ) -> Iterator[Result]:
        """See :meth:`samdpo.parallel.Executor.map`."""
        work = self._in_order(function, items, description, per_process)
        yield from tqdm(work, **progress_bar(len(items), description))

    def _in_order(
        self, function: Callable[[Item], Result], items: Sequence[Item], description: str, per_process: int
    ) -> Iterator[Result]:
        threads = max(1, self._threads())
        todo = batches(items, threads, per_process)
        begun: deque[tuple[list[Item], Future]] = deque()
        try:
            while todo or begun:
                while todo and len(begun) < _PER_THREAD * threads:
                    batch = todo.popleft()
                    begun.append((batch, self._submit(function, batch, description)))
                batch, future = begun[0]
                self._wait(future)
                error = future.exception()
                begun.popleft()
                if isinstance(error, _killed_worker()):
                    log.warning("%s: workers were killed, most likely because memory ran out.", description)
                    yield from self._one_by_one(function, batch, [other for _, other in begun], description)
                else:
                    yield from future.result()
        finally:
            with suppress(Exception):  # the scheduler may be gone
                self.client.cancel([future for _, future in begun])

    def _submit(self, function: Callable[[Item], Result], batch: list[Item], description: str) -> Future:
        try:
            with signals_held():  # a future that Ctrl-C leaves half made ends in a message of its own
                future = self.client.submit(
                    _on_worker, identity(), function, batch, pure=False, key=f"{description}-{uuid.uuid4().hex}"
                )
                self._handed_over.add(future)
                return future
        except Exception as error:
            raise (gone(self.scheduler) if self.client.status != "running" else error) from error

    def _one_by_one(
        self, function: Callable[[Item], Result], batch: list[Item], others: Sequence[Future], description: str
    ) -> Iterator[Result]:
        """Items whose workers were killed, while nothing else is at work, so that it is known which one kills them."""
        for other in others:
            self._wait(other)
        for item in batch:
            future = self._submit(function, [item], description)
            self._wait(future)
            if isinstance(future.exception(), _killed_worker()):
                raise killed(
                    item, description,
                    "look at this case, or give the workers more memory, and type the same command again.",
                ) from future.exception()
            yield from future.result()

    def _wait(self, future: Future) -> None:
        """Until a batch is done, with or without an error.

        Raises:
            ConfigurationError: the scheduler has gone away, or there has been no worker for a while.
        """
        from distributed import TimeoutError as NotYet

        unmanned = None
        while future.status == "pending":
            try:
                future.exception(timeout=2)
            except NotYet:
                pass
            except CancelledError as error:
                raise gone(self.scheduler) from error
            if future.status != "pending" or self._threads():
                unmanned = None
            else:
                unmanned = unmanned or time.monotonic()
                if time.monotonic() - unmanned > _TO_GET_A_WORKER:
                    raise ConfigurationError(
                        f"The Dask cluster at {self.scheduler} has had no worker for {_TO_GET_A_WORKER:.0f} s. What "
                        f"was finished is kept; start workers with: dask worker {self._argument()}"
                    )
        if future.status == "cancelled":
            raise gone(self.scheduler)

    def _threads(self) -> int:
        """Of all workers together."""
        try:
            return sum(self.client.nthreads().values())
        except Exception as error:
            raise gone(self.scheduler) from error

    def _argument(self) -> str:
        """What ``dask worker`` is told to find the scheduler."""
        return f"--scheduler-file {self.scheduler}" if _is_file(self.scheduler) else self.scheduler

    def _wait_for_workers(self) -> None:
        until = time.monotonic() + _TO_ANSWER
        while not self._threads():
            if time.monotonic() > until:
                raise ConfigurationError(
                    f"The Dask scheduler at {self.scheduler} has no workers. Start some with: dask worker "
                    f"{self._argument()}"
                )
            time.sleep(0.2)


def connect(scheduler: str) -> Client:
    """A client of a Dask scheduler.

    Args:
        scheduler: address such as ``tcp://host:8786``, or a scheduler file (``dask scheduler --scheduler-file``).

    Raises:
        ConfigurationError: ``distributed`` is not installed, or nobody answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigurationError(
            'Dask is not installed, which --dask needs. Type: pip install "samdpo[dask]", or leave out --dask.'
        ) from error
    for name in ("distributed", "distributed.client"):  # what it says of a lost connection, we say in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    where: dict[str, str] = {"address": scheduler}
    if _is_file(scheduler):
        if not Path(scheduler).is_file():
            raise ConfigurationError(
                f"There is no scheduler file {scheduler}. Make it with: dask scheduler --scheduler-file {scheduler}"
            )
        where = {"scheduler_file": scheduler}
    try:
        return Client(**where, timeout=f"{_TO_ANSWER:g}s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"No Dask scheduler answers at {scheduler!r}: {error}. Start one with: dask scheduler"
        ) from error


def check_workers(client: Client) -> None:
    """Raises ConfigurationError where a worker has another version of samdpo than this machine, or other folders."""
    for worker, found in client.run(_disagreement, identity(), on_error="return").items():
        if found:
            raise ConfigurationError(_unfit(worker, f"answers: {found}" if isinstance(found, Exception) else found))


def gone(scheduler: str) -> ConfigurationError:
    """The error of a scheduler that went away."""
    return ConfigurationError(
        f"The Dask scheduler at {scheduler} is gone. What was finished is kept; start a scheduler and workers again "
        "and type the same command."
    )


def leave(client: Client) -> None:
    """Close a client, whether or not its scheduler is still there."""
    with suppress(Exception):
        client.close(timeout=_TO_PART)


def identity() -> dict[str, str]:
    """What client and workers must have in common: samdpo's version, and the folders that are set."""
    return {"version": samdpo.__version__, **{name: value for name in _VARIABLES if (value := _variable(name))}}


def _variable(name: str) -> str:
    value = os.environ.get(name, "")
    return os.pathsep.join(str(Path(part).expanduser().resolve()) for part in value.split(os.pathsep) if part)


def _disagreement(expected: dict[str, str]) -> str:
    """On a worker: what it has otherwise than the client, "" where all is well."""
    version = expected["version"]
    if version != samdpo.__version__:
        return f"has samdpo {samdpo.__version__}, this machine {version}"
    for name in expected.keys() - {"version"}:
        if _variable(name) != expected[name]:
            return f"has {name}={os.environ.get(name) or '(not set)'}, this machine {expected[name]}"
    return ""


def _unfit(worker: str, found: str) -> str:
    return (
        f"The Dask worker {worker} {found}. Workers need the same samdpo and the same nnUNet_* variables, which name "
        "folders that all machines see; start it again with them."
    )


def _on_worker(expected: dict[str, str], function: Callable[[Item], Result], batch: Sequence[Item]) -> list[Result]:
    found = _disagreement(expected)  # a worker may have come later
    if found:
        from distributed import get_worker

        raise ConfigurationError(_unfit(get_worker().address, found))
    return run_batch(function, batch)


def _killed_worker() -> type[Exception]:
    from distributed import KilledWorker

    return KilledWorker


def _is_file(scheduler: str) -> bool:
    return scheduler.endswith(".json") or Path(scheduler).is_file()

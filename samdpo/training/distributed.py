"""The processes of a training under torchrun: who is who, what they exchange, and how they end together.

One process is the ordinary case: everything here then is the identity, and no process group exists. Whatever takes
long is done by the main process while the others look at torchrun's key-value store, so that no collective with a
time limit waits for it.
"""

from __future__ import annotations

import atexit
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from samdpo.errors import ConfigurationError, SamdpoError, TrainingError
from samdpo.networks.device import memory_that_ran_out, resolve_device

log = logging.getLogger(__name__)

Made = TypeVar("Made")

TIMEOUT = timedelta(minutes=30)  # of one collective: nothing that takes long happens in one
LOOKS_EVERY = 0.25  # seconds
DEAD_AFTER = 120.0  # seconds without a sign of life of the main process
GRACE = 5.0  # seconds in which a process ends by itself once another one has failed

_GO_ON = "What was finished is kept; type the same command with --c to go on."
_joined: Processes | None = None
_trainings = 0  # of this process so far: each has names of its own in the store


class Processes:
    """This process among those of a training.

    Attributes:
        rank: of this process, 0 to ``world - 1``; 0 is the main one, which alone writes.
        world: number of processes.
        device: on which this one computes.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1, store: dist.Store | None = None) -> None:
        self.device, self.rank, self.world = device, rank, world
        self._store, self._turn, self._active = store, 0, world > 1
        self._reported, self._first = False, True  # whether it has failed, and before the others

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    # ---- what a step needs --------------------------------------------------------------------------------------

    def share(self, items: list[Any]) -> list[Any]:
        """This process's part of the items of a step: as many as every other has, or one fewer.

        Where there are fewer items than processes they are taken again from the first, so that nobody has none.
        """
        if self.world == 1 or not items:
            return items
        again = -(-self.world // len(items)) if len(items) < self.world else 1
        return (items * again)[: max(len(items), self.world)][self.rank :: self.world]

    def divisor(self, count: int | Tensor) -> int | Tensor:
        """By what a sum over ``count`` own items is divided so that DDP's average over processes is the mean over all.

        With one process it is ``count``, at least 1; every process must ask.
        """
        if self.world == 1:
            return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
        total = torch.as_tensor(count, dtype=torch.float32, device=self.device).clone()
        dist.all_reduce(total)
        return total.clamp(min=1) / self.world

    def total(self, value: Tensor) -> Tensor:
        """Sum over processes, with a gradient for a loss that each process computes of all sums in the same way."""
        return value if self.world == 1 else _Total.apply(value, self.world)

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        said = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(said)
        return bool(said.item())

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, those of the main one first; the same list everywhere."""
        if self.world == 1:
            return items
        every: list[Any] = [None] * self.world
        dist.all_gather_object(every, items)
        return [item for of_process in every for item in of_process]

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Mean of the gradients over processes, in one collective; for steps that did not go through DDP.

        A parameter that no process's loss has touched keeps no gradient.
        """
        if self.world == 1 or not parameters:
            return
        touched = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        dist.all_reduce(touched)
        chosen = [p for p, n in zip(parameters, touched.tolist()) if n]
        if not chosen:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in chosen])
        dist.all_reduce(flat)
        flat /= self.world
        for parameter, mean in zip(chosen, flat.split([p.numel() for p in chosen])):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype)

    def replicate(self, network: nn.Module) -> Replica:
        """``network`` under DistributedDataParallel; its weights are those of the main process from now on."""
        return Replica(network)

    # ---- work that takes long -----------------------------------------------------------------------------------

    def once(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns, a JSON-able value, in every process; the main one works and the others wait.

        Raises:
            TrainingError: the main process failed or gives no sign of life any more.
        """
        if self.world == 1:
            return work()
        self._turn += 1
        key = f"once/{self._turn}"
        if self.is_main:
            try:
                value = work()
            except BaseException as error:
                self.report(error)
                raise
            self._store.set(key, json.dumps(value))
            return value
        self._wait(lambda: self._store.check([key]))
        return json.loads(self._store.get(key))

    def main_first(self, make: Callable[[], Made]) -> Made:
        """What ``make`` returns, called by the main process first; the others then find on disk what takes long."""
        made: list[Made] = []
        self.once(lambda: made.append(make()))
        return made[0] if made else make()

    def meet(self) -> None:
        """Wait until every process is here, however long it takes."""
        if self.world == 1:
            return
        self._turn += 1
        key = f"meet/{self._turn}"
        self._store.add(key, 1)
        self._wait(lambda: self._store.add(key, 0) >= self.world)

    def _wait(self, done: Callable[[], bool]) -> None:
        beat, seen = -1, time.monotonic()
        while True:
            try:
                if done():
                    return
                failed = self._failure()
                now = self._store.add("beat", 0)
            except RuntimeError as error:
                raise TrainingError(f"The main process of the training is gone. {_GO_ON}") from error
            if failed:
                raise TrainingError(failed)
            if now != beat:
                beat, seen = now, time.monotonic()
            elif time.monotonic() - seen > DEAD_AFTER:
                raise TrainingError(f"The main process has given no sign of life for {DEAD_AFTER:.0f} s. {_GO_ON}")
            time.sleep(LOOKS_EVERY)

    # ---- the end ------------------------------------------------------------------------------------------------

    def report(self, error: BaseException) -> bool:
        """Tell the others that this process fails; whether it is the first to, and so the one that says why."""
        if not self._active or self._reported:
            return self._first
        self._reported = True
        try:
            if self._store.add("failures", 1) > 1:
                self._first = False
                return False
            what = str(error) if isinstance(error, SamdpoError) else type(error).__name__
            self._store.set("failed", f"Process {self.rank} of {self.world} ended: {what}")
        except RuntimeError:  # the store is gone with the process that kept it
            pass
        return True

    def leave(self) -> None:
        """Take the process group down: at the end of a training, by every process. Rank and world stay known."""
        if self._active:
            self.meet()
            self._active = False
            dist.destroy_process_group()

    def abandon(self) -> None:
        """Leave without waiting for anybody, after an error."""
        if not self._active:
            return
        self._active = False
        if dist.is_initialized() and dist.get_backend() == "gloo":  # NCCL's would wait for what hangs
            dist.destroy_process_group()

    def _failure(self) -> str | None:
        return self._store.get("failed").decode() if self._store.check(["failed"]) else None

    def _watch(self) -> None:
        """Beat; end this process where another has failed and a collective that never ends holds the main thread."""
        store = self._store.clone() if hasattr(self._store, "clone") else self._store
        while self._active:
            try:
                if self.is_main:
                    store.add("beat", 1)
                failed = store.check(["failed"])
            except RuntimeError:
                failed = True
            if failed and not self._reported:
                time.sleep(GRACE)
                if self._active and not self._reported:
                    os._exit(2)
            time.sleep(1.0)


class Replica:
    """Forward and backward of a network in several processes: gradients are averaged while backward runs."""

    def __init__(self, network: nn.Module) -> None:
        # A loss need not touch every weight in every process (no prompt, no valid preference).
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its name of old
        self._replica = DistributedDataParallel(_Step(network), find_unused_parameters=True, **{buffers: False})

    def __call__(self, compute: Callable[..., tuple[Tensor, Any]], *arguments: Any, last: bool) -> tuple[Tensor, Any]:
        """``compute(*arguments)``, which gives a loss and more.

        Args:
            compute: uses the replicated network.
            arguments: for it.
            last: whether the gradients are averaged in its backward; earlier parts of a step only add to them.
        """
        with nullcontext() if last else self._replica.no_sync():
            return self._replica(compute, *arguments)


class _Step(nn.Module):
    """What DDP replicates: a network whose forward is whatever a step computes with it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, compute: Callable[..., tuple[Tensor, Any]], *arguments: Any) -> tuple[Tensor, Any]:
        loss, more = compute(*arguments)
        # One weight always gets a gradient: without any, DDP would never start to average in this process.
        return loss + 0 * next(p for p in self.network.parameters() if p.requires_grad).sum(), more


class _Total(torch.autograd.Function):
    """Sum over processes; backward as if the loss, which is the same everywhere, counted once after DDP's average."""

    @staticmethod
    def forward(context: Any, value: Tensor, world: int) -> Tensor:
        context.world = world
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.world, None


def join(device: torch.device | str) -> Processes:
    """This process among those that torchrun started, and the device that is its own; alone without torchrun.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; several processes take a card each.

    Raises:
        ConfigurationError: there is no such device, or not one for each process.
    """
    global _joined, _trainings
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        found = resolve_device(device)
        if found.type == "cuda" and found.index is not None:  # else pinned batches would open the first card beside it
            torch.cuda.set_device(found)
        return Processes(found)
    if _joined is not None and _joined._active:
        return _joined
    if not dist.is_available():
        raise ConfigurationError("This PyTorch is built without torch.distributed; type samdpo_train without torchrun.")
    store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
    _trainings += 1
    own = dist.PrefixStore(f"samdpo/{_trainings}", store)
    logging.getLogger("samdpo").setLevel(logging.INFO if rank == 0 else logging.ERROR)  # one voice
    joined = Processes(torch.device("cpu"), rank, world, own)
    try:
        joined.device = device_of(device, int(os.environ.get("LOCAL_RANK", rank)), on_this_machine(world))
        if joined.device.type == "cuda":
            torch.cuda.set_device(joined.device)
        backend = "nccl" if joined.device.type == "cuda" else "gloo"
        group = dist.PrefixStore(f"group/{_trainings}", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=TIMEOUT)
    except BaseException as error:
        first = joined.report(error)
        joined._active = False
        if not first and isinstance(error, SamdpoError):
            sys.exit(2)  # another process has said the same
        raise
    _joined = joined
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _told_to_end)
    threading.Thread(target=joined._watch, name="samdpo-processes", daemon=True).start()
    atexit.register(joined.abandon)
    return joined


def device_of(device: torch.device | str, local_rank: int, n_local: int) -> torch.device:
    """The device of one of ``n_local`` processes on a machine.

    Raises:
        ConfigurationError: there is no such device, or not one for each process.
    """
    found = resolve_device(device)
    if found.type == "cpu":
        return found
    if found.type != "cuda":
        raise ConfigurationError(f"-device {device} cannot be shared by {n_local} processes. Type samdpo_train without "
                                 "torchrun, or use -device cpu.")
    if found.index is not None and n_local > 1:
        raise ConfigurationError(
            f"-device {device} names one GPU, but torchrun has started {n_local} processes, each of which needs one of "
            "its own. Leave out -device; CUDA_VISIBLE_DEVICES=1,3 before torchrun chooses which GPUs are used."
        )
    if found.index is not None:
        return found
    if local_rank >= torch.cuda.device_count():
        raise ConfigurationError(
            f"torchrun has started {n_local} processes, but PyTorch finds {torch.cuda.device_count()} GPUs. Start one "
            f"process a GPU: torchrun --nproc_per_node {torch.cuda.device_count()} …"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def ending_together() -> Iterator[None]:
    """All processes end when one fails: the first says why, the others end quietly. Alone it does nothing.

    Raises:
        TrainingError: in the first process that notices that another one is gone.
    """
    try:
        yield
    except BaseException as error:
        if _joined is None or not _joined._active:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already
        lost = isinstance(error, RuntimeError) and not memory_that_ran_out(error) and _is_of_gloo(error)
        if lost:
            _give_time_to_say_why(_joined)
            error = TrainingError(f"The connection to another process of the training is lost: it has ended or was "
                                  f"killed, most likely because memory ran out. {_GO_ON}")
        first = _joined.report(error)
        _joined.abandon()
        if first:
            raise error from None if lost else error.__cause__
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 2)
    if _joined is not None:
        _joined.leave()


def _is_of_gloo(error: RuntimeError) -> bool:
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in ("gloo", "connection", "nccl"))


def _give_time_to_say_why(joined: Processes, seconds: float = 2.0) -> None:
    """A connection breaks as soon as a process ends, perhaps before its report is seen."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if joined._failure():
                return
        except RuntimeError:
            return
        time.sleep(0.1)


def _told_to_end(number: int, frame: FrameType | None) -> None:
    # torchrun sends SIGTERM to those that are left when one process has ended in error.
    raise TrainingError(f"This process was told to end, by you or because another one of the training died. {_GO_ON}")


def on_this_machine(world: int) -> int:
    """How many of ``world`` processes run on this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world))

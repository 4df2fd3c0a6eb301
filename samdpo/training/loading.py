"""Which slices an epoch sees, and its batches, made by worker processes in the order of its recipes.

torch's DataLoader and not batchgenerators' MultiThreadedAugmenter, which was measured beside it (two workers, one core
each, the same samples; ``benchmarks/loading.py``). Both keep the order and are about equally fast, but the augmenter
forks (unsafe beside the threads of torch and CUDA), starts its processes anew for every epoch, loses what a worker's
exception said, and deals recipes out to its workers beforehand, so that a slow one holds up the rest. The DataLoader
has none of these, keeps its workers, and pins memory.

What DataLoader would send as dozens of shared files a batch (every tensor is one) goes as a single one here:
:func:`pack` lays all tensors and arrays of a batch one after another. Workers draw nothing: a recipe says all of a
batch, so that training is the same bit for bit with any number of them.
"""

from __future__ import annotations

import errno
import io
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from samdpo.errors import ConfigurationError, SamdpoError, TrainingError
from samdpo.plans import StagePlan
from samdpo.preprocessing.store import SliceKey

log = logging.getLogger(__name__)

VARIABLE, FLAG = "nnUNet_n_proc_DA", "-num_workers"
MOST_BY_DEFAULT = 8
_AHEAD = 2  # batches that each worker makes in advance
_ALIGNED = 64  # bytes
_SMALL = 1024  # bytes below which an array is pickled as it is


def number_of_workers(asked: int | None, device: torch.device, processes: int = 1) -> int:
    """How many workers feed a training.

    Args:
        asked: by the command; None asks the variable ``nnUNet_n_proc_DA``, and without it the machine: none where the
            cores compute, on a GPU one a core, at most 8.
        device: that trains.
        processes: that train on this machine side by side and share its cores.

    Raises:
        ConfigurationError: the number is none.
    """
    if asked is None and (text := os.environ.get(VARIABLE, "").strip()):
        if not text.isdecimal():
            raise ConfigurationError(f"{VARIABLE} is {text!r}; expected a number of workers, such as 4, or 0 for none.")
        asked = int(text)
    if asked is None:
        return min(MOST_BY_DEFAULT, max(1, usable_cores() // processes)) if device.type == "cuda" else 0
    if asked < 0:
        raise ConfigurationError(f"{FLAG} is {asked}; expected a number of workers, such as 4, or 0 for none.")
    return asked


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EpochSlices:
    """Which slices an epoch sees: all, or ``slices_per_epoch`` drawn for it; the same whenever it is asked.

    Args:
        stage: gives the number, the seed and the epochs.
        world: processes that share a step, of which each takes ``batch_size`` slices.
    """

    def __init__(self, stage: StagePlan, world: int = 1) -> None:
        self.most, self.seed, self.epochs = stage.slices_per_epoch, stage.seed, stage.epochs
        self.batch_size = stage.batch_size * world

    def of(self, keys: Sequence[SliceKey], epoch: int) -> list[SliceKey]:
        """Those of ``keys`` that ``epoch`` sees, in their order."""
        if self.most == 0 or len(keys) <= self.most:
            return list(keys)
        drawn = np.random.default_rng([self.seed, epoch]).choice(len(keys), self.most, replace=False)
        return [keys[i] for i in sorted(drawn)]

    def seen(self, keys: Sequence[SliceKey]) -> list[SliceKey]:
        """Those of ``keys`` that some epoch sees, in their order."""
        seen = {key for epoch in range(self.epochs) for key in self.of(keys, epoch)}
        return [key for key in keys if key in seen]

    def batches(
        self, keys: Sequence[SliceKey], epoch: int, generator: torch.Generator
    ) -> Iterator[list[SliceKey]]:
        """What ``epoch`` sees of ``keys``, shuffled, in batches; the last one may be smaller."""
        return epoch_order(self.of(keys, epoch), self.batch_size, generator)


def epoch_order(keys: Sequence[SliceKey], batch_size: int, generator: torch.Generator) -> Iterator[list[SliceKey]]:
    """Shuffle ``keys`` and yield them in batches; the last one may be smaller."""
    order = torch.randperm(len(keys), generator=generator).tolist()
    for start in range(0, len(order), batch_size):
        yield [keys[i] for i in order[start : start + batch_size]]


class Loader:
    """Makes batches in worker processes that live until :meth:`close`; without workers in this process.

    Args:
        workers: their number.
        device: that trains; for a GPU batches are pinned.
    """

    def __init__(self, workers: int, device: torch.device) -> None:
        self.workers, self.pins = workers, device.type == "cuda"
        self._maker: Callable[[Any], Any] | None = None
        self._recipes = _Recipes()
        self._loader: DataLoader | None = None

    def batches(self, recipes: Iterable[Any], maker: Callable[[Any], Any], start: bool = True) -> Iterator[Any]:
        """``maker(recipe)`` of every recipe, in order, a few ahead of the one that is asked for.

        Args:
            recipes: picklable.
            maker: picklable; workers are kept as long as it is equal to the one before.
            start: whether workers are started for another maker; if not, this process makes the batches then.

        Raises:
            SamdpoError: as ``maker`` raised it in a worker.
            TrainingError: a worker died, or shared memory is full.
        """
        if self.workers == 0 or not (start or self.serves(maker)):
            yield from map(maker, recipes)
            return
        if not self.serves(maker):
            self.close()
            self._start(maker)
        self._recipes.now = recipes
        try:
            for made in self._loader:
                if isinstance(made, _Failure):
                    raise made.error
                yield unpack(made)
        except RuntimeError as error:
            # A worker that was killed, or died of memory that could not be mapped.
            if "DataLoader worker (pid" not in str(error) or "Caught" in str(error):
                raise
            if self._wrote_beyond_memory():
                raise _full_shared_memory(error) from error
            raise TrainingError(
                "A process that makes training samples was killed, most likely because memory ran out. The last "
                f"checkpoint is kept: type the same command with --c, and with fewer of them: {FLAG} "
                f"{max(0, self.workers // 2)} (0: none)."
            ) from error
        finally:
            self._recipes.now = ()

    def serves(self, maker: Callable[[Any], Any]) -> bool:
        """Whether workers with this maker are running."""
        return self._loader is not None and maker == self._maker

    def close(self) -> None:
        """Stop the workers; they are started again when needed."""
        loader, self._loader, self._maker = self._loader, None, None
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            # The public way is to drop all references, which a traceback may hold.
            iterator._shutdown_workers()

    def _wrote_beyond_memory(self) -> bool:
        """Whether a worker died of a page that /dev/shm had promised and could not give."""
        number = getattr(signal, "SIGBUS", None)  # Windows has none
        workers = getattr(getattr(self._loader, "_iterator", None), "_workers", ())
        return number is not None and any(worker.exitcode == -number for worker in workers)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, maker: Callable[[Any], Any]) -> None:
        # A fork of a process with threads may hang; the server is forked from before there were any, having imported
        # all that workers need. Where there is none (Windows), each worker starts from nothing.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload([__name__, "samdpo.align.trainer"])
        self._maker = maker
        self._loader = DataLoader(
            _Batches(maker),
            sampler=self._recipes,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pins,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            multiprocessing_context=context,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # of its own: torch's is the training's
        )


class _Recipes:
    """The sampler: the recipes of the epoch that is on."""

    now: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now)


@dataclass(frozen=True)
class _Failure:
    """What a user can mend, on its way to the process that trains."""

    error: SamdpoError


class _Batches(Dataset):
    """Batches by recipe, packed."""

    def __init__(self, maker: Callable[[Any], Any]) -> None:
        self.maker = maker

    def __getitem__(self, recipe: Any) -> Packed | _Failure:
        try:
            made = self.maker(recipe)
        except SamdpoError as error:
            return _Failure(error)
        try:
            return pack(made)
        except (OSError, RuntimeError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
            if not (full or "shared memory" in str(error) or "shm" in str(error)):
                raise
            return _Failure(_full_shared_memory(error))


def _full_shared_memory(error: Exception) -> TrainingError:
    return TrainingError(
        f"The shared memory in /dev/shm is full, through which workers hand over training samples ({error}). "
        "The last checkpoint is kept: type the same command with --c, and with fewer workers or none: "
        f"{FLAG} 0. In a container it may be given more, for example: docker run --shm-size 4g"
    )


def _begin(_worker: int) -> None:
    # A terminal sends Ctrl-C to every process of the group: without this each would print its own traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker's own parent is the server, which lives as long as any worker: it must ask for the one that trains.
    threading.Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@dataclass(frozen=True)
class Packed:
    """Any object whose tensors and arrays lie in one buffer.

    Attributes:
        content: the pickled object, which says where in the buffer its arrays are.
        buffer: (bytes,) uint8, in shared memory.
    """

    content: bytes
    buffer: torch.Tensor

    def pin_memory(self) -> Packed:
        """The same with a pinned buffer; DataLoader asks for it."""
        return Packed(self.content, self.buffer.pin_memory())


def pack(made: Any) -> Packed:
    """Lay the tensors and large arrays of an object into one shared buffer; tensors that share a storage stay so.

    Raises:
        RuntimeError: shared memory is full.
    """
    stream = io.BytesIO()
    packer = _Packer(stream)
    packer.dump(made)
    # As torch's own default_collate does it: memory that is shared from the start is written to once.
    buffer = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(max(1, packer.size)))
    for start, part in packer.parts:
        buffer[start : start + len(part)] = part
    return Packed(stream.getvalue(), buffer)


def unpack(packed: Packed) -> Any:
    """What :func:`pack` was given; its tensors and arrays are views of the buffer."""
    return _Unpacker(packed).load()


class _Packer(pickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.parts: list[tuple[int, torch.Tensor]] = []
        self.size = 0
        self._starts: dict[int, int] = {}  # of storages that are laid already

    def persistent_id(self, value: Any) -> tuple | None:
        if isinstance(value, torch.Tensor):
            tensor = value.contiguous()
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._starts:
                self._starts[storage.data_ptr()] = self._lay(torch.empty(0, dtype=torch.uint8).set_(storage))
            start = self._starts[storage.data_ptr()] + tensor.storage_offset() * tensor.element_size()
            return "tensor", start, tensor.dtype, tuple(tensor.shape)
        if isinstance(value, np.ndarray) and value.nbytes >= _SMALL:
            array = np.array(value, order="C")
            return "array", self._lay(torch.from_numpy(array.reshape(-1).view(np.uint8))), array.dtype, array.shape
        return None

    def _lay(self, part: torch.Tensor) -> int:
        start = self.size
        self.parts.append((start, part))
        self.size += -(-len(part) // _ALIGNED) * _ALIGNED
        return start


class _Unpacker(pickle.Unpickler):
    def __init__(self, packed: Packed) -> None:
        super().__init__(io.BytesIO(packed.content))
        self._buffer = packed.buffer

    def persistent_load(self, place: tuple) -> torch.Tensor | np.ndarray:
        kind, start, dtype, shape = place
        size = int(np.prod(shape)) * (dtype.itemsize)
        part = self._buffer[start : start + size]
        # Views of the very buffer: a copy to a GPU that is under way keeps a pinned one alive.
        return part.view(dtype).view(shape) if kind == "tensor" else part.numpy().view(dtype).reshape(shape)

"""Which device a name means, and its memory: a sentence where one is missing or too small, and what is handed back."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from samdpo.errors import ConfigurationError, OutOfMemoryError

_RAN_OUT = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")  # as PyTorch says it


def resolve_device(device: torch.device | str) -> torch.device:
    """``auto`` is a CUDA GPU where there is one, else the CPU; ``cpu``, ``cuda``, ``cuda:1``, ``mps`` are themselves.

    Raises:
        ConfigurationError: not the name of a device, or this machine has none of the kind or of the number.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(f"-device {device!r} is not a device; expected cpu, cuda, cuda:1 or mps.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"-device {device} was asked for, but PyTorch finds no CUDA device. Use -device cpu.")
    if found.type == "cuda" and found.index is not None and found.index >= (count := torch.cuda.device_count()):
        raise ConfigurationError(
            f"-device {device} was asked for, but PyTorch finds {count} CUDA devices, which count from cuda:0 to "
            f"cuda:{count - 1}."
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError("-device mps was asked for, but PyTorch finds no MPS device. Use -device cpu.")
    return found


def memory_that_ran_out(error: BaseException) -> str | None:
    """``GPU`` or ``machine`` where ``error`` says that its memory is used up; None of every other error."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "GPU"
    if isinstance(error, MemoryError):
        return "machine"
    said = str(error)
    if not isinstance(error, RuntimeError) or not any(words in said for words in _RAN_OUT):
        return None
    return "GPU" if any(words in said for words in ("CUDA", "CUBLAS", "CUDNN", "MPS")) else "machine"


@contextmanager
def saying_what_to_make_smaller(doing: str, advice: str) -> Iterator[None]:
    """Around work that needs much memory: where it runs out, that becomes a sentence.

    Args:
        doing: what it ran out in, such as ``in a step of batch_size=8``.
        advice: a sentence of what to type.

    Raises:
        OutOfMemoryError: says both.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if (whose := memory_that_ran_out(error)) is None:
            raise
        raise OutOfMemoryError(f"The memory of the {whose} ran out {doing}. {advice}") from error


def hand_back_memory() -> None:
    """Give the system the memory that freed tensors left with the C library, which keeps it for the next ones.

    What comes next then peaks above what is in use, not above what something before it once took. Where the library is
    not glibc this collects garbage and does nothing else.
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

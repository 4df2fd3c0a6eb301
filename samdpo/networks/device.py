"""Which device a name means, with a sentence where this machine has no such device."""

from __future__ import annotations

import torch

from samdpo.errors import ConfigurationError


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

"""Weights as safetensors: nothing is unpickled, nothing is dropped silently."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from samdpo.errors import ModelFolderError
from samdpo.files import atomic_path

FITTING_WEIGHTS = "Use weights that were made with the same 'network' settings of the plan."
REMEDY = "Copy the file once more, or train the model again."


def save_weights(state_dict: Mapping[str, torch.Tensor], path: Path | str) -> None:
    """Write a state dict atomically; ``path`` ends in ``.safetensors``."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with atomic_path(path, durable=True) as temporary:
        # Bytes first: the library's own writer hides the error number of a full disk.
        temporary.write_bytes(save(tensors))


def load_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a safetensors file to the CPU.

    Raises:
        ModelFolderError: the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ModelFolderError(f"{path} does not exist; expected a file of weights (.safetensors). {REMEDY}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} is not a whole safetensors file ({error}). It may be truncated, or of another format. {REMEDY}"
        ) from error


def weights_hash(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over weights, as float32, and their names, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def load_into(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str, remedy: str = FITTING_WEIGHTS
) -> None:
    """Copy weights into ``module``; every name and shape must fit.

    Args:
        module: changed in place, unless the weights do not fit.
        state: name -> tensor.
        source: where they come from, for the message.
        remedy: what the message ends with.

    Raises:
        ModelFolderError: names the first weight that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing, unexpected = [k for k in own if k not in state], [k for k in state if k not in own]
    reshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    found = []
    if missing:
        found.append(f"{len(missing)} missing, first {missing[0]!r}")
    if unexpected:
        found.append(f"{len(unexpected)} unexpected, first {unexpected[0]!r}")
    if reshaped:
        name = reshaped[0]
        found.append(
            f"{len(reshaped)} of another shape, first {name!r}: found {tuple(state[name].shape)}, "
            f"expected {tuple(own[name].shape)}"
        )
    if found:
        raise ModelFolderError(
            f"The weights of {source} do not fit the network: {'; '.join(found)}. {remedy}"
        )
    module.load_state_dict(dict(state), strict=True)

"""Reading checkpoints: tensors only. Nothing in a file is ever executed.

Safetensors hold nothing else. Of PyTorch's pickles, plain state dicts are read with ``weights_only``. SAM-Med2D's file
also holds a pickled optimiser, which ``weights_only`` refuses even with its class declared safe; it is read by an
unpickler that knows the few functions of which tensors are rebuilt, puts an empty object in the place of everything of
``torch.optim`` and of a script's settings (SAM-Med3D's), and refuses whatever else a file names.
"""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from samdpo.errors import ModelFolderError
from samdpo.networks.weights import load_weights

WRAPPERS = ("model", "state_dict", "model_state_dict")  # of the weights, where a script saved other things as well
_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "Counter"): collections.Counter,  # of a learning-rate scheduler
    ("builtins", "dict"): dict,
    ("__builtin__", "dict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
_SETTINGS = ("argparse", "Namespace")  # of the training script, in SAM-Med3D's checkpoints; dropped like an optimiser


def read_checkpoint(path: Path | str) -> dict[str, torch.Tensor]:
    """The weights of a file, on the CPU; read from the disk when they are used, where the format allows it.

    Args:
        path: ``.safetensors``, or a file of ``torch.save``: a state dict, or one under ``model``, ``state_dict``
            or ``model_state_dict`` beside an optimiser and other things, which are dropped.

    Raises:
        ModelFolderError: the file is missing or damaged, holds something else than tensors, or names a function that
            has no place in a file of weights.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_weights(path)
    if not path.is_file():
        raise ModelFolderError(f"{path} does not exist; expected a file of weights.")
    content = _unpickled(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelFolderError(f"{path} holds a {type(content).__name__}; expected a state dict, name -> tensor.")
    other = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise ModelFolderError(
            f"{path} holds {len(other)} values that are not tensors, first {other[0]!r}; expected a state dict, "
            f"name -> tensor, or one under {' or '.join(map(repr, WRAPPERS))}."
        )
    return {name: value.detach() for name, value in content.items()}


def _unpickled(path: Path) -> Any:
    # Only archives of today's torch.save can be mapped; files from before version 1.6 are read as a whole.
    archive = zipfile.is_zipfile(path)
    if archive:
        with zipfile.ZipFile(path) as opened:
            if any(name.endswith("constants.pkl") for name in opened.namelist()):
                raise ModelFolderError(f"{path} is a TorchScript program, not a file of weights; it was not loaded.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError:
        pass
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=archive, pickle_module=_OnlyTensors)
    except _RefusedError as error:
        raise ModelFolderError(
            f"{path} names {error}, which has no place in a file of weights. Nothing of it was run or loaded; get the "
            "file from where it was published."
        ) from error
    except Exception as error:  # a pickle can break in any way
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelFolderError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelFolderError(f"{path} is not a whole file of torch.save ({first}). Get it once more.")


class _RefusedError(Exception):
    """Says what a pickle named."""


class _Dropped:
    """Stands where an optimiser was; takes any state and keeps none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch.optim" or module.startswith("torch.optim.") or (module, name) == _SETTINGS:
            return _Dropped
        raise _RefusedError(f"{module}.{name}")


class _OnlyTensors:
    """What ``torch.load`` asks of a module of pickling."""

    Unpickler = _Unpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: Any, **settings: Any) -> Any:
        return _Unpickler(file, **settings).load()

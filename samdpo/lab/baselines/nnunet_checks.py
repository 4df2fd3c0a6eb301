"""What nnU-Net wrote is looked at before nnU-Net reads it again, for its readers unpickle and import what files name.

The results are a folder that may come from elsewhere. So checkpoints are read with ``weights_only``, the pickled
properties of its preprocessed cases may hold arrays and numbers alone, and its plans may name networks and layers of
the libraries it uses, no other class. nnU-Net then reads the same files with readers of its own: what somebody puts in
their place within that second is not looked at.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from samdpo.errors import ModelFolderError, TrainingError
from samdpo.files import read_json

TRAINER = "nnUNetTrainer"  # whom nnU-Net's commands ask for the network
_NEEDED = ("network_weights", "init_args", "trainer_name", "budget")
_NETWORK = re.compile(r"dynamic_network_architectures\.architectures\.\w+\.[A-Z]\w*", re.ASCII)
_LAYER = re.compile(r"torch\.nn\.(modules\.[a-z]+\.)?[A-Z]\w*", re.ASCII)
_NUMPY = {  # numpy 2 has moved them
    (module, name) for package in ("numpy.core", "numpy._core") for module, name in (
        (f"{package}.multiarray", "_reconstruct"), (f"{package}.multiarray", "scalar"),
        (f"{package}.numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net: tensors, numbers and texts alone.

    Raises:
        ModelFolderError: it is missing, damaged, holds anything else, or is of another trainer than ours.
    """
    remedy = "Nothing of it was run. Train the stage again without --c."
    if not file.is_file():
        raise ModelFolderError(f"{file} does not exist. Train the stage again.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers, zip readers and torch each raise their own kinds
        raise ModelFolderError(
            f"{file} is not a whole checkpoint of tensors, numbers and texts ({type(error).__name__}). {remedy}"
        ) from error
    lacking = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if lacking:
        raise ModelFolderError(f"{file} is no checkpoint of this stage: it has no {lacking[0]!r}. {remedy}")
    if content["trainer_name"] != TRAINER:
        raise ModelFolderError(f"{file} is of the trainer {content['trainer_name']!r}; expected {TRAINER}. {remedy}")
    return content


def check_plans(file: Path) -> None:
    """Refuse plans of nnU-Net that name classes of elsewhere, which nnU-Net would import and call.

    Raises:
        ModelFolderError: names the first.
    """
    plans = read_json(file, error=ModelFolderError, remedy="Train the stage again.")
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(configurations, dict):
        raise ModelFolderError(f"{file} is no plan of nnU-Net. Train the stage again.")
    for name, configuration in configurations.items():
        found = configuration.get("architecture", {}) if isinstance(configuration, dict) else None
        if not isinstance(found, dict):
            raise ModelFolderError(f"{file}: 'configurations.{name}' is no configuration of nnU-Net.")
        arguments, imported = found.get("arch_kwargs", {}), found.get("_kw_requires_import", ())
        named = [(_NETWORK, found.get("network_class_name"))]
        if isinstance(arguments, dict) and isinstance(imported, (list, tuple)):
            named += [(_LAYER, arguments.get(key) if isinstance(key, str) else key) for key in imported]
        for pattern, value in named:
            if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
                raise ModelFolderError(
                    f"{file}: 'configurations.{name}.architecture' names {value!r}, which is no network or layer of "
                    "dynamic_network_architectures or torch.nn. It was not run; train the stage again."
                )


def check_preprocessed(folder: Path) -> None:
    """Refuse preprocessed cases whose pickled properties hold anything but arrays, numbers and texts.

    Raises:
        TrainingError: names the first.
    """
    for file in sorted(folder.rglob("*.pkl")):
        try:
            with file.open("rb") as stream:
                _ArraysOnly(stream).load()
        except Exception as error:  # a pickle can break in any way
            raise TrainingError(
                f"{file} holds something else than arrays, numbers and texts ({error}). Nothing of it was run; start "
                "again without --c."
            ) from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")

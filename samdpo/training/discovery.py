"""Find a trainer class: built in, ``module:Class``, entry point, or a file in the folders of nnUNet_extTrainer."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samdpo.errors import ConfigurationError

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer

BUILT_IN = {
    "FinetuneTrainer": "samdpo.training.finetune",
    "AlignTrainer": "samdpo.training.align",
    "UNetTrainer": "samdpo.training.baselines.unet",
    "NnUNetTrainer": "samdpo.training.baselines.nnunet",
    "SamTrainer": "samdpo.training.baselines.sam",
    "SamMed3dTrainer": "samdpo.training.baselines.sam_med3d",
    "SelfPromptTrainer": "samdpo.training.baselines.self_prompt",
    "PromptOnlyTrainer": "samdpo.training.baselines.prompt_only",
    "MeanTeacherTrainer": "samdpo.training.baselines.mean_teacher",
    "FixMatchTrainer": "samdpo.training.baselines.fixmatch",
}
ENTRY_POINTS = "samdpo.trainers"
FOLDERS_VARIABLE = "nnUNet_extTrainer"  # folders joined by os.pathsep, as in nnU-Net


def find_trainer(name: str) -> type[Trainer]:
    """The trainer class called ``name``.

    Args:
        name: ``FinetuneTrainer``; ``package.module:Class``; the name of an entry point of the group
            ``samdpo.trainers``; or the name of a class in a Python file below a folder of ``nnUNet_extTrainer``.

    Raises:
        ConfigurationError: not found (lists where was looked), not importable, or not a Trainer.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        return _checked(_import_attribute(module, attribute), name)
    if name in BUILT_IN:
        return _checked(_import_attribute(BUILT_IN[name], name), name)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return _checked(entry.load(), name)
    folders = [Path(f).expanduser() for f in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if f.strip()]
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            if re.search(rf"^class {re.escape(name)}\b", file.read_text(encoding="utf-8"), re.MULTILINE):
                return _checked(getattr(_import_file(file), name), name)
    looked = ", ".join(map(str, folders)) or f"no folder ({FOLDERS_VARIABLE} is not set)"
    entry_names = [e.name for e in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    raise ConfigurationError(
        f"There is no trainer {name!r}. Built in: {', '.join(BUILT_IN)}; entry points of {ENTRY_POINTS!r}: "
        f"{', '.join(entry_names) or 'none'}; looked for 'class {name}' in {looked}. "
        "Or name it fully: -tr package.module:Class"
    )


def _import_attribute(module: str, attribute: str) -> object:
    # A console script does not have the current folder on its path, where a user's module usually lies.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigurationError(
            f"The module {module!r} of the trainer cannot be imported: {error}. It must be installed or lie in the "
            "current folder or on PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"The module {module!r} has no class {attribute!r}.") from error


def _import_file(file: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"samdpo_ext_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} cannot be imported as a Python module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _checked(found: object, name: str) -> type[Trainer]:
    from samdpo.training.trainer import Trainer

    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise ConfigurationError(f"{name!r} is not a subclass of samdpo.training.trainer.Trainer.")
    return found

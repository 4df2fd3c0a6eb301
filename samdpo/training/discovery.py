"""Find a trainer class: built in, ``module:Class``, entry point, or a file in the folders of nnUNet_extTrainer."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samdpo.errors import ConfigurationError
from samdpo.extensions import announced, import_class, installed_class, loaded_class
from samdpo.names import is_below

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer

BUILT_IN = {
    "FinetuneTrainer": "samdpo.training.finetune",
    "AlignTrainer": "samdpo.align.trainer",
    "UNetTrainer": "samdpo.lab.baselines.unet",
    "NnUNetTrainer": "samdpo.lab.baselines.nnunet",
    "SamTrainer": "samdpo.lab.baselines.sam",
    "SamMed3dTrainer": "samdpo.lab.sam_med3d.trainer",
    "SelfPromptTrainer": "samdpo.lab.baselines.self_prompt",
    "PromptOnlyTrainer": "samdpo.lab.baselines.prompt_only",
    "MeanTeacherTrainer": "samdpo.lab.baselines.mean_teacher",
    "FixMatchTrainer": "samdpo.lab.baselines.fixmatch",
}
ENTRY_POINTS = "samdpo.trainers"
FOLDERS_VARIABLE = "nnUNet_extTrainer"  # folders joined by os.pathsep, as in nnU-Net
_FILE_MODULE = "samdpo_ext_"  # what a module from a file of these folders is called


def find_trainer(name: str, data: Path | None = None) -> type[Trainer]:
    """The trainer class called ``name``, which the user has typed; see :func:`trainer_of_file` for names in files.

    Args:
        name: ``FinetuneTrainer``; ``package.module:Class``; the name of an entry point of the group
            ``samdpo.trainers``; or the name of a class in a Python file below a folder of ``nnUNet_extTrainer``.
        data: a model folder, out of which nothing is run.

    Raises:
        ConfigurationError: not found (lists where was looked), not importable, or not a Trainer.
    """
    if ":" in name:
        return _checked(import_class(name, "trainer", data), name)
    if (found := _known(name, data)) is not None:
        return _checked(found, name)
    looked = ", ".join(map(str, _folders())) or f"no folder ({FOLDERS_VARIABLE} is not set)"
    raise ConfigurationError(
        f"There is no trainer {name!r}. Built in: {', '.join(BUILT_IN)}; entry points of {ENTRY_POINTS!r}: "
        f"{', '.join(announced(ENTRY_POINTS, data)) or 'none'}; looked for 'class {name}' in {looked}. "
        "Or name it fully: -tr package.module:Class"
    )


def trainer_of_file(
    name: str, file: Path | str, typed: str | type[Trainer] | None = None, data: Path | None = None
) -> type[Trainer]:
    """The trainer class that a file names; its module is not imported because a file says so.

    It is taken from where the user has put it: what is typed; a trainer that is built in; a class that this process has
    loaded already, as after training; an installed entry point; a file of the folders of ``nnUNet_extTrainer``.

    Args:
        name: ``package.module:Class`` or ``Class``.
        file: that says so, for messages.
        typed: what the user typed in this command (``-tr``), or the class itself.
        data: a model folder, out of which nothing is run.

    Raises:
        ConfigurationError: it is nowhere there, with what to type; or what is typed is another class.
    """
    module, _, own = name.rpartition(":")
    if typed is not None:
        found = find_trainer(typed, data) if isinstance(typed, str) else _checked(typed, typed.__name__)
        if found.__qualname__ != own:
            raise ConfigurationError(
                f"{file} is of the trainer {name!r}, but -tr names the class {found.__qualname__!r}. Name that of the "
                "model, or leave -tr out."
            )
        return found
    if own in BUILT_IN and (not module or module.startswith("samdpo.")):
        return find_trainer(own)
    found = loaded_class(name) if module else None
    if not _is_trainer(found):
        found = _known(own, data, module)
    if found is None:
        raise ConfigurationError(_not_run(name, module, own, file))
    return _checked(found, name)


def class_name(trainer: str) -> str:
    """``Class`` of ``package.module:Class``: what folders are called after."""
    return trainer.rpartition(":")[2]


def full_name(trainer: type[Trainer]) -> str:
    """``module:Class``, as ``model.json`` says it."""
    return f"{trainer.__module__}:{trainer.__qualname__}"


def name_to_type(trainer: str) -> str:
    """What finds a trainer of ``model.json`` again after ``-tr``: a built-in or a file's class by its name alone."""
    module, _, own = trainer.rpartition(":")
    return own if own in BUILT_IN or module.startswith(_FILE_MODULE) else trainer


def _known(name: str, data: Path | None, module: str = "") -> Any:
    """A class without a module's name: built in, announced, or in a file of the user's folders; None if nowhere.

    ``module`` is the one that a file names beside it; an entry point of this very class may have any name.
    """
    if name in BUILT_IN and not module:
        return getattr(importlib.import_module(BUILT_IN[name]), name)
    entries = announced(ENTRY_POINTS, data)
    for entry in entries.values():
        if module and entry.value.replace(" ", "") == f"{module}:{name}":
            return installed_class(entry)
    if name in entries:
        return installed_class(entries[name])
    for file in _files(data):
        if name.isidentifier() and re.search(rf"^class {re.escape(name)}\b", _text(file), re.MULTILINE):
            return getattr(_import_file(file), name, None)
    return None


def _not_run(name: str, module: str, own: str, file: Path | str) -> str:
    ways = [f"let {FOLDERS_VARIABLE} name the folder of its file"]
    if module and not module.startswith(_FILE_MODULE):
        ways.insert(0, f"type -tr {name}")
    ways.append(f"install a package that announces it as an entry point of {ENTRY_POINTS!r}")
    return (
        f"{file} names the trainer {name!r}, a class of somebody's own. A file is data, so that class is not run for "
        f"it. If you have it and trust it, {', or '.join(ways)}."
        if own else f"{file} names the trainer {name!r}, which is no class. Expected package.module:Class."
    )


def _folders() -> list[Path]:
    folders = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return [Path(os.path.expanduser(folder.strip())) for folder in folders if folder.strip()]


def _files(data: Path | None) -> Iterator[Path]:
    """The Python files of the user's folders, none of a model folder among them."""
    for folder in _folders():
        for file in sorted(folder.rglob("*.py")):
            if file.is_file() and (data is None or not is_below(file, data)):
                yield file


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # somebody else's, in a folder of many
        return ""


def _import_file(file: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"{_FILE_MODULE}{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} cannot be imported as a Python module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _is_trainer(found: object) -> bool:
    from samdpo.training.trainer import Trainer

    return isinstance(found, type) and issubclass(found, Trainer)


def _checked(found: Any, name: str) -> type[Trainer]:
    if not _is_trainer(found):
        raise ConfigurationError(f"{name!r} is not a subclass of samdpo.training.trainer.Trainer.")
    return found

"""The one way from a name to a class or a function: trainers, planners, backbones and more, ours and other people's.

A name is one of :data:`OURS`; one that a module gave with :func:`register`; an entry point of an installed package, in
the group ``samdpo.trainers``, ``samdpo.planners``, …; for trainers the name of a class in a Python file below a folder
of ``nnUNet_extTrainer``; or in full ``package.module:Class``.

To import a module is to run it. Only a name that the user has typed is imported (:func:`find`); one that stands in a
file is data (:func:`find_named_in_file`), and finds no more than what is ours, installed, in the user's own folders, or
loaded already.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from samdpo.errors import ConfigurationError
from samdpo.names import is_below

# Kind -> name -> "module:Name", which is imported when it is asked for. The floors above this one are named here, and
# nowhere else.
OURS: dict[str, dict[str, str]] = {
    "trainer": {
        "FinetuneTrainer": "samdpo.training.finetune:FinetuneTrainer",
        "AlignTrainer": "samdpo.align.trainer:AlignTrainer",
        "UNetTrainer": "samdpo.lab.baselines.unet:UNetTrainer",
        "NnUNetTrainer": "samdpo.lab.baselines.nnunet:NnUNetTrainer",
        "SamTrainer": "samdpo.lab.baselines.sam:SamTrainer",
        "SamMed3dTrainer": "samdpo.lab.sam_med3d.trainer:SamMed3dTrainer",
        "SelfPromptTrainer": "samdpo.lab.baselines.self_prompt:SelfPromptTrainer",
        "PromptOnlyTrainer": "samdpo.lab.baselines.prompt_only:PromptOnlyTrainer",
        "MeanTeacherTrainer": "samdpo.lab.baselines.mean_teacher:MeanTeacherTrainer",
        "FixMatchTrainer": "samdpo.lab.baselines.fixmatch:FixMatchTrainer",
    },
    # Made from a fingerprint, gives a plan: samdpo.planning.plan_and_preprocess.Planner.
    "planner": {
        "LitePlanner": "samdpo.planning.lite_planner:LitePlanner",
        "PaperPlanner": "samdpo.planning.paper_planner:PaperPlanner",
    },
    # build(plan, pretrained) -> network: samdpo.networks.registry.
    "backbone": {
        "lite_medsam": "samdpo.networks.backbones.lite_medsam:build_lite_medsam",
        "medsam_vit_b": "samdpo.networks.backbones.sam_vit:build_medsam_vit_b",
        "mobile_sam": "samdpo.networks.backbones.mobile_sam:build_mobile_sam",
        "sam_med2d_b": "samdpo.networks.backbones.sam_med2d:build_sam_med2d_b",
        "sam_vit_b": "samdpo.networks.backbones.sam_vit:build_sam_vit_b",
        "sam_vit_h": "samdpo.networks.backbones.sam_vit:build_sam_vit_h",
        "sam_vit_l": "samdpo.networks.backbones.sam_vit:build_sam_vit_l",
        "tiny_sam": "samdpo.networks.backbones.tiny_sam:build_tiny_sam",
    },
    # Likewise, of networks that the stages cannot prompt: a stage of its own names one, and nobody chooses it for all.
    "prompt_free_backbone": {
        "sam_med3d": "samdpo.lab.sam_med3d.network:build_sam_med3d",
        "sam_med3d_tiny": "samdpo.lab.sam_med3d.network:build_sam_med3d",
        "unet": "samdpo.lab.baselines.unet:build_unet",
    },
    # make(planner) -> stages by name, which a planner adds to its own: LitePlanner.plan_stages.
    "stages": {"baselines": "samdpo.lab.baselines.stages:baseline_stages"},
    # What is learned from unlabelled images: samdpo.align.objectives.Objective.
    "objective": {
        "chosen": "samdpo.align.objectives:Chosen",
        "judge_only": "samdpo.align.objectives:JudgeOnly",
        "preferences": "samdpo.align.objectives:Preferences",
        "self_training": "samdpo.align.objectives:SelfTraining",
        "best_candidate": "samdpo.align.objectives:BestCandidate",
    },
    # Who says which proposals are better: samdpo.align.answers.Answers.
    "annotator": {
        "virtual": "samdpo.align.answers:VirtualAnswers",
        "judge": "samdpo.align.answers:OwnAnswers",
        "recorded": "samdpo.align.answers:RecordedAnswers",
        "mixed": "samdpo.align.answers:MixedAnswers",
    },
    # open(dataset) -> what people have said: samdpo.align.answers.JudgementSource.
    "judgements": {"database": "samdpo.annotate.database.locate:people_of"},
}
FOLDERS_VARIABLE = "nnUNet_extTrainer"  # folders of trainers joined by os.pathsep, as in nnU-Net
_FILE_MODULE = "samdpo_ext_"  # what a module from a file of these folders is called
_BASES = {"trainer": "samdpo.training.trainer:Trainer"}  # of kinds whose classes must have one
_FLAGS = {"trainer": "-tr", "planner": "-pl"}  # before a name that is typed
_registered: dict[str, dict[str, Any]] = {kind: {} for kind in OURS}

T = TypeVar("T")


def find(kind: str, name: str, data: Path | None = None) -> Any:
    """What is called ``name``, which the user has typed; see :func:`find_named_in_file` for names in files.

    Args:
        kind: of :data:`OURS`.
        name: as this module's head says.
        data: a model folder, out of which nothing is run.

    Raises:
        ConfigurationError: not found (lists what there is, and where was looked), not importable, or of another kind.
    """
    if ":" in name:
        return _checked(kind, _import_typed(kind, name, data), name)
    if (found := _known(kind, name, data)) is not None:
        return _checked(kind, found, name)
    looked = [
        f"Built in: {', '.join([*OURS[kind], *_registered[kind]]) or 'none'}",
        f"entry points of {group(kind)!r}: {', '.join(_announced(kind, data)) or 'none'}",
    ]
    if kind == "trainer":
        folders = ", ".join(map(str, _folders())) or f"no folder ({FOLDERS_VARIABLE} is not set)"
        looked.append(f"looked for 'class {name}' in {folders}")
    raise ConfigurationError(
        f"There is no {_noun(kind)} {name!r}. {'; '.join(looked)}. Or name it fully: "
        f"{_FLAGS[kind] + ' ' if kind in _FLAGS else ''}package.module:Class"
    )


def find_named_in_file(
    kind: str, name: str, file: Path | str, typed: Any = None, data: Path | None = None
) -> Any:
    """What a file names; its module is not imported because a file says so.

    It is taken from where the user has put it: what is typed; what is ours; a class that this process has loaded
    already, as after training; an installed entry point; a file of the folders of ``nnUNet_extTrainer``.

    Args:
        kind: of :data:`OURS`.
        name: ``package.module:Class`` or ``Class``. Ours are found by ``Class``, whatever module they once had.
        file: that says so, for messages.
        typed: what the user typed in this command, or the class itself.
        data: a model folder, out of which nothing is run.

    Raises:
        ConfigurationError: it is nowhere there, with what to type; or what is typed is another class.
    """
    module, _, own = name.rpartition(":")
    if typed is not None:
        found = find(kind, typed, data) if isinstance(typed, str) else _checked(kind, typed, typed.__name__)
        if found.__qualname__ != own:
            raise ConfigurationError(
                f"{file} is of the {_noun(kind)} {name!r}, but {_FLAGS[kind]} names the class {found.__qualname__!r}. "
                f"Name that of the model, or leave {_FLAGS[kind]} out."
            )
        return found
    if own in OURS[kind] and (not module or module.startswith("samdpo.")):
        return find(kind, own)
    found = _loaded(name) if module and kind in _BASES else None  # without a base, any function would do
    if not _is_of(kind, found):
        found = _known(kind, own, data, module)
    if found is None:
        raise ConfigurationError(_not_run(kind, name, module, own, file))
    return _checked(kind, found, name)


def names(kind: str, data: Path | None = None) -> list[str]:
    """What a name of this kind may be, files and ``module:Class`` apart; nothing is imported to say so."""
    return [*dict.fromkeys([*OURS[kind], *_registered[kind], *_announced(kind, data)])]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorate a class or a function of one's own to give it a name, for as long as this process runs.

    Other processes know it once they have imported its module; those that do not are better served by an entry point.

    Raises:
        ValueError: the name is taken.
    """

    def add(found: T) -> T:
        if name in OURS[kind] or name in _registered[kind]:
            by = OURS[kind].get(name) or _registered[kind][name].__module__
            raise ValueError(f"the {_noun(kind)} {name!r} is registered already, by {by.partition(':')[0]}")
        _registered[kind][name] = found
        return found

    return add


def group(kind: str) -> str:
    """The group of entry points by which installed packages announce theirs."""
    return f"samdpo.{kind.removesuffix('s')}s"


def class_name(target: str) -> str:
    """``Class`` of ``package.module:Class``: what folders are called after."""
    return target.rpartition(":")[2]


def full_name(found: type) -> str:
    """``module:Class``, as ``model.json`` says it."""
    return f"{found.__module__}:{found.__qualname__}"


def name_to_type(trainer: str) -> str:
    """What finds a trainer of ``model.json`` again after ``-tr``: ours or a file's class by its name alone."""
    module, _, own = trainer.rpartition(":")
    return own if own in OURS["trainer"] or module.startswith(_FILE_MODULE) else trainer


def _noun(kind: str) -> str:
    special = {"stages": "maker of stages", "judgements": "source of judgements",
               "prompt_free_backbone": "backbone without prompts"}
    return special.get(kind, kind.replace("_", " "))


def _known(kind: str, name: str, data: Path | None, module: str = "") -> Any:
    """What a name without a module's stands for: ours, registered, announced, or in a file of the user's; None if none.

    ``module`` is the one that a file names beside it; an entry point of this very class may have any name.
    """
    if not module and name in OURS[kind]:
        target, _, attribute = OURS[kind][name].partition(":")
        return getattr(importlib.import_module(target), attribute)
    if not module and name in _registered[kind]:
        return _registered[kind][name]
    entries = _announced(kind, data)
    for entry in entries.values():
        if module and entry.value.replace(" ", "") == f"{module}:{name}":
            return _installed(entry)
    if name in entries:
        return _installed(entries[name])
    for file in _files(data) if kind == "trainer" else ():
        if name.isidentifier() and re.search(rf"^class {re.escape(name)}\b", _text(file), re.MULTILINE):
            return getattr(_import_file(file), name, None)
    return None


def _is_of(kind: str, found: object) -> bool:
    if kind not in _BASES:
        return callable(found)
    module, _, base = _BASES[kind].partition(":")
    return isinstance(found, type) and issubclass(found, getattr(importlib.import_module(module), base))


def _checked(kind: str, found: Any, name: str) -> Any:
    if not _is_of(kind, found):
        what = f"a subclass of {_BASES[kind].replace(':', '.')}" if kind in _BASES else f"a {_noun(kind)}"
        raise ConfigurationError(f"{name!r} is not {what}.")
    return found


def _not_run(kind: str, name: str, module: str, own: str, file: Path | str) -> str:
    if not own:
        return f"{file} names the {_noun(kind)} {name!r}, which is no class. Expected package.module:Class."
    ways = [f"let {FOLDERS_VARIABLE} name the folder of its file"] if kind == "trainer" else []
    if kind in _FLAGS and module and not module.startswith(_FILE_MODULE):
        ways.insert(0, f"type {_FLAGS[kind]} {name}")
    ways.append(f"install a package that announces it as an entry point of {group(kind)!r}")
    return (
        f"{file} names the {_noun(kind)} {name!r}, a class of somebody's own. A file is data, so that class is not run "
        f"for it. If you have it and trust it, {', or '.join(ways)}."
    )


# ---- modules ------------------------------------------------------------------------------------------------------


def _import_typed(kind: str, target: str, data: Path | None) -> Any:
    """What ``package.module:Class`` names, its module imported.

    The current folder is looked at after the installed modules, so that no file in it can stand for one of them.
    """
    what = _noun(kind)
    module, _, attribute = target.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ConfigurationError(f"{target!r} names no {what}; write package.module:Class.")
    # A console script does not have the current folder on its path, where a user's module usually lies.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if data is not None and _lies_in(module, data):
        raise ConfigurationError(
            f"The module of the {what} {target} lies in {data}, which is data: nothing in it is run. If you trust it, "
            "move it out of that folder, onto PYTHONPATH."
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigurationError(
            f"The module {module!r} of the {what} cannot be imported: {error}. It must be installed or lie in the "
            "current folder or on PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise ConfigurationError(f"The module {module!r} has no {what} {attribute!r}.") from error


def _loaded(target: str) -> Any:
    """What a module has that this process has imported already, or None; nothing is imported."""
    module, _, attribute = target.partition(":")
    return getattr(sys.modules.get(module), "__dict__", {}).get(attribute)  # getattr might import: lazy modules do


def _lies_in(module: str, folder: Path) -> bool:
    """Whether a module would be imported from a folder; nothing is run to find out."""
    package, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: a module without a spec, as __main__
        return False
    if found is None:
        return False
    places = [Path(place, *rest) for place in found.submodule_search_locations or ()]
    places += [Path(found.origin)] if found.has_location and found.origin else []
    return any(_is_in(place, folder) for place in places)


def _is_in(path: Path, folder: Path) -> bool:
    return is_below(path, folder) or path.resolve() == folder.resolve()


# ---- installed packages -------------------------------------------------------------------------------------------


def _announced(kind: str, data: Path | None = None) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Entry points of installed packages by name; to install a package is to trust it.

    Python also takes for installed what lies unpacked in the current folder, as a download would; that is left out, and
    so is what lies below ``data``.
    """

    folder = _here()
    here = Path(folder).resolve() if folder else None

    def is_installed(entry: importlib.metadata.EntryPoint) -> bool:
        package = getattr(entry, "dist", None)
        if package is None:
            return True
        place = Path(str(package.locate_file(""))).resolve()
        return place != here and (data is None or not _is_in(place, data))

    there = _listed(importlib.metadata.entry_points, group(kind), tuple(sys.path), folder)
    return {entry.name: entry for entry in there if is_installed(entry)}


@lru_cache(maxsize=64)
def _listed(
    read: Callable[..., Iterable[importlib.metadata.EntryPoint]], of: str, path: tuple[str, ...], folder: str
) -> tuple[importlib.metadata.EntryPoint, ...]:
    """The entry points of a group, which are looked for in a file of every package on Python's path.

    A package that is installed while the process runs is found by the next one.
    """
    return tuple(read(group=of))


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _installed(entry: importlib.metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The entry point {entry.name!r} of an installed package cannot be loaded: {error}. Install the package "
            "anew."
        ) from error


# ---- the user's folders of trainers -------------------------------------------------------------------------------


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

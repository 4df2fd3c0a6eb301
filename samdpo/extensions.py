"""Names to classes that are not ours: ``module:Class``, and what installed packages announce as entry points.

To import a module is to run it. Only a name that the user has typed is imported; one that stands in a file is data, and
finds no more than what is built in, installed, or loaded already.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError
from samdpo.names import is_below


def import_class(target: str, what: str, data: Path | None = None) -> Any:
    """The class that ``package.module:Class`` names, its module imported. For names that the user typed alone.

    The current folder is looked at after the installed modules, so that no file in it can stand for one of them.

    Args:
        target: as typed.
        what: for messages, like ``"trainer"``.
        data: folder out of which nothing is imported, whoever names it.

    Raises:
        ConfigurationError: it is not written so, there is no such module or class, or the module lies below ``data``.
    """
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


def loaded_class(target: str) -> Any:
    """The class of a module that this process has imported already, or None; nothing is imported."""
    module, _, attribute = target.partition(":")
    return getattr(sys.modules.get(module), "__dict__", {}).get(attribute)  # getattr might import: lazy modules do


def announced(group: str, data: Path | None = None) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Entry points of installed packages by name; to install a package is to trust it.

    Python also takes for installed what lies unpacked in the current folder, as a download would; that is left out.

    Args:
        group: of the entry points.
        data: folder below which nothing counts as installed.
    """
    return {
        entry.name: entry for entry in importlib.metadata.entry_points(group=group) if _is_installed(entry, data)
    }


def installed_class(entry: importlib.metadata.EntryPoint) -> Any:
    """The class of an entry point of :func:`announced`.

    Raises:
        ConfigurationError: its package cannot be imported.
    """
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The entry point {entry.name!r} of an installed package cannot be loaded: {error}. Install the package "
            "anew."
        ) from error


def _is_installed(entry: importlib.metadata.EntryPoint, data: Path | None) -> bool:
    package = getattr(entry, "dist", None)
    if package is None:
        return True
    place = Path(str(package.locate_file(""))).resolve()
    return place != Path.cwd().resolve() and (data is None or not _is_in(place, data))


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

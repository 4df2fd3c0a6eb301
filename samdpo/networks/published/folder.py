"""Where published weights lie: the weights folder, filled by download or by hand."""

from __future__ import annotations

import os
from http.client import HTTPException
from pathlib import Path

from samdpo.errors import ConfigurationError
from samdpo.networks.published.catalogue import PublishedFile
from samdpo.networks.published.download import download
from samdpo.paths import folder_of

VARIABLE = "samdpo_weights"


def weights_folder() -> Path:
    """The folder that the variable ``samdpo_weights`` names; else ``samdpo/weights`` in the user's cache."""
    chosen = folder_of(VARIABLE)
    if chosen:
        return chosen
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "samdpo" / "weights"


def find_weights(published: PublishedFile) -> Path:
    """The file in the weights folder; downloaded where it is missing and its home allows it.

    Raises:
        ConfigurationError: it is not there and cannot be had; says where it is published and where to put it.
    """
    path = weights_folder() / published.file
    if path.is_file():
        return path
    if not published.url:
        raise ConfigurationError(f"{missing(published, path)} No program can download it from there: {by_hand(path)}")
    try:
        return download(published, path)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigurationError(
            f"{missing(published, path)} The download failed ({reason}). Try again with: samdpo_weights download "
            f"{published.name}. Without a network: {by_hand(path)}"
        ) from error


def missing(published: PublishedFile, path: Path) -> str:
    """That a file is not there, and where it is published."""
    return f"The weights {published.name} are needed and {path} does not exist. They are published at {published.home}."


def by_hand(path: Path) -> str:
    """What to do where no program can."""
    return (
        f"get the file in a browser and put it into {path.parent} under the name {path.name}, or name it with "
        f"samdpo_train -pretrained_weights FILE, or let the variable {VARIABLE} name another folder."
    )

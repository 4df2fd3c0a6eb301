"""The errors a user can mend. Their text is a sentence; the command line prints it without a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class SamdpoError(Exception):
    """Something the user can mend: names the file or key, what was found, what was expected, what to type."""


class ConfigurationError(SamdpoError):
    """An environment variable, a command-line value or a folder is missing, ambiguous or unwritable."""


class DatasetError(SamdpoError):
    """A raw dataset breaks the rules of its folder: dataset.json, images, labels or groups."""


class PlansError(SamdpoError):
    """A plans file has a wrong key, a wrong type or an unknown value."""


class ModelFolderError(SamdpoError):
    """A trained model's folder lacks a file or holds one that cannot be read."""


class TrainingError(SamdpoError):
    """Training cannot start or go on: nothing labelled, nothing unlabelled, an earlier stage missing."""


class OutOfMemoryError(SamdpoError):
    """The memory of the GPU or of the machine is used up: names what to make smaller."""


def few(items: Sequence[object], most: int = 5) -> str:
    """``a, b, c, d, e and 7 more``: what a sentence can bear of a list."""
    rest = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {rest} more" if rest > 0 else "")

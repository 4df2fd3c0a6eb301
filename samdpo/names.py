"""The one rule for a name that comes out of data and becomes a part of a path, and the endings that follow it.

Identifiers of cases, names of datasets, plans, stages, structures, and folders of slices stand in JSON files that
people download and edit. Joined to a folder unchecked, ``../x`` or ``/x`` would choose where we read, write and delete.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from samdpo.errors import DatasetError, SamdpoError

MAX_BYTES = 200  # file systems allow 255; endings and our own suffixes are added
_SEPARATORS = "/\\"
NATURAL_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
MEDICAL_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
SUPPORTED_ENDINGS = NATURAL_ENDINGS + MEDICAL_ENDINGS  # of images and masks
LOSSY_ENDINGS = (".jpg", ".jpeg", ".jp2", ".webp")  # known, so that they can be refused
_KNOWN_ENDINGS = SUPPORTED_ENDINGS + LOSSY_ENDINGS


def ending_of(path: Path | str) -> str:
    """The supported or lossy ending of a file name in lower case (``.nii.gz`` counts as one); "" for any other."""
    name = os.path.basename(path).lower()
    return next((e for e in _KNOWN_ENDINGS if name.endswith(e)), "")


def json_beside(path: Path) -> Path:
    """The JSON of the same name beside an image or a mask: its report, or the spacing of a stack."""
    return path.with_name(f"{path.name[: len(path.name) - len(ending_of(path))]}.json")


def same_text(name: str) -> str:
    """Composed form (NFC): macOS writes ``é`` as two characters, which are the same name to a person."""
    return unicodedata.normalize("NFC", name)


def as_spelled(path: Path) -> Path:
    """``path``, or the file beside it whose name is the same text in another form, where only that is there."""
    if not path.exists():
        for form in ("NFC", "NFD"):
            other = path.with_name(unicodedata.normalize(form, path.name))
            if other.exists():
                return other
    return path


def name_problem(name: object) -> str:
    """What forbids ``name`` as a part of a path, as the end of a sentence ("… is X"); "" where nothing does."""
    if not isinstance(name, str):
        return f"no text but {type(name).__name__}"
    if not name.strip():
        return "empty"
    if name in (".", ".."):
        return "the name of a folder itself"
    if any(c in name for c in _SEPARATORS):
        return "a path, with a separator in it"
    if len(name) > 1 and name[1] == ":" and name[0].isascii() and name[0].isalpha():
        return "a path on a drive"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return "written with control characters"
    if name != name.strip():
        return "written with a space at one end"
    if name.startswith("."):
        return "that of a hidden file"
    if len(name.encode()) > MAX_BYTES:
        return f"longer than {MAX_BYTES} bytes"
    return ""


def check_name(name: object, what: str, error: type[SamdpoError] = DatasetError, remedy: str = "") -> str:
    """``name`` itself, where it may become one part of a path.

    Args:
        name: as it stands in the data.
        what: where it stands, as the beginning of a sentence, for example ``"plans.json: 'data_identifier'"``.
        error: to raise.
        remedy: a sentence that says what to do.

    Raises:
        SamdpoError: of the class ``error``; the name is a path, is empty, hidden or too long.
    """
    problem = name_problem(name)
    if problem:
        raise error(
            f"{what} is {str(name)[:80]!r}, which is {problem}. Expected a plain name like case_01, since a file or "
            f"folder is called so. {remedy}".strip()
        )
    return str(name)


def is_below(path: Path, folder: Path) -> bool:
    """Whether ``path``, links followed, lies in ``folder`` and is not ``folder`` itself."""
    path, folder = path.resolve(), folder.resolve()
    return path != folder and path.is_relative_to(folder)

"""SimpleITK's errors as sentences."""

from __future__ import annotations

from pathlib import Path

from samdpo.dataset.geometry import NO_AXIS, NO_SIZE, NOT_PERPENDICULAR
from samdpo.errors import DatasetError

_FLAWS = {  # a part of ITK's text -> what it means for the file
    "Zero-valued spacing": NO_SIZE,
    "Bad direction": NO_AXIS,
    "only supports orthonormal": NOT_PERPENDICULAR,
}
_REMEDY = "The file is damaged or cut off, or not what its ending says: copy it again from its source."
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "memory allocation")


def silence() -> None:
    """Keep ITK's C++ warnings, which name no file, off the terminal."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)


def unreadable(path: Path, error: RuntimeError, remedy: str = _REMEDY) -> DatasetError:
    """The error for a file, or a folder of slices, that SimpleITK could not read.

    Args:
        path: what was read.
        error: what SimpleITK raised.
        remedy: what to do about a file that is damaged.
    """
    if any(phrase in str(error) for phrase in _NO_MEMORY):
        return DatasetError(f"{path} is too large for the memory of this machine. Use a machine with more, or cut it.")
    for phrase, flaw in _FLAWS.items():
        if phrase in str(error):
            return DatasetError(f"{path} {flaw}")
    return DatasetError(f"{path} cannot be read ({reason_of(error)}). {remedy}")


def reason_of(error: RuntimeError) -> str:
    """What was wrong, in one line.

    SimpleITK's text is a place in its C++ code, a line with the object that failed, and lines of ITK or of a format's
    own library, the last of which is the most exact; but "Reason: …" is the last error of the operating system, of
    whatever file that was.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    worded = [line for line in lines if any(letter.isalpha() for letter in line) and not line.startswith("Reason:")]
    if not worded:
        return "unreadable"
    if "Unable to determine ImageIO reader" in worded[-1]:
        return "it begins like no format that is known"
    return worded[-1].rpartition("ERROR: ")[2].rstrip(".!")

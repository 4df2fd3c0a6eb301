"""What lies in a folder of images but is none of its images: told, since it was meant to be one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from samdpo.dataset.dicom import find_series
from samdpo.dataset.dicom_headers import DICOM_SUFFIXES
from samdpo.dataset.images import LOSSY_ENDINGS, ending_of

_NO_DICOM = (
    "A dataset holds no DICOM, which is read for prediction only: convert each series to NIfTI, for example with "
    "dcm2niix -z y, and name it CASE_0000.nii.gz."
)


def files_of(folder: Path) -> list[Path]:
    """Files of a folder, sorted; hidden ones (macOS's ``._x``) are not the user's."""
    return _shown(folder, os.DirEntry.is_file)


def foreign_files(folder: Path, ending: str) -> list[str]:
    """A sentence for each image of another format than file_ending says; notes and JSON are nobody's harm."""
    problems = misnamed_folders(folder)
    for file in files_of(folder):
        found = ending_of(file)
        if found in LOSSY_ENDINGS:
            problems.append(
                f"{file} is a JPEG, which is lossy. Save it as PNG (or another lossless format) and "
                f"set file_ending accordingly; expected here: {ending}."
            )
        elif found and found != ending:
            problems.append(
                f"{file} ends with {found}, but dataset.json says file_ending {ending!r}. Convert it, or "
                "remove it from this folder."
            )
        elif file.suffix.lower() in DICOM_SUFFIXES:
            problems.append(f"{file} is DICOM. {_NO_DICOM}")
    for inner in _folders(folder):
        if not ending_of(inner) and find_series(inner, sub_folders=False):
            problems.append(f"{inner} is a folder of DICOM files. {_NO_DICOM}")
    return problems


def misnamed_folders(folder: Path) -> list[str]:
    """A sentence for each folder inside ``folder`` whose name is that of an image: some programs unpack so."""
    problems = []
    for inner in _folders(folder) if folder.is_dir() else ():
        if ending_of(inner):
            inside = next((f" ({f.name})" for f in files_of(inner)), "")
            problems.append(
                f"{inner} is a folder that is named like a file. Move the file inside it{inside} out, give it the "
                "folder's name, and remove the folder."
            )
    return problems


def _folders(folder: Path) -> list[Path]:
    return _shown(folder, os.DirEntry.is_dir)


def _shown(folder: Path, wanted: Callable[[os.DirEntry], bool]) -> list[Path]:
    """What is not hidden, sorted by name; the listing knows what is a file, so that thousands are not asked."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry))
    return [folder / name for name in names]

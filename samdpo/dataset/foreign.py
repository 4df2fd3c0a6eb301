"""What lies in a folder of images but is none of its images: told, since it was meant to be one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

from samdpo.dataset.dicom import find_series
from samdpo.dataset.dicom_headers import DICOM_SUFFIXES, is_dicom
from samdpo.errors import DatasetError
from samdpo.files import unreadable
from samdpo.names import LOSSY_ENDINGS, SUPPORTED_ENDINGS, ending_of

_NO_DICOM = (
    "A dataset holds no DICOM, which is read for prediction only: convert each series to NIfTI, for example with "
    "dcm2niix -z y, and name it CASE_0000.nii.gz."
)
# Beside images these are nobody's harm: notes, tables, settings, sidecars.
_NOTES = (
    ".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log",
    ".pdf", ".rtf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".ppt", ".pptx", ".htm", ".html", ".py", ".ipynb",
    ".m", ".r", ".sh", ".bat", ".db", ".sqlite", ".bval", ".bvec", ".md5", ".sha1", ".sha256", ".lnk", ".url", ".pkl",
)
# Images, videos and archives that are not read; what has another ending is looked into.
_NOT_READ = (
    ".gif", ".jxl", ".heic", ".heif", ".avif", ".jfif", ".jpe", ".j2k", ".jpx", ".jpf", ".jls", ".pgm", ".ppm", ".pbm",
    ".tga", ".exr", ".psd", ".dng", ".svs", ".ndpi", ".czi", ".nd2", ".lif", ".vsi", ".mrxs", ".scn", ".mhd", ".raw",
    ".nhdr", ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".mif", ".par", ".rec", ".npy", ".npz", ".h5", ".hdf5", ".mat",
    ".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".mp4", ".avi", ".mov", ".mkv", ".wmv",
)
_MADE_BY_SYSTEMS = ("__macosx", "@eadir", "$recycle.bin", "lost+found", "__pycache__")  # folders of their own making


def files_of(folder: Path) -> list[Path]:
    """Files of a folder, sorted; hidden ones (macOS's ``._x``) are not the user's.

    Raises:
        DatasetError: the folder may not be read.
    """
    return _shown(folder, os.DirEntry.is_file)


def foreign_files(folder: Path, ending: str) -> list[str]:
    """A sentence for each image of another format than file_ending says; notes and JSON are nobody's harm."""
    problems = broken_links(folder) + misnamed_folders(folder)
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


def dead_links(folder: Path, recursive: bool = False) -> list[Path]:
    """Links in ``folder``, or also below it, that lead nowhere, but for those of notes."""
    places = [Path(place) for place, _, _ in os.walk(folder)] if recursive else [folder] if folder.is_dir() else []
    links = [link for place in places for link in _shown(place, os.DirEntry.is_symlink)]
    return [link for link in links if link.suffix.lower() not in _NOTES and broken_link(link)]


def broken_links(folder: Path, recursive: bool = False) -> list[str]:
    """A sentence for each of :func:`dead_links`."""
    return [broken_link(link) for link in dead_links(folder, recursive)]


def broken_link(path: Path) -> str:
    """A sentence where ``path`` is a link that leads nowhere; "" where it is none, or leads somewhere."""
    if not path.is_symlink():
        return ""
    try:
        path.stat()
    except PermissionError as error:
        return unreadable(path, error)
    except FileNotFoundError:
        why = "which is not there"
    except OSError as error:  # a link to itself
        why = f"which cannot be followed ({error.strerror})"
    else:
        return ""
    return f"{path} is a link to {os.readlink(path)}, {why}. Mount the disk that it leads to, or put the file in place."


def sub_folders_with_images(folder: Path, but: Collection[Path] = (), output: Path | None = None) -> list[str]:
    """A sentence for each sub-folder that holds images at any depth and is none of ``but``: nothing in it is read.

    What lies in ``output``, the folder of results, was made by a command like this one, and is no input.
    """
    said = []
    for inner in _folders(folder) if folder.is_dir() else ():
        if inner in but or inner.name.lower() in _MADE_BY_SYSTEMS or ending_of(inner):
            continue
        try:
            image = _an_image_below(inner, output)
        except OSError as error:
            said.append(unreadable(inner, error))
            continue
        if image:
            said.append(f"{inner} is a sub-folder with images, such as {image.relative_to(inner)}: sub-folders are not "
                        "looked into. Move its images up, or name that folder in a command of its own.")
    return said


def left_out(folder: Path, taken: Collection[Path], output: Path | None = None) -> tuple[list[str], list[Path]]:
    """What lies in a folder of images to predict and is no part of any case.

    Args:
        folder: as named by the user.
        taken: files, and folders with a DICOM series, that make up the cases; ``folder`` itself where it is a series.
        output: folder of the results, which may lie below.

    Returns:
        a sentence for all that is, or may be meant as, an image; and the files of which nobody knows. Notes are in
        neither, nor is what :func:`misnamed_folders` tells.
    """
    series = [place for place in taken if place.is_dir()]
    said = broken_links(folder)
    for place in series:
        said += broken_links(place, recursive=True) if place != folder else []
    said += sub_folders_with_images(folder, but=series, output=output)
    unknown = []
    for file in () if folder in taken else files_of(folder):
        if file in taken or file.suffix.lower() in _NOTES:
            continue
        if ending_of(file) in LOSSY_ENDINGS:
            said.append(f"{file} is lossy ({ending_of(file)}), and its losses change what is measured: save as PNG.")
        elif is_dicom(file):
            said.append(f"{file} is DICOM among other images. Put one kind into a folder of its own.")
        elif ending_of(file) or file.suffix.lower() in _NOT_READ or _is_picture(file):
            said.append(f"{file} is of a format that is not read: save it as one of {', '.join(SUPPORTED_ENDINGS)}.")
        else:
            unknown.append(file)
    odd = _shown(folder, lambda entry: not (entry.is_file() or entry.is_dir() or entry.is_symlink()))
    said += [f"{path} is neither a file nor a folder." for path in odd if ending_of(path)]
    return said, unknown


def _an_image_below(folder: Path, output: Path | None = None) -> Path | None:
    """Some image in ``folder`` or in what it holds; raises OSError where it may not be looked into."""

    def fail(error: OSError) -> None:
        raise error

    results = output.resolve() if output is not None else None
    for place, folders, files in os.walk(folder, onerror=fail):
        if results is not None and Path(place).resolve() == results:
            folders.clear()
            continue
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n.lower() not in _MADE_BY_SYSTEMS)
        for name in sorted(files):
            file = Path(place) / name
            known = ending_of(name) or file.suffix.lower() in (*_NOT_READ, *DICOM_SUFFIXES)
            if not name.startswith(".") and (known or (file.suffix.lower() not in _NOTES and is_dicom(file))):
                return file
    return None


def _is_picture(file: Path) -> bool:
    """Whether PIL knows the content, whatever the name says; only the head is read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(file).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # whatever its plug-ins raise at what is no picture
        return False
    return True


def _folders(folder: Path) -> list[Path]:
    return _shown(folder, os.DirEntry.is_dir)


def _shown(folder: Path, wanted: Callable[[os.DirEntry], bool]) -> list[Path]:
    """What is not hidden, sorted by name; the listing knows what is a file, so that thousands are not asked."""

    def fits(entry: os.DirEntry) -> bool:
        try:
            return not entry.name.startswith(".") and wanted(entry)
        except OSError:  # a link to itself, or into a folder that may not be read
            return False

    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if fits(entry))
    except OSError as error:
        raise DatasetError(unreadable(folder, error)) from error
    return [folder / name for name in names]

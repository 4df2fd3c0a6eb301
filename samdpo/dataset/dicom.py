"""DICOM series as volumes: a folder of files, found, checked, ordered, and read by SimpleITK.

pydicom reads the headers, so that what is wrong is known and said before anything is predicted; SimpleITK reads the
pixels and the geometry, as in 3D Slicer or ITK-SNAP, and applies slope and intercept (Hounsfield units for CT).
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from samdpo.dataset.decoding import check_size, decoding
from samdpo.dataset.dicom_geometry import in_order
from samdpo.dataset.dicom_headers import DICOM_SUFFIXES, DicomHeader, is_dicom, needs_decompression, read_header
from samdpo.dataset.itk import silence, unreadable
from samdpo.dataset.volume import Volume
from samdpo.errors import DatasetError
from samdpo.names import ending_of

log = logging.getLogger(__name__)


def is_series(images: Sequence[Path]) -> bool:
    """Whether the images of a case are one DICOM series: a folder, or one DICOM file."""
    return len(images) == 1 and (images[0].is_dir() or _is_dicom_file(images[0]))


def find_series(source: Path, sub_folders: bool = True) -> dict[str, Path]:
    """Case -> its folder or file, sorted: ``source`` itself if it holds DICOM files, else its sub-folders that do.

    Args:
        source: a folder, or one file.
        sub_folders: look there as well.

    Raises:
        DatasetError: DICOM files in ``source`` and in sub-folders as well.
    """
    if source.is_file():
        return {_case_name(source): source} if _is_dicom_file(source) else {}
    loose = next((f for f in sorted(source.iterdir()) if _is_dicom_file(f)), None)
    below = [f for f in sorted(source.iterdir()) if f.is_dir() and not f.name.startswith(".")] if sub_folders else []
    folders = [f for f in below if any(_is_dicom_file(x) for x in f.rglob("*"))]
    if loose and folders:
        raise DatasetError(
            f"{source} holds DICOM files ({loose.name}) and folders with DICOM files ({folders[0].name}). Give each "
            "series a folder of its own, and name the folder above."
        )
    return {_case_name(source): source} if loose else {f.name: f for f in folders}


def check_series(series: dict[str, Path], n_channels: int) -> None:
    """Read all headers of all series before the first is predicted.

    Raises:
        DatasetError: a sentence for each series that is not whole, or a model for several channels.
    """
    if n_channels > 1:
        raise DatasetError(
            f"A DICOM series is one channel, but the model was trained with {n_channels}. Convert the series to NIfTI, "
            f"one file a channel: case_0000.nii.gz … case_{n_channels - 1:04d}.nii.gz."
        )
    problems = []
    for path in tqdm(series.values(), desc="checking DICOM", unit="case", delay=2):
        try:
            slices_of(path)
        except DatasetError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError("\n".join(problems[:20]))


def slices_of(path: Path) -> list[DicomHeader]:
    """The slices of the one series that a folder, or a file, holds, in order.

    Raises:
        DatasetError: no image, several series, a file that cannot be read, slices that are no volume.
    """
    if path.is_file():
        files = [path]
    else:
        below = sorted(path.rglob("*"))
        files = [f for f in below if _is_dicom_file(f)]
        _refuse_unreadable(set(below) - set(files))
    of_series: dict[str, list[DicomHeader]] = defaultdict(list)
    for file in files:
        header = read_header(file)
        if header is not None:
            of_series[header.series].append(header)
    if not of_series:
        raise DatasetError(
            f"{path} holds no DICOM image" + (f"; its {len(files)} DICOM files are reports, segmentations or the like."
                                              if files else ".") + " Name the folder that holds the slices."
        )
    if len(of_series) > 1:
        listing = "\n".join(
            f"  {slices[0].description}: {len(slices)} images such as {slices[0].file.relative_to(path)}, "
            f"SeriesInstanceUID {uid}" for uid, slices in of_series.items()
        )
        raise DatasetError(
            f"{path} holds {len(of_series)} series, and one is a case:\n{listing}\nMove the files of each into a "
            "folder of its own (by SeriesInstanceUID), or keep only the one to be predicted."
        )
    (slices,) = of_series.values()
    return in_order(slices, path)


def read_series(path: Path) -> Volume:
    """Read a folder with one series, or one DICOM file.

    Returns:
        (1, Z, Y, X) with slope and intercept applied and MONOCHROME1 turned into MONOCHROME2, in SimpleITK's geometry;
        ``properties["dicom_files"]`` names the files, one a slice.

    Raises:
        DatasetError: see :func:`slices_of`, or pixels that cannot be decoded.
    """
    slices = slices_of(path)
    check_size(path, (len(slices), *slices[0].size), sum(s.file.stat().st_size for s in slices))
    lossy = sum(s.lossy for s in slices)
    if lossy:
        log.warning("%s: %d of %d images were compressed with losses (JPEG); the losses change edges and intensities. "
                    "Use the original images where there are any.", path, lossy, len(slices))
    files = [s.file for s in slices]
    with TemporaryDirectory(prefix="samdpo_dicom_") as folder:
        readable = [_decompressed(s.file, Path(folder) / f"{i}.dcm") if needs_decompression(s.syntax) else s.file
                    for i, s in enumerate(slices)]
        return _read_stack(readable, files, path)


def _read_stack(readable: list[Path], files: list[Path], path: Path) -> Volume:
    import SimpleITK as sitk  # noqa: N813

    silence()
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)  # slope and intercept may differ from slice to slice, as in PET
    reader.SetFileNames([str(f) for f in readable])
    with decoding(path):
        try:
            image = reader.Execute()
        except RuntimeError as error:
            remedy = "A file is damaged or cut off: copy the series again from its source."
            raise unreadable(path, error, remedy) from error
    data = sitk.GetArrayFromImage(image)[None]
    spacing = tuple(float(v) for v in image.GetSpacing()[::-1])
    geometry = {"spacing": list(image.GetSpacing()), "origin": list(image.GetOrigin()),
                "direction": list(image.GetDirection())}
    return Volume(data, spacing, {
        "sitk_stuff": geometry, "spacing": list(spacing), "shape": [int(n) for n in data.shape[1:]],
        "dicom_files": [str(f) for f in files],
    })


def _decompressed(file: Path, target: Path) -> Path:
    import pydicom

    with decoding(file):
        dataset = pydicom.dcmread(file)
        dataset.decompress(generate_instance_uid=False)
        dataset.save_as(target)
    return target


def _case_name(path: Path) -> str:
    name = path.resolve().name
    # Only known endings: names such as 1.2.840.113619 are full of dots.
    return path.stem if path.is_file() and path.suffix.lower() in DICOM_SUFFIXES else name


def _refuse_unreadable(others: Iterable[Path]) -> None:
    """A file that is no DICOM by its name and may not be read can be a slice, which would be missing; so a folder."""
    for file in sorted(others):
        if file.is_dir() and not os.access(file, os.R_OK | os.X_OK):
            raise DatasetError(f"{file} may not be read by you. Change its permissions: chmod u+rx {file}")
        if not ending_of(file) and not file.name.startswith(".") and file.is_file():
            with decoding(file), file.open("rb"):
                pass


def _is_dicom_file(path: Path) -> bool:
    # DICOMDIR is the table of contents of a CD. Files with an image's ending are not opened: there may be thousands.
    return (not ending_of(path) and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
            and path.is_file() and is_dicom(path))

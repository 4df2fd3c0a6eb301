"""Tiny DICOM series made with pydicom, for tests of reading and prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from samdpo.dataset.cases import input_cases
from samdpo.errors import DatasetError

# A rotation about two axes; columns are the directions of a row, of a column, and of the slices.
OBLIQUE = np.linalg.qr(np.array([[0.9, -0.2, 0.3], [0.25, 0.95, -0.1], [-0.3, 0.15, 0.9]]))[0] * np.array([-1, -1, 1])


def make_series(
    folder: Path,
    stored: np.ndarray,
    *,
    spacing: Sequence[float] = (2.5, 0.7, 0.9),
    origin: Sequence[float] = (-12.5, 30.25, -7.5),
    direction: np.ndarray | None = None,
    names: Callable[[int], str] = "slice_{}.dcm".format,
    change: Callable[[Dataset, int], None] = lambda dataset, index: None,
    series: str | None = None,
) -> list[Path]:
    """Write (Z, Y, X) int16 ``stored`` as CT slices with slope 1 and intercept -1024; returns their files by Z.

    Args:
        folder: made if it is not there.
        stored: pixels before slope and intercept.
        spacing: (z, y, x) mm.
        origin: (x, y, z) of the first voxel.
        direction: columns are the unit vectors of x, y and z.
        names: file name of slice i.
        change: what is to be different about the dataset of slice i, before it is written.
        series: SeriesInstanceUID.
    """
    axes = np.eye(3) if direction is None else direction
    folder.mkdir(parents=True, exist_ok=True)
    study, frame, series = generate_uid(), generate_uid(), series or generate_uid()
    files = []
    for i, pixels in enumerate(np.asarray(stored, np.int16)):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P1", "Phantom^One", "19700101", "O"
        ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "1", "20240102", "101112", "A1"
        ds.Modality, ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "CT", "Phantom soft", 4, i + 1
        ds.Manufacturer, ds.PositionReferenceIndicator = "nobody", ""
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        ds.ImageOrientationPatient = [f"{v:.12g}" for v in (*axes[:, 0], *axes[:, 1])]
        ds.ImagePositionPatient = [f"{v:.10g}" for v in np.asarray(origin) + i * spacing[0] * axes[:, 2]]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.PixelData = pixels.tobytes()
        change(ds, i)
        file = folder / names(i)
        ds.save_as(file)
        files.append(file)
    return files


def refused(folder: Path) -> str:
    """The sentence with which a folder is refused before anything is predicted."""
    with pytest.raises(DatasetError) as error:
        input_cases(folder, None, 1)
    return str(error.value)


def set_syntax(dataset: Dataset, syntax: str, encoded: bytes) -> None:
    """Replace the pixels by one frame that is compressed already."""
    from pydicom.encaps import encapsulate

    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([encoded])
    dataset["PixelData"].VR = "OB"

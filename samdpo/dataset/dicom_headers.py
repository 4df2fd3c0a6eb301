"""One DICOM file: what its header says, whether it is an image, whole, and of a compression that can be read."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from samdpo.dataset.decoding import DAMAGED, check_size, decoding
from samdpo.errors import DatasetError

log = logging.getLogger(__name__)

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")  # usual; most archives export without any
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber",
    "InstanceNumber", "NumberOfFrames", "SharedFunctionalGroupsSequence", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "LossyImageCompression",
]
# What GDCM inside SimpleITK decodes: names of pydicom.uid. The rest goes through pydicom's decoders.
_READ_BY_SIMPLEITK = (
    "ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "DeflatedExplicitVRLittleEndian", "ExplicitVRBigEndian",
    "JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless",
    "JPEGLSNearLossless", "JPEG2000Lossless", "JPEG2000", "RLELossless",
)
_LOSSY = ("JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLSNearLossless")


@dataclass(frozen=True)
class DicomHeader:
    """What is needed to order and check a slice.

    Attributes:
        file: where it lies.
        series: SeriesInstanceUID.
        description: for a person: description, modality and number of the series.
        syntax: transfer syntax UID.
        size: (rows, columns).
        spacing: (row, column) spacing in mm as stored; None where there is none, as in X-rays.
        position: (x, y, z) mm of the first pixel's centre; None where there is none.
        orientation: direction of a row and of a column, 6 numbers; None where there is none.
        lossy: whether its pixels were compressed with losses at some time.
    """

    file: Path
    series: str
    description: str
    syntax: str
    size: tuple[int, int]
    spacing: np.ndarray | None
    position: np.ndarray | None
    orientation: np.ndarray | None
    lossy: bool


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM: by its name, or by the mark after the first 128 bytes; not one that may not be read."""
    if file.suffix.lower() in DICOM_SUFFIXES:
        return True
    from pydicom.misc import is_dicom as has_mark

    try:
        return has_mark(file)
    except OSError:
        return False


def read_header(file: Path) -> DicomHeader | None:
    """The header of an image; None for DICOM that is no image, such as a report or a segmentation.

    Raises:
        DatasetError: not DICOM, damaged, cut off, in colour, multi-frame, or of a compression without decoder.
    """
    import pydicom
    from pydicom.config import disable_value_validation

    # Scanners write values that break the standard in harmless ways, about which pydicom would warn each time. A broken
    # header fails anywhere inside it, with any error.
    with decoding(file), disable_value_validation(), file.open("rb") as stream:
        try:
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS)
        except pydicom.errors.InvalidDicomError as error:
            raise DatasetError(
                f"{file} is named like DICOM but is none (no mark DICM after 128 bytes). {DAMAGED} If it is something "
                "else, move it out of the folder."
            ) from error
        if not _is_image(header):
            log.debug("%s is skipped: %s is no image.", file, _kind(header))
            return None
        _refuse_other_layouts(header, file)
        syntax = header.file_meta.TransferSyntaxUID
        _refuse_undecodable(syntax, file)
        _refuse_cut(header, syntax, stream, file)
        check_size(file, (int(header.Rows), int(header.Columns)))
        return DicomHeader(
            file, str(header.SeriesInstanceUID), _describe(header), str(syntax),
            (int(header.Rows), int(header.Columns)), _numbers(header, "PixelSpacing", 2),
            _numbers(header, "ImagePositionPatient", 3), _numbers(header, "ImageOrientationPatient", 6),
            str(header.get("LossyImageCompression", "")) == "01" or syntax in _uids(_LOSSY),
        )


def needs_decompression(syntax: str) -> bool:
    """Whether SimpleITK cannot decode this transfer syntax, so that pydicom has to."""
    return syntax not in _uids(_READ_BY_SIMPLEITK)


def _uids(names: tuple[str, ...]) -> set[str]:
    import pydicom.uid

    return {str(getattr(pydicom.uid, name)) for name in names}


def _kind(header: Any) -> str:
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
    return getattr(uid, "name", str(uid))


def _is_image(header: Any) -> bool:
    # By the standard's name of its class rather than by its rows, which a file that is cut off lacks too; segmentations
    # and doses have rows, but are no "Image Storage".
    kind = _kind(header)
    return "Image Storage" in kind or (not kind.endswith("Storage") and "Rows" in header)


def _describe(header: Any) -> str:
    name = str(header.get("SeriesDescription") or "").strip() or "without description"
    return f"{name!r} ({header.get('Modality') or 'no modality'}, series number {header.get('SeriesNumber') or '-'})"


def _numbers(header: Any, keyword: str, count: int) -> np.ndarray | None:
    values = header.get(keyword)
    if values is None or values == "" or len(values) != count:
        return None
    return np.array([float(v) for v in values])


def _refuse_other_layouts(header: Any, file: Path) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
        raise DatasetError(
            f"{file} is a multi-frame image ({_kind(header)}), which is not read. Export it from the archive as "
            "single-frame (classic) images, or convert it to NIfTI with dcm2niix and name the .nii.gz."
        )
    colours = header.get("PhotometricInterpretation", "MONOCHROME2")
    if int(header.get("SamplesPerPixel") or 1) != 1 or not str(colours).startswith("MONOCHROME"):
        raise DatasetError(
            f"{file} is a colour image ({colours}); DICOM is read as one grey channel. If it is a screenshot or a "
            "report among the images, move it out of the folder; if it is the image, save it as PNG and name that."
        )


def _refuse_undecodable(syntax: Any, file: Path) -> None:
    """Most compressions are decoded by SimpleITK; the newest, such as HTJ2K, need a package that pydicom knows."""
    if not needs_decompression(syntax):
        return
    from pydicom.pixels import get_decoder

    found = f"{file} is compressed as {syntax.name} ({syntax})"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise DatasetError(
            f"{found}, for which there is no decoder. Export it from the archive uncompressed, or as JPEG 2000 "
            "Lossless."
        ) from error
    if not decoder.is_available:
        # pydicom's list reads "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-openjpeg>=2.0".
        needed = decoder.missing_dependencies[0].partition(" - requires ")[2].replace(" and ", ", ").split(", ")
        packages = " ".join(package.partition(">")[0] for package in needed)
        raise DatasetError(f"{found}, whose decoder is not installed. Install it with: pip install {packages}")


def _refuse_cut(header: Any, syntax: Any, stream: BinaryIO, file: Path) -> None:
    """Compare what follows the header with what it promises, without reading the pixels."""
    if syntax.is_deflated:
        return  # nothing in the file tells its length; inflating a part of it has failed already
    missing = [k for k in ("SeriesInstanceUID", "SOPInstanceUID", "Rows", "Columns", "BitsAllocated")
               if k not in header]
    size = file.stat().st_size
    if missing:
        whole, reason = False, f"its header lacks {', '.join(missing)}"
    elif syntax.is_compressed:
        whole, reason = _fragments_end(stream) <= size, "its compressed pixels end too early"
    else:
        expected = header.Rows * header.Columns * header.BitsAllocated // 8
        there = max(0, size - stream.tell() - 8)  # 8: tag and length of the pixels, at least
        whole, reason = there >= expected, f"it has {there} of {expected} bytes of pixels"
    if not whole:
        raise DatasetError(f"{file} cannot be read ({reason}). {DAMAGED}")


def _fragments_end(stream: BinaryIO) -> int:
    """Where a file must end by the length of its last compressed fragment; the stream stands at the pixels' tag."""
    from pydicom.encaps import parse_fragments

    stream.seek(12, 1)  # tag, "OB", two reserved bytes, undefined length
    _, offsets = parse_fragments(stream)
    stream.seek(offsets[-1] + 4)
    length = struct.unpack("<L", stream.read(4))[0]
    return stream.tell() + length + 8  # 8: the delimiter that follows the last fragment

"""What must be known of a NIfTI file before ITK reads it, since ITK mends without a word.

A file that was cut off is filled up with zeros, NaN and infinity become 0, an axis of length 0 becomes 1, and so does a
voxel size of 0.
"""

from __future__ import annotations

import gzip
import struct
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from samdpo.dataset.decoding import DAMAGED, check_size, decoding
from samdpo.dataset.geometry import NO_SIZE, flaw_of_axes
from samdpo.errors import DatasetError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

_HEADER = 348  # bytes of a NIfTI-1 header
_FIRST_VOXEL = 352  # where voxels begin at the earliest
_HEADER_2 = 540  # what a NIfTI-2 header says of its own length
_FLOATS = {16: "f4", 64: "f8"}  # NIfTI's codes of types that hold NaN
_CHUNK = 1 << 22  # voxels looked at at once
_AFFINE = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"), ("srow_x", "srow_y", "srow_z")


def check_nifti(path: Path) -> None:
    """Refuse what ITK would mend, or read differently from other programs; files of other formats pass.

    Raises:
        DatasetError: NIfTI-2, a header without sense, axes that are not perpendicular, content that is cut off or not
            finite.
    """
    header = read_header(path)
    if header is None:
        return
    _refuse_flawed(path, header)
    check_size(path, _shape(header))
    refuse_cut_nifti(path)
    kind = _FLOATS.get(int(header["datatype"]))
    if kind:
        _refuse_not_finite(path, header, np.dtype(kind).newbyteorder(header.endianness))


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_header(path: Path) -> Nifti1Header | None:
    """The header; None for what is no NIfTI-1, which is left to the reader.

    Raises:
        DatasetError: the compressed content cannot be read, or NIfTI-2.
    """
    if not is_nifti(path):
        return None
    from nibabel.nifti1 import Nifti1Header

    with decoding(path), _open(path) as file:
        block = file.read(_HEADER)
    sizes = [struct.unpack(order + "i", block[:4])[0] for order in "<>"] if len(block) == _HEADER else []
    if _HEADER_2 in sizes:
        raise DatasetError(f"{path} is NIfTI-2, which is not read. Save it as NIfTI-1, for example with nibabel's "
                           "Nifti1Image.")
    return Nifti1Header(block, "<>"[sizes.index(_HEADER)], check=False) if _HEADER in sizes else None


def refuse_cut_nifti(path: Path) -> None:
    """Compare the length that the header promises with that of the content; other formats pass.

    The last four bytes of a gzip file tell its length, so that a sound file costs one look at its head and tail.

    Raises:
        DatasetError: the content is shorter than the header promises.
    """
    header = read_header(path)
    if header is None:
        return
    expected = _expected_bytes(path, header)
    with decoding(path):
        if not path.name.lower().endswith(".gz"):
            whole = path.stat().st_size >= expected
        else:
            with path.open("rb") as file:
                file.seek(-4, 2)
                told = struct.unpack("<I", file.read(4))[0]
            # Larger is fine (extensions, padding); a file of several gzip members tells the last one's length only.
            whole = told == expected % 2**32 or _content_reaches(path, expected)
    if not whole:
        raise _cut(path, "it ends before the last voxel")


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _shape(header: Nifti1Header) -> list[int]:
    return [int(n) for n in header["dim"][1 : 1 + max(0, min(int(header["dim"][0]), 7))]]


def _refuse_flawed(path: Path, header: Nifti1Header) -> None:
    shape = _shape(header)
    if not shape or min(shape) < 1 or int(header["dim"][0]) > 7:
        raise DatasetError(
            f"{path} has {int(header['dim'][0])} axes of the lengths {shape}; each axis has at least one voxel. Export "
            "it again from its source."
        )
    sizes = header["pixdim"][1 : 1 + min(len(shape), 3)].astype(float)
    if (sizes == 0).any():
        raise DatasetError(f"{path} {NO_SIZE}")
    if not np.isfinite(sizes).all() or (sizes < 0).any():
        raise DatasetError(
            f"{path} has voxels of {' x '.join(f'{s:g}' for s in sizes)} mm; the size of a voxel is a number above 0. "
            "Correct its header, or export it again from its source."
        )
    for code, fields in zip(("qform_code", "sform_code"), _AFFINE):
        values = np.stack([header[field] for field in fields]).astype(float)
        if int(header[code]) > 0 and not np.isfinite(values).all():
            raise DatasetError(
                f"{path} has an affine matrix ({code.removesuffix('_code')}) that is not finite. Correct its header, "
                "or export it again from its source."
            )
    if int(header["sform_code"]) > 0 and len(shape) > 2:
        # Beside a valid qform ITK would drop a sheared sform, and show the volume elsewhere than nibabel or FSL do.
        axes = np.stack([header[field] for field in _AFFINE[1]]).astype(float)[:, :3]
        flaw = flaw_of_axes(axes)
        if flaw:
            raise DatasetError(f"{path} {flaw}")


def _expected_bytes(path: Path, header: Nifti1Header) -> int:
    """Bytes from the file's begin to its last voxel."""
    try:
        return _offset(header) + prod(max(n, 1) for n in _shape(header)) * int(header["bitpix"]) // 8
    except (ValueError, OverflowError) as error:  # an offset that is not finite
        raise _cut(path, "its header says nowhere where the voxels begin") from error


def _offset(header: Nifti1Header) -> int:
    return max(int(header["vox_offset"]), _FIRST_VOXEL)


def _content_reaches(path: Path, expected: int) -> bool:
    with gzip.open(path, "rb") as file:
        return file.seek(expected) == expected


def _refuse_not_finite(path: Path, header: Nifti1Header, kind: np.dtype) -> None:
    left = prod(_shape(header))
    with decoding(path), _open(path) as file:
        file.seek(_offset(header))
        while left > 0:
            block = file.read(min(left, _CHUNK) * kind.itemsize)
            if not block:
                break
            if not np.isfinite(np.frombuffer(block, kind)).all():
                raise not_finite(path)
            left -= len(block) // kind.itemsize


def not_finite(path: Path) -> DatasetError:
    """The error for a volume with voxels that are no numbers."""
    return DatasetError(
        f"{path} holds values that are not finite (NaN, infinity, or beyond what 32 bits hold). Replace them and save "
        "it again."
    )


def _cut(path: Path, reason: str) -> DatasetError:
    return DatasetError(f"{path} cannot be read ({reason}). {DAMAGED}")

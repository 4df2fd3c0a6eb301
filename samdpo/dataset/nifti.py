"""Whether a NIfTI file is whole: ITK reads one that was cut off without a word and fills up with zeros."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

from samdpo.errors import DatasetError

_HEADER = 352  # bytes of a NIfTI-1 header with its extension flag


def refuse_cut_nifti(path: Path) -> None:
    """Compare the length that the header promises with that of the content; other formats pass.

    The last four bytes of a gzip file tell its length, so that a sound file costs one look at its head and tail.

    Raises:
        DatasetError: the content is shorter than the header promises.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    try:
        if name.endswith(".nii"):
            with path.open("rb") as file:
                if path.stat().st_size >= _expected_bytes(file.read(_HEADER)):
                    return
            raise EOFError("it ends before the last voxel")
        with gzip.open(path, "rb") as file:
            expected = _expected_bytes(file.read(_HEADER))
        with path.open("rb") as file:
            file.seek(-4, 2)
            told = struct.unpack("<I", file.read(4))[0]
        # Larger is fine (extensions, padding); a file of several gzip members tells the last one's length only.
        if told == expected % 2**32 or _content_reaches(path, expected):
            return
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _cut(path, str(error)) from error
    raise _cut(path, "it ends before the last voxel")


def _expected_bytes(header: bytes) -> int:
    """Bytes from the file's begin to its last voxel; 0 for what is no NIfTI-1, which is left to the reader."""
    for order in "<>":
        if len(header) >= 348 and struct.unpack(order + "i", header[:4])[0] == 348:
            dimensions = struct.unpack(order + "8h", header[40:56])
            bits = struct.unpack(order + "h", header[72:74])[0]
            offset = struct.unpack(order + "f", header[108:112])[0]
            voxels = 1
            for length in dimensions[1 : 1 + dimensions[0]]:
                voxels *= max(length, 1)
            return int(offset) + voxels * bits // 8
    return 0


def _content_reaches(path: Path, expected: int) -> bool:
    with gzip.open(path, "rb") as file:
        return file.seek(expected) == expected


def _cut(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read ({reason}). The file is damaged or cut off: copy it again from its source."
    )

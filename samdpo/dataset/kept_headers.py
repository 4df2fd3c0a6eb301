"""The part of a file's header that says where the volume lies, kept as it was and written again.

ITK turns it into spacing, origin and direction, and back with rounding: a mask would lie 1e-7 beside its image, with
the codes of its coordinate system lost. MHA stores what ITK computes with, and needs nothing of the kind.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.nifti import is_nifti, read_header

_NIFTI = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
    "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)
_MOST_LINES, _LONGEST_LINE = 1000, 1 << 16  # of a header of text
_NRRD = ("space", "space directions", "space origin")


def kept_header(path: Path, ndim: int) -> dict[str, Any]:
    """What of a file's header is to be kept: JSON-able, under ``nifti`` or ``nrrd``; empty for other formats.

    Args:
        path: a file that can be read.
        ndim: 2 or 3, axes of the masks that will be written.
    """
    header = read_header(path)
    if header is not None:
        return {"nifti": {name: header[name].tolist() for name in _NIFTI}}
    if path.name.lower().endswith(".nrrd"):
        fields = _nrrd_fields(_nrrd_lines(path))
        if fields.get("dimension") == str(ndim) and all(name in fields for name in _NRRD):
            return {"nrrd": {name: fields[name] for name in _NRRD}}
    return {}


def detached_data(path: Path) -> str:
    """The other file that a header of NRRD or MHA names for its voxels; "" where they lie in the file itself.

    Such a name may be any path of the machine, and a change of that file would not be seen as one of this case.
    """
    name = path.name.lower()
    if name.endswith(".nrrd"):
        fields = _nrrd_fields(_nrrd_lines(path))
        return fields.get("data file", fields.get("datafile", ""))
    if name.endswith(".mha"):
        with path.open("rb") as file:
            for _ in range(_MOST_LINES):
                key, _, value = file.readline(_LONGEST_LINE).decode("latin-1").partition("=")
                if key.strip().lower() == "elementdatafile":
                    return "" if value.strip().upper() == "LOCAL" else value.strip()[:200] or "no file"
    return ""


def write_nifti(values: np.ndarray, path: Path, header: Mapping[str, Any]) -> None:
    """Write (Z, Y, X) or (Y, X) label values with a kept header."""
    from nibabel.nifti1 import Nifti1Header, Nifti1Image

    fields = Nifti1Header()
    for name, value in header.items():
        fields[name] = value
    # Without an affine nibabel leaves the header's alone.
    image = Nifti1Image(values.T, None, fields, dtype=values.dtype)
    if not path.name.lower().endswith(".gz"):
        image.to_filename(path)
        return
    with path.open("wb") as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        image.to_stream(packed)


def restore_nrrd(path: Path, header: Mapping[str, str]) -> None:
    """Put kept lines into the header of an NRRD file that has just been written, in place."""
    whole = path.read_bytes()
    end = whole.index(b"\n\n")
    lines = [line for line in whole[:end].decode("ascii").split("\n") if line.partition(":")[0] not in header]
    lines += [f"{name}: {value}" for name, value in header.items()]
    path.write_bytes("\n".join(lines).encode("ascii") + whole[end:])


def can_keep(path: Path, properties: Mapping[str, Any]) -> bool:
    """Whether ``properties`` hold a header for a NIfTI file of this name."""
    return is_nifti(path) and "nifti" in properties


def _nrrd_lines(path: Path) -> list[str]:
    lines = []
    with path.open("rb") as file:
        for _ in range(_MOST_LINES):
            line = file.readline(_LONGEST_LINE)
            if not line.strip():
                break
            lines.append(line.decode("ascii", "replace").strip())
    return lines


def _nrrd_fields(lines: list[str]) -> dict[str, str]:
    """Field -> value; comments begin with #, key/value pairs have ``:=``."""
    fields = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#") and not value.startswith("="):
            fields[name.strip()] = value.strip()
    return fields

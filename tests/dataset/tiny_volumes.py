"""A raw dataset of tiny CT volumes, and files that are wrong in one way each."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813

SHAPE = (4, 12, 10)  # (Z, Y, X)
CONTENT = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2}
# Where fields of a NIfTI-1 header stand, in bytes.
DIM, PIXDIM, QFORM_CODE, QUATERN, SFORM_CODE, SROW = 40, 76, 252, 256, 254, 280


def image(seed: int = 0) -> np.ndarray:
    """(Z, Y, X) int16."""
    return np.random.default_rng(seed).integers(-100, 300, SHAPE).astype(np.int16)


def label() -> np.ndarray:
    """(Z, Y, X) uint8, 1 in the middle."""
    values = np.zeros(SHAPE, np.uint8)
    values[1:3, 3:8, 2:7] = 1
    return values


def grid(array: np.ndarray, spacing=(0.8, 0.8, 3.0), origin=(-40.0, 20.0, 5.0), direction=None) -> sitk.Image:
    """An array (Z, Y, X) in space."""
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(spacing[: array.ndim])
    result.SetOrigin(origin[: array.ndim])
    if direction is not None:
        result.SetDirection(np.asarray(direction, float).ravel().tolist())
    return result


def save(array: np.ndarray, path: Path, **geometry) -> Path:
    """Write an array in space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(grid(array, **geometry), str(path))
    return path


def make_dataset(folder: Path, ending: str = ".nii.gz", **content) -> Path:
    """Two labelled cases, a and b, and an unlabelled one, u."""
    for number, case in enumerate("ab"):
        save(image(number), folder / "imagesTr" / f"{case}_0000{ending}")
        save(label(), folder / "labelsTr" / f"{case}{ending}")
    save(image(2), folder / "imagesUl" / f"u_0000{ending}")
    (folder / "dataset.json").write_text(json.dumps({**CONTENT, "file_ending": ending, **content}))
    return folder


def patch(path: Path, *changes: tuple[int, str, tuple]) -> None:
    """Write (place, struct format, values) into the header of a .nii.gz file."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for place, form, values in changes:
        struct.pack_into("<" + form, content, place, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def save_nifti(array: np.ndarray, path: Path) -> None:
    """Write an array (X, Y, Z, …) of any type as it is; nibabel writes what ITK does not."""
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.8, 0.8, 3.0, 1.0]), dtype=array.dtype), path)


def as_xyz(array: np.ndarray) -> np.ndarray:
    """(Z, Y, X) -> (X, Y, Z), nibabel's order."""
    return np.ascontiguousarray(array.T)


def write_raw(path: Path, shear: float = 0.0, size: str = "10 12 4", spacing: float = 0.8) -> None:
    """An MHA or NRRD file, uncompressed, whose header ITK would not write itself."""
    if path.suffix == ".mha":
        header = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            f"TransformMatrix = 1 0 0 {shear} 1 0 0 0 1\nElementSpacing = 0.8 {spacing} 3\nDimSize = {size}\n"
            "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        )
    else:
        header = (
            f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {size}\n"
            f"space directions: (0.8,0,0) ({shear},{spacing},0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
            "encoding: raw\nspace origin: (0,0,0)\n\n"
        )
    path.write_bytes(header.encode() + image().tobytes())

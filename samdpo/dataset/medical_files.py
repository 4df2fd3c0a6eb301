"""NIfTI, NRRD and MHA through nnU-Net's SimpleITK reader, with everything looked at that it passes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.decoding import check_size, decoding
from samdpo.dataset.geometry import difference, flaw, numbers
from samdpo.dataset.itk import silence, unreadable
from samdpo.dataset.kept_headers import can_keep, detached_data, kept_header, restore_nrrd, write_nifti
from samdpo.dataset.nifti import check_nifti
from samdpo.errors import DatasetError

_NO_GEOMETRY = {
    "spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
}


def read_volumes(files: Sequence[Path]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one case: one file a channel, or a 4D file that holds them all.

    Args:
        files: that exist.

    Returns:
        (C, Z, Y, X) float32, and JSON-able properties: ``sitk_stuff`` (geometry of one channel), ``spacing`` (z, y, x
        mm; a 2D file has nnU-Net's 999 times its largest spacing in front), ``shape`` (Z, Y, X), and the header that
        :func:`write_volume_label` needs for an exact copy of the geometry.

    Raises:
        DatasetError: damaged or cut off, colours or complex numbers, more than 4 axes, an empty axis, a geometry that
            is none, channels on different grids.
    """
    import SimpleITK as sitk  # noqa: N813
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    silence()
    geometries, channels, spacings = [], [], []
    for file in files:
        with decoding(file):
            check_nifti(file)
            other = detached_data(file)
            if other:
                raise DatasetError(
                    f"{file} is a header alone, whose voxels lie in {other}; another file is not read. Save header "
                    "and voxels as one file."
                )
            try:
                geometries.append(_geometry(file, sitk.ImageFileReader()))
            except RuntimeError as error:
                raise unreadable(file, error) from error
    _refuse_different_grids(files, geometries)
    for file in files:
        with decoding(file), np.errstate(over="ignore"):  # what becomes infinite is refused by the caller
            try:
                data, properties = SimpleITKIO().read_images([str(file)])  # one by one: it compares by printing
            except RuntimeError as error:
                raise unreadable(file, error) from error
        channels.append(data)
        spacings.append([float(v) for v in properties["spacing"]])
    data = channels[0] if len(channels) == 1 else np.concatenate(channels)
    size = geometries[0].pop("size")
    with decoding(files[0]):
        header = kept_header(files[0], len(size))
    return data.astype(np.float32, copy=False), {
        "sitk_stuff": geometries[0], "spacing": spacings[0], "shape": [int(n) for n in data.shape[1:]],
        **header,
    }


def write_volume_label(values: np.ndarray, path: Path, properties: Mapping[str, Any]) -> None:
    """Write (Z, Y, X) uint8 or uint16 where the image of ``properties`` lies; not atomically.

    A mask of the image's own format has its spacing, origin and direction to the last bit.
    """
    geometry = properties.get("sitk_stuff", _NO_GEOMETRY)
    if can_keep(path, properties):
        write_nifti(values if len(geometry["spacing"]) == 3 else values[0], path, properties["nifti"])
        return
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    SimpleITKIO().write_seg(values, str(path), {"sitk_stuff": geometry})
    if path.name.lower().endswith(".nrrd") and "nrrd" in properties:
        restore_nrrd(path, properties["nrrd"])


def _geometry(file: Path, reader: Any) -> dict[str, Any]:
    """Size (x, y[, z]), spacing, origin and direction of one volume of a file."""
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if components > 1:
        raise DatasetError(
            f"{file} has {components} numbers a voxel (colours, vectors or complex numbers); one is expected. Save "
            "each as a file of its own: _0000, _0001, …, or one of them alone."
        )
    if len(size) not in (2, 3, 4):
        raise DatasetError(f"{file} has {len(size)} axes; 2, 3, or 4 with the channels last, are read. Save its "
                           "volumes as files of their own.")
    if 0 in size:
        raise DatasetError(f"{file} is {' x '.join(map(str, size))} voxels large, so it has none. Export it again "
                           "from its source.")
    check_size(file, size)
    n, axes = len(size), min(len(size), 3)
    direction = np.reshape(reader.GetDirection(), (n, n))[:axes, :axes]
    geometry = {  # + 0.0: no -0.0 in the JSON
        "spacing": [float(v) for v in reader.GetSpacing()[:axes]],
        "origin": [float(v) + 0.0 for v in reader.GetOrigin()[:axes]],
        "direction": [float(v) + 0.0 for v in direction.ravel()],
    }
    found = flaw(geometry)
    if found:
        raise DatasetError(f"{file} {found}")
    return {**geometry, "size": list(size[:axes])}


def _refuse_different_grids(files: Sequence[Path], geometries: Sequence[dict[str, Any]]) -> None:
    for file, geometry in zip(files[1:], geometries[1:]):
        key = "size" if geometry["size"] != geometries[0]["size"] else difference(geometries[0], geometry)
        if key:
            raise DatasetError(
                f"{file}: the channels of one case must have the same size, spacing, origin and direction; its {key} "
                f"is {numbers(geometry[key])}, that of {files[0].name} {numbers(geometries[0][key])}. Resample one to "
                "the grid of the other."
            )

"""The one reader and writer of images and labels: pictures through PIL and friends, volumes through nnU-Net's reader.

A DICOM series is read by :mod:`samdpo.dataset.dicom`.

Arrays are (C, Z, Y, X); a single picture has Z = 1 and, as in nnU-Net, the spacing (999, 1, 1).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.decoding import check_file
from samdpo.dataset.dicom import is_series, read_series
from samdpo.dataset.medical_files import read_volumes, write_volume_label
from samdpo.dataset.nifti import not_finite
from samdpo.dataset.pictures import read_label_picture, read_picture, write_picture
from samdpo.dataset.volume import PICTURE_SPACING, UNKNOWN_SPACING, Volume
from samdpo.errors import DatasetError
from samdpo.files import atomic_path, read_json, write_json
from samdpo.names import LOSSY_ENDINGS, NATURAL_ENDINGS, SUPPORTED_ENDINGS, ending_of, json_beside

log = logging.getLogger(__name__)

_FLAT_ENDINGS = (".png", ".bmp")
# Share of pixels that may be coloured in an image called grey: burnt-in callipers and text of ultrasound machines.
_COLOURED_SHARE = 0.05
_COLOUR_TOLERANCE = 5 / 255
_ROUNDING = 1e-4  # of a label value; an interpolated one is further from a whole number
_LABELS = np.iinfo(np.int16)


def read_image(paths: Sequence[Path | str] | Path | str, n_channels: int | None = None) -> Volume:
    """Read one case.

    Args:
        paths: one file a channel, or one file that holds them all (RGB picture, 4D volume), or the folder of one
            DICOM series.
        n_channels: what dataset.json declares. A grey picture stored as RGB becomes one channel where 1 is
            declared, a grey one is repeated where a single file shall give 3. None keeps what the file holds.

    Raises:
        DatasetError: unreadable, truncated, lossy or non-finite file; channels that differ in size or number.
    """
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(p) for p in paths]
    if not files:
        raise DatasetError("There is no file to read: a case needs at least one image.")
    if is_series(files):
        volume = read_series(files[0])
    else:
        _check_endings(files)
        picture = ending_of(files[0]) in NATURAL_ENDINGS
        volume = _read_pictures(files, n_channels) if picture else _volume(*read_volumes(files))
    if n_channels is not None and len(volume.data) != n_channels:
        raise DatasetError(
            f"{files[0]} holds {len(volume.data)} channel(s), but channel_names of dataset.json declares {n_channels}. "
            + _channel_remedy(len(volume.data), n_channels)
        )
    for index, channel in enumerate(volume.data):
        if not np.isfinite(channel).all():
            raise not_finite(files[index if len(files) > 1 else 0])
    return volume


def read_label(path: Path | str) -> np.ndarray:
    """Read a label: (Z, Y, X) int16, values as stored.

    A coloured palette PNG gives its indices, a grey palette or an RGB(A) file with equal channels its grey values.

    Raises:
        DatasetError: unreadable or truncated file, colours that are no label values, fractions, values over 32767.
    """
    return read_label_with_properties(path)[0]


def read_label_with_properties(path: Path | str) -> tuple[np.ndarray, dict[str, Any]]:
    """As :func:`read_label`, with the geometry of the file."""
    path = Path(path)
    _check_endings([path])
    if ending_of(path) in NATURAL_ENDINGS:
        values = read_label_picture(path)
        properties = _picture_properties(path, values.shape)
    else:
        data, properties = read_volumes([path])
        if len(data) != 1:
            raise DatasetError(
                f"{path} holds {len(data)} volumes (it has four dimensions); a label has one value a voxel. Save the "
                "label map alone, in three dimensions."
            )
        values = data[0]
    return _whole_numbers(values, path), properties


def write_label(segmentation: np.ndarray, path: Path | str, properties: dict[str, Any]) -> None:
    """Write (Z, Y, X) label values atomically, in the geometry of the image that gave ``properties``.

    The spacing of a TIFF stack goes into the JSON beside it, as nnU-Net has it; what else that holds is kept.

    Args:
        segmentation: (Z, Y, X) of whole numbers from 0 to 65535; Z = 1 for a picture.
        path: its ending chooses the format.
        properties: of :func:`read_image`.

    Raises:
        DatasetError: see :func:`check_writable`.
    """
    path = Path(path)
    values = np.asarray(segmentation)
    check_writable(values.shape, path)
    values = values.astype(np.uint8 if values.size == 0 or values.max() <= 255 else np.uint16)
    if has_sidecar(path, values.shape) and "spacing" in properties:
        _write_sidecar(path, properties["spacing"])
    with atomic_path(path) as temporary:
        if ending_of(path) in NATURAL_ENDINGS:
            write_picture(values, temporary)
        else:
            write_volume_label(values, temporary, properties)


def has_sidecar(path: Path | str, shape: tuple[int, ...]) -> bool:
    """Whether a label of ``shape`` (Z, Y, X) has its spacing in a JSON file beside it: stacks of TIFF pages."""
    return ending_of(path) in NATURAL_ENDINGS and shape[0] > 1


def check_writable(shape: tuple[int, ...], path: Path | str) -> None:
    """Whether a label of ``shape`` (Z, Y, X) can be written to ``path``, before anything is written beside it.

    Raises:
        DatasetError: an ending that is not written, or several slices for a picture that holds one.
    """
    ending = ending_of(path)
    if ending not in SUPPORTED_ENDINGS:
        raise DatasetError(f"{path} cannot be written; supported endings are {', '.join(SUPPORTED_ENDINGS)}.")
    if ending in _FLAT_ENDINGS and shape[0] != 1:
        raise DatasetError(
            f"{path} holds one slice, but {shape[0]} are to be written. Use a dataset whose file_ending is .nii.gz or "
            ".tif, or give single slices."
        )


def _whole_numbers(values: np.ndarray, path: Path) -> np.ndarray:
    """Label values as int16; a scale in the file's header may leave a rounding error on them."""
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise not_finite(path)
        whole = np.rint(values)
        off = np.subtract(values, whole, out=values)  # in place: volumes are large
        if max(off.max(), -off.min()) > _ROUNDING:
            fraction = (whole + off)[np.abs(off) > _ROUNDING][0]
            raise DatasetError(
                f"{path} holds fractions such as {fraction:.4g}; a label holds whole numbers. It was probably "
                "resampled with interpolation: resample with nearest neighbour, or threshold it."
            )
        values = whole
    for value in (values.max(), values.min()):
        if not _LABELS.min <= value <= _LABELS.max:
            raise DatasetError(
                f"{path} holds the label value {value:.0f}; values up to {_LABELS.max} are read. Number the "
                "structures anew."
            )
    return values.astype(np.int16)


def _volume(data: np.ndarray, properties: dict[str, Any]) -> Volume:
    return Volume(data, tuple(properties["spacing"]), properties)


def _check_endings(files: list[Path]) -> None:
    for file in files:
        ending = ending_of(file)
        if ending in LOSSY_ENDINGS:
            raise DatasetError(
                f"{file} is lossy ({ending}): its losses change edges. Save it as PNG and name that file."
            )
        if not ending:
            raise DatasetError(f"{file} has an unknown ending; supported are {', '.join(SUPPORTED_ENDINGS)}.")
        check_file(file)


def spacing_file(file: Path) -> Path | None:
    """The JSON beside a TIFF stack that holds its spacing: ``CASE.json``, or ``CASE_0000.json`` for one channel."""
    if ending_of(file) not in (".tif", ".tiff"):
        return None
    head = file.name[: -len(ending_of(file))]
    beside = [file.with_name(f"{n}.json") for n in (head, head[:-5] if head[-5:-4] == "_" else head)]
    return next((s for s in beside if s.is_file()), None)


def _picture_properties(file: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    """Spacing of a picture: nnU-Net's convention, or that of the JSON beside a 3D TIFF."""
    spacing = PICTURE_SPACING
    if shape[-3] > 1:
        beside = spacing_file(file)
        spacing = UNKNOWN_SPACING if beside is None else _spacing_in(beside, file)
    return {"spacing": list(spacing), "shape": [int(n) for n in shape[-3:]]}


def _spacing_in(sidecar: Path, file: Path) -> tuple[float, ...]:
    """(z, y, x) mm of a JSON file; one that is about something else, such as an annotation, says nothing of it."""
    remedy = f'It must hold the spacing of {file.name}: {{"spacing": [z, y, x]}} in mm, each above 0.'
    content = read_json(sidecar, error=DatasetError, remedy=remedy)
    if not isinstance(content, dict) or "spacing" not in content:
        log.warning("%s holds no 'spacing', so the voxels of %s count as 1 mm.", sidecar, file)
        return UNKNOWN_SPACING
    try:
        spacing = tuple(float(v) for v in content["spacing"])
        if len(spacing) != 3 or not all(0 < v < np.inf for v in spacing):
            raise ValueError(spacing)
    except (ValueError, TypeError, OverflowError) as error:
        raise DatasetError(
            f'{sidecar} must hold the spacing of {file.name}: {{"spacing": [z, y, x]}} in mm, each above 0.'
        ) from error
    return spacing


def _write_sidecar(path: Path, spacing: Sequence[float]) -> None:
    sidecar = json_beside(path)
    there = read_json(sidecar, error=DatasetError) if sidecar.is_file() else {}
    if not isinstance(there, dict):
        raise DatasetError(f"{sidecar} must hold an object, as the spacing of {path.name} is written into it.")
    if there.get("spacing") != list(spacing):
        write_json(sidecar, {**there, "spacing": list(spacing)})


def _read_pictures(files: list[Path], n_channels: int | None) -> Volume:
    channels = []
    for file in files:
        pixels = read_picture(file)  # (C, Z, Y, X)
        if len(pixels) == 3 and (len(files) > 1 or n_channels == 1):
            pixels = _grey(pixels, file, one_of_several=len(files) > 1)
        channels.append(pixels)
    if len({c.shape[1:] for c in channels}) > 1:
        listing = "; ".join(f"{f.name}: {c.shape[1:]}" for f, c in zip(files, channels))
        raise DatasetError(f"{files[0]}: the channels of one case must have the same size, found {listing}.")
    bits = max(c.dtype.itemsize for c in channels) * 8
    data = np.concatenate(channels).astype(np.float32, copy=False)
    if len(files) == 1 and len(data) == 1 and n_channels == 3:
        data = np.repeat(data, 3, axis=0)  # a grey picture among RGB ones
    properties = {**_picture_properties(files[0], data.shape), "bits": bits}  # of the file's samples
    return Volume(data, tuple(properties["spacing"]), properties)


def _grey(pixels: np.ndarray, file: Path, one_of_several: bool) -> np.ndarray:
    """(3, Z, Y, X) of a grey image stored as RGB -> (1, Z, Y, X); a truly coloured one is refused."""
    red, green, blue = (c.astype(np.float32) for c in pixels)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return pixels[:1]
    highest = float(np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else float(pixels.max())
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if (spread > _COLOUR_TOLERANCE * highest).mean() > _COLOURED_SHARE:
        if one_of_several:
            raise DatasetError(
                f"{file} is a colour image, but by its name it is one channel of several of a case. Where it holds all "
                "channels, number it _0000 alone, or not at all; else save it grey."
            )
        raise DatasetError(
            f"{file} is a colour image, but channel_names of dataset.json declares it grey. Save it grey, or declare "
            '{"0": "R", "1": "G", "2": "B"} for single files that hold the three.'
        )
    return (0.299 * red + 0.587 * green + 0.114 * blue)[None]  # ITU-R BT.601 luma


def _channel_remedy(found: int, declared: int) -> str:
    if found == 4 and declared == 3:
        return "Save it without the fourth channel."
    files = "one file a case: _0000" if declared == 1 else f"{declared} files a case: _0000 … _{declared - 1:04d}"
    return f"Correct channel_names, or give {files}, with one volume a file."

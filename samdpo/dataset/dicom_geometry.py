"""Whether DICOM slices are a volume: one size and direction, each position once, evenly spaced; and their order.

SimpleITK stacks whatever files it is given and takes the spacing from the first and the last, without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samdpo.dataset.dicom_headers import DicomHeader
from samdpo.errors import DatasetError

# Positions are often written with one decimal: at a spacing of 0.5 mm such rounding moves a slice by a tenth of it.
_UNEVEN = 0.1  # of the spacing
_MISSING = 1.5  # times the usual step and more: something lies between
_ORIENTATION = 1e-3  # of a direction's component: 0.06 degrees
_SPACING = 1e-3  # relative


def in_order(slices: Sequence[DicomHeader], folder: Path) -> list[DicomHeader]:
    """Slices of one series, by position along their normal, as SimpleITK and GDCM order them.

    Raises:
        DatasetError: slices that are no evenly spaced stack; the sentence says which, and where.
    """
    if len(slices) == 1:
        return list(slices)
    needed = {"ImagePositionPatient": "position", "ImageOrientationPatient": "orientation", "PixelSpacing": "spacing"}
    for header in slices:
        lacking = [keyword for keyword, name in needed.items() if getattr(header, name) is None]
        if lacking:
            raise DatasetError(
                f"{header.file} has no {' and no '.join(lacking)}, as X-rays, so that the {len(slices)} images of "
                f"{folder} are no volume. Give each image a folder of its own."
            )
    _refuse_different(slices, folder)
    normal = _normal(slices[0])
    positions = np.stack([s.position for s in slices])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    stack, along, positions = [slices[i] for i in order], along[order], positions[order]
    _refuse_duplicates(stack, along, folder)
    _refuse_gaps(stack, along, folder)
    sideways = positions - positions[0] - np.outer(along - along[0], normal)
    drift = float(np.linalg.norm(sideways, axis=1).max())
    if drift > stack[0].spacing.min():
        raise DatasetError(
            f"{folder}: the slices are shifted against each other by up to {drift:.1f} mm within their plane, as with "
            "a tilted gantry. Convert the series to NIfTI with dcm2niix, which corrects the tilt, and name the .nii.gz."
        )
    return stack


def _normal(header: DicomHeader) -> np.ndarray:
    row, column = header.orientation[:3], header.orientation[3:]
    normal = np.cross(row, column)
    if abs(np.linalg.norm(normal) - 1) > 0.01:
        raise DatasetError(
            f"{header.file} has the ImageOrientationPatient {header.orientation.tolist()}, which is no pair of "
            "perpendicular directions of length 1. Export the series again."
        )
    return normal


def _refuse_different(slices: Sequence[DicomHeader], folder: Path) -> None:
    """Compare with the median, so that one foreign slice among many is the one named."""
    remedy = "Move what does not belong to the volume, often a scout, into a folder of its own."
    for name, unit, values, tolerance in (
        ("size", " pixels", [s.size for s in slices], 0.0),
        ("orientation", "", [s.orientation for s in slices], _ORIENTATION),
        ("pixel spacing", " mm", [s.spacing for s in slices], _SPACING),
    ):
        table = np.array(values, float)
        usual = np.median(table, axis=0)
        scale = np.maximum(np.abs(usual), 1e-9) if name == "pixel spacing" else 1.0
        differs = (np.abs(table - usual) / scale).max(1) > tolerance
        if differs.any():
            foreign = int(np.argmax(differs))
            # Of two images there is no usual one: name another that differs from the foreign.
            other = int(np.argmax(np.abs(table - table[foreign]).max(1)))
            found = ", ".join(f"{_shown(table[i])}{unit} in {slices[i].file.name}" for i in (foreign, other))
            raise DatasetError(f"{folder}: the slices differ in {name}: {found}. {remedy}")


def _refuse_duplicates(stack: Sequence[DicomHeader], along: np.ndarray, folder: Path) -> None:
    same = np.flatnonzero(np.diff(along) < 1e-3)  # mm
    if not len(same):
        return
    first, second = stack[same[0]].file.name, stack[same[0] + 1].file.name
    others = f", and {len(same) - 1} further images at positions that are taken already" if len(same) > 1 else ""
    copies = len(stack) / (len(stack) - len(same))
    remedy = "If one is a copy, remove it."
    if copies >= 2 and copies == int(copies):
        remedy = (f"Every position is there {int(copies)} times (phases, echoes or b-values): give the images of each "
                  "a folder of their own. If they are copies, remove them.")
    raise DatasetError(
        f"{folder}: {first} and {second} lie at the same position, {along[same[0]]:.2f} mm along the normal{others}. "
        f"{remedy}"
    )


def _refuse_gaps(stack: Sequence[DicomHeader], along: np.ndarray, folder: Path) -> None:
    steps = np.diff(along)
    if len(steps) < 2:
        return
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # the lower median: of one long and one short step the short
    missing = np.rint(steps / usual).astype(int) - 1
    gaps = np.flatnonzero(steps > _MISSING * usual)
    if len(gaps) and np.all(np.abs(steps[gaps] / usual - missing[gaps] - 1) < 2 * _UNEVEN):
        places = "; ".join(
            f"{missing[i]} between {stack[i].file.name} and {stack[i + 1].file.name} ({along[i]:.2f} and "
            f"{along[i + 1]:.2f} mm along the normal)" for i in gaps[:5]
        ) + (" …" if len(gaps) > 5 else "")
        raise DatasetError(
            f"{folder}: {missing[gaps].sum()} of {len(stack) + missing[gaps].sum()} slices are missing at a spacing of "
            f"{usual:.2f} mm: {places}. Copy the series again from its source."
        )
    even = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - even).max() > _UNEVEN * usual:
        raise DatasetError(
            f"{folder}: the slices are unevenly spaced, {steps.min():.2f} to {steps.max():.2f} mm (the longest step is "
            f"from {stack[int(steps.argmax())].file.name} to {stack[int(steps.argmax()) + 1].file.name}). Give parts "
            "of different spacing folders of their own, or resample the volume and save it as .nii.gz."
        )


def _shown(values: np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in values)

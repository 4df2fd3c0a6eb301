"""How well a predicted label map fits the truth: overlap as nnU-Net counts it, and distances between surfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from samdpo.dataset.volume import PICTURE_SPACING

METRICS = (
    "Dice", "IoU", "SurfaceDice", "HD95", "ASD", "ASSD", "TP", "FP", "FN", "TN", "n_pred", "n_ref", "FPSlices",
    "FNSlices",
)
PIXEL_TOLERANCE = 2.0  # pixels of a plain image, which has no physical size; voxels where these are counted
MM_TOLERANCE = 1.0  # mm


@dataclass(frozen=True)
class SurfaceUnit:
    """In what surfaces are measured, and how far apart two may lie to count as equal."""

    name: str  # "px", "mm" or "voxels"
    tolerance: float

    @classmethod
    def of(cls, spacing: tuple[float, ...], tolerance: float | None = None, voxels: bool = False) -> SurfaceUnit:
        """Voxels where they are asked for, pixels where ``spacing`` (z, y, x) is that of a plain image; else mm."""
        name, default = ("px", PIXEL_TOLERANCE) if tuple(spacing) == PICTURE_SPACING else ("mm", MM_TOLERANCE)
        if voxels:
            name, default = "voxels", PIXEL_TOLERANCE
        return cls(name, default if tolerance is None else tolerance)


def evaluate_case(
    pred: np.ndarray,
    ref: np.ndarray,
    structures: Mapping[str, int],
    spacing: tuple[float, float, float],
    *,
    ignore_label: int | None = None,
    tolerance: float | None = None,
    voxels: bool = False,
) -> dict[int, dict[str, float]]:
    """Every metric of every structure of one case.

    Args:
        pred: (Z, Y, X) predicted labels; one slice (Z = 1) is measured as a 2D image.
        ref: (Z, Y, X) true labels.
        structures: name -> label.
        spacing: (z, y, x) in mm; (999, 1, 1) means a plain image, measured in pixels.
        ignore_label: voxels with this true label count nowhere.
        tolerance: of the surface Dice, in the unit of the case; by default 2 px, 2 voxels or 1 mm.
        voxels: measure surfaces as :func:`voxel_surface_metrics` does, whatever the spacing.

    Returns:
        label -> :data:`METRICS` -> number. nnU-Net's rules: Dice, IoU and the surface Dice are NaN where a structure
        is in neither label map and 0 where it is in only one of them. Distances are NaN unless it is in both: a
        distance to nothing has no number.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != ref.shape:
        raise ValueError(f"the prediction has shape {pred.shape}, the reference {ref.shape}")
    counted = None if ignore_label is None else ref != ignore_label
    unit = SurfaceUnit.of(spacing, tolerance, voxels)

    def surfaces(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
        if voxels:
            return voxel_surface_metrics(one, other, unit.tolerance)
        return surface_metrics(one, other, spacing, unit.tolerance)

    n_counted = ref.size if counted is None else int(counted.sum())
    result = {}
    for label in structures.values():
        in_pred, in_ref = pred == label, ref == label
        if counted is not None:
            in_pred &= counted
        result[label] = {
            **overlap_metrics(in_pred, in_ref, n_counted),
            **surfaces(in_pred, in_ref),
            **presence_metrics(in_pred, in_ref),
        }
    return result


def overlap_metrics(pred: np.ndarray, ref: np.ndarray, n_counted: int | None = None) -> dict[str, float]:
    """Dice, IoU and counts of two boolean masks of one shape; ``n_counted`` voxels count in all (default: every)."""
    tp = int(np.count_nonzero(pred & ref))
    n_pred, n_ref = int(np.count_nonzero(pred)), int(np.count_nonzero(ref))
    fp, fn = n_pred - tp, n_ref - tp
    union = tp + fp + fn
    return {
        "Dice": 2 * tp / (n_pred + n_ref) if union else float("nan"),
        "IoU": tp / union if union else float("nan"),
        "TP": tp,
        "FP": fp,
        "FN": fn,
        "TN": (pred.size if n_counted is None else n_counted) - union,
        "n_pred": n_pred,
        "n_ref": n_ref,
    }


def presence_metrics(pred: np.ndarray, ref: np.ndarray) -> dict[str, int]:
    """Slices of two boolean masks (Z, Y, X) that show a structure in one of them only.

    ``FPSlices`` counts slices on which something was found though nothing is there, ``FNSlices`` the reverse: what
    recognising absent structures is judged by.
    """
    found, there = pred.any((1, 2)), ref.any((1, 2))
    return {"FPSlices": int((found & ~there).sum()), "FNSlices": int((there & ~found).sum())}


def surface_metrics(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, float, float], tolerance: float
) -> dict[str, float]:
    """Surface Dice (Nikolov et al. 2021), 95% Hausdorff and average distances of two boolean masks (Z, Y, X).

    Computed by DeepMind's ``surface-distance``, which weighs surface points by their length or area. ``HD95`` is the
    larger of the 95th percentiles of both directions, ``ASD`` the mean distance from the prediction's surface to the
    reference's, ``ASSD`` the mean of both directions.
    """
    if not pred.any() or not ref.any():
        return _no_surface(pred, ref)
    from surface_distance import metrics as surface_distance

    distances = surface_distance.compute_surface_distances(*_flat(ref, pred, spacing))
    from_ref, from_pred = surface_distance.compute_average_surface_distance(distances)
    return {
        "SurfaceDice": float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)),
        "HD95": float(surface_distance.compute_robust_hausdorff(distances, 95)),
        "ASD": float(from_pred),
        "ASSD": float(from_ref + from_pred) / 2,
    }


def voxel_surface_metrics(pred: np.ndarray, ref: np.ndarray, tolerance: float) -> dict[str, float]:
    """The same names as :func:`surface_metrics` gives, counted in voxels as MedPy does that is told no spacing.

    So the tables of the semi-supervised benchmarks on ACDC, LA and others have them (SSL4MIS, Luo 2020; MedPy's
    ``hd95``, ``asd`` and ``assd``): a surface is the voxels of a mask of which a neighbour across a face is outside,
    each counts once, and the step from slice to slice is as long as one within them. ``HD95`` is the 95th percentile
    of the distances of both directions together, ``ASD`` the mean distance from the prediction's surface to the
    reference's, which has a direction, ``ASSD`` the mean of both directions' means.

    Args:
        pred: (Z, Y, X) bool; one slice (Z = 1) is measured as a 2D image.
        ref: the same.
        tolerance: of the surface Dice, voxels.
    """
    if not pred.any() or not ref.any():
        return _no_surface(pred, ref)
    from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

    pred, ref, _ = _flat(pred, ref, (1.0, 1.0, 1.0))
    (box,) = find_objects((pred | ref).astype(np.uint8))
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (pred, ref)]  # what is outside counts as background
    to_pred, to_ref = (distance_transform_edt(~surface) for surface in surfaces)
    from_pred, from_ref = to_ref[surfaces[0]], to_pred[surfaces[1]]
    both = np.concatenate([from_pred, from_ref])
    return {
        "SurfaceDice": float(np.mean(both <= tolerance)),
        "HD95": float(np.percentile(both, 95)),
        "ASD": float(from_pred.mean()),
        "ASSD": float(from_pred.mean() + from_ref.mean()) / 2,
    }


def _no_surface(pred: np.ndarray, ref: np.ndarray) -> dict[str, float]:
    """Of masks of which one or both are empty."""
    nan = float("nan")
    return {"SurfaceDice": 0.0 if pred.any() or ref.any() else nan, "HD95": nan, "ASD": nan, "ASSD": nan}


def _flat(
    ref: np.ndarray, pred: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """One slice becomes 2D, so that its surface is a contour and not two faces 999 mm apart."""
    if ref.shape[0] == 1:
        return ref[0], pred[0], tuple(spacing[1:])
    return ref, pred, tuple(spacing)

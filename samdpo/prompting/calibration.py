"""Raw similarity to probabilities, the mask's cut and the presence threshold, learned on held-out labelled slices.

Pixels of dataset.json's label ``ignore`` teach nothing and are not counted.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from samdpo.errors import TrainingError
from samdpo.plans import StructurePlan

log = logging.getLogger(__name__)

_CUTS = np.concatenate([np.arange(0.04, 0.2, 0.02), np.arange(0.2, 0.75, 0.05)])
_TOP_SHARE = 0.01  # of a slice's pixels: what the presence score looks at
_SLOPES = (0.05, 20.0)


@dataclass(frozen=True)
class StructureCalibration:
    """What one structure's raw similarity means.

    Attributes:
        slope: calibrated logit = slope * raw + bias.
        bias: see slope.
        cut: calibrated probability from which a pixel belongs to the coarse mask.
        least_area: share of the slice that is taken where nothing of a present structure passes the cut.
        presence_threshold: presence score from which the structure counts as present; 0 = always.
        presence_missed: labelled slices with the structure that the threshold calls absent, of how many.
        presence_false: labelled slices without it that the threshold calls present, of how many.
    """

    slope: float = 1.0
    bias: float = 0.0
    cut: float = 0.5
    least_area: float = 0.0
    presence_threshold: float = 0.0
    presence_missed: tuple[int, int] = (0, 0)
    presence_false: tuple[int, int] = (0, 0)

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Raw similarity to calibrated logits, any shape."""
        return self.slope * raw + self.bias

    def mask_probability(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits to a probability that is 0.5 at the cut, what the CRF is given."""
        return expit(logits - logit(self.cut))


def presence_score(logits: np.ndarray) -> float:
    """Mean probability of the most salient percent of pixels of (h, w) calibrated logits: in [0, 1]."""
    flat = np.asarray(logits, np.float32).ravel()
    count = max(1, round(_TOP_SHARE * flat.size))
    return float(expit(np.partition(flat, -count)[-count:]).mean())


def presence_scores(
    structures: Collection[str], calibrations: Mapping[str, StructureCalibration], raw: Sequence[np.ndarray]
) -> np.ndarray:
    """Presence scores (N, S) of raw similarities, (S, h, w) a slice, of ``structures`` in their order."""
    known = [calibrations.get(name, StructureCalibration()) for name in structures]
    return np.array([
        [presence_score(one.apply(np.asarray(row, np.float32))) for one, row in zip(known, of_slice)]
        for of_slice in raw
    ])


def calibrate(raw: Sequence[np.ndarray], masks: Sequence[np.ndarray], may_be_absent: bool) -> StructureCalibration:
    """Learn the calibration of one structure from slices that the towers have not seen.

    Slope and bias by logistic regression (Platt 1999) with each slice weighing the same; the cut by the mean Dice
    of slices that show the structure. The presence threshold is the one at which the coarse masks of all slices
    together have the best Dice: a slice weighs what it adds to or takes from the volume.

    Args:
        raw: (h, w) raw similarities, one a slice.
        masks: (h, w) bool, the truth on the same grid.
        may_be_absent: whether slices without the structure are expected.

    Returns:
        The calibration; the neutral one where no slice shows the structure.

    Raises:
        TrainingError: a similarity is infinite or no number.
    """
    if not all(np.isfinite(one).all() for one in raw):
        raise TrainingError("The saliency of a labelled slice is infinite or no number. Look for images with such "
                            "values: samdpo_plan_and_preprocess --verify_dataset_integrity")
    showing = [i for i, mask in enumerate(masks) if mask.any()]
    if not showing:
        # Never seen: nothing says where it is, so it counts as absent wherever that is allowed.
        return StructureCalibration(presence_threshold=1.1 if may_be_absent else 0.0)
    slope, bias = platt_scaling(np.stack(raw), np.stack(masks))
    logits = [slope * one + bias for one in raw]
    dices = [np.mean([_dice(expit(logits[i]) >= cut, masks[i]) for i in showing]) for cut in _CUTS]
    least_area = float(np.percentile([masks[i].mean() for i in showing], 10))
    cut = float(_CUTS[int(np.argmax(dices))])
    scores = np.array([presence_score(one) for one in logits])
    shown = np.array([mask.any() for mask in masks])
    threshold = 0.0
    if may_be_absent and not shown.all():
        threshold = _best_threshold(scores, [_coarse(one, cut, least_area) for one in logits], masks)
    return StructureCalibration(
        slope=slope,
        bias=bias,
        cut=cut,
        least_area=least_area,
        presence_threshold=threshold,
        presence_missed=(int((scores[shown] < threshold).sum()), int(shown.sum())),
        presence_false=(int((scores[~shown] >= threshold).sum()), int((~shown).sum())),
    )


def coarse_truth(shares: np.ndarray) -> np.ndarray:
    """Masks of a structure on a coarse grid: pixels that it covers by half, or the fullest where there is none.

    Args:
        shares: (..., h, w) share of each pixel that is covered. A gland of a few millimetres covers none by half.

    Returns:
        bool, the same shape; empty only where nothing is covered.
    """
    fullest = shares.max((-2, -1), keepdims=True)
    return (shares >= 0.5) | ((fullest > 0) & (fullest < 0.5) & (shares == fullest))


def platt_scaling(raw: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Slope and bias of the logistic regression of ``masks``, bool, on ``raw``, both of any one shape (Platt 1999)."""
    x = raw.reshape(-1).astype(np.float64)
    y = masks.reshape(-1).astype(np.float64)
    if len(x) > 400_000:  # two parameters need no more
        keep = np.random.default_rng(0).choice(len(x), 400_000, replace=False)
        x, y = x[keep], y[keep]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        residual = expit(z) - y
        value = np.mean(np.logaddexp(0, z) - y * z)
        return value, np.array([np.mean(residual * x), np.mean(residual)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=[_SLOPES, (-20, 20)], method="L-BFGS-B")
    return float(found.x[0]), float(found.x[1])


def _dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * np.count_nonzero(predicted & truth) / max(1, predicted.sum() + truth.sum()))


def _coarse(logits: np.ndarray, cut: float, least_area: float) -> np.ndarray:
    """The coarse mask of a slice that counts as present: what passes the cut, or its most salient pixels."""
    mask = expit(logits) >= cut
    return mask if mask.any() else logits >= np.quantile(logits, 1 - least_area)


def _best_threshold(scores: np.ndarray, coarse: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """The score between two neighbours from which coarse masks together overlap the truth best; ties: the lowest.

    The lowest, since a structure that is wrongly prompted costs less than one that is never looked for.
    """
    inside = np.array([np.count_nonzero(mask & true) for mask, true in zip(coarse, truth)])
    area = np.array([np.count_nonzero(mask) for mask in coarse])
    wanted = sum(np.count_nonzero(true) for true in truth)
    ordered = np.unique(scores)
    candidates = np.concatenate([[0.0], (ordered[1:] + ordered[:-1]) / 2])
    dice = [2 * inside[scores >= c].sum() / (area[scores >= c].sum() + wanted) for c in candidates]
    return float(candidates[int(np.argmax(dice))])


def calibrate_known(
    raw: Sequence[np.ndarray], masks: Sequence[np.ndarray], known: np.ndarray | None, may_be_absent: bool
) -> StructureCalibration:
    """:func:`calibrate` on the pixels of which something is known.

    A slice that is known in part and shows none of the structure there may show it elsewhere: it is left out.

    Args:
        raw: (h, w) raw similarities, one a slice.
        masks: (h, w) bool, the truth on the same grid.
        known: (N, h, w) bool; None where all is known.
        may_be_absent: see there.
    """
    if known is None:
        return calibrate(raw, masks, may_be_absent)
    masks = [mask & sure for mask, sure in zip(masks, known)]
    rows = [i for i, mask in enumerate(masks) if mask.any() or known[i].all()]

    def repeated(array: np.ndarray, row: int) -> np.ndarray:
        # Calibration looks at pixels wherever they are, and weighs slices by their number of pixels: those that are
        # known stand for the others.
        return np.resize(array[known[row]], array.shape)

    return calibrate([repeated(raw[i], i) for i in rows], [repeated(masks[i], i) for i in rows], may_be_absent)


def calibrate_structures(
    structures: Mapping[str, StructurePlan], raw: Sequence[np.ndarray], masks: np.ndarray, known: np.ndarray | None
) -> dict[str, StructureCalibration]:
    """Calibrate every structure; a ``presence_threshold`` of the plan replaces the one that is found.

    Args:
        structures: of the plan.
        raw: (S, h, w) raw similarities of each labelled slice, structures in the plan's order.
        masks: (N, S, h, w) bool, the truth.
        known: (N, h, w) bool, pixels of which something is known; None where all is known.
    """
    found = {}
    for row, (name, plan) in enumerate(structures.items()):
        calibration = calibrate_known([one[row] for one in raw], list(masks[:, row]), known, plan.may_be_absent)
        if plan.presence_threshold is not None:
            calibration = dataclasses.replace(calibration, presence_threshold=plan.presence_threshold)
        found[name] = calibration
        (missed, shown), (false, others) = calibration.presence_missed, calibration.presence_false
        if plan.may_be_absent and not shown:
            log.info("%s is on no labelled slice of this fold: it is never prompted.", name)
        elif plan.may_be_absent:
            log.info("%s counts as present from a score of %.3f; on held-out labelled slices missed on %d of %d, found "
                     "on %d of %d that do not show it.", name, calibration.presence_threshold, missed, shown, false,
                     others)
    return found

"""Where along the axis of a volume each structure lies: presence decided over all slices together.

The labelled volumes are laid beside each other so that what they show coincides; the map of a structure is the share of
them that show it, by position in mm. A new volume is slid along that map until the presence scores of all structures
and all slices agree with it best. That is one number for a volume, so its position grows from slice to slice as the
slices do. Then the map at a slice's position and the slice's own score decide together whether it shows a structure.

A structure may be missing in a patient: an organ that was removed. Then it says nothing about the position, and where
its scores are low all over its place it is on no slice.

Body part regression (Yan et al. 2018, arXiv 1707.03891) learns the position of a slice by itself; where organs are
labelled, their own presence gives it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.special import logit

from samdpo.prompting.calibration import StructureCalibration, platt_scaling

log = logging.getLogger(__name__)

STEP = 2.0  # mm between two positions of the map
_SOFT = 10.0  # mm, standard deviation by which a structure's ends are blurred, and their reach: bodies differ
_MARGIN = 3 * _SOFT  # of the map beyond what the volumes cover
_EVIDENCE = 4.0  # largest log-odds that a slice's own score gives
_DOUBT = 0.3  # volumes of which nothing is known that the map's probabilities count beside the labelled ones
_FREQUENCY = (0.02, 0.98)  # of a structure among the labelled slices, at least and at most
_LEAST_SCORE = 1e-4
_OVERLAP = 0.3  # of the shorter of map and volume that must coincide
_SAME_PLACE = 0.5  # mean Dice, over pairs of volumes, of the positions about a structure that has its place
_REMOVED = 0.05  # share of patients who lack a structure that others have
_MOST = 0.97  # that the map says of a slice, be it of ever so many volumes: a sure score of the slice outweighs it
_ALIKE = 60.0  # mm of slices that count as one where it is asked whether a structure was removed: they err together
_ROUNDS = 3  # of laying the labelled volumes beside each other

Laid = tuple[np.ndarray, float, float]
"""A volume beside others: (K, S) bool, which slices show each of K structures; spacing in mm; mm of its first slice."""


@dataclass(frozen=True)
class AxialPlace:
    """One structure.

    Attributes:
        slope: evidence of a slice = slope * logit(presence score) + bias, log-odds without the structure's frequency.
        bias: see slope.
        shown: probability that a slice shows the structure, one every :data:`STEP` mm.
    """

    slope: float
    bias: float
    shown: list[float]

    def __post_init__(self) -> None:
        if not all(0 < one < 1 for one in self.shown):
            raise ValueError("'shown' must be probabilities between 0 and 1")

    def evidence(self, scores: np.ndarray) -> np.ndarray:
        """Log-odds of presence scores in [0, 1], any shape."""
        return np.clip(self.slope * _log_odds(scores) + self.bias, -_EVIDENCE, _EVIDENCE)


@dataclass(frozen=True)
class AxialMap:
    """Where structures lie along the axis.

    Attributes:
        places: by structure, all on the same positions; the first is 0 mm.
    """

    places: dict[str, AxialPlace]

    def __post_init__(self) -> None:
        lengths = {len(place.shown) for place in self.places.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"'places' hold {sorted(lengths)} positions; expected as many for every structure")

    def position(self, scores: Mapping[str, np.ndarray], spacing: float) -> float:
        """mm on the map of a volume's first slice.

        Args:
            scores: presence scores (S,) in [0, 1] by structure, slices in order.
            spacing: mm between two slices.
        """
        return _slide(self._shown(), self._evidence(scores), spacing)

    def present(self, scores: Mapping[str, np.ndarray], spacing: float) -> dict[str, np.ndarray]:
        """On which slices each structure of the map is: (S,) bool, on none where its scores say that it was removed.

        Arguments as of :meth:`position`.
        """
        evidence, shown = self._evidence(scores), self._shown()
        at = _at(self.position(scores, spacing), evidence.shape[1], spacing, shown.shape[1])
        found = evidence + logit(np.minimum(shown[:, at], _MOST)) > 0
        there = _there(shown[:, at], evidence) * min(1.0, spacing / _ALIKE) + logit(1 - _REMOVED) > 0
        return dict(zip(self.places, found & there[:, None]))

    def _evidence(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.stack([place.evidence(scores[name]) for name, place in self.places.items()])

    def _shown(self) -> np.ndarray:
        return np.array([place.shown for place in self.places.values()])


@dataclass(frozen=True)
class LabelledVolume:
    """A volume of which every slice is labelled all over.

    Attributes:
        scores: (S, K) presence scores of K structures, of towers that have not seen the volume.
        shown: (S, K) bool, whether the label shows them.
        spacing: mm between two slices.
        fold: its fold of the cross-fit.
    """

    scores: np.ndarray
    shown: np.ndarray
    spacing: float
    fold: int


def fit_axial_maps(
    volumes: Sequence[LabelledVolume], calibrations: Mapping[str, StructureCalibration], wanted: Collection[str],
) -> tuple[AxialMap | None, dict[int, AxialMap]]:
    """The map of new volumes, and for the volumes of each fold one of the other folds.

    On the map are structures that have their place in a body: where the volumes are laid beside each other by what they
    show of the others, the positions that show this one overlap. A lesion, which may be anywhere, is left to its score,
    and so is a structure that is the only one.

    Args:
        volumes: labelled ones.
        calibrations: by structure, in the order of the scores.
        wanted: structures that may be on the map; the others are always there, or have a threshold set by hand.

    Returns:
        None and {} where there are fewer than two folds, or fewer than two structures on the map.
    """
    names, folds = list(calibrations), sorted({volume.fold for volume in volumes})
    every = np.concatenate([volume.shown for volume in volumes]) if volumes else np.zeros((0, len(names)), bool)
    rows = [k for k, name in enumerate(names) if name in wanted and every[:, k].any() and not every[:, k].all()]
    if len(folds) < 2 or not rows:
        return None, {}
    while len(rows) > 1:
        overlaps = [_overlap(_laid(volumes, [k for k in rows if k != row]), volumes, row) for row in rows]
        least = int(np.argmin(overlaps))
        if overlaps[least] >= _SAME_PLACE:
            break
        log.info("%s is not at the same place along the axis of the labelled volumes: its presence is decided slice by "
                 "slice.", names[rows.pop(least)])
    if len(rows) < 2:
        return None, {}
    evidence = {names[k]: _scaled(volumes, k) for k in rows}
    full = _map(volumes, rows, evidence)
    held_out = {fold: _map([v for v in volumes if v.fold != fold], rows, evidence) for fold in folds}
    found = [
        held_out[v.fold].present({names[k]: v.scores[:, k] for k in rows}, v.spacing) for v in volumes
    ]
    for k in rows:
        present, shown = np.concatenate([one[names[k]] for one in found]), every[:, k]
        alone = np.concatenate([v.scores[:, k] for v in volumes]) >= calibrations[names[k]].presence_threshold
        log.info(
            "%s over held-out labelled volumes: missed on %d of %d slices, found on %d of %d that do not show it; by "
            "the score of each slice alone %d and %d.", names[k], (~present & shown).sum(), shown.sum(),
            (present & ~shown).sum(), (~shown).sum(), (~alone & shown).sum(), (alone & ~shown).sum(),
        )
    return full, held_out


def _scaled(volumes: Sequence[LabelledVolume], row: int) -> tuple[float, float]:
    """Slope and bias of one structure's evidence."""
    scores = _log_odds(np.concatenate([volume.scores[:, row] for volume in volumes]))
    shown = np.concatenate([volume.shown[:, row] for volume in volumes])
    slope, bias = platt_scaling(scores, shown)
    return slope, bias - float(logit(np.clip(shown.mean(), *_FREQUENCY)))


def _map(
    volumes: Sequence[LabelledVolume], rows: Sequence[int], evidence: Mapping[str, tuple[float, float]]
) -> AxialMap:
    _, curves = _average(_laid(volumes, rows))
    return AxialMap({
        name: AxialPlace(*scaled, shown=np.round(curve, 4).tolist())
        for (name, scaled), curve in zip(evidence.items(), curves)
    })


def _laid(volumes: Sequence[LabelledVolume], rows: Sequence[int]) -> list[Laid]:
    """The volumes beside each other, in their order, by what they show of some structures."""
    laid: dict[int, Laid] = {}
    for _ in range(_ROUNDS):
        for i in sorted(range(len(volumes)), key=lambda i: -len(volumes[i].shown) * volumes[i].spacing):
            shown, start = volumes[i].shown[:, rows].T, 0.0
            if others := [laid[j] for j in sorted(laid) if j != i]:
                first, curves = _average(others)
                start = first + _slide(curves, _EVIDENCE * (2.0 * shown - 1), volumes[i].spacing)
            laid[i] = shown, volumes[i].spacing, start
    return [laid[i] for i in range(len(volumes))]


def _average(laid: Sequence[Laid]) -> tuple[float, np.ndarray]:
    """mm of the first position of a map of some volumes, and its probabilities (K, U).

    Beyond a volume's ends a structure that its last slice shows may go on or not; any other is not there.
    """
    places = _positions(laid)
    curves = []
    for volume in laid:
        shown, inside = _on(places, volume)
        curves.append(gaussian_filter1d(np.where(inside, 1.0, 0.5) * shown, _SOFT / STEP, axis=1, mode="nearest"))
    return float(places[0]), (np.sum(curves, axis=0) + 0.5 * _DOUBT) / (len(laid) + _DOUBT)


def _overlap(laid: Sequence[Laid], volumes: Sequence[LabelledVolume], row: int) -> float:
    """Mean Dice of the positions about a structure, over pairs of volumes that show it; 0 without a pair."""
    places, reach, found = _positions(laid), 2 * round(_SOFT / STEP) + 1, []
    shown = [np.logical_and(*_on(places, (volume.shown[:, [row]].T, spacing, start)))[0]
             for volume, (_, spacing, start) in zip(volumes, laid)]
    shown = [maximum_filter1d(one, reach) for one in shown if one.any()]
    for i, one in enumerate(shown):
        found += [2 * float((one & other).sum() / (one.sum() + other.sum())) for other in shown[:i]]
    return float(np.mean(found)) if found else 0.0


def _positions(laid: Sequence[Laid]) -> np.ndarray:
    """mm of the positions of a map of some volumes."""
    first = min(start for _, _, start in laid) - _MARGIN
    last = max(start + (shown.shape[1] - 1) * spacing for shown, spacing, start in laid) + _MARGIN
    return np.arange(first, last + STEP, STEP)


def _on(places: np.ndarray, volume: Laid) -> tuple[np.ndarray, np.ndarray]:
    """What a volume shows at some positions (K, U), its end slices beyond its ends, and which lie in it (U,)."""
    shown, spacing, start = volume
    index = np.rint((places - start) / spacing).astype(int)
    return shown[:, np.clip(index, 0, shown.shape[1] - 1)], (index >= 0) & (index < shown.shape[1])


def _slide(shown: np.ndarray, evidence: np.ndarray, spacing: float) -> float:
    """mm on a map (K, U) at which a volume's first slice lies, whose evidence (K, S) the map then agrees with best.

    A structure that the evidence does not show anywhere may have been removed, so it cannot push the volume off the map
    to where there is nothing.
    """
    n_slices, places = evidence.shape[1], shown.shape[1]
    length, whole = (n_slices - 1) * spacing, (places - 1) * STEP
    least = _OVERLAP * min(length, whole)
    starts = np.arange(least - length, whole - least + STEP, STEP)
    there = np.array([_there(shown[:, _at(start, n_slices, spacing, places)], evidence) for start in starts])
    return float(starts[int(np.argmax(np.logaddexp(np.log(_REMOVED), np.log(1 - _REMOVED) + there).sum(1)))])


def _there(shown: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """(K,) log-odds that structures are there as a map (K, S) of the slices says, against their not being there at all.

    Slices count as independent of each other.
    """
    return np.log1p(shown * np.expm1(evidence)).sum(1)


def _at(start: float, n_slices: int, spacing: float, places: int) -> np.ndarray:
    """(S,) index on the map of each slice of a volume whose first one lies at ``start`` mm."""
    index = np.rint((start + spacing * np.arange(n_slices)) / STEP).astype(int)
    return np.clip(index, 0, places - 1)


def _log_odds(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores, _LEAST_SCORE, 1 - _LEAST_SCORE))

"""All structures of a plan calibrated, and what was chosen for their presence said in the log."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from samdpo.plans import StructurePlan
from samdpo.prompting.calibration import StructureCalibration
from samdpo.prompting.partly_known import calibrate_known

log = logging.getLogger(__name__)


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

"""Fit the towers to the labelled part, cross-fitted so that labelled slices get prompts as imperfect as new ones.

With K >= 2 groups among the labelled cases, the cases of each fold are prompted by towers that have not seen their
group; with one group there is nothing to hold out: its own prompts then come from towers that have seen it and are
better than those of new slices, which the log says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as functional

from samdpo.errors import TrainingError
from samdpo.plans import Plans, StructurePlan
from samdpo.prompting.calibration import StructureCalibration, calibrate
from samdpo.prompting.features import FeatureExtractor, resolve_device
from samdpo.prompting.phrases import BACKGROUND_PHRASES, structure_phrases
from samdpo.prompting.prompter import Prompter, PrompterSettings
from samdpo.prompting.saliency import SALIENCY_SIZE
from samdpo.prompting.text_encoder import shared_text_encoder
from samdpo.prompting.towers import TowerTexts, fit_towers

if TYPE_CHECKING:
    from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)

MAX_SLICES = 128  # slices a tower is fitted to; their pixels with context take 6 MiB each
_CAM_SLICES = 8  # slices gScoreCAM is calibrated on: it runs the encoder once a channel
_SEED = 12345

Features = Callable[[str, int], torch.Tensor]
"""(case, slice) -> (C, h, w) features of the frozen encoder."""


@dataclass(frozen=True)
class FittedPrompters:
    """The result of a fit.

    Attributes:
        full: fitted to every labelled case; for new slices.
        held_out: labelled case -> prompter that has not seen the case's group.
    """

    full: Prompter
    held_out: Mapping[str, Prompter]

    def for_case(self, case: str) -> Prompter:
        """The prompter that may prompt ``case``: labelled cases get the one that has not seen them."""
        return self.held_out.get(case, self.full)


def fit_prompter(
    plans: Plans,
    store: SliceStore,
    labelled: Sequence[str],
    features: Features,
    groups: Mapping[str, str] | None = None,
    extractor: FeatureExtractor | None = None,
    device: torch.device | str = "cpu",
    seed: int = _SEED,
) -> FittedPrompters:
    """Fit and calibrate.

    Args:
        plans: the plan.
        store: slices and labels.
        labelled: cases whose labels may be looked at.
        features: frozen features of a slice, on any device.
        groups: case -> patient; cases of one patient are held out together. Default: each case its own.
        extractor: frozen encoder that the prompters share; they make their own if None.
        device: where the towers are fitted.
        seed: of folds, weights and pixels.

    Raises:
        TrainingError: no labelled case, or no structure is drawn in any of them.
    """
    if not labelled:
        raise TrainingError(
            f"{plans.dataset_name} has no labelled case in this fold, so the prompts cannot be fitted. "
            "Add labels under labelsTr, or raise --labelled."
        )
    device = resolve_device(device)
    drawn = _choose_slices(store, labelled, seed)
    tensor = torch.stack([features(case, index).to(device) for case, index in drawn]).half()
    full_labels = np.stack([np.asarray(store.label(case, index), np.int64) for case, index in drawn])
    truth = _structure_shares(full_labels, plans.structures, tuple(tensor.shape[-2:]))
    target = _targets(truth).to(device)
    if not bool((target > 0).any()):
        raise TrainingError(
            f"None of the {len(labelled)} labelled cases of {plans.dataset_name} shows one of "
            f"{', '.join(plans.structures)}, so there is nothing to fit the prompts to. Check labelsTr."
        )
    texts = _embed_phrases(plans.structures, device)
    settings = PrompterSettings(plans.structures, plans.prompting, plans.network, {}, tensor.shape[1])

    def fit(rows: np.ndarray, number: int) -> Prompter:
        index = torch.from_numpy(rows)
        towers = fit_towers(
            tensor[index],
            target[index],
            texts,
            dim=plans.prompting.tower_dim,
            steps=plans.prompting.tower_steps,
            lr=plans.prompting.tower_lr,
            seed=seed + number,
        )
        return Prompter(settings, towers, texts, extractor, device)

    fold_of = cross_fit_folds(labelled, groups or {}, plans.prompting.cross_fit_folds, seed)
    fold_of_slice = np.array([fold_of[case] for case, _ in drawn])
    full = fit(np.arange(len(drawn)), 0)
    partial: dict[int, Prompter] = {}
    for number in sorted(set(fold_of.values())):
        rows = np.nonzero(fold_of_slice != number)[0]
        if len(set(fold_of.values())) == 1 or not bool((target[torch.from_numpy(rows)] > 0).any()):
            log.warning(
                "Only one group of %s has labels, so its own prompts come from towers that have seen it and are "
                "better than those of new images. Label a second patient if you can.",
                plans.dataset_name,
            )
            partial[number] = full
        else:
            partial[number] = fit(rows, number + 1)
    calibrations = _calibrate(plans, store, drawn, tensor, full_labels, fold_of_slice, partial)

    def calibrated(prompter: Prompter) -> Prompter:
        return Prompter(
            replace(settings, calibrations=calibrations), prompter.towers, texts, extractor, device
        )

    done = {number: calibrated(prompter) for number, prompter in partial.items()}
    return FittedPrompters(calibrated(full), {case: done[number] for case, number in fold_of.items()})


def cross_fit_folds(cases: Sequence[str], groups: Mapping[str, str], n_folds: int, seed: int) -> dict[str, int]:
    """Case -> fold. Groups stay together; the largest groups are dealt first, each to the smallest fold."""
    members: dict[str, list[str]] = {}
    for case in sorted(cases):
        members.setdefault(groups.get(case, case), []).append(case)
    names = sorted(members)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -len(members[name]))
    n_folds = max(1, min(n_folds, len(names)))
    sizes = [0] * n_folds
    fold_of = {}
    for name in names:
        smallest = int(np.argmin(sizes))
        sizes[smallest] += len(members[name])
        fold_of |= dict.fromkeys(members[name], smallest)
    return fold_of


def _choose_slices(store: SliceStore, cases: Sequence[str], seed: int) -> list[tuple[str, int]]:
    """Labelled slices, at most ``MAX_SLICES``; evenly by case, so that no volume crowds out the others."""
    generator = np.random.default_rng(seed)
    share = max(1, MAX_SLICES // len(cases))
    chosen = []
    for case in sorted(cases):
        indices = [i for i in range(store.slices(case)) if store.label(case, i) is not None]
        generator.shuffle(indices)
        chosen += [(case, index) for index in sorted(indices[:share])]
    if len(chosen) > MAX_SLICES:
        keep = sorted(generator.choice(len(chosen), MAX_SLICES, replace=False))
        log.info("The towers are fitted to %d of %d labelled slices.", MAX_SLICES, len(chosen))
        chosen = [chosen[index] for index in keep]
    return chosen


def _structure_shares(
    labels: np.ndarray, structures: Mapping[str, StructurePlan], size: tuple[int, int]
) -> torch.Tensor:
    """(N, H, W) labels -> (N, S, h, w) share of each feature pixel that a structure covers."""
    one_hot = torch.from_numpy(np.stack([labels == plan.label for plan in structures.values()], axis=1))
    return functional.adaptive_avg_pool2d(one_hot.float(), size)


def _targets(shares: torch.Tensor) -> torch.Tensor:
    """(N, S, h, w) shares -> (N, h, w) long: 0 background, s + 1 a structure, -1 a mixed border pixel."""
    value, structure = shares.max(1)
    target = torch.where(value >= 0.5, structure + 1, torch.zeros_like(structure))
    return torch.where((value > 0.25) & (value < 0.5), torch.full_like(structure, -1), target)


def _embed_phrases(structures: Mapping[str, StructurePlan], device: torch.device | str) -> TowerTexts:
    def embed(phrases: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(shared_text_encoder().encode(phrases)).to(device)

    return TowerTexts(
        [embed(structure_phrases(plan.phrase or name)) for name, plan in structures.items()],
        embed(BACKGROUND_PHRASES),
    )


def _calibrate(
    plans: Plans,
    store: SliceStore,
    drawn: Sequence[tuple[str, int]],
    tensor: torch.Tensor,
    labels: np.ndarray,
    fold_of_slice: np.ndarray,
    partial: Mapping[int, Prompter],
) -> dict[str, StructureCalibration]:
    rows = range(len(drawn)) if plans.prompting.saliency == "similarity" else range(min(_CAM_SLICES, len(drawn)))
    raw = [
        partial[fold_of_slice[row]].raw_saliency(store.image(*drawn[row]), tensor[row]) for row in rows
    ]
    masks = (_structure_shares(labels[list(rows)], plans.structures, SALIENCY_SIZE) >= 0.5).numpy()
    return {
        name: calibrate([one[s] for one in raw], list(masks[:, s]), plan.may_be_absent)
        for s, (name, plan) in enumerate(plans.structures.items())
    }

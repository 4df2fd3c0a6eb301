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
from samdpo.files import hash_of
from samdpo.networks.device import resolve_device
from samdpo.planning.subsets import cases_by_group
from samdpo.plans import Plans, StructurePlan
from samdpo.preprocessing.store import IGNORED, SliceKey
from samdpo.prompting.axial import AxialMap, LabelledVolume, fit_axial_maps
from samdpo.prompting.calibration import (
    StructureCalibration,
    calibrate_structures,
    coarse_truth,
    presence_scores,
)
from samdpo.prompting.descriptions import with_descriptions
from samdpo.prompting.frozen_features import FeatureExtractor
from samdpo.prompting.lite_model import LiteTowersModel
from samdpo.prompting.prompter import Prompter, PrompterSettings
from samdpo.prompting.saliency import SALIENCY_SIZE
from samdpo.prompting.text_encoder import shared_text_encoder
from samdpo.prompting.towers import TowerTexts, fit_towers, resize_maps, tower_size

if TYPE_CHECKING:
    from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)

MAX_SLICES = 128  # slices a tower is fitted to; each takes 5 MiB with its mirror image
MAX_VOLUMES = 16  # laid beside each other; all their slices are looked at once more
_CAM_SLICES = 8  # slices gScoreCAM is calibrated on: it runs the encoder once a channel
_SEED = 12345

Features = Callable[..., torch.Tensor]
"""(case, slice, mirrored=False) -> (C, h, w) features of the frozen encoder, of the left-right mirror image if so."""

Labels = Callable[[str, int], "np.ndarray | None"]
"""(case, slice) -> (H, W) label ids; None where nothing is known of the slice."""

BACKGROUND_PHRASES = (
    "background",
    "nothing of interest",
    "surrounding normal tissue",
    "empty space outside the body",
    "the border of the image",
    "another part of the body",
)
"""What a pixel outside every structure may be called."""

_TEMPLATES = ("{phrase}", "the {phrase}", "an image of the {phrase}", "{phrase} in a medical image")


@dataclass(frozen=True)
class FittedPrompters:
    """The result of a fit.

    Attributes:
        full: fitted to every labelled case; for new slices.
        held_out: labelled case -> prompter that has not seen the case's group, and likewise other cases of its group
            that are learned from; of a pretrained model, which has seen none, only where presence is decided over
            volumes.
        saliency: (case, slice) -> raw saliency (S, 64, 64) of a pretrained model, kept for fold after fold; None for
            fitted towers, of which each fold has its own.
    """

    full: Prompter
    held_out: Mapping[str, Prompter]
    saliency: Callable[[str, int], np.ndarray] | None = None

    def for_case(self, case: str) -> Prompter:
        """The prompter that may prompt ``case``: labelled cases get the one that has not seen them."""
        return self.held_out.get(case, self.full)

    def beside(self, patients: Mapping[str, str]) -> FittedPrompters:
        """The same; other cases get the prompter of a labelled case of their patient, see :func:`of_labelled_patients`.

        Args:
            patients: such case -> a labelled case of its patient.
        """
        theirs = {case: self.held_out[known] for case, known in patients.items() if known in self.held_out}
        return replace(self, held_out={**theirs, **self.held_out})


def fit_prompter(
    plans: Plans,
    store: SliceStore,
    labelled: Sequence[str],
    features: Features,
    groups: Mapping[str, str] | None = None,
    extractor: FeatureExtractor | None = None,
    device: torch.device | str = "cpu",
    seed: int = _SEED,
    labels: Labels | None = None,
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
        labels: what the slices of ``labelled`` show; the store's labels by default.

    Raises:
        TrainingError: no labelled case, or no structure is drawn in any of them.
    """
    require_labelled(plans, labelled)
    device, plans = resolve_device(device), with_descriptions(plans)
    labels = labels or store.label
    drawn = choose_slices(store, labelled, labels, seed)
    require_shown(plans, labelled, bool(drawn))
    slices = _LabelledSlices.read(store, drawn, features, labels, plans, device)
    require_shown(plans, labelled, bool((slices.shares > 0).any()))
    texts = _embed_phrases(plans.structures, device)
    settings = PrompterSettings(plans.structures, plans.prompting, plans.network, {}, slices.features.shape[1])
    encode = extractor or FeatureExtractor(plans.network, device)

    def fit(rows: np.ndarray, number: int) -> Prompter:
        towers = fit_towers(
            *slices.of(rows),
            texts,
            dim=plans.prompting.tower_dim,
            steps=plans.prompting.tower_steps,
            lr=plans.prompting.tower_lr,
            seed=seed + number,
            known=slices.known_of(rows),
            grid=plans.prompting.tower_grid,
            batch_size=plans.prompting.tower_batch_size,
        )
        return Prompter(settings, LiteTowersModel(towers.to(device), texts, encode), device)

    fold_of = cross_fit_folds(labelled, groups or {}, plans.prompting.cross_fit_folds, seed)
    fold_of_slice = np.array([fold_of[case] for case, _ in drawn])
    full = fit(np.arange(len(drawn)), 0)
    partial: dict[int, Prompter] = {}
    for number in sorted(set(fold_of.values())):
        rows = np.nonzero(fold_of_slice != number)[0]
        if len(set(fold_of.values())) == 1 or not bool((slices.shares[rows] > 0).any()):
            log.warning(
                "Only one group of %s has labels, so its own prompts come from towers that have seen it and are "
                "better than those of new images. Label a second patient if you can.",
                plans.dataset_name,
            )
            partial[number] = full
        else:
            partial[number] = fit(rows, number + 1)
    calibrations = _calibrate(plans, slices, fold_of_slice, partial)
    of_all, of_others = axial_maps(
        plans, store, fold_of, calibrations, labels,
        lambda case, index: partial[fold_of[case]].raw_saliency(store.image(case, index), features(case, index)), seed,
    )

    def calibrated(prompter: Prompter, axial: AxialMap | None) -> Prompter:
        return Prompter(replace(settings, calibrations=calibrations, axial=axial), prompter.model, device)

    done = {number: calibrated(prompter, of_others.get(number)) for number, prompter in partial.items()}
    return FittedPrompters(calibrated(full, of_all), {case: done[number] for case, number in fold_of.items()})


def axial_maps(
    plans: Plans,
    store: SliceStore,
    fold_of: Mapping[str, int],
    calibrations: Mapping[str, StructureCalibration],
    labels: Labels,
    raw: Callable[[str, int], np.ndarray],
    seed: int = _SEED,
) -> tuple[AxialMap | None, dict[int, AxialMap]]:
    """Where structures lie along the axis of the labelled volumes, where the plan decides presence over volumes.

    Args:
        plans: the plan.
        store: slices.
        fold_of: labelled case -> fold of the cross-fit.
        calibrations: by structure.
        labels: what the slices show.
        raw: (case, slice) -> raw saliency (S, 64, 64) of a model that has not seen the case.
        seed: of the choice of at most :data:`MAX_VOLUMES` volumes.

    Returns:
        As of :func:`~samdpo.prompting.axial.fit_axial_maps`; of a volume that is not labelled all over nothing is
        taken.
    """
    if plans.prompting.presence != "volume":
        return None, {}
    known: dict[str, np.ndarray] = {}
    cases = sorted(fold_of)
    np.random.default_rng(seed).shuffle(cases)
    for case in cases:
        if len(known) == MAX_VOLUMES:
            break
        drawn = [labels(case, index) for index in range(store.slices(case))]
        if len(drawn) > 1 and all(label is not None and (np.asarray(label) != IGNORED).all() for label in drawn):
            known[case] = np.array([[(label == s.label).any() for s in plans.structures.values()] for label in drawn])
    volumes = []
    for case, shown in known.items():
        of_slices = [raw(case, index).astype(np.float16) for index in range(len(shown))]
        scores = presence_scores(plans.structures, calibrations, of_slices)
        volumes.append(LabelledVolume(scores, shown, store.slice_spacing(case), fold_of[case]))
    wanted = [n for n, s in plans.structures.items() if s.may_be_absent and s.presence_threshold is None]
    found = fit_axial_maps(volumes, calibrations, wanted)
    if found[0] is None:
        log.info("Presence is decided slice by slice: of %d labelled volumes %d are labelled all over, of %d groups, "
                 "and two groups with structures at the same place are needed.", len(fold_of), len(volumes),
                 len({volume.fold for volume in volumes}))
    return found


def require_labelled(plans: Plans, labelled: Sequence[str]) -> None:
    """Raises TrainingError where there is no labelled case."""
    if not labelled:
        raise TrainingError(
            f"{plans.dataset_name} has no labelled case in this fold, so the prompts cannot be fitted. "
            "Add labels under labelsTr, or raise --labelled."
        )


def require_shown(plans: Plans, labelled: Sequence[str], shown: bool) -> None:
    """Raises TrainingError where no structure is drawn in the labelled cases."""
    if not shown:
        raise TrainingError(
            f"None of the {len(labelled)} labelled cases of {plans.dataset_name} shows one of "
            f"{', '.join(plans.structures)}, so there is nothing to fit the prompts to. Check labelsTr."
        )


def structure_phrases(phrase: str) -> list[str]:
    """Wordings of one structure's phrase; the first is the phrase itself."""
    return [template.format(phrase=phrase) for template in _TEMPLATES]



def cross_fit_folds(cases: Sequence[str], groups: Mapping[str, str], n_folds: int, seed: int) -> dict[str, int]:
    """Case -> fold. Groups stay together; the largest groups are dealt first, each to the smallest fold."""
    members = cases_by_group(cases, groups)
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


def of_labelled_patients(
    labelled: Sequence[str], unlabelled: Sequence[str], groups: Mapping[str, str]
) -> dict[str, str]:
    """Unlabelled case -> a labelled case of the same group, of those that have one.

    What was fitted to the patient's labels knows such a case better than it knows a new image.
    """
    known = {groups.get(case, case): case for case in sorted(labelled)}
    found = {case: known.get(groups.get(case, case)) for case in set(unlabelled) - set(labelled)}
    return {case: one for case, one in found.items() if one is not None}


def prompted_as(store: SliceStore, case: str, patients: Mapping[str, str], groups: Mapping[str, str]) -> str:
    """Of what a case's own prompts are: of its image, and of its patient where it has a labelled one.

    Args:
        store: slices.
        case: identifier.
        patients: of :func:`of_labelled_patients`.
        groups: case -> patient.
    """
    image = store.hash_of_case(case)
    return hash_of(image, groups.get(case, case)) if image and case in patients else image


def choose_slices(store: SliceStore, cases: Sequence[str], labels: Labels, seed: int) -> list[SliceKey]:
    """Labelled slices, at most ``MAX_SLICES``; evenly by case, so that no volume crowds out the others."""
    generator = np.random.default_rng(seed)
    share = max(1, MAX_SLICES // len(cases))
    chosen = []
    for case in sorted(cases):
        indices = [i for i in range(store.slices(case)) if anything_known(labels(case, i))]
        generator.shuffle(indices)
        chosen += [(case, index) for index in sorted(indices[:share])]
    if len(chosen) > MAX_SLICES:
        keep = sorted(generator.choice(len(chosen), MAX_SLICES, replace=False))
        log.info("The prompts are fitted to %d of %d labelled slices.", MAX_SLICES, len(chosen))
        chosen = [chosen[index] for index in keep]
    return chosen


@dataclass(frozen=True)
class _LabelledSlices:
    """What the towers are fitted to: features (N, C, h, w) float16, images (N, 3, h', w') in [0, 1], shares
    (N, S, h'', w'') of each pixel of the towers' grid that a structure covers; features of the mirror images where the
    plan mirrors."""

    features: torch.Tensor
    mirrored: torch.Tensor | None
    images: torch.Tensor
    shares: torch.Tensor
    known: torch.Tensor | None = None  # (N, h'', w'') share of each such pixel of which the label says anything

    @classmethod
    def read(
        cls,
        store: SliceStore,
        drawn: Sequence[SliceKey],
        features: Features,
        labels: Labels,
        plans: Plans,
        device: torch.device,
    ) -> _LabelledSlices:
        """Read slices, labels and features."""
        tensor, mirrored = torch.stack([features(case, index).to(device) for case, index in drawn]).half(), None
        if plans.prompting.mirror:
            mirrored = torch.stack([features(case, index, mirrored=True).to(device) for case, index in drawn]).half()
        images = torch.from_numpy(np.stack([store.image(case, index) for case, index in drawn])).float()
        size = tower_size(tensor.shape[-2:], plans.prompting.tower_grid)
        drawings = [np.asarray(labels(case, index)) for case, index in drawn]
        shares = torch.stack([structure_shares(drawing, plans.structures, size) for drawing in drawings])
        known = known_shares(drawings, size)
        return cls(tensor, mirrored, images.to(device), shares.to(device), None if known is None else known.to(device))

    def of(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, images and shares of some rows, and of their mirror images where the plan mirrors."""
        if self.mirrored is None:
            return self.features[rows], self.images[rows], self.shares[rows]
        return (
            torch.cat([self.features[rows], self.mirrored[rows]]),
            torch.cat([self.images[rows], self.images[rows].flip(-1)]),
            torch.cat([self.shares[rows], self.shares[rows].flip(-1)]),
        )

    def known_of(self, rows: np.ndarray) -> torch.Tensor | None:
        """What is known of the slices of :meth:`of`; None where everything is."""
        if self.known is None or self.mirrored is None:
            return None if self.known is None else self.known[rows]
        return torch.cat([self.known[rows], self.known[rows].flip(-1)])


def structure_shares(
    label: np.ndarray, structures: Mapping[str, StructurePlan], size: tuple[int, int]
) -> torch.Tensor:
    """(H, W) label -> (S, h, w) share of each feature pixel that a structure covers."""
    one_hot = torch.from_numpy(np.stack([label == plan.label for plan in structures.values()]))
    return functional.adaptive_avg_pool2d(one_hot.float(), size)


def anything_known(label: np.ndarray | None) -> bool:
    """Whether a label (H, W) says something of at least one pixel."""
    return label is not None and bool((np.asarray(label) != IGNORED).any())


def known_shares(labels: Sequence[np.ndarray], size: tuple[int, int]) -> torch.Tensor | None:
    """Share of each feature pixel of which something is known: (N, h, w) of labels (H, W); None where all is known."""
    known = [np.asarray(label) != IGNORED for label in labels]
    if all(one.all() for one in known):
        return None
    return functional.adaptive_avg_pool2d(torch.from_numpy(np.stack(known)).float(), size)


def _embed_phrases(structures: Mapping[str, StructurePlan], device: torch.device | str) -> TowerTexts:
    def embed(phrases: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(shared_text_encoder().encode(phrases)).to(device)

    return TowerTexts(
        [embed(structure_phrases(plan.phrase or name)) for name, plan in structures.items()],
        embed(BACKGROUND_PHRASES),
    )


def _calibrate(
    plans: Plans, slices: _LabelledSlices, fold_of_slice: np.ndarray, partial: Mapping[int, Prompter]
) -> dict[str, StructureCalibration]:
    """Calibrate each structure on what the held-out prompters see of the labelled slices."""
    count = len(slices.images)
    if plans.prompting.saliency != "similarity":
        count = min(_CAM_SLICES, count)
    raw = [
        partial[fold_of_slice[row]].raw_saliency(slices.images[row].cpu().numpy(), slices.features[row])
        for row in range(count)
    ]
    masks = coarse_truth(resize_maps(slices.shares[:count].cpu(), SALIENCY_SIZE).numpy())
    known = None
    if slices.known is not None:
        known = (resize_maps(slices.known[:count, None].cpu(), SALIENCY_SIZE)[:, 0] >= 0.5).numpy()
    return calibrate_structures(plans.structures, raw, masks, known)

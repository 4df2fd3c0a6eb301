"""A pretrained image-text model in place of fitted towers: the labelled part only calibrates what its saliency means.

Nothing is learned but slope, bias, cut, least area and presence threshold of each structure, so there is nothing to
hold out: every case is prompted by the same model. Its saliency is the same in every fold and is kept on disk. Only the
map by which presence is decided over a volume is learned from whole patients, and is held out by patient.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from samdpo.errors import PlansError
from samdpo.files import hash_of
from samdpo.networks.device import resolve_device
from samdpo.networks.embedding_store import EmbeddingStore
from samdpo.plans import Plans
from samdpo.prompting.axial import AxialMap
from samdpo.prompting.calibration import calibrate_structures, coarse_truth
from samdpo.prompting.fitting import (
    FittedPrompters,
    axial_maps,
    choose_slices,
    cross_fit_folds,
    known_shares,
    require_labelled,
    require_shown,
    structure_shares,
)
from samdpo.prompting.open_clip_files import OpenClipFiles, find_open_clip
from samdpo.prompting.open_clip_loading import shared_open_clip
from samdpo.prompting.open_clip_model import OpenClipModel
from samdpo.prompting.prompter import Prompter, PrompterSettings
from samdpo.prompting.saliency import SALIENCY_SIZE
from samdpo.prompting.text_encoder import TEXT_DIM
from samdpo.schema import as_before

if TYPE_CHECKING:
    from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)

_SEED = 12345


class SliceSaliency:
    """Raw saliency of the slices of a store by a pretrained model, computed once.

    Args:
        store: preprocessed slices.
        prompter: whose model and phrases it is of.
        key: of the store's slices and of all that the saliency depends on.
        folder: of the arrays; other arrays in it are dropped.
    """

    def __init__(self, store: SliceStore, prompter: Prompter, key: str, folder: Path) -> None:
        self.store, self.prompter, self._kept = store, prompter, EmbeddingStore(folder, key)

    def __call__(self, case: str, index: int) -> np.ndarray:
        """(S, 64, 64) float32, structures in the plan's order."""
        # The case's own hash: a replaced image must not find the saliency of the old one.
        name = (case, index, self.prompter.device.type, self.store.hash_of_case(case))
        if (kept := self._kept.find(name)) is None:
            self._kept.put(*name, self.prompter.raw_saliency(self.store.image(case, index)))
            kept = self._kept.find(name)
        return kept.astype(np.float32)


def calibrated_prompter(
    plans: Plans, store: SliceStore, labelled: Sequence[str], groups: Mapping[str, str], folder: Path,
    device: torch.device | str = "cpu",
) -> FittedPrompters:
    """Calibrate the plan's pretrained image-text model on the labelled part.

    Args:
        plans: the plan, descriptions filled in.
        store: slices and labels.
        labelled: cases whose labels may be looked at.
        groups: case -> patient, as of :func:`~samdpo.prompting.fitting.fit_prompter`.
        folder: where the saliency of slices is kept.
        device: where the model runs.

    Raises:
        TrainingError: no labelled case, or no structure is drawn in any of them.
        ConfigurationError: the model is not on this machine and cannot be downloaded.
    """
    require_labelled(plans, labelled)
    drawn = choose_slices(store, labelled, store.label, _SEED)
    labels = [np.asarray(store.label(case, index)) for case, index in drawn]
    masks = [coarse_truth(structure_shares(label, plans.structures, SALIENCY_SIZE).numpy()) for label in labels]
    shares = known_shares(labels, SALIENCY_SIZE) if labels else None
    known = None if shares is None else (shares >= 0.5).numpy()
    require_shown(plans, labelled, any(mask.any() for mask in masks))
    files = find_open_clip(plans.prompting.image_text_model)
    device = resolve_device(device)
    model = OpenClipModel(functools.partial(shared_open_clip, files.name, str(device), files.checksum))
    prompting = replace(plans.prompting, image_text_model=files.name)  # a folder's absolute path
    settings = PrompterSettings(plans.structures, prompting, plans.network, image_text_checksum=files.checksum)
    saliency = SliceSaliency(store, Prompter(settings, model, device), saliency_key(plans, files), folder)
    started = time.perf_counter()
    raw = [saliency(case, index) for case, index in tqdm(drawn, desc="Saliency")]
    log.info("Saliency of %d labelled slices: %.0f s.", len(drawn), time.perf_counter() - started)
    calibrations = calibrate_structures(plans.structures, raw, np.stack(masks), known)
    fold_of = cross_fit_folds(labelled, groups, len(labelled), _SEED)  # a map costs little: each patient has its own
    of_all, of_others = axial_maps(plans, store, fold_of, calibrations, store.label, saliency)

    def calibrated(axial: AxialMap | None) -> Prompter:
        return Prompter(replace(settings, calibrations=calibrations, axial=axial), model, device)

    held_out = {case: calibrated(of_others[number]) for case, number in fold_of.items() if number in of_others}
    return FittedPrompters(calibrated(of_all), held_out, saliency)


def kept_saliency(plans: Plans, store: SliceStore, prompter: Prompter, folder: Path) -> SliceSaliency:
    """The kept saliency of the plan's model by a prompter that was loaded from its folder."""
    files = find_open_clip(plans.prompting.image_text_model)
    return SliceSaliency(store, prompter, saliency_key(plans, files), folder)


def saliency_key(plans: Plans, files: OpenClipFiles) -> str:
    """Names all that the raw saliency of a slice depends on, the slice's own content apart."""
    phrases = [plan.phrase or name for name, plan in plans.structures.items()]
    prompting = plans.prompting
    return hash_of(1, files.checksum, phrases, prompting.saliency, prompting.gscorecam_top_k,
                   as_before(plans.preprocessing, "neighbours"))


def pretrained_checksum(plans: Plans) -> str:
    """SHA-256 of the pretrained image-text model's weights, part of the prompts' key; empty for fitted towers."""
    return "" if plans.prompting.fits_towers else find_open_clip(plans.prompting.image_text_model).checksum


def check_text_dim(plans: Plans) -> None:
    """Raises PlansError where ``network.text_dim`` is not the length of the text encoder's embeddings."""
    prompting, expected = plans.prompting, TEXT_DIM
    if prompting.text_encoder == "image_text_model":
        expected = find_open_clip(prompting.image_text_model).embed_dim
    if plans.network.text_dim != expected:
        raise PlansError(
            f"'network.text_dim' is {plans.network.text_dim}, but 'prompting.text_encoder' {prompting.text_encoder} of "
            f"'prompting.image_text_model' {prompting.image_text_model} gives {expected} numbers. Set "
            f"'network.text_dim' to {expected}."
        )

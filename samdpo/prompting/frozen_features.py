"""Features of the frozen, pretrained image encoder: computed in batches, kept as float16 for fold after fold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from samdpo.files import hash_of
from samdpo.networks.device import resolve_device
from samdpo.networks.embedding_store import EmbeddingStore
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.precision import memory_format, resolve_precision
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.paths import preprocessed_folder
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan
from samdpo.schema import as_before

if TYPE_CHECKING:
    from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)


def frozen_key(plan: NetworkPlan) -> str:
    """Hash of all that the published encoder's output depends on, the image apart."""
    return hash_of("frozen features", 2, plan.backbone, plan.pretrained, plan.input_size, plan.adapters)


class FeatureExtractor:
    """The image encoder of the plan's backbone as it was published: never trained, never changed.

    Args:
        plan: names the backbone.
        device: where it runs.
        batch_size: slices that it sees at once.
    """

    def __init__(self, plan: NetworkPlan, device: torch.device | str = "cpu", batch_size: int = 4) -> None:
        self.plan, self.device, self.batch_size = plan, resolve_device(device), batch_size
        self.precision = resolve_precision("auto", self.device)
        self._encoder: FrozenEncoder | None = None

    @property
    def key(self) -> str:
        """Names the weights: features under another key are not these."""
        return frozen_key(self.plan)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Encode.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            (B, C, h, w) float16 on the extractor's device.
        """
        if self._encoder is None:
            self._encoder = FrozenEncoder(self.network, self.device, self.precision)
        return torch.cat([self._encoder(part.float()).half() for part in images.split(self.batch_size)])

    @cached_property
    def network(self) -> SamNetwork:
        """The whole network as it was published, on the device, in eval mode."""
        network = build_network(self.plan).to(self.device).eval().requires_grad_(False)
        network.image_encoder.to(memory_format=memory_format(self.device))
        return network


class SliceFeatures:
    """Features of the slices of a store, computed once.

    Args:
        store: preprocessed slices.
        extractor: frozen encoder.
        preprocessing: the plan that made the slices; part of the cache's key.
        folder: of the cache; None keeps nothing on disk.
        kept_gib: of disk that the cache may take; None for any number.
    """

    def __init__(
        self,
        store: SliceStore,
        extractor: FeatureExtractor,
        preprocessing: PreprocessingPlan,
        folder: Path | None,
        kept_gib: float | None = None,
    ) -> None:
        self.store, self.extractor = store, extractor
        self._cache, self._full = None, False
        if folder is not None:
            key = hash_of(extractor.key, as_before(preprocessing, "neighbours"))
            self._cache = EmbeddingStore(folder, key, kept_gib)

    def __call__(self, case: str, index: int, mirrored: bool = False) -> torch.Tensor:
        """(C, h, w) float16 features of one slice, or of its left-right mirror image."""
        kept = self._cache.find(self._name(case, index, mirrored)) if self._cache is not None else None
        if kept is not None:
            return torch.from_numpy(np.array(kept))
        return self._compute([(case, index, mirrored)])[0]

    def prepare(self, slices: Sequence[tuple[str, int, bool]]) -> None:
        """Compute what is missing of (case, slice, mirrored), in batches, until the disk holds as much as it should.

        The others are computed one by one when they are needed.
        """
        if self._cache is None:
            return
        names = {self._name(*one): one for one in slices}
        self._cache.drop_replaced(list(names))
        missing, batch = [names[name] for name in self._cache.lacks(list(names))], self.extractor.batch_size
        for start in tqdm(range(0, len(missing), batch), desc="Image features", disable=not missing):
            self._compute(missing[start : start + batch])
            if self._full:
                log.info("The features of %d of %d slices are not kept, since kept_gib is %g: they are computed when "
                         "needed.", len(self._cache.lacks(list(names))), len(slices), self._cache.most_gib)
                return

    def _compute(self, slices: Sequence[tuple[str, int, bool]]) -> list[torch.Tensor]:
        images = [torch.from_numpy(self.store.seen_image(case, index)) for case, index, _ in slices]
        images = [image.flip(-1) if one[2] else image for image, one in zip(images, slices)]
        features = self.extractor(torch.stack(images)).cpu()
        if self._cache is not None:
            for one, computed in zip(slices, features):
                self._full |= not self._cache.put(*self._name(*one), computed)
        return list(features)

    def _name(self, case: str, index: int, mirrored: bool) -> tuple[str, int, str, str]:
        """A GPU's features, or those of another precision, are others. The case's own hash comes last: a replaced image
        must not find the features of the old one."""
        made_by = f"{self.extractor.device.type} {self.extractor.precision}"
        view = f"{made_by} {'mirrored' if mirrored else 'identity'}"
        return case, index, view, self.store.hash_of_case(case)


def slice_features(plans: Plans, store: SliceStore, device: torch.device | str) -> SliceFeatures:
    """Features of the plan's frozen encoder, kept in ``samdpoPlans_features`` beside the slices."""
    folder = preprocessed_folder(plans.dataset_name) / f"{plans.plans_name}_features"
    # All stages share the prompts, so that the most careful of them says how many slices fit into the memory at once.
    batch_size = min((stage.inference_batch_size for stage in plans.configurations.values()), default=4)
    extractor = FeatureExtractor(plans.network, device, batch_size)
    return SliceFeatures(store, extractor, plans.preprocessing, folder, plans.kept_gib)

"""Outputs of a frozen encoder (or of its frozen part), computed once and kept on disk."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from samdpo.files import hash_of, remove_abandoned, write_text
from samdpo.model.batches import Batch
from samdpo.model.slice_labels import read_image
from samdpo.model.views import FLIPPED, IDENTITY, View
from samdpo.networks.embedding_store import EmbeddingStore
from samdpo.networks.encoder_parts import in_leading_parts
from samdpo.networks.precision import autocast
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import weights_hash
from samdpo.paths import EMBEDDINGS, MODEL_SEPARATOR, preprocessed_folder
from samdpo.preprocessing.store import SliceKey
from samdpo.schema import as_before
from samdpo.training.distributed import Processes
from samdpo.training.fold_data import FoldData
from samdpo.training.run_log import Stopwatch

log = logging.getLogger(__name__)

OWNERS = "owners"  # folder of one file a stage, which names the key of the features that it uses


class FeatureCache:
    """Features of slices under a few fixed views, float16 on disk, keyed by the encoder's weights.

    Stages and plans whose encoders are the same share them; a stage that trains with another encoder at the same time
    neither sees nor drops them.

    Args:
        network: whose encoder is frozen.
        n_stages: leading encoder stages that are frozen; -1 is the whole encoder.
        data: the fold whose slices they are of.
        stage: that uses them.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the encoder.
        processes: that fill it together; on whose device the network is.
        batch_size: slices a pass.
        stopwatch: where the seconds are noted.
    """

    def __init__(
        self, network: SamNetwork, n_stages: int, data: FoldData, stage: str, precision: str, processes: Processes,
        batch_size: int, stopwatch: Stopwatch,
    ) -> None:
        self.network, self.n_stages, self.slices = network, n_stages, data.slices
        self.precision, self.processes, self.batch_size, self.stopwatch = precision, processes, batch_size, stopwatch
        frozen = frozen_weights(network.image_encoder, n_stages)
        computed_by = (self.device.type, precision)  # whose last bits are others
        key = hash_of(weights_hash(frozen), (data.plans.network.backbone, network.input_size), n_stages, computed_by,
                      as_before(data.plans.preprocessing, "neighbours"))
        root = preprocessed_folder(data.plans.dataset_name) / EMBEDDINGS / f"fold_{data.fold}"
        owner = f"{data.plans.plans_name}{MODEL_SEPARATOR}{stage}"
        # One process after another: a store drops what was there under another key.
        self.store = processes.main_first(
            lambda: EmbeddingStore(claimed_folder(root, owner, key), key, data.plans.kept_gib)
        )
        self._not_kept: set[tuple[str | int, ...]] = set()  # names for which the disk budget has no room

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return self.processes.device

    @torch.no_grad()
    def compute(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images (B, 3, H, W) at the freeze boundary."""
        with autocast(self.device, self.precision):
            if self.n_stages == -1:
                return self.network.encode_image(images.to(self.device))
            return self.network.encode_prefix(images.to(self.device), self.n_stages)

    def finish(self, features: torch.Tensor) -> torch.Tensor:
        """From the freeze boundary to the image embedding (B, C, h, w)."""
        features = features.to(self.device)
        if self.n_stages == -1:
            return features.float()
        return self.network.encode_suffix(features, self.n_stages)

    def fill(self, keys: Sequence[SliceKey], views: Sequence[View]) -> None:
        """Compute what is missing, each process its share, and wait for the others.

        Until the plan's ``kept_gib`` are full; can be stopped and continued.
        """
        processes = self.processes
        own = [(k, v) for v in views for k in keys][processes.rank :: processes.world]
        names = {self.name(k, v): (k, v) for k, v in own}
        self.store.drop_replaced(list(names))
        missing = [names[name] for name in self.store.lacks(list(names))]
        started = time.perf_counter()
        self.network.eval()
        for start in tqdm(range(0, len(missing), self.batch_size), desc="image embeddings", unit="batch",
                          disable=not missing or not processes.is_main):
            chunk = missing[start : start + self.batch_size]
            images = torch.stack([read_image(self.slices, k, v) for k, v in chunk])
            kept = [self.store.put(*self.name(k, v), feature) for (k, v), feature in zip(chunk, self.compute(images))]
            if not all(kept):
                left = missing[start + sum(kept) :]  # one that does not fit: the next, as large, does not either
                self._not_kept |= {self.name(k, v) for k, v in left}
                log.info(
                    "%d of %d image embeddings are not kept, since kept_gib is %g and %.2g GiB are taken: they are "
                    "computed in each step. Raise kept_gib for faster steps.", len(left), len(names),
                    self.store.most_gib, self.store.taken_gib(),
                )
                missing = missing[: start + sum(kept)]
                break
        if missing:
            self.stopwatch.add("embed", time.perf_counter() - started, len(missing))
        processes.meet()

    def has(self, batch: Batch) -> bool:
        """Whether the features of a batch's slices, under the very views of the batch, are kept or would be."""
        return all(
            s.view in (IDENTITY, FLIPPED)
            and ((name := self.name(s.key, s.view)) in self._not_kept or self.store.has(*name))
            for s in batch.samples
        )

    def get(self, batch: Batch) -> torch.Tensor:
        """Features of a batch's slices under its views, float16 on the device; computed where the disk had no room for
        them. A GPU does not wait for them."""
        features = self._get(batch)
        if self.device.type == "cuda":
            return features.pin_memory().to(self.device, non_blocking=True)
        return features.to(self.device)

    def _get(self, batch: Batch) -> torch.Tensor:
        names = [self.name(s.key, s.view) for s in batch.samples]
        kept = [None if name in self._not_kept else self.store.find(name) for name in names]
        rows = [row for row, array in enumerate(kept) if array is None]
        if not rows:
            return torch.from_numpy(np.stack(kept))  # mapped files are copied once, straight into the batch
        training = self.network.training
        self.network.eval()  # as when they are kept
        computed = self.compute(batch.images[rows]).half().cpu()
        self.network.train(training)
        for row, feature in zip(rows, computed):
            if names[row] not in self._not_kept:
                self.store.put(*names[row], feature)  # the one that was there is damaged
            kept[row] = feature.numpy()
        return torch.from_numpy(np.stack(kept))

    def name(self, key: SliceKey, view: View) -> tuple[str, int, str, str]:
        """Name of a slice's features in the store, the hash of its content last; only the identity and the mirror image
        are kept."""
        case, index = key
        content = self.slices.hash_of_case(case)
        return case, index, "flip" if view == FLIPPED else "identity", content


def claimed_folder(root: Path, owner: str, key: str) -> Path:
    """Folder below ``root`` of what ``key`` made, of which ``owner`` says that it uses it, and no other one any more.

    What no owner uses is dropped: a stage trained anew replaces its features of the last time.
    """
    remove_abandoned(root / OWNERS)
    # Folders are listed before claims are read: whoever made one of them has claimed it by then.
    folders = [path for path in root.glob("*") if path.is_dir() and path.name != OWNERS]
    write_text(root / OWNERS / f"{owner}.txt", key)
    claimed = {file.read_text(encoding="utf-8") for file in (root / OWNERS).glob("[!.]*.txt")}
    for folder in folders:
        if folder.name not in claimed:
            log.info("%s is used by no stage any more and is dropped.", folder)
            shutil.rmtree(folder, ignore_errors=True)  # another process may drop it too
    return root / key


def frozen_weights(encoder: torch.nn.Module, n_stages: int) -> dict[str, torch.Tensor]:
    """What :class:`FeatureCache` computes with: weights of the leading stages, -1 for the whole encoder."""
    frozen = in_leading_parts(encoder, n_stages)
    return {name: tensor for name, tensor in encoder.state_dict().items() if frozen(name)}

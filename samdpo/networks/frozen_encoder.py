"""Encoders whose weights no longer change: what several of them have in common is computed once.

A case is encoded by the published encoder, for the prompts, and by the trained one of every fold; a stage that trains
the decoder alone has the very encoder of the stage before. Encoders that share their leading stages, or all of them,
share what these make of a slice, as long as it is among the last that were computed in this process.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from operator import attrgetter
from typing import ClassVar

import torch

from samdpo.caches import LruCache
from samdpo.networks.encoder_parts import encoder_parts, has_parts
from samdpo.networks.precision import autocast
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import weights_hash

KEPT_BYTES = 256 * 1024**2  # of activations; an embedding of LiteMedSAM is 4 MiB


def kept_activations(room: int = KEPT_BYTES) -> LruCache[tuple[bytes, bytes], torch.Tensor]:
    """Activations by stage and slice, in at most ``room`` bytes."""
    return LruCache(room, attrgetter("nbytes"))


class FrozenEncoder:
    """The image encoder of a network whose weights stay as they are from now on.

    On a GPU, where a pass costs little, only whole embeddings are kept, by an encoder that several networks share.

    Args:
        network: in eval mode, on ``device``.
        device: of the network.
        precision: ``fp32`` or ``bf16``.

    Attributes:
        stage_keys: after each stage, and after the neck, a hash of all that made the activations but the slice.
    """

    _alive: ClassVar[weakref.WeakSet[FrozenEncoder]] = weakref.WeakSet()
    _kept: ClassVar[LruCache[tuple[bytes, bytes], torch.Tensor]] = kept_activations()

    def __init__(self, network: SamNetwork, device: torch.device, precision: str) -> None:
        self.network, self.device, self.precision = network, device, precision
        self.stage_keys = _stage_keys(network, precision) if device.type == "cpu" else []
        self._alive.add(self)

    @classmethod
    def shared(
        cls, network: SamNetwork, device: torch.device, precision: str, known: list[FrozenEncoder]
    ) -> FrozenEncoder:
        """The encoder of a network: one of ``known`` that does the very same, else a new one, which is added there.

        So the folds of a model whose encoders are equal, as where only decoders were trained, encode a slice once.
        """
        made = cls(network, device, precision)
        for one in known:
            if one.stage_keys == made.stage_keys if made.stage_keys else one._does_the_same(network):
                one.stage_keys = one.stage_keys or [os.urandom(16)]  # from now on it keeps what it computes
                return one
        known.append(made)
        return made

    def _does_the_same(self, network: SamNetwork) -> bool:
        own, other = _weights(self.network), _weights(network)
        return (
            type(self.network.image_encoder) is type(network.image_encoder)
            and self.network.input_size == network.input_size and own.keys() == other.keys()
            and all(torch.equal(tensor, other[name]) for name, tensor in own.items())
        )

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Slices (B, 3, H, W) in [0, 1], on the CPU -> embeddings (B, C, h, w) float32 on the encoder's device."""
        if not self.stage_keys:
            return self._run(images, None)
        slices = [_hash_of(image) for image in images]
        found = [self._kept.get((self.stage_keys[-1], one)) for one in slices]
        missing = [row for row, embedding in enumerate(found) if embedding is None]
        if missing:
            computed = self._through_shared(images[missing], [slices[row] for row in missing])
            for row, embedding in zip(missing, computed):
                found[row] = embedding.clone()  # not a view that keeps its whole batch alive
                self._kept.put((self.stage_keys[-1], slices[row]), found[row])
        return torch.stack(found)

    def shared_stages(self) -> int:
        """How many leading stages, the neck not counted, another living encoder has too, as they are here."""
        keys = self.stage_keys[:-1]
        common = (sum(a == b for a, b in zip(keys, other.stage_keys)) for other in self._alive if other is not self)
        return max(common, default=0)

    def _through_shared(self, images: torch.Tensor, slices: list[bytes]) -> torch.Tensor:
        """Embeddings, the stages that others have too taken from what is kept, or kept for them."""
        stages = self.shared_stages()
        if stages == 0:
            return self._run(images, None)
        key = self.stage_keys[stages - 1]
        kept = [self._kept.get((key, one)) for one in slices]
        missing = [row for row, activations in enumerate(kept) if activations is None]
        if missing:
            prefix = self._run(images[missing], stages)
            for row, activations in zip(missing, prefix):
                kept[row] = activations.clone()
                self._kept.put((key, slices[row]), kept[row])
        with autocast(self.device, self.precision):
            return self.network.encode_suffix(torch.stack(kept), stages).float()

    def _run(self, images: torch.Tensor, stages: int | None) -> torch.Tensor:
        images = images.to(self.device)
        if self.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            if stages is None:
                return self.network.encode_image(images).float()
            return self.network.encode_prefix(images, stages)


def _weights(network: SamNetwork) -> dict[str, torch.Tensor]:
    """All that the embedding of a slice depends on, by name."""
    parts = (network.slice_input.named_buffers(), network.image_encoder.state_dict().items(),
             network.image_encoder.named_buffers())
    return {f"{i} {name}": tensor for i, part in enumerate(parts) for name, tensor in part}


def _stage_keys(network: SamNetwork, precision: str) -> list[bytes]:
    """A running hash over what a slice goes through: its size and normalisation, then each stage's weights."""
    encoder = network.image_encoder
    running = hashlib.sha256(repr((type(encoder).__qualname__, network.input_size, precision)).encode())
    _add(running, dict(network.slice_input.named_buffers()))
    state = {**encoder.state_dict(), **dict(encoder.named_buffers())}
    stages = encoder_parts(encoder) if has_parts(encoder) else []
    keys, of_stages = [], set()
    for stage in stages:
        own = {name: tensor for name, tensor in state.items() if stage.owns(name)}
        _add(running, own)
        of_stages.update(own)
        keys.append(running.digest())
    _add(running, {name: tensor for name, tensor in state.items() if name not in of_stages})
    return [*keys, running.digest()]


def _add(running: hashlib._Hash, tensors: dict[str, torch.Tensor]) -> None:
    running.update(repr(sorted((name, str(one.dtype), tuple(one.shape)) for name, one in tensors.items())).encode())
    running.update(weights_hash(tensors).encode())


def _hash_of(image: torch.Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy(), digest_size=16).digest()

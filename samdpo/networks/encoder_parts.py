"""The parts of an image encoder, so that leading ones can be frozen and their output kept.

Papers call them stages, and so does the plan, whose ``network.frozen_stages`` counts them; elsewhere in samdpo a stage
is a training.

Two kinds of encoders are known by what they are made of. One with ``patch_embed``, ``layers`` and ``neck`` (TinyViT's
names): the first part is the patch embedding with the first layer, every further layer is one more. SAM's ViT, with
``blocks``: a part is the blocks up to and with the next one of global attention, and the first also has the patch and
position embeddings. The neck belongs to none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from samdpo.errors import PlansError


@dataclass(frozen=True)
class EncoderPart:
    """One part of an encoder.

    Attributes:
        names: of the encoder's children, or of a parameter, that belong to it.
        run: activations before the part -> activations after it.
    """

    names: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]

    def owns(self, name: str) -> bool:
        """Whether the encoder's weight of this name belongs to the part."""
        return any(name == own or name.startswith(f"{own}.") for own in self.names)


def has_parts(encoder: nn.Module) -> bool:
    """Whether the encoder is of a kind whose parts are known."""
    return hasattr(encoder, "blocks") or all(hasattr(encoder, name) for name in ("patch_embed", "layers", "neck"))


def encoder_parts(encoder: nn.Module) -> list[EncoderPart]:
    """The parts of an encoder, in order."""
    return _vit_parts(encoder) if hasattr(encoder, "blocks") else _layer_parts(encoder)


def check_parts(encoder: nn.Module, n_parts: int) -> int:
    """``n_parts`` if the encoder has as many.

    Raises:
        PlansError: otherwise.
    """
    highest = len(encoder_parts(encoder))
    if not -1 <= n_parts <= highest:
        raise PlansError(
            f"'network.frozen_stages' is {n_parts}; expected 0 (nothing is frozen) to {highest} (all but the neck), "
            "or -1 (the whole encoder)."
        )
    return n_parts


def in_leading_parts(encoder: nn.Module, n_parts: int) -> Callable[[str], bool]:
    """A test whether a name of the encoder's weights or modules is in its first ``n_parts``; -1 is all and the neck.

    Raises:
        PlansError: the encoder has not as many parts.
    """
    if check_parts(encoder, n_parts) == -1:
        return lambda name: True
    leading = encoder_parts(encoder)[:n_parts]
    return lambda name: any(part.owns(name) for part in leading)


def run_prefix(encoder: nn.Module, images: torch.Tensor, n_parts: int) -> torch.Tensor:
    """Output of the first ``n_parts`` parts; 0 gives the images, -1 the embeddings."""
    if check_parts(encoder, n_parts) == -1:
        return encoder(images)
    for part in encoder_parts(encoder)[:n_parts]:
        images = part.run(images)
    return images


def run_suffix(encoder: nn.Module, activations: torch.Tensor, n_parts: int, grid: tuple[int, int]) -> torch.Tensor:
    """The rest of the encoder after :func:`run_prefix`.

    Args:
        encoder: with parts.
        activations: output of :func:`run_prefix` with the same ``n_parts``, as it is or kept as float16.
        n_parts: parts already run; -1 is all and the neck.
        grid: (h, w) of the embedding.

    Returns:
        (B, C, h, w).
    """
    if activations.dtype == torch.float16:  # as kept on disk; CPUs hardly compute with it
        activations = activations.float()
    if check_parts(encoder, n_parts) == -1:
        return activations
    for part in encoder_parts(encoder)[n_parts:]:
        activations = part.run(activations)
    if hasattr(encoder, "blocks"):  # SAM's ViT keeps channels last: (B, h, w, C)
        activations = activations.permute(0, 3, 1, 2)
    elif activations.ndim == 3:  # TinyViT's layers give tokens (B, h*w, C)
        activations = activations.unflatten(1, grid).permute(0, 3, 1, 2)
    return encoder.neck(activations)


def _layer_parts(encoder: nn.Module) -> list[EncoderPart]:
    first = EncoderPart(("patch_embed", "layers.0"), nn.Sequential(encoder.patch_embed, encoder.layers[0]))
    return [first, *(EncoderPart((f"layers.{i}",), layer) for i, layer in enumerate(encoder.layers) if i > 0)]


def _vit_parts(encoder: nn.Module) -> list[EncoderPart]:
    groups: list[list[int]] = [[]]
    for i, block in enumerate(encoder.blocks):
        groups[-1].append(i)
        if block.window_size == 0 and i + 1 < len(encoder.blocks):  # window size 0 is global attention
            groups.append([])

    def run(group: list[int], x: torch.Tensor) -> torch.Tensor:
        if group[0] == 0:
            x = encoder.patch_embed(x) + encoder.pos_embed
        for i in group:
            x = encoder.blocks[i](x)
        return x

    parts = [
        EncoderPart(tuple(f"blocks.{i}" for i in group), lambda x, group=group: run(group, x)) for group in groups
    ]
    return [EncoderPart(("patch_embed", "pos_embed", *parts[0].names), parts[0].run), *parts[1:]]

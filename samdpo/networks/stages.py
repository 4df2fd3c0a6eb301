"""The stages of an image encoder, so that leading ones can be frozen and their output kept.

Two kinds of encoders are known by what they are made of. One with ``patch_embed``, ``layers`` and ``neck`` (TinyViT's
names): stage 1 is the patch embedding with the first layer, every further layer is one more stage. SAM's ViT, with
``blocks``: a stage is the blocks up to and with the next one of global attention, and stage 1 also has the patch and
position embeddings. The neck is never part of a stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from samdpo.errors import PlansError


@dataclass(frozen=True)
class Stage:
    """One stage of an encoder.

    Attributes:
        parts: names of the encoder's children, or of a parameter, that belong to it.
        run: activations before the stage -> activations after it.
    """

    parts: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]

    def owns(self, name: str) -> bool:
        """Whether the encoder's weight of this name belongs to the stage."""
        return any(name == part or name.startswith(f"{part}.") for part in self.parts)


def has_stages(encoder: nn.Module) -> bool:
    """Whether the encoder is of a kind whose stages are known."""
    return hasattr(encoder, "blocks") or all(hasattr(encoder, name) for name in ("patch_embed", "layers", "neck"))


def encoder_stages(encoder: nn.Module) -> list[Stage]:
    """The stages of an encoder, in order."""
    return _vit_stages(encoder) if hasattr(encoder, "blocks") else _layer_stages(encoder)


def check_stages(encoder: nn.Module, n_stages: int) -> int:
    """``n_stages`` if the encoder has as many.

    Raises:
        PlansError: otherwise.
    """
    highest = len(encoder_stages(encoder))
    if not -1 <= n_stages <= highest:
        raise PlansError(
            f"'network.frozen_stages' is {n_stages}; expected 0 (nothing is frozen) to {highest} (all but the neck), "
            "or -1 (the whole encoder)."
        )
    return n_stages


def in_leading_stages(encoder: nn.Module, n_stages: int) -> Callable[[str], bool]:
    """A test whether a name of the encoder's weights or modules is in its first ``n_stages``; -1 is all and the neck.

    Raises:
        PlansError: the encoder has not as many stages.
    """
    if check_stages(encoder, n_stages) == -1:
        return lambda name: True
    leading = encoder_stages(encoder)[:n_stages]
    return lambda name: any(stage.owns(name) for stage in leading)


def run_prefix(encoder: nn.Module, images: torch.Tensor, n_stages: int) -> torch.Tensor:
    """Output of the first ``n_stages`` stages; 0 gives the images, -1 the embeddings."""
    if check_stages(encoder, n_stages) == -1:
        return encoder(images)
    for stage in encoder_stages(encoder)[:n_stages]:
        images = stage.run(images)
    return images


def run_suffix(encoder: nn.Module, activations: torch.Tensor, n_stages: int, grid: tuple[int, int]) -> torch.Tensor:
    """The rest of the encoder after :func:`run_prefix`.

    Args:
        encoder: with stages.
        activations: output of :func:`run_prefix` with the same ``n_stages``, as it is or kept as float16.
        n_stages: stages already run; -1 is all and the neck.
        grid: (h, w) of the embedding.

    Returns:
        (B, C, h, w).
    """
    if activations.dtype == torch.float16:  # as kept on disk; CPUs hardly compute with it
        activations = activations.float()
    if check_stages(encoder, n_stages) == -1:
        return activations
    for stage in encoder_stages(encoder)[n_stages:]:
        activations = stage.run(activations)
    if hasattr(encoder, "blocks"):  # SAM's ViT keeps channels last: (B, h, w, C)
        activations = activations.permute(0, 3, 1, 2)
    elif activations.ndim == 3:  # TinyViT's layers give tokens (B, h*w, C)
        activations = activations.unflatten(1, grid).permute(0, 3, 1, 2)
    return encoder.neck(activations)


def _layer_stages(encoder: nn.Module) -> list[Stage]:
    first = Stage(("patch_embed", "layers.0"), nn.Sequential(encoder.patch_embed, encoder.layers[0]))
    return [first, *(Stage((f"layers.{i}",), layer) for i, layer in enumerate(encoder.layers) if i > 0)]


def _vit_stages(encoder: nn.Module) -> list[Stage]:
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

    stages = [
        Stage(tuple(f"blocks.{i}" for i in group), lambda x, group=group: run(group, x)) for group in groups
    ]
    return [Stage(("patch_embed", "pos_embed", *stages[0].parts), stages[0].run), *stages[1:]]

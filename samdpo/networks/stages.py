"""The stages of an image encoder, so that leading ones can be frozen and their output kept.

An encoder has ``patch_embed``, ``layers`` and ``neck`` (TinyViT's names). Stage 1 is the patch embedding with the
first layer, every further layer is one more stage; the neck is never part of a stage.
"""

from __future__ import annotations

import torch
from torch import nn

from samdpo.errors import PlansError


def encoder_stages(encoder: nn.Module) -> list[list[nn.Module]]:
    """The modules of every stage, in order."""
    return [[encoder.patch_embed, encoder.layers[0]], *([layer] for layer in encoder.layers[1:])]


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


def run_prefix(encoder: nn.Module, images: torch.Tensor, n_stages: int) -> torch.Tensor:
    """Output of the first ``n_stages`` stages; 0 gives the images, -1 the embeddings."""
    if check_stages(encoder, n_stages) == -1:
        return encoder(images)
    for stage in encoder_stages(encoder)[:n_stages]:
        for module in stage:
            images = module(images)
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
        for module in stage:
            activations = module(activations)
    if activations.ndim == 3:  # TinyViT's layers give tokens (B, h*w, C)
        activations = activations.transpose(1, 2).unflatten(2, grid)
    return encoder.neck(activations)

"""Numeric precision: bfloat16 where the hardware computes with it, else float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """``fp32`` or ``bf16``.

    Args:
        precision: of the plan; ``auto`` is bf16 where the device has instructions for it.
        device: on which the network runs.
    """
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(torch.device(device)) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices in hardware; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # AVX512_BF16 (AMD Zen 4 on, Intel Cooper Lake on) or AMX (Intel Sapphire Rapids on): LiteMedSAM's encoder
        # then runs about 2.5 times as fast as in float32. PyTorch has no public question for it.
        asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(ask() for ask in asks if ask)
    return False


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager:
    """Context in which matrix products and convolutions run in ``precision`` (``fp32`` or ``bf16``)."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def runs_in_float32(x: torch.Tensor) -> bool:
    """Whether an operation on ``x`` runs in float32 here: it is float32, and no autocast is on for its device."""
    return x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)

"""Numeric precision: bfloat16 where the hardware computes with it, float16 on GPUs that lack it, else float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMPERE = 8  # compute capability from which a card has bfloat16; a T4 is 7.5, a V100 7.0


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """``fp32``, ``bf16`` or ``fp16``.

    Args:
        precision: of the plan; ``auto`` is bf16 where the device has instructions for it, fp16 on other CUDA cards,
            fp32 everywhere else.
        device: on which the network runs.
    """
    if precision != "auto":
        return precision
    device = torch.device(device)
    if has_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" and torch.cuda.is_available() else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices in hardware; emulation is slower than float32."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        if torch.version.hip:  # AMD's numbers are others
            return torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    if device.type == "cpu":
        # AVX512_BF16 (AMD Zen 4 on, Intel Cooper Lake on) or AMX (Intel Sapphire Rapids on): LiteMedSAM's encoder
        # then runs about 2.5 times as fast as in float32. PyTorch has no public question for it.
        asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(ask() for ask in asks if ask)
    return False


def autocast(device: torch.device | str, precision: str) -> AbstractContextManager:
    """Context in which matrix products and convolutions run in ``precision`` (``fp32``, ``bf16`` or ``fp16``)."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[precision])


def decoder_autocast(device: torch.device | str, precision: str) -> AbstractContextManager:
    """As :func:`autocast` on a GPU; on a CPU the decoder, small as it is, computes in float32."""
    return autocast(device, precision) if torch.device(device).type == "cuda" else nullcontext()


def fast_matrix_products(device: torch.device | str) -> None:
    """On CUDA: TF32 for what is left in float32, and the fastest convolution searched for, since shapes repeat."""
    if torch.device(device).type != "cuda":
        return
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The layout of pictures in which convolutions are fastest: channels last, but on Apple's GPUs."""
    return torch.channels_last if torch.device(device).type in ("cpu", "cuda") else torch.preserve_format


def gradient_scaler(device: torch.device | str, precision: str) -> torch.amp.GradScaler:
    """Keeps float16's small gradients from vanishing, and leaves out steps in which large ones overflowed; does
    nothing in other precisions. Its state belongs into a checkpoint."""
    kind = torch.device(device).type
    return torch.amp.GradScaler(kind if kind == "cuda" else "cpu", enabled=precision == "fp16")


def runs_in_float32(x: torch.Tensor) -> bool:
    """Whether an operation on ``x`` runs in float32 here: it is float32, and no autocast is on for its device."""
    return x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)

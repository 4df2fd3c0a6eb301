"""Images per second of the encoder, of a finetune step and of an align step, and how near that is to what is possible.

    python benchmarks/throughput.py [--backbone sam_med2d_b] [--batch 4] [--structures 2] [--device cuda]
                                    [--precision fp16]

Weights are random; nothing is downloaded. The multiplications of a pass are counted by PyTorch, and the peak is that of
a large matrix product in the same precision, measured on the same device in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from samdpo.networks.freezing import set_trainable
from samdpo.networks.precision import (
    autocast,
    fast_matrix_products,
    gradient_scaler,
    memory_format,
    resolve_precision,
)
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.registry import build_network
from samdpo.plans import CandidatePlan, NetworkPlan, PreferenceLossPlan, SegmentationLossPlan
from samdpo.preferences.candidates import draw_fields
from samdpo.preferences.losses import disagreement_region, preference_loss, preference_reward, segmentation_loss

SIDE = 256
LEAST_SECONDS = 2.0  # of measuring each


def make_prompts(images: int, structures: int, text_dim: int) -> PromptBatch:
    """A box, five points and a text for every structure of every image."""
    n = images * structures
    return PromptBatch(
        image_index=torch.arange(images).repeat_interleave(structures),
        boxes=torch.tensor([60.0, 60.0, 190.0, 180.0]).repeat(n, 1, 1),
        boxes_valid=torch.ones(n, 1, dtype=torch.bool),
        points=60 + 120 * torch.rand(n, 5, 2),
        points_valid=torch.ones(n, 5, dtype=torch.bool),
        text=0.05 * torch.randn(n, text_dim),
        text_valid=torch.ones(n, dtype=torch.bool),
        mask_logits=torch.zeros(n, SIDE, SIDE),
        mask_valid=torch.zeros(n, dtype=torch.bool),
    )


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of a call, after one to warm up."""
    run()
    calls, started = 0, _now(device)
    while _now(device) - started < LEAST_SECONDS:
        run()
        calls += 1
    return (_now(device) - started) / calls


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def flops_of(run: Callable[[], object]) -> int:
    """Additions and multiplications of the matrix products, convolutions and attentions of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matrix_peak(device: torch.device, precision: str) -> float:
    """Additions and multiplications a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, device)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="sam_med2d_b")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--structures", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    precision = resolve_precision(args.precision, device)
    plan = NetworkPlan(backbone=args.backbone)
    fast_matrix_products(device)  # as in training
    network = build_network(plan, pretrained=False).to(device, memory_format=memory_format(device))
    network.decoder_precision, scaler = precision, gradient_scaler(device, precision)
    images = torch.rand(args.batch, 3, SIDE, SIDE, device=device)
    prompts = make_prompts(args.batch, args.structures, plan.text_dim).to(device)
    truth = torch.rand(len(prompts), SIDE, SIDE, device=device) > 0.5

    def encode() -> torch.Tensor:
        with autocast(device, precision):
            return network.encode_image(images).float()

    @torch.no_grad()
    def encoder() -> torch.Tensor:
        return encode()

    def optimizer_of(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in parameters if p.requires_grad], lr=1e-6)

    set_trainable(network, 0)
    optimizer = optimizer_of(list(network.parameters()))

    def step(loss: torch.Tensor) -> None:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    def finetune() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits, _ = network.decode(encode(), prompts)
        step(segmentation_loss(logits, truth, SegmentationLossPlan()).mean())

    kept = encoder()
    with torch.no_grad():
        reference = network.decode(kept, prompts)[0]

    def align() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits, _ = network.decode(kept, prompts)
        candidates = draw_fields(logits.detach(), CandidatePlan(), torch.Generator().manual_seed(0))
        weights = candidates[:, 0].float() - candidates[:, 3].float()
        reward = preference_reward(logits, reference, weights, "disagreement", disagreement_region(candidates))
        step(preference_loss(reward, PreferenceLossPlan()).mean())

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    peak = matrix_peak(device, precision)
    print(f"{args.backbone} on {name}: {args.batch} images a step, {args.structures} structures each, in "
          f"{precision}; matrix product: {peak / 1e12:.2f} Tflop/s")
    for what, run in (("encoder", encoder), ("finetune step", finetune)):
        report(what, run, args.batch, device, peak)
    network.requires_grad_(False)
    network.mask_decoder.requires_grad_(True)
    optimizer = optimizer_of(list(network.parameters()))
    report("align step", align, args.batch, device, peak)
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 1024**3:.1f} GiB")


def report(what: str, run: Callable[[], object], batch: int, device: torch.device, peak: float) -> None:
    """Print one line."""
    flops, seconds = flops_of(run), seconds_of(run, device)
    print(f"{what:14s} {batch / seconds:8.2f} images/s   {flops / batch / 1e9:7.1f} Gflop an image   "
          f"{flops / seconds / peak:6.1%} of the matrix peak")


if __name__ == "__main__":
    main()

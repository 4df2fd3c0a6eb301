"""Seconds of an alignment step with kept embeddings and reference logits, beside steps that compute them anew.

    python benchmarks/align_step.py [--backbone lite_medsam] [--steps 5] [--device cpu]

Ways to the same gradient, interleaved in one run: ``kept`` is what ``AlignTrainer`` does; ``encoder each step`` runs
the frozen encoder; ``two networks`` runs a whole policy and a whole reference network, as plain DPO code does. The
latter two once with the encoder under samdpo's own autocast, and once in fp32, as such code is unless its author
thought of it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch

from samdpo.networks.precision import autocast, resolve_precision
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.registry import build_network
from samdpo.plans import CandidatePlan, NetworkPlan, PreferenceLossPlan
from samdpo.preferences.candidates import draw_fields
from samdpo.preferences.losses import disagreement_region, preference_loss, preference_reward


def make_prompts(n: int, text_dim: int) -> PromptBatch:
    """One box, five points, text and a mask prompt for each of n slices."""
    return PromptBatch(
        image_index=torch.arange(n),
        boxes=torch.tensor([60.0, 60.0, 190.0, 180.0]).repeat(n, 1, 1),
        boxes_valid=torch.ones(n, 1, dtype=torch.bool),
        points=60 + 120 * torch.rand(n, 5, 2),
        points_valid=torch.ones(n, 5, dtype=torch.bool),
        text=torch.randn(n, text_dim) * 0.05,
        text_valid=torch.ones(n, dtype=torch.bool),
        mask_logits=torch.randn(n, 256, 256),
        mask_valid=torch.ones(n, dtype=torch.bool),
    )


def main() -> None:
    """Time the steps and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="lite_medsam")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    precision = resolve_precision("auto", device)
    plan = NetworkPlan(backbone=args.backbone)
    network = build_network(plan).to(device).eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)
    reference = copy.deepcopy(network)
    network.mask_decoder.requires_grad_(True)
    optimizer = torch.optim.Adam(network.mask_decoder.parameters(), lr=1e-5)
    images = torch.rand(args.slices, 3, 256, 256, device=device)
    prompts = make_prompts(args.slices, plan.text_dim).to(device)

    @torch.no_grad()
    def encode(model: torch.nn.Module, precision: str = precision) -> torch.Tensor:
        with autocast(device, precision):
            return model.encode_image(images).float()

    kept = encode(network)
    with torch.no_grad():
        kept_reference = reference.decode(kept, prompts)[0]

    def step(embeddings: torch.Tensor, reference_logits: torch.Tensor) -> None:
        logits = network.decode(embeddings, prompts)[0]
        candidates = draw_fields(logits, CandidatePlan(), torch.Generator().manual_seed(0))
        weights = (candidates[:, 0].float() - candidates[:, 3].float()) + 0.5 * (
            candidates[:, 1].float() - candidates[:, 2].float()
        )
        region = disagreement_region(candidates)
        reward = preference_reward(logits, reference_logits, weights, "disagreement", region)
        optimizer.zero_grad()
        preference_loss(reward, PreferenceLossPlan()).mean().backward()
        optimizer.step()

    def two_networks(precision: str = precision) -> None:
        with torch.no_grad():
            reference_logits = reference.decode(encode(reference, precision), prompts)[0]
        step(encode(network, precision), reference_logits)

    ways: dict[str, Callable[[], None]] = {
        "kept": lambda: step(kept, kept_reference),
        "encoder each step": lambda: step(encode(network), kept_reference),
        "encoder each step, fp32": lambda: step(encode(network, "fp32"), kept_reference),
        "two networks": two_networks,
        "two networks, fp32": lambda: two_networks("fp32"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.steps + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    base = statistics.median(seconds["kept"])
    print(f"{args.backbone}, {args.slices} slices a step, {device}, encoder in {precision}, median of {args.steps}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:24s} {median:7.3f} s   {median / base:5.1f}x")


if __name__ == "__main__":
    main()

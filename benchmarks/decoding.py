"""Seconds of segmenting N structures of one slice: one batch, beside what a user of SAM would write.

    python benchmarks/decoding.py [--backbone lite_medsam] [--structures 5] [--turns 5] [--device cpu]

Four ways to the same masks, interleaved in one run: ``one batch`` encodes the slice and decodes all structures
together, as samdpo does; ``one by one`` decodes them one after another; ``SAM's decoder`` lets SAM's own prompt encoder
and mask decoder do the batch, with four masks each of which one is used; ``an encoder pass each`` runs the whole
network once for every structure. Then encoder and decoder apart. Weights are random where the backbone would have to be
downloaded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from samdpo.networks.precision import autocast, resolve_precision
from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.plans import NetworkPlan

SIDE = 256


def make_boxes(n: int) -> torch.Tensor:
    """N boxes (N, 4) in a slice of 256 pixels."""
    corner = 100 * torch.rand(n, 2)
    return torch.cat([corner, corner + 40 + 100 * torch.rand(n, 2)], dim=1)


def box_prompts(boxes: torch.Tensor, text_dim: int) -> PromptBatch:
    """One box each, nothing else, all in the first slice."""
    n = len(boxes)
    return PromptBatch(
        image_index=torch.zeros(n, dtype=torch.long),
        boxes=boxes[:, None],
        boxes_valid=torch.ones(n, 1, dtype=torch.bool),
        points=torch.zeros(n, 0, 2),
        points_valid=torch.zeros(n, 0, dtype=torch.bool),
        text=torch.zeros(n, text_dim),
        text_valid=torch.zeros(n, dtype=torch.bool),
        mask_logits=torch.zeros(n, SIDE, SIDE),
        mask_valid=torch.zeros(n, dtype=torch.bool),
    )


def sam_decode(network: SamNetwork, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Logits (N, 256, 256) by SAM's own modules."""
    scale = network.input_size[0] / SIDE
    sparse, dense = network.prompt_encoder(points=None, boxes=(boxes + 0.5) * scale - 0.5, masks=None)
    low, _ = network.mask_decoder(
        image_embeddings=embedding,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return F.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def main() -> None:
    """Time the ways, print them and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="lite_medsam")
    parser.add_argument("--structures", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    precision = resolve_precision("auto", device)
    plan = NetworkPlan(backbone=args.backbone)
    network = build_network(plan, pretrained=args.backbone == "lite_medsam").to(device)
    network.to(memory_format=torch.channels_last)
    image, boxes = torch.rand(1, 3, SIDE, SIDE, device=device), make_boxes(args.structures)
    prompts = box_prompts(boxes, plan.text_dim).to(device)
    boxes = boxes.to(device)

    def encode() -> torch.Tensor:
        with autocast(device, precision):
            return network.encode_image(image).float()

    def one_by_one(embedding: torch.Tensor) -> torch.Tensor:
        rows = [prompts.select(slice(i, i + 1)) for i in range(args.structures)]
        return torch.cat([network.decode(embedding, row)[0] for row in rows])

    kept = encode()
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "one batch": lambda: network.decode(encode(), prompts)[0],
        "one by one": lambda: one_by_one(encode()),
        "SAM's decoder": lambda: sam_decode(network, encode(), boxes),
        "an encoder pass each": lambda: torch.cat(
            [network.decode(encode(), prompts.select(slice(i, i + 1)))[0] for i in range(args.structures)]
        ),
        "encoder alone": encode,
        "decoder, one batch": lambda: network.decode(kept, prompts)[0],
        "decoder, one by one": lambda: one_by_one(kept),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    masks = {}
    for turn in range(args.turns + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            masks[name] = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{args.backbone}, {args.structures} structures, {device}, encoder in {precision}, median of {args.turns}")
    for name, median in medians.items():
        print(f"{name:22s} {median:7.3f} s   {median / medians['one batch']:5.2f}x")
    ratio = medians["decoder, one by one"] / medians["decoder, one batch"]
    print(f"without the encoder, one by one takes {ratio:.2f}x the time of one batch")
    difference = (masks["one batch"] - masks["SAM's decoder"]).abs().max() / masks["one batch"].abs().max()
    print(f"largest difference from SAM's decoder: {difference:.1e} of the largest logit")


if __name__ == "__main__":
    main()

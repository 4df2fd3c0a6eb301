"""gScoreCAM of one image for several structures, beside masked passes one by one, as plain code runs them.

    python benchmarks/gscorecam.py                # BiomedCLIP's size, random weights: many minutes on a CPU
    python benchmarks/gscorecam.py --passes 48    # of each way that many masked passes are timed, and scaled
    python benchmarks/gscorecam.py --small        # a tiny image tower, in seconds

Three ways to the same maps, their masked passes interleaved in one run: ``shared, batched`` is what samdpo does: the
channels of all structures are masked once, in batches, in half precision where the device computes with it;
``one by one`` masks each structure's channels for itself, an image a pass, in float32; ``one by one, both towers``
embeds the text in each pass too, as gScoreCAM's published code does by calling the whole CLIP.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import open_clip
import torch

from samdpo.networks.precision import resolve_precision
from samdpo.prompting.gscorecam import batch_size_on, masks_of
from samdpo.prompting.image_text import ImageView
from samdpo.prompting.open_clip_loading import OpenClip
from samdpo.prompting.open_clip_model import OpenClipModel

CONTEXT = 256  # tokens of a text


def make_clip(small: bool, device: torch.device) -> OpenClip:
    """BiomedCLIP's image tower and a text tower of BERT-base's size, or tiny ones; random weights."""
    vision = {"timm_model_name": "test_vit" if small else "vit_base_patch16_224", "timm_pool": "", "image_size": 224}
    text = {"context_length": CONTEXT, "vocab_size": 30522, "width": 64 if small else 768, "heads": 2 if small else 12,
            "layers": 2 if small else 12}
    torch.manual_seed(0)
    module = open_clip.CustomTextCLIP(512, vision, text, init_logit_scale=4.44).to(device).eval().requires_grad_(False)
    size = module.visual.trunk.patch_embed.img_size
    return OpenClip(module, None, size, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "bicubic", 512)


def main() -> None:
    """Time the three ways and print seconds an image and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=5)
    parser.add_argument("--top_k", type=int, default=300, help="channels a structure")
    parser.add_argument("--passes", type=int, default=0, help="masked passes timed of each way; 0 is all")
    parser.add_argument("--small", action="store_true", help="a tiny image tower, and 25 channels a structure")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    clip = make_clip(args.small, device)
    fast, plain = OpenClipModel(lambda: clip), OpenClipModel(lambda: clip, "fp32")
    tokens = torch.randint(1000, 30000, (args.structures, CONTEXT), device=device)
    with torch.inference_mode():
        texts = clip.module.encode_text(tokens, normalize=True)
    image = torch.rand(3, 256, 256)
    layer = fast.channel_activations(ImageView(image), texts)
    chosen = layer.importance.topk(min(25 if args.small else args.top_k, layer.importance.shape[1]), dim=1).indices
    inputs = fast.image_input(image)
    union = chosen.unique()
    alone = [(text, channel) for text, row in enumerate(chosen.tolist()) for channel in row]

    def shared() -> Iterator[int]:
        for channels in union.split(batch_size_on(device)):
            masked = inputs * masks_of(layer.activations[channels], inputs.shape[-2:])
            fast.image_scores(masked, texts)
            yield len(channels)

    def one_by_one() -> Iterator[int]:
        for text, channel in alone:
            masked = inputs * masks_of(layer.activations[channel : channel + 1], inputs.shape[-2:])
            plain.image_scores(masked, texts[text : text + 1])
            yield 1

    def both_towers() -> Iterator[int]:
        for text, channel in alone:
            masked = inputs * masks_of(layer.activations[channel : channel + 1], inputs.shape[-2:])
            with torch.inference_mode():
                embedded = clip.module.encode_text(tokens[text : text + 1], normalize=True)
            plain.image_scores(masked, embedded)
            yield 1

    ways: dict[str, tuple[Callable[[], Iterator[int]], int]] = {
        "shared, batched": (shared, len(union)),
        "one by one": (one_by_one, len(alone)),
        "one by one, both towers": (both_towers, len(alone)),
    }
    seconds = interleaved(ways, args.passes, device)
    precision = resolve_precision("auto", device)
    print(f"{args.structures} structures, {chosen.shape[1]} of {layer.importance.shape[1]} channels each, "
          f"{device} with {torch.get_num_threads()} threads, batches of {batch_size_on(device)} in {precision}; "
          f"{args.passes or 'all'} passes timed")
    print(f"{'way':<26}{'passes':>8}{'s/pass':>9}{'s/image':>10}{'ratio':>8}")
    base = seconds["shared, batched"] * len(union)
    for name, (_, passes) in ways.items():
        total = seconds[name] * passes
        print(f"{name:<26}{passes:>8}{seconds[name]:>9.3f}{total:>10.1f}{total / base:>7.1f}x")
    compared = union[: batch_size_on(device)]
    masked = inputs * masks_of(layer.activations[compared], inputs.shape[-2:])
    exact, ours = plain.image_scores(masked, texts), fast.image_scores(masked, texts)
    print(f"{exact.numel()} logits: largest difference from float32 {(ours - exact).abs().max():.3f}, their own "
          f"standard deviation {exact.std():.3f}")


def interleaved(
    ways: dict[str, tuple[Callable[[], Iterator[int]], int]], passes: int, device: torch.device
) -> dict[str, float]:
    """Seconds a pass of each way; the ways take turns, so that a busy machine slows all of them alike."""
    running = {name: way() for name, (way, _) in ways.items()}
    spent, done = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0)
    for generator in running.values():
        next(generator)  # warms up, and does not count
    while running:
        for name in list(running):
            target = min(passes or ways[name][1], ways[name][1])
            started, turn = time.perf_counter(), 0
            while turn < batch_size_on(device) and (passed := next(running[name], 0)):
                turn += passed
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent[name] += time.perf_counter() - started
            done[name] += turn
            if not turn or done[name] >= target:
                del running[name]
    return {name: spent[name] / max(1, done[name]) for name in ways}


if __name__ == "__main__":
    main()

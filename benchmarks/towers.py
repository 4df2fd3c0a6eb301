"""CPU seconds of the towers' fit: the library's way beside the plain one, on generated slices.

    python benchmarks/towers.py [--slices 12] [--steps 20] [--turns 3] [--threads 1]

Interleaved in one run. ``plain`` is the fit as one writes it down: torch's own pooling, interpolation and optimizer,
and a loss over every pixel of the feature grid, of four slices a step. ``now`` is
:func:`samdpo.prompting.towers.fit_towers` with as many slices a step as the planner sets. Both are timed
for ``--steps`` steps, and without any for what a fit costs before its first step; the ratio of whole fits of as many
steps as the default plan has follows. Then how alike they are: the
hidden activations of the same weights, and the Dice of what both find on slices that neither has seen.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as functional

from samdpo.planning.schedule import tower_batch_size, tower_steps
from samdpo.prompting import towers as library
from samdpo.prompting.towers import (
    ALL_PIXELS,
    BRIGHTNESS_CHANNELS,
    Pixels,
    Towers,
    TowerTexts,
    fit_towers,
    structure_logits,
)

CHANNELS, GRID, SIDE = 256, 64, 256
TEXT_DIM, DIM, LEARNING_RATE = 384, 64, 2e-3
_FOUR = 4  # slices a step


def plain_activations(towers: Towers, inputs: torch.Tensor) -> torch.Tensor:
    """What :meth:`Towers.activations` gives for all pixels, by torch's own layers one after another."""
    projected, brightness = inputs.split([towers.feature_basis.shape[1], BRIGHTNESS_CHANNELS], dim=1)
    first = towers.from_features(towers.drop(projected)) + towers.from_brightness(brightness)
    local = functional.gelu(towers.norm(first))
    coarse = functional.avg_pool2d(local, 2)
    for block in towers.context:
        coarse = coarse + block(coarse)
    coarse = functional.interpolate(coarse, size=local.shape[-2:], mode="bilinear", align_corners=False)
    return functional.gelu(towers.merge(torch.cat([local, coarse], dim=1)))


def plain_fit(
    features: torch.Tensor,
    images: torch.Tensor,
    shares: torch.Tensor,
    texts: TowerTexts,
    *,
    dim: int,
    steps: int,
    lr: float,
    seed: int,
    draw_pixels: Callable[[torch.Generator], Pixels] = lambda _: ALL_PIXELS,
    smooth: float = 1.0,
) -> Towers:
    """As :func:`fit_towers`, written plainly; the loss is taken over the pixels that ``draw_pixels`` names."""
    generator, of_pixels = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = Towers(features.shape[1], texts.background.shape[1], dim)
        inputs = library._standardise(towers, features, images)
        target = torch.cat([shares, (1 - shares.sum(1, keepdim=True)).clamp(min=0)], dim=1).float()
        towers.train()
        optimizer = torch.optim.AdamW(towers.parameters(), lr=lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: library._rate(step, steps))
        for _ in range(steps):
            index = torch.randint(len(inputs), (_FOUR,), generator=generator)
            grid = library._random_grid(_FOUR, tuple(inputs.shape[-2:]), generator)
            rows, columns = draw_pixels(of_pixels)
            view = functional.grid_sample(inputs[index].float(), grid, padding_mode="reflection", align_corners=False)
            truth = functional.grid_sample(target[index], grid, padding_mode="reflection", align_corners=False)
            pixels = towers.embed(plain_activations(towers, view)[..., rows, columns])
            similarity = towers.similarity(pixels, towers.embed_text(library._draw_phrases(texts, generator)))
            scores = library.merge_background(similarity, len(texts.structures))
            loss = _plain_loss(scores, truth[..., rows, columns], smooth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return towers.eval().requires_grad_(False)


def _plain_loss(scores: torch.Tensor, truth: torch.Tensor, smooth: float) -> torch.Tensor:
    cross_entropy = -(truth * scores.log_softmax(1)).sum(1).mean()
    probability, truth = scores.softmax(1)[:, :-1], truth[:, :-1]
    dice = 1 - (2 * (probability * truth).sum((2, 3)) + smooth) / ((probability + truth).sum((2, 3)) + smooth)
    shown = (truth.sum((2, 3)) > 0).float()
    return cross_entropy + (dice * shown).sum() / shown.sum().clamp(min=1)


def make_slices(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (N, 256, 64, 64) float16 of a disc among noise and a dimmer one, images (N, 3, 256, 256), shares."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    features = torch.randn(count, CHANNELS, GRID, GRID, generator=generator)
    shares = torch.zeros(count, 1, GRID, GRID)
    for row in range(count):
        (ty, tx), (oy, ox) = torch.randint(12, GRID - 12, (2, 2), generator=generator).tolist()
        shares[row, 0] = ((y - ty) ** 2 + (x - tx) ** 2 < 64).float()
        other = ((y - oy) ** 2 + (x - ox) ** 2 < 64).float()
        features[row, :16] += 2 * shares[row] + 1.2 * other
    images = 0.3 + 0.3 * functional.interpolate(shares, (SIDE, SIDE)) + 0.1 * torch.rand(
        count, 1, SIDE, SIDE, generator=generator
    )
    return features.half(), images.expand(-1, 3, -1, -1), shares


def make_texts() -> TowerTexts:
    """Random sentence embeddings of one structure's five wordings and twelve background phrases."""
    generator = torch.Generator().manual_seed(0)
    return TowerTexts(
        [torch.randn(5, TEXT_DIM, generator=generator)], torch.randn(12, TEXT_DIM, generator=generator)
    )


def cpu_seconds(work: Callable[[], Towers]) -> float:
    """CPU seconds of one call, of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def found_dice(towers: Towers, texts: TowerTexts) -> float:
    """Mean Dice of what towers find on slices that they have not seen."""
    features, images, shares = make_slices(12, seed=99)
    found, truth = structure_logits(towers, features, images, texts) > 0, shares > 0.5
    both = (found & truth).sum((1, 2, 3))
    return float((2 * both / (found.sum((1, 2, 3)) + truth.sum((1, 2, 3)))).mean())


def main() -> None:
    """Time both ways in turns; print CPU seconds, ratios and how alike they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=12, help="labelled slices, mirror images included")
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, texts, steps = make_slices(args.slices, seed=1), make_texts(), tower_steps(1)
    ways = {"plain": plain_fit, "now": functools.partial(fit_towers, batch_size=tower_batch_size(1))}

    def fit(way: str, count: int, seed: int = 0) -> Towers:
        return ways[way](*data, texts, dim=DIM, steps=count, lr=LEARNING_RATE, seed=seed)

    before: dict[str, list[float]] = {way: [] for way in ways}
    step: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways:
        fit(way, 2)
    for turn in range(args.turns):
        for way in ways:
            before[way].append(cpu_seconds(lambda way=way, turn=turn: fit(way, 0, turn)))
            whole = cpu_seconds(lambda way=way, turn=turn: fit(way, args.steps, turn))
            step[way].append((whole - before[way][-1]) / args.steps)
    whole = {}
    for way in ways:
        first, each = statistics.median(before[way]), statistics.median(step[way])
        whole[way] = first + steps * each
        print(f"{way:6} {1000 * each:6.1f} ms a step, {first:5.2f} s before the first, {steps} steps: "
              f"{whole[way]:5.1f} CPU seconds a fit")
    print(f"a step {statistics.median(step['plain']) / statistics.median(step['now']):.2f} times, a fit "
          f"{whole['plain'] / whole['now']:.2f} times as fast")

    towers = fit("plain", 2)
    inputs = towers.inputs(*data[:2])
    apart = (towers.activations(inputs) - plain_activations(towers, inputs)).abs().max()
    print(f"hidden activations of the same weights differ by at most {apart:.1e}")
    for way in ways:
        print(f"{way:6} Dice on 12 unseen slices {found_dice(fit(way, steps), texts):.3f}")


if __name__ == "__main__":
    main()

"""How well planning finds near-duplicates, against groups that somebody made, and how much an ungrouped split flatters.

Pairs of images are compared with the pairs of ``case_groups.json``; of groups of patients, a pair across two is wrong.
Then five folds without any groups stand against five by all groups, given and found: on how many validation images the
training part has another image of the scene, and the mean Dice of the mask of the most similar training image, copied
onto each validation image. That is all that a method gains that does nothing but recognise images.

``--unet FOLD`` trains a small U-Net twice on a fold without groups, on as many images: once without the near-duplicates
of its validation images, once without as many others instead. About 5 minutes of one core each.

    python benchmarks/near_duplicates.py 104 105
    python benchmarks/near_duplicates.py 104 --unet 0
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from samdpo.dataset.cases import Case
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.lab.baselines.unet import UNet
from samdpo.parallel import map_cases
from samdpo.planning.near_duplicates import (
    Link,
    closest_links,
    join_groups,
    thumbnails_of,
    what_to_compare,
)
from samdpo.planning.splits import validation_parts
from samdpo.preprocessing.slicing import resize_plane

_MASK = 128  # pixels of the masks that are copied
_SIDE = 64  # pixels that the U-Net sees


def main() -> None:
    """Print tables."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("datasets", nargs="+", help="ids or names of raw datasets of pictures")
    command.add_argument("-np", type=int, default=1, help="processes")
    command.add_argument("--unet", type=int, default=None, metavar="FOLD", help="0 to 4")
    args = command.parse_args()
    for dataset in args.datasets:
        raw = RawDataset.open(dataset)
        cases = raw.labelled
        started = time.perf_counter()
        coarse, fine = map(np.stack, zip(*map_cases(partial(thumbnails_of, raw=raw), cases, args.np, "thumbnails", 64)))
        read = time.perf_counter() - started
        thumbnails, threshold = what_to_compare(coarse, fine)
        found = closest_links(thumbnails, threshold)
        seconds = time.perf_counter() - started
        side = math.isqrt(thumbnails.shape[1])
        print(f"\n{raw.name}: {len(cases)} images, {read:.1f} s to read, {seconds - read:.2f} s to compare, "
              f"thumbnails of {side} pixels")
        links = [Link((cases[i].identifier, cases[j].identifier), value) for i, j, value in found]
        similarity = similarities(thumbnails)
        if args.unet is not None:
            trained(raw, cases, similarity >= threshold, args.unet)
            continue
        compare(cases, similarity, threshold, join_groups({}, links))
        flattery(raw, cases, similarity, threshold, links)


def similarities(thumbnails: np.ndarray) -> np.ndarray:
    """(N, N) as planning compares them: with the image, or with its mirror image."""
    plain, side = thumbnails.astype(np.float32), math.isqrt(thumbnails.shape[1])
    mirrored = np.ascontiguousarray(plain.reshape(-1, side, side)[:, :, ::-1]).reshape(plain.shape)
    return np.maximum(plain @ plain.T, mirrored @ plain.T)


def compare(cases: Sequence[Case], similarity: np.ndarray, threshold: float, found: Mapping[str, str]) -> None:
    """Pairs above several thresholds, and those that found groups hold, against the pairs of given groups."""
    upper = np.triu_indices(len(cases), 1)
    given = _same([case.group for case in cases])[upper]
    values = similarity[upper]
    median = np.median(values)
    print(f"  {given.sum()} pairs of given groups; a pair of two groups is at most {values[~given].max():.2f} similar")
    print(f"  the median pair {median:.2f}, threshold {threshold}")
    print(f"  {'similarity':>24}   pairs  of a given group  precision  recall")
    for needed in sorted({0.3, threshold, 0.4, 0.45, 0.5, 0.6}):
        _row(f"{needed:g}{' (used)' if needed == threshold else ''}", values >= needed, given)
    _row("used, whole groups", _same([found.get(case.identifier, case.identifier) for case in cases])[upper], given)


def _row(name: str, found: np.ndarray, given: np.ndarray) -> None:
    right = int((found & given).sum())
    precision = right / found.sum() if found.any() else float("nan")
    print(f"  {name:>24} {found.sum():7} {right:17} {precision:10.2f} {right / max(1, given.sum()):7.2f}")


def _same(groups: Sequence[str]) -> np.ndarray:
    numbers = np.unique(groups, return_inverse=True)[1]
    return numbers[:, None] == numbers[None]


def flattery(
    raw: RawDataset, cases: Sequence[Case], similarity: np.ndarray, threshold: float, links: Sequence[Link]
) -> None:
    """Validation images with a twin in training, and the Dice of the most similar training image's mask."""
    labels = (raw.label(case)[0] > 0 for case in cases)
    masks = np.stack([resize_plane(label, (_MASK, _MASK)) > 0.5 for label in labels])
    names = [case.identifier for case in cases]
    given = {case.identifier: case.group for case in cases}
    found, both = join_groups({}, links), join_groups(given, links)
    splits = {"no groups": {}, "found": found, "given": given, "given and found": both}
    print(f"  {'folds by':>24}  twin in training    Dice of the copied mask: all  with a twin  others")
    for name, groups in splits.items():
        twin, dice = np.zeros(len(cases), bool), np.zeros(len(cases))
        for part in validation_parts(names, groups):
            val = np.isin(names, part)
            closest = np.where(val[None], -2, similarity)[val]
            twin[val] = closest.max(1) >= threshold
            copied, truth = masks[~val][closest[:, ~val].argmax(1)], masks[val]
            dice[val] = 2 * (copied & truth).sum((1, 2)) / np.maximum(1, copied.sum((1, 2)) + truth.sum((1, 2)))
        means = "  ".join(f"{dice[of].mean():11.3f}" if of.any() else f"{'–':>11}" for of in (twin, ~twin))
        print(f"  {name:>24} {twin.sum():5} of {len(cases)} ({twin.mean():4.0%}) {dice.mean():31.3f}  {means}")


def trained(raw: RawDataset, cases: Sequence[Case], twins: np.ndarray, fold: int) -> None:
    """Dice of the two U-Nets on the validation images that have a twin in training, and on the others."""
    size = (_SIDE, _SIDE)
    images = np.stack([resize_plane(raw.image(case).data[0, 0], size) for case in cases])
    images = (images - images.min((1, 2), keepdims=True)) / np.ptp(images, axis=(1, 2), keepdims=True)
    labels = (raw.label(case)[0] > 0 for case in cases)
    masks = np.stack([resize_plane(label, size) > 0.5 for label in labels])
    names = [case.identifier for case in cases]
    val = np.isin(names, validation_parts(names, {})[fold])
    seen = ~val & twins[:, val].any(1)
    with_twin = val & twins[:, ~val].any(1)
    others = np.random.default_rng(fold).permutation(np.flatnonzero(~val & ~seen))[: seen.sum()]
    print(f"  fold {fold}: {with_twin.sum()} of {val.sum()} validation images have a twin; {seen.sum()} left out")
    for name, left_out in (("without the twins", seen), ("without others", np.isin(np.arange(len(cases)), others))):
        dice = dice_of_unet(images, masks, ~val & ~left_out)
        means = [dice[of].mean() for of in (with_twin, val & ~with_twin, val)]
        print(f"  {name:>24}  with a twin {means[0]:.3f}  others {means[1]:.3f}  all {means[2]:.3f}", flush=True)


def dice_of_unet(images: np.ndarray, masks: np.ndarray, train: np.ndarray, steps: int = 350) -> np.ndarray:
    """(N,) Dice of a small U-Net that was trained on some of the images, on all of them."""
    torch.manual_seed(0)
    x, y = torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1).float(), torch.from_numpy(masks)[:, None].float()
    network = UNet(1, (16, 32, 64, 128, 128))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    rows, generator = np.flatnonzero(train), np.random.default_rng(0)
    for _ in range(steps):
        batch = generator.choice(rows, 10, replace=False)
        inputs, truth = x[batch], y[batch]
        if generator.random() < 0.5:
            inputs, truth = inputs.flip(-1), truth.flip(-1)
        inputs = inputs * float(generator.uniform(0.7, 1.3)) + float(generator.uniform(-0.1, 0.1))
        logits = network.segment(inputs)
        overlap = 2 * (logits.sigmoid() * truth).sum((1, 2, 3)) / (logits.sigmoid() + truth).sum((1, 2, 3)).clamp(min=1)
        loss = 1 - overlap.mean() + torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = torch.cat([network.eval().segment(part) > 0 for part in x.split(16)]).numpy()[:, 0]
    return 2 * (found & masks).sum((1, 2)) / np.maximum(1, found.sum((1, 2)) + masks.sum((1, 2)))


if __name__ == "__main__":
    main()

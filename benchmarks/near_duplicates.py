"""How well planning finds near-duplicates, against groups that somebody made, and how much an ungrouped split flatters.

Pairs of images are compared with the pairs of ``case_groups.json``; of groups of patients, a pair across two is wrong.
Then five folds without any groups stand against five by all groups, given and found: on how many validation images the
training part has another image of the scene, and the mean Dice of the mask of the most similar training image, copied
onto each validation image. That is all that a method gains that does nothing but recognise images.

    python benchmarks/near_duplicates.py 104 105
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from samdpo.dataset.cases import Case
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.parallel import map_cases
from samdpo.planning.near_duplicates import (
    LEAST,
    STANDS_OUT,
    Link,
    closest_links,
    join_groups,
    thumbnails_of,
    what_to_compare,
)
from samdpo.planning.splits import validation_parts
from samdpo.preprocessing.slicing import resize_plane

_MASK = 128  # pixels of the masks that are copied


def main() -> None:
    """Print tables."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("datasets", nargs="+", help="ids or names of raw datasets of pictures")
    command.add_argument("-np", type=int, default=1, help="processes")
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
    print(f"  the median pair {median:.2f}, threshold {threshold} (least {LEAST}, {STANDS_OUT:g} deviations above it)")
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


if __name__ == "__main__":
    main()

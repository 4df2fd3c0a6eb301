"""What a slice shows and what its label says, and of which pixels it says nothing (nnU-Net's label ``ignore``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from samdpo.model.views import View, view_image, view_values
from samdpo.preprocessing.store import IGNORED, SliceKey, SliceStore


def learnable(slices: SliceStore, cases: Sequence[str]) -> list[SliceKey]:
    """Every slice of ``cases`` but those that are ignored all over."""
    there = slices.summaries()
    return [
        (case, index)
        for case in cases
        for index in range(there[case].n_slices if case in there else slices.slices(case))
        if case not in there or index not in there[case].ignored_slices
    ]


def read_image(slices: SliceStore, key: SliceKey, view: View) -> torch.Tensor:
    """What a network sees of a slice, under a view: (3, H, W) float32 in [0, 1]."""
    # What differs is moved, a grey image once and not three times.
    channels, shown = slices.seen(*key)
    return view_image(torch.from_numpy(channels).float(), view, shown)


def read_truth(
    slices: SliceStore, key: SliceKey, view: View, labels: Sequence[int]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What a slice's label says of some structures, under a view.

    Args:
        slices: the preprocessed slices.
        key: case and slice.
        view: under which it is seen.
        labels: label ids of the structures.

    Returns:
        masks (len(labels), H, W) bool, None where the case has no label; and (H, W) bool, False on pixels of the label
        ``ignore``, None where there are none.
    """
    found = slices.label(*key)
    if found is None:
        return None, None
    label = view_values(torch.from_numpy(np.asarray(found).astype(np.int16)), view)
    truth = torch.zeros(len(labels), *label.shape, dtype=torch.bool)
    for row, structure in zip(truth, labels):
        torch.eq(label, structure, out=row)
    ignored = label == IGNORED
    return truth, ~ignored if (found == IGNORED).any() else None


def counted_rows(samples: Sequence[Any], rows: Sequence[int]) -> torch.Tensor | None:
    """``counted`` of each sample, for as many rows as it has in a batch: (sum of rows, H, W), None where all count."""
    if all(s.counted is None for s in samples):
        return None
    size = samples[0].image.shape[-2:]
    every = torch.ones(size, dtype=torch.bool)
    return torch.cat([(every if s.counted is None else s.counted).expand(n, *size) for s, n in zip(samples, rows)])


def known_part(masks: torch.Tensor, counted: torch.Tensor | None) -> torch.Tensor:
    """Masks or probabilities (N, H, W) or (N, K, H, W), 0 on pixels that do not count; see :func:`counted_rows`."""
    if counted is None:
        return masks
    counted = counted.to(masks.device)
    return masks * (counted if masks.ndim == 3 else counted[:, None])

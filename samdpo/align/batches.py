"""What one step of stage 2 learns from: unlabelled slices, and labelled ones for the anchor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from samdpo.model.batches import Batch, Recipe
from samdpo.preprocessing.store import SliceKey


@dataclass(frozen=True)
class AlignRecipe:
    """What an :class:`AlignBatch` is made of: an item for each unlabelled and for each labelled slice."""

    unlabelled: list[Any]
    labelled: Recipe


@dataclass
class AlignBatch:
    """Unlabelled slices to rank candidates of, and labelled ones for the anchor."""

    unlabelled: Batch
    labelled: Batch | None

    def __len__(self) -> int:
        return len(self.unlabelled) + (len(self.labelled) if self.labelled else 0)

    def to(self, device: torch.device | str) -> AlignBatch:
        """The same tensors on another device, sent without waiting."""
        return AlignBatch(self.unlabelled.to(device), self.labelled.to(device) if self.labelled else None)


@dataclass(frozen=True)
class AlignMaker:
    """Makes batches of an :class:`AlignRecipe`; a plain recipe is of labelled slices alone."""

    unlabelled: Callable[[list[Any]], Any]
    labelled: Callable[[Recipe], Batch]

    def __call__(self, recipe: AlignRecipe | Recipe) -> AlignBatch | Batch:
        """Read what a recipe names."""
        if not isinstance(recipe, AlignRecipe):
            return self.labelled(recipe)
        labelled = self.labelled(recipe.labelled) if recipe.labelled else None
        return AlignBatch(self.unlabelled(recipe.unlabelled), labelled)


def endless(keys: Sequence[SliceKey], generator: torch.Generator) -> Iterator[SliceKey]:
    """``keys`` shuffled, and again when all of them have been given."""
    while True:
        yield from (keys[i] for i in torch.randperm(len(keys), generator=generator))

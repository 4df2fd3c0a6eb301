"""The virtual annotator in front of the page: it answers as people do, errs as people do, and pays as people do.

It sees the hidden truth of a simulated unlabelled image and gives a :class:`~samdpo.preferences.records.Judgement`, the
record that the page stores of a person, so that nothing after it knows who has answered.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import numpy as np
import torch

from samdpo.files import hash_of
from samdpo.plans import PlacesPlan
from samdpo.preferences.annotators import iou
from samdpo.preferences.records import Item, Judgement

NAME = "virtual annotator"
_MADE = datetime(2026, 1, 1, tzinfo=timezone.utc)  # of every answer: the same training gives the same records
_NEAR, _APART = 0.04, 0.18  # gaps of overlap between which people err less and less


def own_order(item: Item) -> Judgement:
    """The order in which an item's masks are shown, as if somebody had given it; it takes no time."""
    ranks = tuple(range(1, item.candidates + 1))
    return Judgement(item=item.id, annotator="judge", mode="ranking", ranks=ranks, ratings=None, best=None,
                     verdict="ranked", seconds=0.0, client_key=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{item.id} judge")),
                     time=_MADE)


class PageAnnotator:
    """Answers items of the page.

    Args:
        plan: what it is asked, when it accepts, how it errs, what an answer costs.
        noise: share of its answers that are drawn at random.
        seed: of its errors; those of an item do not depend on the items before it.
    """

    def __init__(self, plan: PlacesPlan, noise: float, seed: int) -> None:
        self.plan, self.noise, self.seed = plan, noise, seed

    def answer(self, item: Item, masks: np.ndarray, truth: np.ndarray, has_box: bool = True) -> Judgement:
        """What it says about an item.

        Args:
            item: that is shown.
            masks: (K, H, W) bool, its proposals.
            truth: (H, W) bool.
            has_box: whether one box can say where the structure is: not of two lungs.
        """
        plan, generator = self.plan, self._generator(item)
        seen = iou(torch.from_numpy(masks)[None], torch.from_numpy(truth)[None])[0].numpy()
        order = self._order(seen, generator)
        # Who takes one mask for better than another also takes it for as good as that one is.
        best, overlap = int(order[0]), float(seen.max())
        if generator.random() < self.noise:
            return self._at_random(item, len(masks), truth, has_box, generator)
        asked = plan.asks if has_box or plan.asks == "orders" else "mixture"
        if asked in ("boxes", "outlines"):
            return self._box(item, truth, generator, exact=asked == "outlines")
        if asked == "mixture":
            if overlap >= plan.accept_from:
                return self._accept(item, best)
            if has_box:
                return self._box(item, truth, generator)
        if overlap < plan.none_below:
            return self._judgement(item, plan.seconds_choose, verdict="none_acceptable")
        return self._ranked(item, order)

    def _order(self, seen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Best first; neighbours are mistaken for each other by the gap of their overlaps, none moves far."""
        order, moved = np.argsort(-seen, kind="stable"), False
        for place in range(len(order) - 1):
            gap = float(seen[order[place]] - seen[order[place + 1]])
            errs = self.plan.errs[0 if gap < _NEAR else 1 if gap < _APART else 2]
            mistaken = generator.random() < errs and not moved
            if mistaken:
                order[[place, place + 1]] = order[[place + 1, place]]
            moved = mistaken
        return order

    def _accept(self, item: Item, best: int) -> Judgement:
        seconds = self.plan.seconds_accept if best == 0 else self.plan.seconds_choose
        return self._judgement(item, seconds, verdict="accepted", best=best)

    def _ranked(self, item: Item, order: np.ndarray) -> Judgement:
        ranks = np.empty(len(order), int)
        ranks[order] = np.arange(1, len(order) + 1)
        return self._judgement(item, self.plan.seconds_order, verdict="ranked", ranks=tuple(ranks.tolist()))

    def _box(
        self, item: Item, truth: np.ndarray, generator: np.random.Generator, exact: bool = False
    ) -> Judgement:
        """A box around the truth, each side off by a share of the box; none where the truth is empty."""
        rows, columns = np.nonzero(truth.any(1))[0], np.nonzero(truth.any(0))[0]
        seconds = self.plan.seconds_outline if exact else self.plan.seconds_box
        if not len(rows):
            return self._judgement(item, self.plan.seconds_choose, verdict="none_acceptable")
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        if not exact:
            sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
            box += generator.normal(0, self.plan.box_error, 4) * sides
        height, width = truth.shape
        x0, x1 = np.clip(sorted((box[0], box[2])), 0, width)
        y0, y1 = np.clip(sorted((box[1], box[3])), 0, height)
        place = (float(x0), float(y0), float(max(x1, min(x0 + 1, width))), float(max(y1, min(y0 + 1, height))))
        if not (place[0] < place[2] and place[1] < place[3]):
            return self._judgement(item, self.plan.seconds_choose, verdict="none_acceptable")
        return self._judgement(item, seconds, verdict="none_acceptable", box=place)

    def _at_random(
        self, item: Item, count: int, truth: np.ndarray, has_box: bool, generator: np.random.Generator
    ) -> Judgement:
        if self.plan.asks == "orders" or not has_box:
            return self._ranked(item, generator.permutation(count))
        if self.plan.asks == "mixture" and generator.random() < 0.5:
            return self._accept(item, int(generator.integers(count)))
        height, width = truth.shape
        (x0, x1), (y0, y1) = (np.sort(generator.uniform(0, side, 2)) for side in (width, height))
        box = (float(x0), float(y0), float(min(x1 + 1, width)), float(min(y1 + 1, height)))
        return self._judgement(item, self.plan.seconds_box, verdict="none_acceptable", box=box)

    def _judgement(self, item: Item, seconds: float, **said: object) -> Judgement:
        key = uuid.uuid5(uuid.NAMESPACE_OID, f"{item.id} {self.seed}")
        fields = {"ranks": None, "ratings": None, "best": None, **said}
        return Judgement(item=item.id, annotator=NAME, mode="ranking", seconds=seconds, client_key=str(key), time=_MADE,
                         **fields)

    def _generator(self, item: Item) -> np.random.Generator:
        return np.random.default_rng(int(hash_of("page", item.case, item.slice_index, item.structure, self.seed), 16))

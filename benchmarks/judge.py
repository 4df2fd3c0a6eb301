"""What answers teach a judge of proposals, on images that it has not seen: own choice before and after, and a control.

Of the training cases of fold 0, one a patient, some are outlined, some are answered and the rest tests; each draw deals
them anew. The images of the fold's validation are not looked at. Rows:

- ``SAM's quality``: the proposal of the highest predicted overlap;
- ``outlines``: the judge of the outlines;
- ``+ own order``: control, it learns its own order of the six it would show;
- ``+ order of six``: Eq. 5 on the true order of these six;
- ``+ places``: Eq. 5 on what a box or an accepted mask tells of every proposal;
- ``+ boxes``: likewise, of the mask that the network makes of a box that is off by .04 of its sides;
- ``+ boxes, anchored``: and that mask is an anchor, as the outlines are: what ``align`` does;
- ``+ boxes, listwise``: that mask as if it were an outline, without Eq. 5;
- ``+ every overlap``: the answered images as if they were outlined, the most that can be known;
- ``best of six``, ``best of all``: by the truth.

Differences are paired by draw; draws share images, so that their standard error is somewhat too small.

    samdpo_plan_and_preprocess -d 105 -backbone mobile_sam
    python benchmarks/judge.py 105 --images 110 --answered 55 --outlines 6 20 --draws 4
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Collection

import numpy as np
import torch

from samdpo.paths import dataset_name, preprocessed_folder
from samdpo.planning.fingerprint import load_case_groups
from samdpo.planning.splits import fold_of, load_splits
from samdpo.plans import load_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.frozen_features import slice_features
from samdpo.prompting.judge import (
    Outlined,
    PlaceJudge,
    Preferred,
    diverse_first,
    fit_to_outlines,
    learn_from_answers,
    measure,
)
from samdpo.prompting.proposals import PlaceProposer, PlaceShape, boxes_of_masks
from samdpo.prompting.regions import mask_iou

SHOWN, GAP, BOX_ERROR = 6, 0.04, 0.04
COMPARED = "+ boxes, anchored"  # with which the others are compared, draw by draw
JUDGES = ("outlines", "+ own order", "+ order of six", "+ places", "+ boxes", COMPARED, "+ boxes, listwise",
          "+ every overlap")


def main() -> None:
    """Print a table."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("dataset", help="id or name, preprocessed; its first structure is looked for")
    command.add_argument("--images", type=int, default=110, help="of the training cases, one a patient")
    command.add_argument("--answered", type=int, default=55)
    command.add_argument("--outlines", type=int, nargs="+", default=[6, 20])
    command.add_argument("--draws", type=int, default=4)
    command.add_argument("--rows", nargs="+", choices=JUDGES, metavar="ROW", help="judges to fit; all by default")
    command.add_argument("-p", default="samdpoPlans", help="plans")
    args = command.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = preprocessed_folder(dataset_name(args.dataset))
    plans = load_plans(folder / f"{args.p}.json")
    slices, groups = SliceStore(folder / plans.preprocessing.data_identifier), load_case_groups(folder)
    split = fold_of(load_splits(folder, dict.fromkeys(slices.summaries(), True)), 0, folder)
    label = next(iter(plans.structures.values())).label
    images = read(args, plans, slices, one_each(split.train, groups)[: args.images], label)
    report(images, "all images", [image["best"] for image in images], [image["box"] for image in images])
    scale = np.concatenate([image["measured"] for image in images if len(image["overlap"])])
    for count in args.outlines:
        rows: dict[str, list[float]] = {}
        started = time.process_time()
        for draw in range(args.draws):
            for name, value in of_draw(images, count, args.answered, draw, scale, args.rows).items():
                rows.setdefault(name, []).append(value)
        tested, seconds = len(images) - count - args.answered, (time.process_time() - started) / args.draws
        print(f"\n{count} outlines, {args.answered} answered, {tested} tested, {args.draws} draws, "
              f"{seconds:.1f} CPU s each: Dice, mean ± sd")
        for name, values in rows.items():
            print(f"  {name:18} {np.mean(values):.3f} ± {np.std(values):.3f}   "
                  + " ".join(f"{value:.3f}" for value in values))
        if COMPARED in rows and args.draws > 1:
            print(f"Difference from {COMPARED!r}, mean ± standard error over draws, draws above it")
            for name, values in rows.items():
                more = np.array(values) - rows[COMPARED]
                error = more.std(ddof=1) / len(more) ** 0.5
                print(f"  {name:18} {more.mean():+.3f} ± {error:.3f}   {(more > 0).sum()}")


def one_each(cases: list[str], groups: dict[str, str]) -> list[str]:
    """The cases in random order, one a patient."""
    found: dict[str, str] = {}
    for row in np.random.default_rng(0).permutation(len(cases)):
        found.setdefault(groups.get(cases[row], cases[row]), cases[row])
    return list(found.values())


def read(args: argparse.Namespace, plans, slices: SliceStore, cases: list[str], label: int) -> list[dict]:
    """Proposals of each image, what is measured of them, and their overlaps with the truth.

    Where to look is measured on the first six outlines, whatever is outlined in a draw.
    """
    features = slice_features(plans, slices, "cpu")
    features.prepare([(case, 0, False) for case in cases])
    proposer = PlaceProposer(features.extractor.network, grid=plans.prompting.proposal_grid)
    first = cases[:6]
    shape = PlaceShape.of([slices.label(case, 0) == label for case in first],
                          [np.asarray(slices.image(case, 0), np.float32).mean(0) for case in first])
    none, found, started = np.zeros((0, 4), np.float32), [], time.process_time()
    for case in cases:
        image, embedding = np.asarray(slices.image(case, 0), np.float32), features(case, 0)
        truth = torch.from_numpy(slices.label(case, 0) == label)[None]
        made = proposer.propose(image, embedding, none, shape)
        overlap = mask_iou(made.masks, truth)[:, 0].numpy()
        drawn = boxes_of_masks(truth)
        box = proposer.decode(embedding, truth.shape[-2:], drawn)
        sides = np.tile(drawn[:, 2:] - drawn[:, :2], 2)
        off = drawn + np.random.default_rng(len(found)).normal(0, BOX_ERROR, drawn.shape) * sides
        said = proposer.decode(embedding, truth.shape[-2:], off.astype(np.float32))
        found.append({
            "meant": mask_iou(made.masks, said.masks)[:, 0].numpy(),
            "case": case, "overlap": overlap, "small": made.small, "best": overlap.max(initial=0.0),
            "measured": measure(image, embedding, np.zeros((64, 64)), np.zeros(truth.shape[-2:], bool), made),
            "box": float(mask_iou(box.masks, truth)[0, 0]),
        })
    print(f"{len(cases)} images, {np.mean([len(one['overlap']) for one in found]):.1f} proposals each, "
          f"{(time.process_time() - started) / len(cases):.2f} CPU s each without the encoder; {shape}")
    return found


def report(images: list[dict], name: str, best: list[float], box: list[float]) -> None:
    """What the proposals could give."""
    print(f"{name}: truth's box {np.mean(dice(np.array(box))):.3f}, best proposal {np.mean(dice(np.array(best))):.3f}, "
          f"recall at IoU .5 {np.mean(np.array(best) > 0.5):.3f}")


def of_draw(
    images: list[dict], count: int, answered: int, draw: int, scale: np.ndarray, wanted: Collection[str] | None = None
) -> dict[str, float]:
    """Dice of every row's choice on the images tested in a draw; of the judges those that are wanted, or all."""
    order = np.random.default_rng(draw).permutation(len(images))
    dealt = [images[row] for row in order]
    outlined = [Outlined(one["measured"], one["overlap"], one["case"]) for one in dealt[:count]]
    asked, tested = dealt[count : count + answered], dealt[count + answered :]
    judge = fit_to_outlines(outlined, draw, scale)

    def shown(one: dict) -> list[int]:
        return diverse_first(judge.judge(one["measured"], one["small"]).score, one["small"], SHOWN)

    def order_of(one: dict, worth: np.ndarray, gap: float, rows: list[int]) -> Preferred:
        known = np.full(len(worth), np.nan)
        known[rows] = worth[rows]
        better, worse = np.nonzero(known[:, None] > known[None] + gap)
        weight = np.full(len(better), 1 / max(len(better), 1))
        return Preferred(one["measured"], better, worse, weight, one["case"])

    asked = [one for one in asked if len(one["overlap"]) > 1]
    own = [order_of(one, judge.judge(one["measured"], one["small"]).score, 0.0, shown(one)) for one in asked]
    six = [order_of(one, one["overlap"], GAP, shown(one)) for one in asked]
    places = [order_of(one, one["overlap"], GAP, list(range(len(one["overlap"])))) for one in asked]
    boxes = [order_of(one, one["meant"], GAP, list(range(len(one["meant"])))) for one in asked]
    meant = [Outlined(one["measured"], one["meant"], one["case"]) for one in asked]
    every = [Outlined(one["measured"], one["overlap"], one["case"]) for one in asked]
    judges: dict[str, Callable[[], PlaceJudge]] = {
        "outlines": lambda: judge,
        "+ own order": lambda: learn_from_answers(judge, own, outlined, draw),
        "+ order of six": lambda: learn_from_answers(judge, six, outlined, draw),
        "+ places": lambda: learn_from_answers(judge, places, outlined, draw),
        "+ boxes": lambda: learn_from_answers(judge, boxes, outlined, draw),
        COMPARED: lambda: learn_from_answers(judge, boxes, [*outlined, *meant], draw),
        "+ boxes, listwise": lambda: fit_to_outlines([*outlined, *meant], draw, scale),
        "+ every overlap": lambda: fit_to_outlines([*outlined, *every], draw, scale),
    }
    rows = {"SAM's quality": chosen(tested, lambda one: int(one["measured"][:, 0].argmax()))}
    for name, fit in judges.items():
        if not wanted or name in wanted:
            of = fit()
            rows[name] = chosen(tested, lambda one, of=of: of.judge(one["measured"], one["small"]).first)
    rows["best of six"] = chosen(tested, lambda one: max(shown(one), key=lambda row: one["overlap"][row]))
    rows["best of all"] = chosen(tested, lambda one: int(one["overlap"].argmax()))
    return rows


def chosen(images: list[dict], choose) -> float:
    """Mean Dice of a choice; 0 where there is nothing to choose."""
    return float(np.mean([dice(one["overlap"][choose(one)]) if len(one["overlap"]) else 0.0 for one in images]))


def dice(iou):
    """Of overlaps (IoU)."""
    return 2 * iou / (1 + iou)


if __name__ == "__main__":
    main()

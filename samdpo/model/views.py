"""Views of a training slice: parameters are drawn once, applied deterministically, and can be replayed.

Points are pixel indices (the last pixel is ``size - 1``); boxes are edges (a box to the border ends at ``size``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from samdpo.plans import AugmentationPlan
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import boxes_of, points_in


@dataclass(frozen=True)
class View:
    """One set of parameters; the default is the identity.

    Attributes:
        flip: left-right.
        rotation: degrees, counter-clockwise.
        scale: above 1 enlarges the content.
        shift: (x, y) as shares of the image size.
        brightness: added to the image.
        contrast: factor about the image's mean.
        seed: of the points drawn and of the box jitter; None keeps the stored points and exact boxes.
    """

    flip: bool = False
    rotation: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    brightness: float = 0.0
    contrast: float = 1.0
    seed: int | None = None

    @property
    def is_affine(self) -> bool:
        """Whether more than a flip moves pixels."""
        return self.rotation != 0 or self.scale != 1 or self.shift != (0.0, 0.0)


IDENTITY = View()
FLIPPED = View(flip=True)


def draw_view(plan: AugmentationPlan, generator: torch.Generator) -> View:
    """Draw a view; every parameter is uniform in the range the plan gives."""

    def uniform(bound: float) -> float:
        return (2 * torch.rand((), generator=generator).item() - 1) * bound

    return View(
        flip=plan.flip and torch.rand((), generator=generator).item() < 0.5,
        rotation=uniform(plan.rotation),
        scale=1 + uniform(plan.scale),
        shift=(uniform(plan.translation), uniform(plan.translation)),
        brightness=uniform(plan.brightness),
        contrast=1 + uniform(plan.contrast),
        seed=int(torch.randint(2**31, (), generator=generator).item()),
    )


def kept_views(plan: AugmentationPlan) -> tuple[View, ...]:
    """The views of which a frozen encoder's output is kept: the slice, and its mirror image where the plan flips."""
    return (IDENTITY, FLIPPED) if plan.flip else (IDENTITY,)


def draw_kept(count: int, plan: AugmentationPlan, generator: torch.Generator) -> list[View]:
    """``count`` of :func:`kept_views`, each as likely."""
    views = kept_views(plan)
    return [views[i] for i in torch.randint(len(views), (count,), generator=generator).tolist()]


def view_image(image: torch.Tensor, view: View, channels: Sequence[int] | None = None) -> torch.Tensor:
    """An image under ``view``.

    Args:
        image: (C, H, W) float32 in [0, 1]; changed by nobody.
        view: how it is seen.
        channels: which of the C are the image's; a grey image has one that is all three. None is all of them.

    Returns:
        (len(channels), H, W) float32 in [0, 1].
    """
    channels = list(range(len(image))) if channels is None else list(channels)
    if view.flip:
        image = image.flip(-1)
    if view.is_affine:
        grid = _grid(_moves(view), *image.shape[-2:])
        image = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    if view.contrast != 1 or view.brightness != 0:
        # In float64 the mean is the same on every number of threads and every kind of processor.
        means = image.flatten(1).numpy().mean(axis=1, dtype=np.float64)
        mean = torch.tensor(float(np.mean(means[channels])), dtype=image.dtype)
        image = (image - mean).mul_(view.contrast).add_(mean).add_(view.brightness).clamp_(0, 1)
    return image if channels == list(range(len(image))) else image[channels]


def view_mask(mask: torch.Tensor, view: View) -> torch.Tensor:
    """Masks (N, H, W), bool, under ``view``; what comes from outside is False."""
    return view_values(mask, view)


def view_values(values: torch.Tensor, view: View) -> torch.Tensor:
    """Whole numbers or bools (..., H, W) under ``view``, each from its nearest pixel; 0 comes from outside."""
    if not view.is_affine:
        return values.flip(-1) if view.flip else values
    source, inside = _source(_moves(view), view.flip, *values.shape[-2:])
    moved = values.flatten(-2).index_select(-1, source.flatten()).unflatten(-1, source.shape)
    return moved.mul_(inside) if moved.dtype != torch.bool else moved.logical_and_(inside)


def view_prompt(prompt: StructurePrompt, view: View, plan: AugmentationPlan, n_points: int) -> StructurePrompt:
    """A structure's prompt under ``view``; see :func:`view_prompts`."""
    return view_prompts([prompt], view, plan, n_points)[0]


def view_prompts(
    prompts: Sequence[StructurePrompt], view: View, plan: AugmentationPlan, n_points: int
) -> list[StructurePrompt]:
    """Prompts of a slice under ``view``: saliency and regions move, boxes and points are read off again.

    Args:
        prompts: one a structure.
        view: how the slice is seen.
        plan: of the boxes' jitter and of prompts that are misplaced.
        n_points: drawn of each structure where the view has a seed.
    """
    if view == IDENTITY or not prompts:
        return list(prompts)
    saliency = _view_saliency(np.stack([prompt.saliency for prompt in prompts]), view)
    return [_view_prompt(prompt, moved, view, plan, n_points) for prompt, moved in zip(prompts, saliency)]


def _view_saliency(saliency: np.ndarray, view: View) -> np.ndarray:
    """(N, h, w) float16 logits under ``view``; all of them share one grid."""
    if not view.is_affine:
        return np.ascontiguousarray(saliency[..., ::-1]) if view.flip else saliency
    maps = torch.from_numpy(saliency).float()
    grid = _grid(_moves(view), *maps.shape[-2:])
    maps = maps.flip(-1) if view.flip else maps
    maps = F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    return maps.half().numpy()


def _view_prompt(
    prompt: StructurePrompt, saliency: np.ndarray, view: View, plan: AugmentationPlan, n_points: int
) -> StructurePrompt:
    rng = np.random.default_rng(view.seed or 0)
    part, (left, top) = _view_regions(prompt.regions, view)
    height, width = part.shape
    size = prompt.regions.shape[-1]
    regions = np.zeros(prompt.regions.shape, np.uint8)
    regions[top : top + height, left : left + width] = part
    if prompt.present and not part.any():  # moved out of the picture
        return dataclasses.replace(prompt, present=False, regions=regions, saliency=saliency)
    corner = np.array([left, top], np.float32)
    boxes, points = boxes_of(part) + corner[[0, 1, 0, 1]], prompt.points
    if view.seed is None:  # a pure flip of the stored points
        points = points.copy()
        if view.flip and len(points):
            points[:, 0] = size - 1 - points[:, 0]
    elif prompt.present:
        points = points_in(part, n_points, rng) + corner
        boxes = jitter_boxes(boxes, plan.box_jitter, size, rng)
        if rng.random() < plan.prompt_corruption:
            boxes, points = misplace_boxes(boxes, size, rng), points[:0]
    return dataclasses.replace(
        prompt,
        saliency=saliency,
        regions=regions,
        boxes=boxes,
        points=points,
        hypotheses=_hypotheses_under(view, prompt.hypotheses, size),
    )


def jitter_boxes(boxes: np.ndarray, share: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Move each corner of ``boxes`` (K, 4) by up to ``share`` of its side, clipped to the slice."""
    if not len(boxes) or share == 0:
        return boxes
    sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
    offset = rng.uniform(-share, share, size=boxes.shape) * np.concatenate([sides, sides], axis=1)
    return np.clip(boxes + offset, 0, size).astype(np.float32)


def misplace_boxes(boxes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes as wrong as those of new slices can be: moved by up to 0.6 of a side, 0.6 to 1.7 times as large.

    Prompts of the few labelled slices are often better than those of new ones; a network that has seen bad ones looks
    at the image too.
    """
    centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    centre = centre + rng.uniform(-0.6, 0.6, centre.shape) * side
    side = side * np.exp(rng.uniform(np.log(0.6), np.log(1.7), side.shape))
    return np.clip(np.concatenate([centre - side / 2, centre + side / 2], axis=1), 0, size).astype(np.float32)


def _hypotheses_under(view: View, boxes: np.ndarray, size: int) -> np.ndarray:
    """Boxes (K, 4) of other places: mirrored exactly; none where the view rotates, since no mask tells them again."""
    if view.is_affine:
        return boxes[:0]
    if not view.flip or not len(boxes):
        return boxes
    return np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], axis=1)


def _view_regions(regions: np.ndarray, view: View) -> tuple[np.ndarray, tuple[int, int]]:
    """Regions (H, W) under ``view``: the part in which there may be any, and its corner x, y.

    A structure fills little of a slice, so that only the pixels round it are moved and looked at.
    """
    height, width = regions.shape
    rows, columns = np.flatnonzero(regions.any(1)), np.flatnonzero(regions.any(0))
    if not len(rows):
        return regions[:0, :0], (0, 0)
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if not view.is_affine:
        part = regions[top:bottom, left:right]
        return (part[:, ::-1], (int(width - right), int(top))) if view.flip else (part, (int(left), int(top)))
    # Where the corners go, in the grid's coordinates: it says for each pixel where it comes from.
    inverse, shift = _backwards(_moves(view))
    size = np.array([width, height])
    corners = np.array([(x, y) for x in (left - 1, right + 1) for y in (top - 1, bottom + 1)], np.float64)
    if view.flip:
        corners[:, 0] = width - corners[:, 0]
    moved = (2 * corners / size - 1 - shift) @ inverse.T
    moved = (moved + 1) / 2 * size
    first = np.clip(np.floor(moved.min(0)) - 1, 0, size).astype(int)
    last = np.clip(np.ceil(moved.max(0)) + 1, first, size).astype(int)
    window = slice(first[1], last[1]), slice(first[0], last[0])
    source, inside = _source(_moves(view), view.flip, height, width)
    part = regions.reshape(-1)[source.numpy()[window]] * inside.numpy()[window]
    return part, (int(first[0]), int(first[1]))


Moves = tuple[float, float, float, float]  # rotation, scale, shift x, shift y


def _moves(view: View) -> Moves:
    """What of a view moves pixels, beside its flip; views that differ in the rest share their grids."""
    return (view.rotation, view.scale, *view.shift)


def _theta(moves: Moves) -> list[list[float]]:
    """2 x 3 matrix from where a pixel is seen to where it comes from, both in [-1, 1]."""
    rotation, scale, x, y = moves
    angle = math.radians(rotation)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    return [[cos, -sin, -2 * x], [sin, cos, -2 * y]]


@lru_cache(maxsize=2)
def _backwards(moves: Moves) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of the left 2 x 2 of :func:`_theta`, and its right column."""
    theta = np.array(_theta(moves), np.float64)
    return np.linalg.inv(theta[:, :2]), theta[:, 2]


@lru_cache(maxsize=4)  # of one slice: its pixels' and its saliency's
def _grid(moves: Moves, height: int, width: int) -> torch.Tensor:
    """What ``F.affine_grid`` gives (align_corners=False), bit for bit and in a tenth of the time: (1, H, W, 2)."""
    theta = torch.tensor(_theta(moves))
    x, y = (torch.linspace(-1, 1, n) * (n - 1) / n for n in (width, height))
    across, down = theta[:, :1] * x, theta[:, 1:2] * y
    grid = torch.empty(1, height, width, 2)
    for axis in (0, 1):
        torch.add(across[axis][None], down[axis][:, None], out=grid[0, ..., axis]).add_(theta[axis, 2])
    return grid


@lru_cache(maxsize=2)
def _source(moves: Moves, flip: bool, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixel that is nearest to where each one comes from, (H, W) int64 counted row by row, and whether there is
    one, (H, W) bool: one answer for label, regions and masks of a slice."""
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width)
    numbers = numbers.flip(-1) if flip else numbers  # whole numbers up to 2**24 are exact
    grid = _grid(moves, height, width)
    found = F.grid_sample(numbers, grid, mode="nearest", padding_mode="zeros", align_corners=False)[0, 0].long()
    return (found - 1).clamp_(min=0), found > 0

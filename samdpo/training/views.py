"""Views of a training slice: parameters are drawn once, applied deterministically, and can be replayed.

Points are pixel indices (the last pixel is ``size - 1``); boxes are edges (a box to the border ends at ``size``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

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


def view_image(image: torch.Tensor, view: View) -> torch.Tensor:
    """Image (3, H, W) in [0, 1] under ``view``; same shape and range."""
    image = _warp(image, view, mode="bilinear")
    if view.contrast != 1 or view.brightness != 0:
        mean = image.mean()
        image = ((image - mean) * view.contrast + mean + view.brightness).clamp(0, 1)
    return image


def view_mask(mask: torch.Tensor, view: View) -> torch.Tensor:
    """Masks (N, H, W), bool, under ``view``."""
    return _warp(mask.float(), view, mode="nearest") > 0.5


def view_prompt(prompt: StructurePrompt, view: View, plan: AugmentationPlan, n_points: int) -> StructurePrompt:
    """A structure's prompt under ``view``: saliency and regions move, boxes and points are read off again."""
    if view == IDENTITY:
        return prompt
    rng = np.random.default_rng(view.seed or 0)
    saliency = _warp(torch.from_numpy(prompt.saliency.astype(np.float32))[None], view, "bilinear")[0].numpy()
    regions = _warp(torch.from_numpy(prompt.regions.astype(np.float32))[None], view, "nearest")[0].numpy()
    regions = regions.round().astype(np.uint8)
    if prompt.present and not regions.any():  # moved out of the picture
        return dataclasses.replace(prompt, present=False, regions=regions, saliency=saliency.astype(np.float16))
    boxes, points = boxes_of(regions), prompt.points
    size = regions.shape[-1]
    if view.seed is None:  # a pure flip of the stored points
        points = points.copy()
        if view.flip and len(points):
            points[:, 0] = size - 1 - points[:, 0]
    elif prompt.present:
        points = points_in(regions, n_points, rng)
        boxes = jitter_boxes(boxes, plan.box_jitter, size, rng)
        if rng.random() < plan.prompt_corruption:
            boxes, points = misplace_boxes(boxes, size, rng), points[:0]
    return dataclasses.replace(
        prompt,
        saliency=saliency.astype(np.float16),
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


def _warp(array: torch.Tensor, view: View, mode: str) -> torch.Tensor:
    """Apply the geometric part of ``view`` to (C, H, W); flips alone are exact."""
    if view.flip:
        array = array.flip(-1)
    if not view.is_affine:
        return array
    angle = math.radians(view.rotation)
    cos, sin = math.cos(angle) / view.scale, math.sin(angle) / view.scale
    # grid_sample asks where in the input ([-1, 1]) each output pixel lies.
    theta = torch.tensor([[cos, -sin, -2 * view.shift[0]], [sin, cos, -2 * view.shift[1]]])
    grid = F.affine_grid(theta[None], [1, 1, *array.shape[-2:]], align_corners=False)
    padding = "border" if mode == "bilinear" else "zeros"
    return F.grid_sample(array[None], grid, mode=mode, padding_mode=padding, align_corners=False)[0]

"""Proposals: masks of one structure on one slice that differ in *where* they are.

A saliency has one best component, and where that is the wrong one no decoder can mend it. So masks come from every
maker there is: the saliency's boxes, blobs of several scales (dark or bright, as wide and as large as the outlines
are), and every mask prompted once more by its own box. The network that decodes them is the published one, never
trained: what it says of an image on which somebody has drawn an outline is as good or bad as of any other image, so
that a judge learnt on the outlines holds elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.feature import peak_local_max
from torch import Tensor

from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.sam import SamNetwork
from samdpo.plan_sections import LARGEST_IMAGE
from samdpo.prompting.regions import mask_iou
from samdpo.prompting.saliency import SALIENCY_SIZE

HYPOTHESIS, BLOB, AGAIN = "hypothesis", "blob", "again"
SMALL = 128  # side at which masks are compared with each other and measured
SPECK = 4e-4  # of the slice; smaller masks are none
_MOST_SHARE = 0.9
_SUREST = 6.0  # logit of a mask prompt: the network learnt on those of a calibrated saliency
_N_SCALES = 6
_WIDEST = 50.0  # width over height, or height over width, of a box
_BEYOND = 1.35  # how much larger and smaller than the outlines blobs are looked for


@dataclass(frozen=True)
class PlaceShape:
    """What the outlines say of where to look: how large, how wide, dark or bright.

    Attributes:
        radii: of blobs, pixels: half the square root of a box's area.
        aspect: width over height of a box.
        dark: whether the structure is darker than what is around it.
    """

    radii: tuple[float, ...] = (9.0, 14.0, 21.0, 32.0, 48.0, 72.0)
    aspect: float = 1.0
    dark: bool = True

    def __post_init__(self) -> None:  # it comes out of a model folder, perhaps somebody else's
        if not (1 <= len(self.radii) <= 32 and all(1 <= radius <= LARGEST_IMAGE for radius in self.radii)):
            raise ValueError(f"'radii' is {list(self.radii)[:32]}; expected 1 to 32 of 1 to {LARGEST_IMAGE} pixels")
        if not 1 / _WIDEST <= self.aspect <= _WIDEST:
            raise ValueError(f"'aspect' is {self.aspect}; expected {1 / _WIDEST:g} to {_WIDEST:g}")

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> PlaceShape:
        """Measured on outlines (H, W) bool and their slices (H, W); the defaults where there is no outline."""
        sizes, aspects, contrasts = [], [], []
        for mask, image in zip(masks, images):
            if not mask.any():
                continue
            x0, y0, x1, y1 = boxes_of_masks(torch.from_numpy(mask)[None])[0]
            sizes.append(np.sqrt((x1 - x0) * (y1 - y0)) / 2)
            aspects.append((x1 - x0) / (y1 - y0))
            ring = ndimage.binary_dilation(mask, iterations=max(2, round(0.3 * sizes[-1]))) & ~mask
            contrasts.append(image[mask].mean() - image[ring].mean() if ring.any() else 0.0)
        if not sizes:
            return cls()
        least, most = min(sizes) / _BEYOND, max(sizes) * _BEYOND
        radii = np.geomspace(max(least, 3.0), max(most, 6.0), _N_SCALES)
        aspect = float(np.clip(np.median(aspects), 1 / _WIDEST, _WIDEST))
        return cls(tuple(round(float(r), 2) for r in radii), round(aspect, 3),
                   bool(np.median(contrasts) <= 0))


@dataclass(frozen=True)
class Proposals:
    """M masks of one structure on one slice.

    Attributes:
        logits: (M, H, W) float32 before the sigmoid.
        quality: (M,) float32, overlap with the truth that SAM's quality head predicts.
        boxes: (M, 4) float32 x0, y0, x1, y1 in pixels, of which each is decoded.
        makers: (M,) who proposed each.
    """

    logits: Tensor
    quality: Tensor
    boxes: np.ndarray
    makers: list[str]

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def masks(self) -> Tensor:
        """(M, H, W) bool."""
        return self.logits > 0

    @property
    def saliency(self) -> np.ndarray:
        """(M, 64, 64) float16: the masks as mask prompts, in the resolution and range of a saliency's logits."""
        if not len(self):
            return np.zeros((0, SALIENCY_SIZE[0], SALIENCY_SIZE[1]), np.float16)
        clipped = self.logits[:, None].clamp(-_SUREST, _SUREST)
        return F.interpolate(clipped, size=SALIENCY_SIZE, mode="bilinear", antialias=True)[:, 0].numpy().astype(
            np.float16)

    @property
    def small(self) -> Tensor:
        """(M, SMALL, SMALL) bool: the masks as they are compared."""
        return shrunk(self.logits)

    def select(self, rows: Sequence[int]) -> Proposals:
        """Some of them, in the order of ``rows``."""
        rows = list(rows)
        return Proposals(self.logits[rows], self.quality[rows], self.boxes[rows], [self.makers[row] for row in rows])

    @staticmethod
    def cat(parts: Sequence[Proposals]) -> Proposals:
        """One after another."""
        return Proposals(
            torch.cat([part.logits for part in parts]), torch.cat([part.quality for part in parts]),
            np.concatenate([part.boxes for part in parts]), [maker for part in parts for maker in part.makers],
        )


class PlaceProposer:
    """Proposes masks of a structure of one component; one serves training, the page and prediction.

    Args:
        network: as published, in eval mode; it decodes.
        blobs: boxes around blobs, of all scales together.
        kept: masks of an image at most.
        grid: sides of the grid on which proposals are decoded, where the embedding's is finer; 0 is the embedding's.
    """

    def __init__(self, network: SamNetwork, blobs: int = 18, kept: int = 32, grid: int = 0) -> None:
        self.network, self.blobs, self.kept, self.grid = network, blobs, kept, grid

    @torch.no_grad()
    def decode(
        self, features: Tensor, size: tuple[int, int], boxes: np.ndarray | None = None,
        points: np.ndarray | None = None, maker: str = "", grid: int = 0,
    ) -> Proposals:
        """What the network makes of each box, or of each point, alone: no other prompt, no text.

        A person's box is decoded in the same way, so that an answer and a proposal are the same kind of mask.

        Args:
            features: (C, h, w) of the slice.
            size: (H, W) of the slice, pixels.
            boxes: (M, 4) x0, y0, x1, y1.
            points: (M, 2) x, y, where there are no boxes.
            maker: what they are called.
            grid: of :meth:`~samdpo.networks.sam.SamNetwork.decode`; proposals are many, a person's box is one.
        """
        device = next(self.network.mask_decoder.parameters()).device
        n, of_points = len(points if boxes is None else boxes), boxes is None
        given = torch.from_numpy(np.asarray(points if of_points else boxes, np.float32))
        none = torch.zeros(n, 0, dtype=torch.bool)
        batch = PromptBatch(
            image_index=torch.zeros(n, dtype=torch.long),
            boxes=torch.zeros(n, 1, 4) if of_points else given[:, None],
            boxes_valid=torch.full((n, 1), not of_points),
            points=given[:, None] if of_points else torch.zeros(n, 0, 2),
            points_valid=torch.ones(n, 1, dtype=torch.bool) if of_points else none,
            text=torch.zeros(n, self.network.text_projection.in_features),
            text_valid=torch.zeros(n, dtype=torch.bool),
            mask_logits=torch.zeros(n, *size),
            mask_valid=torch.zeros(n, dtype=torch.bool),
        )
        embedding = features[None].to(device).float()
        of_grid = {"grid": grid} if grid else {}  # a network of one's own need not know of grids
        logits, quality = self.network.decode(embedding, batch.to(device), **of_grid)
        decoded_of = np.zeros((n, 4), np.float32) if of_points else np.asarray(boxes, np.float32).reshape(-1, 4)
        return Proposals(logits.cpu(), quality.cpu(), decoded_of, [maker] * n)

    def propose(
        self, image: np.ndarray, features: Tensor, hypotheses: np.ndarray, shape: PlaceShape
    ) -> Proposals:
        """Masks of one structure, near-duplicates and specks left out, at most ``kept``; there may be none.

        Args:
            image: (3, H, W) in [0, 1].
            features: (C, h, w) of the published encoder.
            hypotheses: (K, 4) boxes that the saliency proposes, best first.
            shape: what the outlines say of where to look.
        """
        size = tuple(image.shape[-2:])
        blobs = blob_boxes(image.mean(0), shape, self.blobs)
        parts = [self.decode(features, size, boxes, maker=maker, grid=self.grid)
                 for maker, boxes in ((HYPOTHESIS, hypotheses), (BLOB, blobs)) if len(boxes)]
        if not parts:
            return Proposals(torch.zeros(0, *size), torch.zeros(0), np.zeros((0, 4), np.float32), [])
        first = distinct(Proposals.cat(parts), self.kept)
        if not len(first):
            return first
        # A mask prompted by its own box: mends a box that was too wide, or beside the structure.
        again = self.decode(features, size, boxes_of_masks(first.masks), maker=AGAIN, grid=self.grid)
        return distinct(Proposals.cat([first, again]), self.kept)


def blob_boxes(image: np.ndarray, shape: PlaceShape, count: int) -> np.ndarray:
    """Boxes around the strongest blobs of every scale.

    A blob of radius r answers most to a Laplacian of Gaussian at sigma = r / sqrt(2) (Lindeberg 1998); here it is as
    much wider than high as the outlines are. Every scale has its own strongest ones: answers of different scales are
    not alike enough to be compared (of 356 breast ultrasounds .76 have a box of overlap .5 among 42 boxes so, .70 among
    the 40 strongest of all scales).

    Args:
        image: (H, W) float in [0, 1].
        shape: radii, aspect, dark or bright.
        count: boxes at most, shared among the scales.

    Returns:
        (K, 4) float32 x0, y0, x1, y1 cut at the border, the strongest of each scale first.
    """
    each = max(1, count // len(shape.radii)) if count else 0
    height, width = image.shape
    wide, high = np.sqrt(shape.aspect), 1 / np.sqrt(shape.aspect)
    found: list[tuple[int, float, np.ndarray]] = []
    for radius in shape.radii:
        sigma = np.array([radius * high, radius * wide]) / np.sqrt(2)
        second = [sigma[axis] ** 2 * ndimage.gaussian_filter(image, sigma, order=order, mode="nearest")
                  for axis, order in enumerate(((2, 0), (0, 2)))]
        answer = sum(second) if shape.dark else -sum(second)
        peaks = peak_local_max(answer, min_distance=max(1, round(radius / 2)), threshold_abs=0.0,
                               exclude_border=False, num_peaks=each or 1)
        for place, (y, x) in enumerate(peaks[:each]):
            across, down = radius * wide, radius * high
            found.append((place, -float(answer[y, x]), np.array([x - across, y - down, x + across, y + down])))
    found.sort(key=lambda one: one[:2])
    boxes = np.array([box for _, _, box in found], np.float32).reshape(-1, 4)
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def boxes_of_masks(masks: Tensor) -> np.ndarray:
    """Boxes (M, 4) float32 around masks (M, H, W) bool; x1, y1 lie just outside; zeros where a mask is empty."""

    def ends(along: Tensor) -> tuple[Tensor, Tensor]:
        first, last = along.int().argmax(1), along.shape[1] - along.flip(1).int().argmax(1)
        return first, torch.where(along.any(1), last, 0)

    (x0, x1), (y0, y1) = ends(masks.any(1)), ends(masks.any(2))
    return torch.stack([x0, y0, x1, y1], 1).float().cpu().numpy()


def shrunk(logits: Tensor) -> Tensor:
    """(M, H, W) logits -> (M, SMALL, SMALL) bool masks."""
    if not len(logits):
        return torch.zeros(0, SMALL, SMALL, dtype=torch.bool)
    return F.interpolate(logits[:, None].float(), size=(SMALL, SMALL), mode="bilinear", align_corners=False)[:, 0] > 0


def thinned(masks: Tensor) -> Tensor:
    """(M, H, W) bool -> (M, h, w) bool of about SMALL pixels a side: of masks whose logits are not kept."""
    step = max(1, masks.shape[-1] // SMALL)
    return masks[:, ::step, ::step].contiguous()


def distinct(proposals: Proposals, count: int, duplicate: float = 0.9) -> Proposals:
    """The first ``count`` that are neither specks nor overlap (IoU) an earlier one by ``duplicate`` or more."""
    small = proposals.small
    share, same = small.flatten(1).float().mean(1), mask_iou(small, small) >= duplicate
    kept: list[int] = []
    for row in range(len(proposals)):
        if SPECK <= float(share[row]) <= _MOST_SHARE and not (kept and bool(same[row, kept].any())):
            kept.append(row)
        if len(kept) == count:
            break
    return proposals.select(kept)

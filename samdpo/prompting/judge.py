"""A judge of proposals: s(I, mask), learnt from a few outlines and then, by Eq. 5, from an annotator's orders.

Over the finite set of an image's proposals a judge is a policy, pi(m | I) = softmax s. Eq. 5 of the paper then holds as
it is printed, and the normaliser cancels: with D(m) = s(m) - s_ref(m), where s_ref is the judge of the outlines,

    loss = -log sigmoid(beta1 D(Y1) + beta2 D(Y2) - beta2 D(Y3) - beta1 D(Y4)).

An order of K proposals is taken pair by pair (Bradley-Terry; Rafailov et al. 2023, arXiv:2305.18290): every pair that
the annotator tells apart is a preference with beta1. "This one is right" prefers it to all others, and so does a box
whose mask a proposal matches. "None is right" says nothing about an order, so it moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from samdpo.errors import ModelFolderError
from samdpo.files import atomic_path
from samdpo.prompting.proposals import SMALL, PlaceShape, Proposals, boxes_of_masks
from samdpo.prompting.regions import mask_iou

COMPONENTS = 16  # of the mask-pooled embedding
HIDDEN = 64
STEPS, LR, WEIGHT_DECAY, DROPOUT = 400, 2e-3, 1e-2, 0.2
ANSWER_STEPS, ANSWER_LR = 300, 1e-3
TEMPERATURE = 0.1  # of overlaps: a proposal .1 better has e times the share of the target
BETA = 0.5
ANCHOR = 1.0  # weight of the outlines while answers are learnt
_NEVER = -1e9  # score of a proposal that an image does not have
SAME_PLACE = 0.5  # IoU from which two masks are at one place
MEASURES = (
    "quality", "stability", "confidence", "log_area", "x", "y", "width", "height", "log_aspect", "fill",
    "inside", "ring", "above", "below", "contrast", "shadow", "texture", "edge", "votes", "neighbours",
    "saliency_inside", "saliency_ring", "saliency_contrast", "coarse_overlap", "at_border",
)
RELATIVE = ("quality", "contrast", "edge", "votes", "saliency_contrast", "coarse_overlap", "stability")
"""Measured against the best of the same image too."""


def measure(
    image: np.ndarray, features: Tensor, saliency: np.ndarray, coarse: np.ndarray, proposals: Proposals
) -> np.ndarray:
    """What is seen of every proposal.

    Args:
        image: (3, H, W) in [0, 1].
        features: (C, h, w) of the published encoder.
        saliency: (h', w') logits of the image-text model.
        coarse: (H, W) bool, the coarse mask made of them.
        proposals: M masks.

    Returns:
        (M, len(MEASURES) + len(RELATIVE) + 2 C) float32: measures, the same relative to the image's best, and the
        embedding's mean inside the mask and its difference from the ring around it.
    """
    m = len(proposals)
    if m == 0:
        return np.zeros((0, n_measures(features.shape[0])), np.float32)
    masks = proposals.small
    grey = _resized(torch.from_numpy(image.mean(0))[None], SMALL)[0]
    glow = _resized(torch.from_numpy(np.asarray(saliency, np.float32))[None], SMALL)[0].sigmoid()
    solid = _resized(torch.from_numpy(np.asarray(coarse, np.float32))[None], SMALL)[0] > 0.5
    inside = masks.float()
    area = inside.sum((1, 2)).clamp(min=1)
    radius = (area / np.pi).sqrt()
    ring = torch.stack([_ring(mask, max(2, round(0.35 * float(r)))) for mask, r in zip(masks, radius)])
    ring_area = ring.sum((1, 2)).clamp(min=1)
    boxes = boxes_of_masks(masks)
    above, below = _beside(boxes, grey)
    slope = torch.from_numpy(np.hypot(*np.gradient(ndimage.gaussian_filter(grey.numpy(), 1.0)))).float()
    outline = (masks & ~_eroded(masks)).float()
    probability = _resized(proposals.logits.float(), SMALL).sigmoid()
    same = mask_iou(masks, masks)
    same.fill_diagonal_(0)

    def mean(of: Tensor, where: Tensor, pixels: Tensor) -> Tensor:
        return (of * where).sum((1, 2)) / pixels

    bright, around = mean(grey, inside, area), mean(grey, ring, ring_area)
    texture = (mean(grey**2, inside, area) - bright**2).clamp(min=0).sqrt()
    glow_inside, glow_ring = mean(glow, inside, area), mean(glow, ring, ring_area)
    x0, y0, x1, y1 = torch.from_numpy(boxes).T / SMALL
    width, height = (x1 - x0).clamp(min=1e-3), (y1 - y0).clamp(min=1e-3)
    measured = {
        "quality": proposals.quality.float(),
        "stability": (probability > 0.73).sum((1, 2)) / (probability > 0.27).sum((1, 2)).clamp(min=1),
        "confidence": mean(probability, inside, area),
        "log_area": (area / SMALL**2).log(),
        "x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": width, "height": height,
        "log_aspect": (width / height).log(),
        "fill": area / SMALL**2 / (width * height),
        "inside": bright, "ring": around, "above": above, "below": below,
        "contrast": around - bright, "shadow": below - around, "texture": texture,
        "edge": mean(slope, outline, outline.sum((1, 2)).clamp(min=1)),
        "votes": same.mean(1), "neighbours": (same > SAME_PLACE).float().sum(1).sqrt(),
        "saliency_inside": glow_inside, "saliency_ring": glow_ring, "saliency_contrast": glow_inside - glow_ring,
        "coarse_overlap": mask_iou(masks, solid[None])[:, 0],
        "at_border": ((x0 <= 0) | (y0 <= 0) | (x1 >= 1) | (y1 >= 1)).float(),
    }
    relative = [measured[name] - measured[name].max() for name in RELATIVE]
    table = torch.stack([measured[name].float() for name in MEASURES] + relative, 1)
    return torch.cat([table, *_pooled(features.float().cpu(), inside, ring)], 1).numpy()


def n_measures(channels: int) -> int:
    """Columns of :func:`measure` for an embedding of ``channels``."""
    return len(MEASURES) + len(RELATIVE) + 2 * channels


@dataclass(frozen=True)
class Judged:
    """What a judge says of the M proposals of an image.

    Attributes:
        score: (M,) float32; higher is better.
        first: number of the best one.
        confidence: in [0, 1], share of the judge's belief (softmax of the scores) at the place of the best one.
    """

    score: np.ndarray
    first: int
    confidence: float


@dataclass(frozen=True)
class JudgeSettings:
    """What the JSON of a prompter's folder says of a structure's judge.

    Attributes:
        shape: where proposals are looked for.
        blobs, kept: of the proposer, see :class:`~samdpo.prompting.proposals.PlaceProposer`.
        columns: of :func:`measure`.
        doubtful: confidence below which a person should look: one right choice of ten on the outlines is.
        grid: of the proposer.
    """

    shape: PlaceShape = field(default_factory=PlaceShape)
    blobs: int = 18
    kept: int = 32
    columns: int = len(MEASURES) + len(RELATIVE) + 512
    doubtful: float = 0.0
    grid: int = 0

    def __post_init__(self) -> None:
        least, most = len(MEASURES) + len(RELATIVE), 1 << 14
        if not least < self.columns <= most:
            raise ValueError(f"'columns' is {self.columns}; expected more than {least}, at most {most}")
        if not (0 <= self.blobs <= 256 and 1 <= self.kept <= 256):
            raise ValueError(f"'blobs' is {self.blobs} and 'kept' {self.kept}; expected up to 256")
        if not 0 <= self.grid <= 64:
            raise ValueError(f"'grid' is {self.grid}; expected 0 to 64")


class PlaceJudge(nn.Module):
    """s(I, mask): standardised measures and principal components of the embedding, two layers.

    Args:
        columns: of :func:`measure`.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        table, pooled = len(MEASURES) + len(RELATIVE), columns - len(MEASURES) - len(RELATIVE)
        self.table = table
        for name, shape in (("mean", (columns,)), ("scale", (columns,)), ("axes", (pooled, 2 * COMPONENTS)),
                            ("spread", (2 * COMPONENTS,))):
            self.register_buffer(name, torch.zeros(shape) if name in ("mean", "axes") else torch.ones(shape))
        self.layers = nn.Sequential(
            nn.Linear(table + 2 * COMPONENTS, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, 1),
        )

    def forward(self, measured: Tensor) -> Tensor:
        """(M, columns) of one image -> (M,) scores."""
        return self.scored(self.seen(measured))

    def seen(self, measured: Tensor) -> Tensor:
        """(M, columns) of one image -> (M, inputs) of the layers, which do not change while they learn."""
        standard = ((measured - self.mean) / self.scale).clamp(-6, 6)
        pooled = standard[:, self.table :] @ self.axes / self.spread
        return torch.cat([standard[:, : self.table], pooled.clamp(-6, 6)], 1)

    def scored(self, seen: Tensor) -> Tensor:
        """(..., inputs) -> (...) scores."""
        return self.layers(seen)[..., 0]

    @torch.no_grad()
    def judge(self, measured: np.ndarray, small: Tensor) -> Judged:
        """Judge the proposals of an image, at least one.

        Args:
            measured: (M, columns).
            small: (M, h, w) bool, their masks.
        """
        self.eval()
        score = self(torch.from_numpy(measured))
        first = int(score.argmax())
        here = mask_iou(small[first][None], small)[0] >= SAME_PLACE
        return Judged(score.numpy(), first, float(score.softmax(0)[here].sum()))

    def set_scale(self, every: Tensor) -> None:
        """Mean, deviation and principal axes of measures (M, columns), the embedding's two parts apart."""
        self.mean.copy_(every.mean(0))
        self.scale.copy_(every.std(0).clamp(min=1e-4))
        standard = ((every - self.mean) / self.scale).clamp(-6, 6)[:, self.table :]
        for row, part in enumerate(standard.chunk(2, 1)):
            axes = torch.linalg.svd(part, full_matrices=False).Vh[:COMPONENTS].T
            at = slice(row * part.shape[1], (row + 1) * part.shape[1])
            self.axes[at, row * COMPONENTS : row * COMPONENTS + axes.shape[1]] = axes
        self.spread.copy_((standard @ self.axes).std(0).clamp(min=1e-3))


@dataclass(frozen=True)
class Outlined:
    """Proposals of an image on which the structure is outlined.

    Attributes:
        measured: (M, columns).
        overlap: (M,) IoU with the outline.
        group: patient.
    """

    measured: np.ndarray
    overlap: np.ndarray
    group: str


@dataclass(frozen=True)
class Preferred:
    """What was said about the proposals of an image.

    Attributes:
        measured: (M, columns) of all of them.
        better, worse: (P,) rows: of each pair the one that is preferred, and the other.
        weight: (P,) of each pair; they sum to 1.
        group: patient.
    """

    measured: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    weight: np.ndarray
    group: str


def fit_to_outlines(
    outlined: Sequence[Outlined], seed: int, scale: np.ndarray | None = None, steps: int = STEPS
) -> PlaceJudge | None:
    """The judge of the outlines: listwise, softmax of the scores against softmax of the overlaps.

    Args:
        outlined: images with at least one proposal; others say nothing.
        seed: of weights and order.
        scale: (M, columns) measures of all images there are, labelled or not, that the inputs are standardised by.
        steps: of optimisation.

    Returns:
        None where no image has two proposals that differ in overlap: there is nothing to learn.
    """
    useful = _telling(outlined)
    if not useful:
        return None
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        judge = PlaceJudge(useful[0].measured.shape[1])
        judge.set_scale(torch.from_numpy(np.concatenate([one.measured for one in useful]) if scale is None else scale))
        optimizer = torch.optim.AdamW(judge.layers.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        data = _Outlines.of(judge, useful)
        judge.train()
        for _ in range(steps):
            optimizer.zero_grad()
            _listwise(judge, _drawn(data, 8)).backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def learn_from_answers(
    judge: PlaceJudge, preferred: Sequence[Preferred], outlined: Sequence[Outlined], seed: int,
    steps: int = ANSWER_STEPS,
) -> PlaceJudge:
    """The judge after answers: DPO with the judge of the outlines as reference, and those outlines as anchor.

    Args:
        judge: of the outlines; it stays as it is.
        preferred: answers; where nothing is preferred the judge comes back.
        outlined: what the judge was fitted to.
        seed: of the order.
        steps: of optimisation.
    """
    said = [one for one in preferred if len(one.better)]
    if not said:
        return judge
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        policy = PlaceJudge(said[0].measured.shape[1])
        policy.load_state_dict(judge.state_dict())
        pairs = _Pairs.of(judge.eval(), said)
        useful = _telling(outlined)
        anchors = _Outlines.of(judge, useful) if useful else None
        optimizer = torch.optim.AdamW(policy.layers.parameters(), lr=ANSWER_LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        policy.train()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = _preference(policy, _drawn(pairs, 16))
            if anchors:
                loss = loss + ANCHOR * _listwise(policy, _drawn(anchors, 8))
            loss.backward()
            optimizer.step()
            schedule.step()
    return policy.eval()


def cross_fitted(
    outlined: Sequence[Outlined], seed: int, scale: np.ndarray | None, n_folds: int = 4
) -> dict[str, PlaceJudge]:
    """Group -> judge that has not seen the group's outlines; empty with fewer than two groups.

    Args:
        outlined: labelled images.
        seed: of folds and weights.
        scale: as in :func:`fit_to_outlines`.
        n_folds: judges at most.
    """
    groups = sorted({one.group for one in outlined})
    if len(groups) < 2:
        return {}
    np.random.default_rng(seed).shuffle(groups)
    folds, found = [groups[number::n_folds] for number in range(min(n_folds, len(groups)))], {}
    for number, held in enumerate(folds):
        judge = fit_to_outlines([one for one in outlined if one.group not in held], seed + number + 1, scale)
        if judge is not None:
            found |= dict.fromkeys(held, judge)
    return found


def doubtful_below(judges: Mapping[str, PlaceJudge], outlined: Sequence[Outlined], smalls: Sequence[Tensor]) -> float:
    """The confidence that nine of ten right choices on unseen outlines exceed; 0 where none was right."""
    right = []
    for one, small in zip(outlined, smalls):
        if one.group in judges and len(one.overlap):
            said = judges[one.group].judge(one.measured, small)
            if one.overlap[said.first] >= SAME_PLACE:
                right.append(said.confidence)
    return round(float(np.quantile(right, 0.1)), 4) if right else 0.0


def save_judges(judges: Mapping[str, PlaceJudge], file: Path) -> None:
    """Write the judges of some structures into one safetensors file, atomically."""
    tensors = {f"{name}/{key}": value.contiguous() for name, judge in judges.items()
               for key, value in judge.state_dict().items()}
    with atomic_path(file) as temporary:
        save_file(tensors, temporary)


def load_judges(settings: Mapping[str, JudgeSettings], file: Path) -> dict[str, PlaceJudge]:
    """The judges that ``settings`` name.

    Raises:
        ModelFolderError: the file is missing, truncated or of other judges.
    """
    judges = {}
    try:
        tensors = load_file(file)
        for name, one in settings.items():
            judge = PlaceJudge(one.columns)
            judge.load_state_dict({key.removeprefix(f"{name}/"): value for key, value in tensors.items()
                                   if key.startswith(f"{name}/")})
            judges[name] = judge.eval()
    except Exception as error:  # safetensors raises kinds of its own
        raise ModelFolderError(
            f"{file} is missing, truncated or of other judges ({str(error).splitlines()[0]}). Train the model again: "
            "samdpo_train DATASET align FOLD"
        ) from error
    return judges


def diverse_first(score: np.ndarray, small: Tensor, count: int) -> list[int]:
    """``count`` proposals to show, the best first, then in turn the one that is good and unlike those before.

    Maximal marginal relevance (Carbonell and Goldstein 1998) with equal weights: of the rest always the one of the
    highest standardised score less its largest overlap with what was chosen.

    Args:
        score: (M,) of the judge.
        small: (M, h, w) bool masks.
        count: wanted; there may be fewer.
    """
    if not len(score):
        return []
    spread = max(float(np.std(score)), 1e-6)
    worth, same = (score - score.max()) / (4 * spread), mask_iou(small, small).numpy()
    chosen = [int(score.argmax())]
    while len(chosen) < min(count, len(score)):
        gain = worth - same[:, chosen].max(1)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
    return chosen


def _telling(outlined: Sequence[Outlined]) -> list[Outlined]:
    """Images with two proposals that differ in overlap; others say nothing."""
    return [one for one in outlined if len(one.overlap) > 1 and np.ptp(one.overlap) > 0]


def _target(overlap: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(overlap, np.float32) / TEMPERATURE).softmax(0)


class _Outlines(NamedTuple):
    """Images on which a structure is outlined, as one batch: N of at most M proposals; zeros stand for the others."""

    seen: Tensor  # (N, M, inputs)
    there: Tensor  # (N, M) bool
    target: Tensor  # (N, M) share of each proposal, softmax of the overlaps

    @classmethod
    @torch.no_grad()
    def of(cls, judge: PlaceJudge, outlined: Sequence[Outlined]) -> _Outlines:
        """As a judge sees them, whose scale does not change any more."""
        targets = [_target(one.overlap) for one in outlined]
        return cls(
            _padded([judge.seen(torch.from_numpy(one.measured)) for one in outlined]),
            _padded([torch.ones(len(target), dtype=torch.bool) for target in targets]), _padded(targets),
        )


class _Pairs(NamedTuple):
    """What was said of N images, as one batch, of at most M proposals and P pairs; those beyond weigh nothing."""

    seen: Tensor  # (N, M, inputs)
    reference: Tensor  # (N, M) scores of the judge before
    better: Tensor  # (N, P)
    worse: Tensor  # (N, P)
    weight: Tensor  # (N, P)

    @classmethod
    @torch.no_grad()
    def of(cls, reference: PlaceJudge, said: Sequence[Preferred]) -> _Pairs:
        """As the judge of the outlines sees and scores them; it is in eval mode."""
        seen = _padded([reference.seen(torch.from_numpy(one.measured)) for one in said])
        weights = [torch.from_numpy(one.weight.astype(np.float32)) for one in said]
        return cls(seen, reference.scored(seen), _padded([torch.from_numpy(one.better) for one in said]),
                   _padded([torch.from_numpy(one.worse) for one in said]), _padded(weights))


Batched = TypeVar("Batched", _Outlines, _Pairs)


def _padded(rows: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _drawn(data: Batched, count: int) -> Batched:
    """``count`` of the images, drawn by torch's generator; all of them where there are fewer."""
    if len(data.seen) <= count:
        return data
    rows = torch.randperm(len(data.seen))[:count]
    return type(data)(*(tensor[rows] for tensor in data))


def _listwise(judge: PlaceJudge, data: _Outlines) -> Tensor:
    score = judge.scored(data.seen).masked_fill(~data.there, _NEVER)
    return -(data.target * score.log_softmax(1)).sum(1).mean()


def _preference(policy: PlaceJudge, data: _Pairs) -> Tensor:
    reward = BETA * (policy.scored(data.seen) - data.reference)
    apart = reward.gather(1, data.better) - reward.gather(1, data.worse)
    return (data.weight * -F.logsigmoid(apart)).sum(1).mean()


def _resized(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps[:, None].float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0]


def _ring(mask: Tensor, width: int) -> Tensor:
    """Pixels (h, w) bool at most ``width`` beside or above a mask's, which are a square's rows and then its columns."""
    side = 2 * width + 1
    wide = F.max_pool2d(mask[None, None].float(), (1, side), stride=1, padding=(0, width))
    grown = F.max_pool2d(wide, (side, 1), stride=1, padding=(width, 0))[0, 0] > 0
    return grown & ~mask


def _eroded(masks: Tensor) -> Tensor:
    return ~(F.max_pool2d((~masks)[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0)


def _beside(boxes: np.ndarray, grey: Tensor) -> tuple[Tensor, Tensor]:
    """Mean brightness of the box's own size above and below each box; the image's where there is no room."""
    values, mean = ([], []), float(grey.mean())
    for x0, y0, x1, y1 in boxes.astype(int):
        high = max(1, y1 - y0)
        for found, (top, bottom) in zip(values, ((y0 - high, y0), (y1, y1 + high))):
            part = grey[max(top, 0) : max(bottom, 0), x0:x1]
            found.append(float(part.mean()) if part.numel() else mean)
    return torch.tensor(values[0]), torch.tensor(values[1])


def _pooled(features: Tensor, inside: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
    """(M, C) mean of the embedding inside each mask, and its difference from that of the ring."""
    size = features.shape[-2:]

    def mean(where: Tensor) -> Tensor:
        share = F.adaptive_avg_pool2d(where[:, None].float(), size).flatten(1)
        return share @ features.flatten(1).T / share.sum(1, keepdim=True).clamp(min=1e-6)

    within = mean(inside)
    return within, within - mean(ring)

"""One figure of a prompt store: a row a slice with image, saliency, coarse mask with its boxes and points."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit
from skimage.transform import resize

from samdpo.drawing import new_figure, save_figure
from samdpo.preprocessing.store import SliceKey, SliceStore
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#ff5a36", "#2ab7ff", "#ffd21f", "#42d67c", "#c77dff", "#ff9ecb")
_HYPOTHESIS = "#ffffff"
_TRUTH = "#7dff6b"


def slices_to_show(store: SliceStore, prompts: PromptStore, count: int) -> list[SliceKey]:
    """``count`` slices spread evenly over the cases; of a volume the one with most coarse mask."""
    cases = sorted(set(store.cases()) & set(prompts.cases()))
    at = np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).round().astype(int)) if cases else []
    chosen = []
    for case in (cases[i] for i in at):
        areas = [sum(p.coarse_mask.sum() for p in prompts.get(case, i)) for i in range(prompts.slices(case))]
        chosen.append((case, int(np.argmax(areas))))
    return chosen


def write_prompt_figure(store: SliceStore, prompts: PromptStore, slices: Sequence[SliceKey], path: Path) -> None:
    """Draw the prompts of some slices.

    Columns: image with the truth's contour where there is a label; saliency probability; coarse masks with boxes
    (thick) and points, of the proposal where a judge has chosen one; the boxes of the saliency's hypotheses (thin,
    dashed) numbered by rank.

    Args:
        store: slices and labels.
        prompts: their prompts.
        slices: (case, slice) of each row.
        path: of the picture; its ending chooses the format. Written atomically.
    """
    titles = ("image, truth's contour", "saliency", "coarse mask, boxes, points", "hypotheses")
    figure = new_figure(3.1 * len(titles), 3.35 * len(slices), dpi=110)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(slices), len(titles), squeeze=False)
    for row, (case, index) in enumerate(slices):
        _draw_row(axes[row], store, prompts.get(case, index), prompts.located.get(case, index), case, index)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=10)
    save_figure(figure, path)


def _draw_row(
    axes: np.ndarray, store: SliceStore, row: list[StructurePrompt], located: list[StructurePrompt], case: str,
    index: int,
) -> None:
    image = store.image(case, index).astype(np.float32).transpose(1, 2, 0).clip(0, 1)
    label = store.label(case, index)
    for axis in axes:
        axis.imshow(image)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].set_ylabel(case if store.slices(case) == 1 else f"{case}, slice {index}", fontsize=8)
    if label is not None and (label > 0).any():
        axes[0].contour(label > 0, levels=[0.5], colors=_TRUTH, linewidths=1.0)
    probability = np.max([expit(prompt.saliency.astype(np.float32)) for prompt in located], axis=0)
    axes[1].imshow(resize(probability, image.shape[:2], order=1), cmap="inferno", alpha=0.65, vmin=0, vmax=1)
    for number, (prompt, before) in enumerate(zip(row, located)):
        colour = _COLOURS[number % len(_COLOURS)]
        if prompt.coarse_mask.any():
            overlay = np.zeros((*image.shape[:2], 4), np.float32)
            overlay[prompt.coarse_mask] = (*_rgb(colour), 0.35)
            axes[2].imshow(overlay)
        for box in prompt.boxes:
            _rectangle(axes[2], box, colour, width=1.6)
        axes[2].plot(*prompt.points.T, "o", color=colour, markeredgecolor="white", markersize=4)
        for rank, (box, score) in enumerate(zip(before.hypotheses, before.hypothesis_scores), start=1):
            _rectangle(axes[3], box, colour if rank == 1 else _HYPOTHESIS, width=1.4 if rank == 1 else 0.9)
            axes[3].text(box[0] + 2, box[1] + 3, f"{rank}: {score:.2f}", color=_HYPOTHESIS, fontsize=6, va="top")
    text = " ".join(prompt.answer or f"{prompt.structure}: absent." for prompt in row)
    axes[2].set_xlabel("\n".join(textwrap.wrap(text, 52)[:4]), fontsize=6)


def _rectangle(axis: Axes, box: np.ndarray, colour: str, width: float) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = (float(v) - 0.5 for v in box)  # a pixel's middle is at its index
    style = "-" if width > 1 else "--"
    axis.add_patch(
        Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    )


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]

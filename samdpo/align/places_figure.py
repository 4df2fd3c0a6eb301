"""``places.png``: where the prompts of unlabelled slices pointed before they were aligned, and where they point now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from samdpo.drawing import (
    TRUTH_COLOUR,
    draw_image,
    draw_mask,
    draw_prompts,
    draw_saliency,
    new_figure,
    save_figure,
    structure_colour,
)
from samdpo.preprocessing.store import SliceKey, SliceStore
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "places.png"
TITLES = ("image, hidden truth", "prompts before", "learned from", "prompts after")


def draw_places(
    slices: SliceStore,
    before: PromptStore,
    after: PromptStore,
    learned: Mapping[SliceKey, np.ndarray],
    path: Path,
    rows: int = 6,
    panel: float = 2.6,
) -> None:
    """A row a slice: image, saliency with coarse mask and box, the mask ranked first, the same as before afterwards.

    The hidden truth's outline is white, where there is one.

    Args:
        slices: images and labels.
        before: prompts that stage 1 was trained with.
        after: prompts refitted to ``learned``.
        learned: (H, W) label map of each slice that was ranked.
        path: the PNG to write.
        rows: slices drawn, evenly chosen.
        panel: width and height of a panel, inches.
    """
    keys = sorted(learned)
    chosen = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, min(rows, len(keys))).round().astype(int))]
    figure = new_figure(panel * len(TITLES), (panel + 0.06) * len(chosen) + 0.3, dpi=100)
    grid = figure.subplots(len(chosen), len(TITLES), squeeze=False)
    for axes, (case, index) in zip(grid, chosen):
        image, label = np.asarray(slices.image(case, index), np.float32), slices.label(case, index)
        for one in axes:
            draw_image(one, image)
            if label is not None:
                draw_mask(one, np.asarray(label) > 0, TRUTH_COLOUR, width=1.2)
        _draw_prompts(axes[1], before.get(case, index), image.shape[-2:])
        for number, prompt in enumerate(after.get(case, index)):
            draw_mask(axes[2], learned[case, index] == prompt.label, structure_colour(number), fill=0.3, width=1.6)
        _draw_prompts(axes[3], after.get(case, index), image.shape[-2:])
        axes[0].set_ylabel(case if slices.slices(case) == 1 else f"{case}, slice {index}", fontsize=8)
    for axes, title in zip(grid[0], TITLES):
        axes.set_title(title, fontsize=11)
    figure.subplots_adjust(left=0.03, right=0.995, bottom=0.005, top=1 - 0.3 / figure.get_figheight(), wspace=0.02,
                           hspace=0.02)
    save_figure(figure, path)


def _draw_prompts(axes: Axes, prompts: list[StructurePrompt], shape: tuple[int, int]) -> None:
    present = [(number, prompt) for number, prompt in enumerate(prompts) if prompt.present]
    if not present:
        return
    draw_saliency(axes, np.max([expit(p.saliency.astype(np.float32)) for _, p in present], axis=0), shape)
    for number, prompt in present:
        draw_mask(axes, prompt.coarse_mask, structure_colour(number), width=1.4)
        draw_prompts(axes, prompt.boxes, prompt.points)

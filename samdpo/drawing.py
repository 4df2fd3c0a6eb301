"""Images with masks, prompts and candidates drawn on them; colours that colour-blind readers can tell apart.

Everything draws on a matplotlib Axes that is passed in; nothing touches pyplot, so that figures may be made in
worker processes and inside other programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samdpo.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, "Color Universal Design"
SKY, ORANGE, GREEN, VERMILION, YELLOW, PURPLE, BLUE = (
    "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#F0E442", "#CC79A7", "#0072B2",
)
# After Okabe and Ito's seven, those of Paul Tol's "muted" scheme that resemble none of them.
STRUCTURE_COLOURS = (
    SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILION, BLUE,
    "#882255", "#44AA99", "#DDCC77", "#332288", "#CC6677", "#999933", "#DDDDDD", "#661100",
)
TRUTH_COLOUR = "#FFFFFF"
_PIXELS = 900  # longer side of an overlay


def structure_colour(index: int) -> str:
    """Colour of the ``index``-th structure; the palette repeats after fifteen."""
    return STRUCTURE_COLOURS[index % len(STRUCTURE_COLOURS)]


def fullest_slice(labels: np.ndarray) -> int:
    """Index along Z of the slice of (Z, Y, X) with the most foreground; the middle one where there is none."""
    foreground = np.count_nonzero(labels, axis=(1, 2))
    return int(foreground.argmax()) if foreground.any() else labels.shape[0] // 2


def to_display(image: np.ndarray) -> np.ndarray:
    """Image as (H, W, 3) in [0, 1], stretched from its 0.5th to its 99.5th percentile.

    Args:
        image: (H, W), (C, H, W) or (H, W, 3), any intensities; of C channels other than 3 the first is shown.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim == 3 and image.shape[-1] != 3:
        image = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]
    low, high = np.percentile(image, [0.5, 99.5])
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def new_figure(width: float, height: float, dpi: float = 100) -> Figure:
    """A white Agg figure of ``width`` x ``height`` inches, apart from pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write ``figure`` to ``path`` atomically; the ending chooses the format."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor="white")


def draw_image(axes: Axes, image: np.ndarray, aspect: float = 1.0) -> None:
    """Show an image without ticks; ``aspect`` is a pixel's height over its width."""
    axes.imshow(to_display(image), interpolation="bilinear", aspect=aspect)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_mask(
    axes: Axes,
    mask: np.ndarray,
    colour: str,
    *,
    fill: float = 0.0,
    width: float = 1.8,
    style: str = "-",
) -> None:
    """Outline a mask (H, W) bool and fill it with opacity ``fill``; ``width`` in points, 0 for no outline."""
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return
    if fill > 0:
        from matplotlib.colors import to_rgb

        layer = np.zeros((*mask.shape, 4), dtype=np.float32)
        layer[mask] = (*to_rgb(colour), fill)
        axes.imshow(layer, interpolation="nearest", aspect=axes.get_aspect())
    if width > 0:
        _outline(axes, mask, colour, width, style)


def _outline(axes: Axes, mask: np.ndarray, colour: str, width: float, style: str) -> None:
    from matplotlib.patheffects import Normal, Stroke

    height, wide = mask.shape
    padded = np.pad(mask, 1).astype(np.float32)  # masks at the border get closed contours
    y, x = np.arange(-1, height + 1), np.arange(-1, wide + 1)
    contour = axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width, linestyles=style)
    # A dark rim keeps the line legible on bright tissue.
    contour.set(path_effects=[Stroke(linewidth=width + 1.4, foreground="black", alpha=0.55), Normal()])
    axes.set_xlim(-0.5, wide - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def draw_saliency(axes: Axes, saliency: np.ndarray, shape: tuple[int, int], opacity: float = 0.55) -> None:
    """Lay a saliency map of any size over an image of ``shape`` (H, W), stretched from its least to its greatest."""
    saliency = np.asarray(saliency, dtype=np.float32)
    low, high = float(saliency.min()), float(saliency.max())
    axes.imshow(
        (saliency - low) / max(high - low, 1e-6),
        cmap="inferno", vmin=0, vmax=1, alpha=opacity, interpolation="bilinear", aspect=axes.get_aspect(),
        extent=(-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5),
    )


def draw_prompts(
    axes: Axes, boxes: np.ndarray | None = None, points: np.ndarray | None = None, colour: str = YELLOW
) -> None:
    """Draw boxes (K, 4) xyxy and points (P, 2) xy, in pixels of the image."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    rim = [Stroke(linewidth=3.4, foreground="black", alpha=0.55), Normal()]
    for left, top, right, bottom in np.asarray(boxes if boxes is not None else []).reshape(-1, 4):
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2,
                      path_effects=rim, clip_on=False)
        )
    points = np.asarray(points if points is not None else []).reshape(-1, 2)
    axes.scatter(points[:, 0], points[:, 1], s=42, c=colour, edgecolors="black", linewidths=1.0, zorder=5)


def save_overlay(
    path: Path,
    image: np.ndarray,
    labels: np.ndarray,
    structures: Mapping[str, int],
    *,
    truth: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    fill: float = 0.3,
    title: str = "",
    aspect: float = 1.0,
) -> None:
    """Write one image with its label map as a PNG with a legend.

    Args:
        path: the PNG.
        image: (H, W) or (C, H, W).
        labels: (H, W) label map: filled and outlined in the structure's colour.
        structures: name -> label.
        truth: (H, W) label map drawn as dashed outlines, to compare ``labels`` with.
        boxes: (K, 4) xyxy, points: (P, 2) xy, in pixels.
        points: see ``boxes``.
        fill: opacity of the label map.
        title: above the image.
        aspect: a pixel's height over its width.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    height, width = labels.shape[0] * aspect, labels.shape[1]
    inches = _PIXELS / 100 / max(height, width)
    figure_width, image_height = max(width * inches, 4.0), height * inches
    figure = new_figure(figure_width, image_height + 0.9)
    whole = image_height + 0.9
    axes = figure.add_axes((0, 0.5 / whole, 1, image_height / whole))
    draw_image(axes, image, aspect)
    handles: list[Patch | Line2D] = []
    for index, (name, label) in enumerate(structures.items()):
        colour = structure_colour(index)
        drawn = (labels == label).any() or (truth is not None and (truth == label).any())
        draw_mask(axes, labels == label, colour, fill=fill)
        if truth is not None:
            draw_mask(axes, truth == label, TRUTH_COLOUR if len(structures) == 1 else colour, style="--", width=1.6)
        if drawn:
            handles.append(Patch(facecolor=colour, edgecolor=colour, label=name.replace("_", " ")))
    if truth is not None and handles:
        handles.append(Line2D([], [], color="0.4", linestyle="--", linewidth=1.6, label="truth"))
    draw_prompts(axes, boxes, points)
    figure.text(0.5, 1 - 0.2 / whole, title, ha="center", va="center", fontsize=13)
    if handles:
        figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.5, 0.25 / whole), ncols=min(len(handles), 6),
                      frameon=False, fontsize=12)
    else:
        figure.text(0.5, 0.25 / whole, "no structure", ha="center", va="center", fontsize=12, color="0.4")
    save_figure(figure, path)

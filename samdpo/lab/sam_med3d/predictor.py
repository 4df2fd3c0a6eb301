"""A resident SAM-Med3D: volumes in, masks in native geometry out, without a click from anyone.

From one click to a whole structure, windows follow the mask through the volume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from samdpo.dataset.orientation import AS_IT_LIES, Turn
from samdpo.errors import ModelFolderError
from samdpo.lab.sam_med3d.cubes import CubeGrid, cut_patch, innermost, overlap
from samdpo.model.description import REMEDY
from samdpo.model.folder import FoldModel
from samdpo.model.predictor import Prediction, Predictor
from samdpo.model.slices import SlicePredictions
from samdpo.networks.precision import autocast
from samdpo.plans import Plans
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.prompting.prompt import StructurePrompt

Clicks = Mapping[str, Sequence[float]]  # structure -> (x, y, z), fractions of the volume


class VolumePredictor(Predictor):
    """A :class:`Predictor` whose folds are SAM-Med3D; it sees a volume as a whole, not slice by slice.

    Each structure is clicked on at the mean place that it has in the fold's training cases (``model.json``). A network
    that is told where something is always finds something, so a structure that may be absent is found as well. There
    is no average with a mirror image.

    Raises:
        ModelFolderError: a fold does not say where to click.
    """

    sees_neighbours = False  # a cube holds them
    sees_batches = False

    def __init__(self, plans: Plans, folds: list[FoldModel], device: torch.device, mirror: bool = True) -> None:
        super().__init__(plans, folds, device, mirror)
        for fold in folds:
            if "clicks" not in fold.settings:
                raise ModelFolderError(
                    f"'model.json' of a fold of {plans.dataset_name} has no 'clicks', where SAM-Med3D is to look for "
                    f"each structure. {REMEDY}"
                )
            if unknown := sorted(set(fold.settings["clicks"]) - set(plans.structures)):
                raise ModelFolderError(
                    f"'clicks' in 'model.json' of a fold of {plans.dataset_name} names {unknown[0]!r}, which is not "
                    f"among the structures of its plans.json. {REMEDY}"
                )
        self._grid: CubeGrid  # of the case at hand
        self._probabilities: torch.Tensor  # likewise, (L, X, Y, Z)

    def place(self, network: nn.Module) -> None:
        """Memory layouts for pictures do not fit volumes."""
        network.to(self.device)

    def predict_prepared(
        self,
        geometry: SliceGeometry,
        image_of: Callable[[int], np.ndarray],
        prompts_of: Callable[[FoldModel, int, np.ndarray], list[StructurePrompt]] | None,
        spacing: Sequence[float],
        properties: dict[str, Any],
        keep_probabilities: bool = True,
        turn: Turn = AS_IT_LIES,
        clicks: Clicks | None = None,
    ) -> Prediction:
        """Segment a case that is already cut to slices; all of them are in memory.

        Args:
            geometry: way back to native pixels.
            image_of: slice index -> (3, H, W) float32 in [0, 1].
            prompts_of: not used; prompts of slices mean nothing to this network.
            spacing: (z, y, x) mm of what was cut.
            properties: of the image file.
            keep_probabilities: whether the result holds them.
            turn: how the image was turned before it was cut.
            clicks: where to click instead; a structure that is not in it is not looked for.
        """
        grid = CubeGrid.of(geometry, spacing, self.folds[0].network.size)
        grey = np.stack([np.asarray(image_of(i), np.float32).mean(0) for i in range(geometry.n_slices)])
        volume = grid.to_cubes(grey).half()  # as training sees it
        of_folds = [fold.settings["clicks"] if clicks is None else clicks for fold in self.folds]
        self._grid, self._probabilities = grid, self._segment(volume, grid, of_folds)
        prediction = super().predict_prepared(
            geometry, image_of, prompts_of, spacing, properties, keep_probabilities, turn
        )
        for name, place in of_folds[0].items():
            prediction.report["structures"][name]["prompts"] = [_click_entry(place, geometry)]
        return prediction

    def _segment(self, volume: torch.Tensor, grid: CubeGrid, of_folds: Sequence[Clicks]) -> torch.Tensor:
        """Mean probabilities (L, X, Y, Z) of the folds, each with its own clicks; float16, for 15 organs of a CT."""
        mean = torch.zeros(len(self.plans.structures), *grid.shape, dtype=torch.float16)
        for row, name in enumerate(self.plans.structures):
            for fold, clicks in zip(self.folds, of_folds):
                if name in clicks:
                    click = grid.voxel(clicks[name])
                    found = segment_from_click(
                        fold.network, volume, click, self.device, self.precision, self.mask_cut
                    )
                    mean[row] += (found / len(self.folds)).half()
        return mean

    def _predict_fold(
        self, fold: FoldModel, indices: range, images: torch.Tensor, prompts: list[list[StructurePrompt]]
    ) -> SlicePredictions:
        """What was said of the volume, on some of its slices."""
        nothing: list[list[Any]] = [[] for _ in indices]
        return SlicePredictions(self._grid.to_slices(self._probabilities, indices), nothing, nothing)


def _click_entry(place: Sequence[float], geometry: SliceGeometry) -> dict[str, Any]:
    """A click as the report lists prompts: its slice, and its place in pixels of the slice."""
    fractions = list(reversed(place))  # z, y, x
    along = fractions.pop(geometry.axis)
    row, column = (f * geometry.image_size for f in fractions)
    return {"slice": min(int(along * geometry.n_slices), geometry.n_slices - 1), "points": [[column, row]]}


@torch.no_grad()
def segment_from_click(
    network: nn.Module, volume: torch.Tensor, click: Sequence[int], device: torch.device, precision: str,
    cut: float = 0.5,
) -> torch.Tensor:
    """Probabilities of the structure that is clicked on.

    The first window is centred on the click, as published. Where the mask reaches a side of a window and the volume
    goes on, the window slides on by half its side, and is clicked on in the middle of what of the mask it shares with
    the one before. Windows are averaged; a voxel that none has seen is 0.

    Args:
        network: in eval mode, on ``device``.
        volume: (X, Y, Z) in [0, 1].
        click: voxel of the volume.
        device: of the network.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the encoder.
        cut: probability from which a voxel belongs to the mask.

    Returns:
        (X, Y, Z) float32 on the CPU.
    """
    half = network.size // 2
    total, seen = torch.zeros(volume.shape), torch.zeros(volume.shape)
    first = tuple(place - half for place in click)
    waiting, visited = deque([(first, tuple(click))]), {first}
    while waiting:
        start, at = waiting.popleft()
        window = _window(network, volume, start, at, device, precision)
        inner, outer = overlap(volume.shape, start, network.size)
        total[outer] += window[inner]
        seen[outer] += 1
        mask = window > cut
        for axis, forward in product(range(3), (False, True)):
            following = tuple(s + (half if forward else -half) * (axis == a) for a, s in enumerate(start))
            goes_on = start[axis] + network.size < volume.shape[axis] if forward else start[axis] > 0
            if following in visited or not goes_on or not mask.select(axis, -1 if forward else 0).any():
                continue
            visited.add(following)
            shared = mask.narrow(axis, half if forward else 0, network.size - half)
            middle = list(innermost(shared.numpy()))
            middle[axis] += half if forward else 0
            waiting.append((following, tuple(s + m for s, m in zip(start, middle))))
    return total / seen.clamp(min=1)


def _window(
    network: nn.Module, volume: torch.Tensor, start: Sequence[int], click: Sequence[int], device: torch.device,
    precision: str,
) -> torch.Tensor:
    """Probabilities (s, s, s) of the window that begins at ``start``; 0 outside the volume."""
    patch = cut_patch(volume, start, network.size).float()[None, None].to(device)
    points = torch.tensor([[[float(c - s) for c, s in zip(click, start)]]], device=device)
    with autocast(device, precision):
        embedding = network.encode_image(patch).float()
    inside = torch.ones(1, 1, dtype=torch.bool, device=device)
    probability = network.enlarged(network.decode(embedding, points, inside)).sigmoid()[0, 0].cpu()
    within = torch.zeros_like(probability)
    inner, _ = overlap(volume.shape, start, network.size)
    within[inner] = probability[inner]
    return within

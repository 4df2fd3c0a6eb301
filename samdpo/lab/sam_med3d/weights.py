"""SAM-Med3D's published weights into the network: every name and shape must fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from samdpo.lab.sam_med3d.network import SamMed3d
from samdpo.networks.published.catalogue import published_file
from samdpo.networks.published.folder import find_weights
from samdpo.networks.published.reading import read_checkpoint
from samdpo.networks.weights import load_into

PUBLISHED = "sam_med3d_turbo"  # its name in the catalogue


def load_published(network: SamMed3d) -> SamMed3d:
    """Find the published file, load it, return the network.

    Raises:
        ConfigurationError: the file is not there.
        ModelFolderError: it cannot be read or does not fit.
    """
    load_file(network, find_weights(published_file(PUBLISHED)))
    return network


def load_file(network: SamMed3d, path: Path | str) -> None:
    """Load a file of weights, the published one or one that training wrote.

    Args:
        network: changed in place, unless the weights do not fit.
        path: as :func:`samdpo.networks.published.reading.read_checkpoint` takes it.

    Raises:
        ModelFolderError: the file cannot be read, or names the first weight that does not fit.
    """
    load_into(network, resample_positions(read_checkpoint(path), network.state_dict()), str(path))


def resample_positions(
    state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Position tables resampled linearly where the target's are of another input size.

    ``pos_embed`` (1, g, g, g, C), and ``rel_pos_d``, ``rel_pos_h``, ``rel_pos_w`` (2 g - 1, c) of global attention.
    """
    resized = dict(state)
    for name, tensor in state.items():
        wanted = target[name].shape if name in target else tensor.shape
        if tensor.shape == wanted or tensor.ndim != len(wanted) or tensor.shape[-1] != wanted[-1]:
            continue  # what does not fit for another reason is said where it is loaded
        if name.endswith("pos_embed"):
            grid = tensor.float().permute(0, 4, 1, 2, 3)
            grid = F.interpolate(grid, size=tuple(wanted[1:4]), mode="trilinear", align_corners=False)
            resized[name] = grid.permute(0, 2, 3, 4, 1)
        elif name.rpartition(".")[2] in ("rel_pos_d", "rel_pos_h", "rel_pos_w"):
            line = F.interpolate(tensor.float().T[None], size=wanted[0], mode="linear", align_corners=False)
            resized[name] = line[0].T
    return resized

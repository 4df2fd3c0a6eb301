"""Published weights into a network: what the file has too much is known by name, everything else must fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from samdpo.errors import ModelFolderError
from samdpo.networks.lora import with_lora_names
from samdpo.networks.published.catalogue import CATALOGUE, PublishedFile, published_file
from samdpo.networks.published.folder import by_hand, find_weights, mismatch, missing
from samdpo.networks.published.reading import read_checkpoint
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import load_into
from samdpo.plans import NetworkPlan

_OWN = "text_projection."  # what a published SAM does not have


def load_published(network: SamNetwork, name: str) -> SamNetwork:
    """Find the published file of a name, load it, return the network.

    Raises:
        ConfigurationError: the file is not there and cannot be downloaded.
        ModelFolderError: it cannot be read or does not fit.
    """
    load_file(network, find_weights(published_file(name)))
    return network


def load_file(network: SamNetwork, path: Path | str) -> None:
    """Load a file of weights in whichever of two layouts it has; every name and shape must fit.

    The network's own, as training writes it, or the one published for its backbone. Where the network has LoRA, the
    file need not have it.

    Args:
        network: changed in place, unless the weights do not fit.
        path: as :func:`samdpo.networks.published.reading.read_checkpoint` takes it.

    Raises:
        ModelFolderError: the file cannot be read, or names the first weight that does not fit.
    """
    state = with_lora_names(as_own(read_checkpoint(path), network), network)
    load_into(network, state, str(path))


def as_own(state: Mapping[str, torch.Tensor], network: SamNetwork) -> dict[str, torch.Tensor]:
    """Published weights in the network's own layout; weights in that layout already are left as they are.

    What the catalogue knows as unused is dropped, position tables of SAM's ViT are resampled to the network's grid,
    and the text projection, which nobody has published, is the network's own.
    """
    if any(name.startswith(_OWN) for name in state):
        return dict(state)
    own = network.state_dict()
    unused = tuple(prefix for published in CATALOGUE.values() for prefix in published.unused)
    kept = {name: tensor for name, tensor in state.items() if name in own or not name.startswith(unused)}
    kept |= {name: tensor for name, tensor in own.items() if name.startswith(_OWN)}
    return resample_positions(kept, own)


def resample_positions(
    state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Position tables of SAM's ViT, resampled linearly along each axis where the target's are of another size.

    As SAM-Med2D took over SAM's weights of 1024 pixels (its ``load_from``): ``pos_embed`` (1, h, w, C), for volumes
    (1, d, h, w, C), and ``rel_pos_d``, ``rel_pos_h`` and ``rel_pos_w`` (2 h - 1, C) of the blocks of global attention.
    """
    resized = dict(state)
    for name, tensor in state.items():
        wanted = target[name].shape if name in target else tensor.shape
        if tensor.shape == wanted or tensor.ndim != len(wanted) or tensor.shape[-1] != wanted[-1]:
            continue  # what does not fit for another reason is said where it is loaded
        if name.endswith("pos_embed"):
            grid, mode = tensor.float().movedim(-1, 1), "bilinear" if tensor.ndim == 4 else "trilinear"
            grid = F.interpolate(grid, size=tuple(wanted[1:-1]), mode=mode, align_corners=False)
            resized[name] = grid.movedim(1, -1)
        elif name.endswith((".rel_pos_d", ".rel_pos_h", ".rel_pos_w")):
            line = F.interpolate(tensor.float().T[None], size=wanted[0], mode="linear", align_corners=False)
            resized[name] = line[0].T
    return resized


def verify(published: PublishedFile, path: Path) -> str:
    """Whether a file is the published one: by its sum, or where none is stated by its structure; returns by which.

    Raises:
        ModelFolderError: it is missing, or is not the published one.
    """
    if not path.is_file():
        how = f"get it with: samdpo_weights download {published.name}" if published.url else by_hand(path)
        raise ModelFolderError(f"{missing(published, path)} To have it, {how}")
    found = mismatch(published, path)
    if found:
        raise ModelFolderError(f"{path} is not the published {published.file}: {found}. Get it once more.")
    if published.digest:
        return f"{path} has the published {published.digest.partition(':')[0].upper()}"
    network = build_network(NetworkPlan(**published.network), pretrained=False)
    load_file(network, path)
    count = len(read_checkpoint(path))
    return f"{path} fits the network in every name and shape ({count} tensors); no sum is published"

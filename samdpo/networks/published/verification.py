"""Whether a file is the published one: by its sum, or where none is stated by its structure."""

from __future__ import annotations

from pathlib import Path

from samdpo.errors import ModelFolderError
from samdpo.networks.published.catalogue import PublishedFile
from samdpo.networks.published.folder import by_hand, mismatch, missing

# The networks of files that have no sum of their own, as keys of a plan's network.
_NETWORKS = {
    "sam_med2d_b": {"backbone": "sam_med2d_b", "adapters": True},
    "ft_sam_b": {"backbone": "sam_med2d_b", "adapters": False},
    "sam_med3d_turbo": {"backbone": "sam_med3d"},
}


def verify(published: PublishedFile, path: Path) -> str:
    """Check a file; returns how it was checked.

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
    count = _check_structure(published.name, path)
    return f"{path} fits the network in every name and shape ({count} tensors); no sum is published"


def _check_structure(name: str, path: Path) -> int:
    """Load the file into the network it was published for; the number of its tensors."""
    from samdpo.networks.published import loading
    from samdpo.networks.published.reading import read_checkpoint
    from samdpo.networks.registry import build_network
    from samdpo.plans import NetworkPlan

    network = build_network(NetworkPlan(**_NETWORKS[name]), pretrained=False)  # type: ignore[arg-type]
    loading.load_file(network, path)
    return len(read_checkpoint(path))

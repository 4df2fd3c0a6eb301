"""Networks that see volumes as a whole, not slice by slice."""

from __future__ import annotations

from torch import nn


class VolumeNetwork(nn.Module):
    """Base by which prediction knows them; no prompter belongs to one."""

    @property
    def size(self) -> int:
        """Side of the cubes of voxels that it takes."""
        raise NotImplementedError

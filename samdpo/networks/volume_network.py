"""Networks that see volumes as a whole, not slice by slice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn


class VolumeNetwork(nn.Module, ABC):
    """Base by which prediction knows them; no prompter belongs to one."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the cubes of voxels that it takes."""

    @staticmethod
    @abstractmethod
    def predictor_class() -> Any:
        """The subclass of :class:`samdpo.model.predictor.Predictor` that runs folds of such networks."""

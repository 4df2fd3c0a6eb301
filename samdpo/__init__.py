"""samdpo: medical image segmentation from few annotations and many unannotated images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]

if TYPE_CHECKING:
    from samdpo.model.predictor import Predictor


def __getattr__(name: str) -> Any:
    """Import :class:`Predictor` when it is first asked for, so that ``import samdpo`` stays instant."""
    if name == "Predictor":
        from samdpo.model.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'samdpo' has no attribute {name!r}")

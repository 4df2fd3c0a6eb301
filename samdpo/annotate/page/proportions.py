"""How wide an image was when it was taken: slices are squashed to squares for the network."""

from __future__ import annotations

from collections.abc import Callable

from samdpo.errors import DatasetError
from samdpo.preferences.records import Item
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import SliceStore


def aspect_ratios(store: SliceStore) -> Callable[[Item], float]:
    """A function that gives the width over the height, in millimetres, of an item's slice.

    Args:
        store: the slices that the candidates were made of. A case that is no longer in it is shown as a square.
    """

    def aspect(item: Item) -> float:
        try:
            properties = store.properties(item.case)
        except DatasetError:
            return 1.0
        return aspect_ratio(SliceGeometry.from_dict(properties["geometry"]), tuple(properties["spacing"]))

    return aspect


def aspect_ratio(geometry: SliceGeometry, spacing: tuple[float, float, float]) -> float:
    """Width over height of a native slice; ``spacing`` of (Z, Y, X) in millimetres."""
    rows, columns = geometry.slice_shape
    row_spacing, column_spacing = (s for axis, s in enumerate(spacing) if axis != geometry.axis)
    return (columns * column_spacing) / (rows * row_spacing)

"""Planners by name: ``-pl NAME`` or ``-pl module:Class``."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from samdpo.dataset.dataset_json import DatasetJson
from samdpo.errors import ConfigurationError
from samdpo.extensions import announced, import_class, installed_class
from samdpo.plans import Plans

DEFAULT_PLANNER = "LitePlanner"
ENTRY_POINTS = "samdpo.planners"  # group under which other packages announce theirs
_OURS = {
    "LitePlanner": "samdpo.planning.lite_planner:LitePlanner",
    "PaperPlanner": "samdpo.planning.paper_planner:PaperPlanner",
}


class Planner(Protocol):
    """What a planner is: made from a fingerprint, gives a plan. Keyword arguments as of :class:`LitePlanner`."""

    def __init__(
        self, fingerprint: dict[str, Any], dataset_json: DatasetJson, dataset_name: str, **settings: Any
    ) -> None: ...

    def plan(self) -> Plans:
        """The whole plan."""
        ...


def get_planner(name: str) -> type[Planner]:
    """The planner called ``name``: one of ours, an entry point of ``samdpo.planners``, or ``module:Class``.

    Raises:
        ConfigurationError: there is none; the message lists the names.
    """
    others = announced(ENTRY_POINTS)
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if name in others:
        return installed_class(others[name])
    if ":" not in name:
        raise ConfigurationError(
            f"There is no planner {name!r}. Planners: {', '.join(sorted({**others, **_OURS}))}; one of your own is "
            "given as module:Class."
        )
    return import_class(name, "planner")

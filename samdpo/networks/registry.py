"""Backbones by the name a plan gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from samdpo.errors import PlansError
from samdpo.extensions import find, names, register
from samdpo.networks.lora import add_lora
from samdpo.plans import NetworkPlan

if TYPE_CHECKING:
    from samdpo.networks.prompt_free import PromptFreeNetwork
    from samdpo.networks.sam import SamNetwork

Builder = Callable[[NetworkPlan, bool], "SamNetwork | PromptFreeNetwork"]
_PROMPTED, _PROMPT_FREE = "backbone", "prompt_free_backbone"  # kinds of extensions


def register_backbone(name: str, prompted: bool = True) -> Callable[[Builder], Builder]:
    """Decorate ``build(plan, pretrained) -> SamNetwork | PromptFreeNetwork`` to make it a backbone of plans.

    Args:
        name: that a plan gives it.
        prompted: whether it takes prompts, so that ``-backbone`` may choose it for all stages.

    Raises:
        ValueError: the name is taken.
    """
    other = _PROMPT_FREE if prompted else _PROMPTED
    if name in names(other):
        raise ValueError(f"the backbone {name!r} is registered already, as one of the other kind")
    return register(_PROMPTED if prompted else _PROMPT_FREE, name)


def backbone_names(data: Path | None = None) -> list[str]:
    """Names that ``network.backbone`` of a plan may have; none is brought by ``data``, a model folder."""
    return sorted({*names(_PROMPTED, data), *names(_PROMPT_FREE, data)})


def build_network(plan: NetworkPlan, pretrained: bool = True, data: Path | None = None) -> SamNetwork:
    """The network of a plan, float32 on the CPU, in eval mode; a :class:`PromptFreeNetwork` where the backbone is one.

    What has no published weights (the text projection) is drawn from the current seed (``torch.manual_seed``)
    whatever was drawn since, and the global random state is left as it was.

    Args:
        plan: names the backbone; with ``"train": "lora"`` the network has low-rank matrices.
        pretrained: load its published weights, unless the plan does not want them.
        data: a model folder, out of which nothing is run.

    Raises:
        PlansError: unknown backbone, or it cannot be what the plan asks for.
        ModelFolderError: the published weights are damaged or do not fit.
        ConfigurationError: the published weights are not there and cannot be downloaded.
    """
    known = backbone_names(data)
    if plan.backbone not in known:  # a plan is data: module:build is nothing that it may name
        raise PlansError(f"'network.backbone' is {plan.backbone!r}; expected one of {', '.join(known)}.")
    kind = _PROMPTED if plan.backbone in names(_PROMPTED, data) else _PROMPT_FREE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        network = find(kind, plan.backbone, data)(plan, pretrained and plan.pretrained)
        if plan.train == "lora":
            add_lora(network, plan)
        return network.eval()

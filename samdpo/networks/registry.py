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


def register_backbone(name: str) -> Callable[[Builder], Builder]:
    """Decorate ``build(plan, pretrained) -> SamNetwork | PromptFreeNetwork`` to make it a backbone of plans.

    Raises:
        ValueError: the name is taken.
    """
    return register("backbone", name)


def backbone_names(data: Path | None = None) -> list[str]:
    """Names that ``network.backbone`` of a plan may have; none is brought by ``data``, a model folder."""
    return sorted(names("backbone", data))


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        network = find("backbone", plan.backbone, data)(plan, pretrained and plan.pretrained)
        if plan.train == "lora":
            add_lora(network, plan)
        return network.eval()

"""Backbones by the name a plan gives them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from samdpo.errors import PlansError
from samdpo.networks.lora import add_lora
from samdpo.plans import NetworkPlan

if TYPE_CHECKING:
    from samdpo.networks.prompt_free import PromptFreeNetwork
    from samdpo.networks.sam import SamNetwork

Builder = Callable[[NetworkPlan, bool], "SamNetwork | PromptFreeNetwork"]
_BUILDERS: dict[str, Builder] = {}
# Modules of samdpo.networks.backbones.
_BUILTIN = ("lite_medsam", "mobile_sam", "sam_med2d", "sam_vit", "tiny_sam", "unet")
PROMPT_FREE = ("unet",)  # of them, those that take no prompts


def register_backbone(name: str) -> Callable[[Builder], Builder]:
    """Decorate ``build(plan, pretrained) -> SamNetwork | PromptFreeNetwork`` to make it a backbone of plans.

    Raises:
        ValueError: the name is taken.
    """

    def register(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"the backbone {name!r} is registered already, by {_BUILDERS[name].__module__}")
        _BUILDERS[name] = builder
        return builder

    return register


def backbone_names() -> list[str]:
    """Names that ``network.backbone`` of a plan may have."""
    for module in _BUILTIN:
        importlib.import_module(f"samdpo.networks.backbones.{module}")
    return sorted(_BUILDERS)


def build_network(plan: NetworkPlan, pretrained: bool = True) -> SamNetwork:
    """The network of a plan, float32 on the CPU, in eval mode; a :class:`PromptFreeNetwork` where the backbone is one.

    What has no published weights (the text projection) is drawn from the current seed (``torch.manual_seed``)
    whatever was drawn since, and the global random state is left as it was.

    Args:
        plan: names the backbone; with ``"train": "lora"`` the network has low-rank matrices.
        pretrained: load its published weights, unless the plan does not want them.

    Raises:
        PlansError: unknown backbone, or it cannot be what the plan asks for.
        ModelFolderError: the published weights are damaged or do not fit.
        ConfigurationError: the published weights are not there and cannot be downloaded.
    """
    names = backbone_names()
    if plan.backbone not in names:
        raise PlansError(f"'network.backbone' is {plan.backbone!r}; expected one of {', '.join(names)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        network = _BUILDERS[plan.backbone](plan, pretrained and plan.pretrained)
        if plan.train == "lora":
            add_lora(network, plan)
        return network.eval()

"""LoRA: trainable low-rank matrices beside the attention's projections of the image encoder, through ``peft``.

The paper fine-tunes its SAM baselines so (Sec. 4). The matrices are part of the network and of its state dict: a plan
with ``"train": "lora"`` builds a network that has them, and saved weights load back into it as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from samdpo.errors import PlansError
from samdpo.networks.encoder_parts import in_leading_parts
from samdpo.networks.sam import SamNetwork
from samdpo.plans import NetworkPlan

PROJECTIONS = ("qkv", "proj")  # of an attention, in SAM's ViT and in TinyViT
_BASE = "base_layer"  # peft's name for the layer that was there before


def add_lora(network: SamNetwork, plan: NetworkPlan) -> None:
    """Put low-rank matrices beside ``qkv`` and ``proj`` of every attention that is not frozen, in place.

    Their product starts at zero, so the network says what it said before.

    Args:
        network: gets peft's layers in its image encoder.
        plan: ``lora`` and ``frozen_stages``.

    Raises:
        PlansError: a rank below 1, or no attention to put them beside.
    """
    from peft import LoraConfig, inject_adapter_in_model

    encoder, settings = network.image_encoder, plan.lora
    if settings.rank < 1 or not 0 <= settings.dropout < 1:
        raise PlansError(
            f"'network.lora' has rank {settings.rank} and dropout {settings.dropout}; expected a rank of 1 or "
            "more and a dropout from 0 to below 1."
        )
    frozen = in_leading_parts(encoder, plan.frozen_stages)
    targets = [
        name for name, _ in encoder.named_modules()
        if name.split(".")[-2:-1] == ["attn"] and name.endswith(PROJECTIONS) and not frozen(name)
    ]
    if not targets:
        raise PlansError(
            f"'network.train' is 'lora', but {plan.backbone!r} has no attention to put matrices beside with "
            f"'network.frozen_stages' {plan.frozen_stages}. Use fewer frozen stages, or train 'full' or 'decoder'."
        )
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
    )
    inject_adapter_in_model(config, encoder)
    network.requires_grad_(True)  # peft froze the encoder; what trains is said elsewhere


def is_lora(name: str) -> bool:
    """Whether a weight of this name is one of the low-rank matrices."""
    return "lora_" in name


def with_lora_names(state: Mapping[str, torch.Tensor], network: SamNetwork) -> dict[str, torch.Tensor]:
    """Weights of the same network without LoRA, under the names they have in ``network``; its own matrices join them.

    Weights that have matrices already, or a network that has none, are left as they are.
    """
    own = network.state_dict()
    if any(map(is_lora, state)) or not any(map(is_lora, own)):
        return dict(state)
    wrapped = {name.replace(f".{_BASE}.", "."): name for name in own if f".{_BASE}." in name}
    renamed = {wrapped.get(name, name): tensor for name, tensor in state.items()}
    return renamed | {name: tensor for name, tensor in own.items() if is_lora(name)}


def merged(network: SamNetwork) -> dict[str, torch.Tensor]:
    """The weights of ``network`` as one without LoRA has them; the matrices are merged into it, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    state = network.state_dict()
    return {name.replace(f".{_BASE}.", "."): tensor for name, tensor in state.items() if not is_lora(name)}

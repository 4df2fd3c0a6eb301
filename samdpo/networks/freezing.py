"""Which parts of the network train."""

from __future__ import annotations

from torch import nn

from samdpo.networks.sam import SamNetwork
from samdpo.networks.stages import check_stages, encoder_stages

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder", "text_projection")


def set_trainable(network: SamNetwork, frozen_stages: int) -> None:
    """Set ``requires_grad``: everything trains but the leading stages of the image encoder.

    Args:
        network: changed in place.
        frozen_stages: 0 freezes nothing; n the first n stages (1 is the patch embedding with the first layer; with
            all of them frozen the neck still trains); -1 the whole image encoder.

    Raises:
        PlansError: the encoder has not as many stages.
    """
    check_stages(network.image_encoder, frozen_stages)
    network.requires_grad_(True)
    if frozen_stages == -1:
        network.image_encoder.requires_grad_(False)
        return
    for stage in encoder_stages(network.image_encoder)[:frozen_stages]:
        for module in stage:
            module.requires_grad_(False)


def parameter_counts(network: SamNetwork) -> dict[str, dict[str, int]]:
    """Number of parameters of every part and of the whole: ``{"mask_decoder": {"all": ..., "trained": ...}}``."""

    def count(module: nn.Module) -> dict[str, int]:
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        return {"all": sum(n for n, _ in sizes), "trained": sum(n for n, trains in sizes if trains)}

    return {**{name: count(getattr(network, name)) for name in PARTS}, "network": count(network)}

"""Which parts of the network train: the named choices of a plan's ``network.train``."""

from __future__ import annotations

from torch import nn

from samdpo.errors import PlansError
from samdpo.networks.encoder_parts import in_leading_parts
from samdpo.networks.lora import is_lora
from samdpo.networks.sam import SamNetwork

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder", "text_projection")


def set_trainable(network: SamNetwork, frozen_stages: int, train: str = "full") -> None:
    """Set ``requires_grad``.

    Args:
        network: changed in place.
        frozen_stages: leading stages of the image encoder in which nothing trains: 0 is none; n the first n stages
            (with all of them the neck is left); -1 the whole image encoder.
        train: ``full``, everything; ``adapters`` or ``lora``, of the image encoder only its adapter blocks or its
            low-rank matrices, and everything else; ``decoder``, only the mask decoder and the text projection, which
            has no published weights.

    Raises:
        PlansError: the encoder has not as many stages, or nothing of what is to train.
    """
    network.requires_grad_(train != "decoder")
    if train == "decoder":
        network.mask_decoder.requires_grad_(True)
        network.text_projection.requires_grad_(True)
        return
    frozen = in_leading_parts(network.image_encoder, frozen_stages)
    wanted = {"full": lambda name: True, "adapters": is_adapter, "lora": is_lora}[train]
    for name, parameter in network.image_encoder.named_parameters():
        parameter.requires_grad_(wanted(name) and not frozen(name))
    if train != "full" and not any(p.requires_grad for p in network.image_encoder.parameters()):
        raise PlansError(
            f"'network.train' is {train!r}, but the image encoder has none that could train. Choose a backbone that "
            "has them (sam_med2d_b has adapters), or a 'network.frozen_stages' that leaves some."
        )


def is_adapter(name: str) -> bool:
    """Whether a weight of this name belongs to one of SAM-Med2D's adapter blocks."""
    return "Adapter" in name.split(".")


def frozen_stages(frozen: int, train: str) -> int:
    """Leading encoder stages whose output stays what it is in stage 1, so that it can be kept; -1 is all of them."""
    return -1 if train == "decoder" else frozen


def parameter_counts(network: nn.Module) -> dict[str, dict[str, int]]:
    """Number of parameters of every part and of the whole: ``{"mask_decoder": {"all": ..., "trained": ...}}``."""

    def count(module: nn.Module) -> dict[str, int]:
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        return {"all": sum(n for n, _ in sizes), "trained": sum(n for n, trains in sizes if trains)}

    parts = {name: count(getattr(network, name)) for name in PARTS if hasattr(network, name)}
    return {**parts, "network": count(network)}

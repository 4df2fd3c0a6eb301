"""The sizes of SAM-Med3D's parts, by the name a plan gives them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from samdpo.errors import PlansError
from samdpo.plans import NetworkPlan


@dataclass(frozen=True)
class Shape3d:
    """What the weights' shapes follow from.

    Attributes:
        width: of the encoder's tokens.
        depth: blocks of the encoder.
        heads: of the encoder's attention.
        global_blocks: the others attend in windows.
        window: side of a window, tokens.
        patch: side of a token, voxels.
        channels: of the embedding and the prompts.
        size: side of the input, voxels.
        mlp: hidden width of the mask decoder's transformer.
        head: hidden width of the head that predicts a mask's overlap.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    patch: int = 16
    channels: int = 384
    size: int = 128
    mlp: int = 2048
    head: int = 256

    @property
    def grid(self) -> int:
        """Side of the embedding, tokens."""
        return self.size // self.patch


# The published network is the repository's ``vit_b_ori``; the tiny one is for tests and has no published weights.
SHAPES = {
    "sam_med3d": Shape3d(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "sam_med3d_tiny": Shape3d(
        width=48, depth=2, heads=2, global_blocks=(1,), window=5, patch=8, channels=48, size=32, mlp=64, head=16
    ),
}


def shape_of(plan: NetworkPlan) -> Shape3d:
    """The shape that a plan's ``network.backbone`` and ``network.input_size`` name.

    Raises:
        PlansError: another backbone, or a size that is no multiple of a token's.
    """
    if plan.backbone not in SHAPES:
        raise PlansError(f"'network.backbone' is {plan.backbone!r}; SAM-Med3D is one of {', '.join(SHAPES)}.")
    shape = SHAPES[plan.backbone]
    size = plan.input_size or shape.size
    if size < shape.patch or size % shape.patch:
        raise PlansError(
            f"'network.input_size' is {plan.input_size}; {plan.backbone} takes multiples of {shape.patch}, or 0 for "
            f"{shape.size}."
        )
    return replace(shape, size=size)

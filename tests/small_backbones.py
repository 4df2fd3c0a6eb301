"""The backbone ``small_vit`` for tests: SAM's ViT, 64 wide, four blocks deep, at 64 pixels. Imported to register.

Its stages are blocks 0 and 1, and blocks 2 and 3. ``network.adapters`` gives it adapters.
"""

from __future__ import annotations

from samdpo.networks.backbones.sam_med2d import add_adapters
from samdpo.networks.backbones.sam_modules import PATCH, VitShape, input_size
from samdpo.networks.backbones.sam_vit import build_vit
from samdpo.networks.registry import register_backbone
from samdpo.networks.sam import SAM_PIXEL_MEAN, SAM_PIXEL_STD, SamNetwork, SliceInput
from samdpo.plans import NetworkPlan

SHAPE = VitShape(width=64, depth=4, heads=2, global_blocks=(1, 3), window=3)
SIZE = 64


@register_backbone("small_vit")
def build_small_vit(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    network = build_vit(plan, SHAPE, SliceInput(input_size(plan, SIZE, PATCH), SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    if plan.adapters:
        add_adapters(network.image_encoder)
    return network

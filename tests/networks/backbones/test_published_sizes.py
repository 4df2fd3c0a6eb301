"""Every published architecture at full size, random weights in the published file's layout, through the product's path.

A forward of ``segment_anything``'s own registry is the reference. Gigabytes of memory and disk, one after another.
"""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from sam_reference import as_sam_sees, box_prompts, encode_with_adapters, one_image, randomize, sam_masks
from segment_anything import sam_model_registry
from segment_anything.modeling import PromptEncoder

from samdpo.networks.backbones.sam_modules import VIT_B, vit_encoder
from samdpo.networks.published.catalogue import published_file
from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan

pytestmark = pytest.mark.slow
BOXES = torch.tensor([[60.0, 40.0, 200.0, 180.0], [10.0, 90.0, 120.0, 250.0]])


@pytest.fixture(autouse=True)
def _weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    with torch.inference_mode():
        yield
    gc.collect()
    for file in tmp_path.iterdir():  # up to 2.5 GB, which pytest would keep
        file.unlink()


@pytest.fixture
def save(tmp_path):
    def write(name, content):
        torch.save(content, tmp_path / published_file(name).file)

    return write


def check(backbone, embedding, logits, size=256, **settings):
    """The network of a plan, loaded by the product, gives these embeddings and logits for :func:`one_image`."""
    network = build_network(NetworkPlan(backbone=backbone, input_size=size, text_dim=4, **settings))
    found = network.encode_image(one_image(size))
    torch.testing.assert_close(found, embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        network.decode(found, box_prompts(BOXES, size, 4))[0], logits, atol=1e-5 * logits.abs().max().item(), rtol=1e-5
    )


def masks_of(sam, embedding, size=256):
    """Logits (2, size, size) of SAM's own prompt encoder and decoder at an input size."""
    prompt_encoder = PromptEncoder(256, (size // 16, size // 16), (size, size), 16)
    prompt_encoder.load_state_dict(sam.prompt_encoder.state_dict())
    low = sam_masks(prompt_encoder, sam.mask_decoder, embedding, BOXES)
    return F.interpolate(low[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def at_256_pixels(sam):
    """SAM's encoder for 16 x 16 tokens; its attention resamples rel_pos itself, pos_embed is resampled here."""
    grid = sam.image_encoder.pos_embed.permute(0, 3, 1, 2)
    small = F.interpolate(grid, size=(16, 16), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    sam.image_encoder.pos_embed = torch.nn.Parameter(small)
    return sam.image_encoder


@pytest.mark.parametrize(("name", "kind", "tensors"), [
    ("sam_vit_b", "vit_b", 314), ("medsam_vit_b", "vit_b", 314), ("sam_vit_l", "vit_l", 482),
    ("sam_vit_h", "vit_h", 594),
])
def test_a_sam_of_1024_pixels_is_loaded_for_256(save, name, kind, tensors):
    sam = sam_model_registry[kind]()
    randomize(sam)
    assert len(sam.state_dict()) == tensors
    save(name, sam.state_dict())
    image = one_image(256)
    embedding = at_256_pixels(sam)(image if name == "medsam_vit_b" else as_sam_sees(image))
    logits = masks_of(sam, embedding)
    del sam
    gc.collect()
    check(name, embedding, logits)


def test_at_1024_pixels_sam_is_itself(save):
    sam = sam_model_registry["vit_b"]()
    randomize(sam)
    save("sam_vit_b", sam.state_dict())
    embedding = sam.image_encoder(as_sam_sees(one_image(1024)))
    logits = masks_of(sam, embedding, 1024)
    del sam
    check("sam_vit_b", embedding, logits, size=1024)


def sam_med2d(adapters):
    """Encoder, decoder and the state dict of SAM-Med2D's layout; encoder and decoder are ``segment_anything``'s."""
    sam = sam_model_registry["vit_b"]()
    sam.image_encoder = vit_encoder(VIT_B, 256).eval()
    randomize(sam)
    state = dict(sam.state_dict())
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "norm.weight": (768,), "norm.bias": (768,), "channel.0.weight": (192, 768), "channel.2.weight": (768, 192),
        "spatial.0.weight": (768, 768, 3, 3), "spatial.2.weight": (768, 768, 4, 4),
    }
    for i in range(12 if adapters else 0):
        for name, shape in shapes.items():
            noise = torch.randn(shape, generator=generator) * 0.02
            state[f"image_encoder.blocks.{i}.Adapter.{name}"] = noise
    return sam, state


def test_sam_med2d_with_its_pickled_optimiser(save):
    sam, state = sam_med2d(adapters=True)
    assert len(state) == 386
    assert round(sum(t.numel() for t in state.values()) / 1e6, 2) == 271.24
    assert round(sum(t.numel() for n, t in state.items() if "Adapter" in n) / 1e6, 2) == 180.50
    assert state["image_encoder.pos_embed"].shape == (1, 16, 16, 768)
    assert state["image_encoder.blocks.0.attn.rel_pos_h"].shape == (27, 64)
    assert state["image_encoder.blocks.2.attn.rel_pos_h"].shape == (31, 64)
    with torch.inference_mode(False):
        parameters = [torch.nn.Parameter(torch.randn(768, 192)) for _ in range(3)]
        optimizer = torch.optim.Adam(parameters, lr=1e-4)
        sum(p.square().sum() for p in parameters).backward()
        optimizer.step()
    save("sam_med2d_b", {"model": state, "optimizer": optimizer})
    encoder_state = {n.removeprefix("image_encoder."): t for n, t in state.items() if n.startswith("image_encoder.")}
    embedding = encode_with_adapters(sam.image_encoder, encoder_state, as_sam_sees(one_image(256)))
    logits = masks_of(sam, embedding)
    del sam, state, encoder_state
    gc.collect()
    check("sam_med2d_b", embedding, logits)


def test_sam_med2d_without_adapters(save):
    sam, state = sam_med2d(adapters=False)
    save("ft_sam_b", {"model": state})
    embedding = sam.image_encoder(as_sam_sees(one_image(256)))
    check("sam_med2d_b", embedding, masks_of(sam, embedding), adapters=False)

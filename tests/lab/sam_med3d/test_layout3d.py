"""Names and shapes are those of ``sam_med3d_turbo.pth``, the file of the authors' ``vit_b_ori``."""

import pytest
import torch

from samdpo.lab.sam_med3d.network import SHAPES, SamMed3d, Shape3d, build_sam_med3d
from samdpo.plans import NetworkPlan

ATTENTION = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")


def pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def published(s: Shape3d, mask_channels: int = 16) -> dict[str, tuple[int, ...]]:
    """The published names with their shapes, for a network of another size written in the same terms."""
    c, w, half = s.channels, s.width, s.channels // 2
    layout = {"image_encoder.pos_embed": (1, s.grid, s.grid, s.grid, w)}
    layout |= pair("image_encoder.patch_embed.proj", w, 1, s.patch, s.patch, s.patch)
    for i in range(s.depth):
        block, span = f"image_encoder.blocks.{i}", s.grid if i in s.global_blocks else s.window
        layout |= {f"{block}.attn.rel_pos_{axis}": (2 * span - 1, w // s.heads) for axis in "dhw"}
        layout |= pair(f"{block}.norm1", w) | pair(f"{block}.norm2", w)
        layout |= pair(f"{block}.attn.qkv", 3 * w, w) | pair(f"{block}.attn.proj", w, w)
        layout |= pair(f"{block}.mlp.lin1", 4 * w, w) | pair(f"{block}.mlp.lin2", w, 4 * w)
    layout |= {"image_encoder.neck.0.weight": (c, w, 1, 1, 1), "image_encoder.neck.2.weight": (c, c, 3, 3, 3)}
    layout |= pair("image_encoder.neck.1", c) | pair("image_encoder.neck.3", c)
    prompt, m = "prompt_encoder", mask_channels
    layout |= {f"{prompt}.pe_layer.positional_encoding_gaussian_matrix": (3, c // 3)}
    names = ("point_embeddings.0", "point_embeddings.1", "not_a_point_embed", "no_mask_embed")
    layout |= {f"{prompt}.{name}.weight": (1, c) for name in names}
    layout |= pair(f"{prompt}.mask_downscaling.0", m // 4, 1, 2, 2, 2) | pair(f"{prompt}.mask_downscaling.1", m // 4)
    layout |= pair(f"{prompt}.mask_downscaling.3", m, m // 4, 2, 2, 2) | pair(f"{prompt}.mask_downscaling.4", m)
    layout |= pair(f"{prompt}.mask_downscaling.6", c, m, 1, 1, 1)
    decoder = "mask_decoder"
    parts = [(f"layers.{i}.{part}", c if part == "self_attn" else half) for i in range(2) for part in ATTENTION]
    for part, inner in [*parts, ("final_attn_token_to_image", half)]:
        name = f"{decoder}.transformer.{part}"
        for projection in ("q_proj", "k_proj", "v_proj"):
            layout |= pair(f"{name}.{projection}", inner, c)
        layout |= pair(f"{name}.out_proj", c, inner)
    for i in range(2):
        layer = f"{decoder}.transformer.layers.{i}"
        for number in range(1, 5):
            layout |= pair(f"{layer}.norm{number}", c)
        layout |= pair(f"{layer}.mlp.lin1", s.mlp, c) | pair(f"{layer}.mlp.lin2", c, s.mlp)
    layout |= pair(f"{decoder}.transformer.norm_final_attn", c)
    layout |= {f"{decoder}.iou_token.weight": (1, c), f"{decoder}.mask_tokens.weight": (4, c)}
    up = f"{decoder}.output_upscaling"
    for number, n_in, n_out in ((0, c, c // 4), (3, c // 4, c // 8)):  # of transposed convolutions the input is first
        layout |= {f"{up}.{number}.weight": (n_in, n_out, 2, 2, 2), f"{up}.{number}.bias": (n_out,)}
    layout |= pair(f"{up}.1", c // 4)
    for mask in range(4):
        head = f"{decoder}.output_hypernetworks_mlps.{mask}.layers"
        layout |= pair(f"{head}.0", c, c) | pair(f"{head}.1", c, c) | pair(f"{head}.2", c // 8, c)
    head = f"{decoder}.iou_prediction_head.layers"
    return layout | pair(f"{head}.0", s.head, c) | pair(f"{head}.1", s.head, s.head) | pair(f"{head}.2", 4, s.head)


def layout_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_the_tiny_network_has_the_published_names_and_no_other():
    shape = SHAPES["sam_med3d_tiny"]
    assert layout_of(SamMed3d(shape)) == published(shape)


def test_the_full_network_has_the_published_shapes():
    with torch.device("meta"):  # 0.4 GB that nobody needs
        network = SamMed3d(SHAPES["sam_med3d"])
    layout = layout_of(network)
    assert layout == published(SHAPES["sam_med3d"])
    assert layout["image_encoder.pos_embed"] == (1, 8, 8, 8, 768)
    assert layout["image_encoder.blocks.0.attn.rel_pos_d"] == (27, 64)
    assert layout["image_encoder.blocks.2.attn.rel_pos_d"] == (15, 64)
    assert layout["image_encoder.neck.0.weight"] == (384, 768, 1, 1, 1)
    assert len(layout) == 324


@pytest.mark.slow
def test_the_full_network_counts_100_million_parameters_and_segments_a_patch_of_128():
    network = build_sam_med3d(NetworkPlan(backbone="sam_med3d"), False)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert counts == {"image_encoder": 92_924_928, "prompt_encoder": 8_668, "mask_decoder": 7_575_636}
    with torch.no_grad():
        embedding = network.encode_image(torch.rand(1, 1, 128, 128, 128))
        logits = network.decode(embedding, torch.full((1, 1, 3), 64.0), torch.ones(1, 1, dtype=torch.bool))
    assert embedding.shape == (1, 384, 8, 8, 8)
    assert logits.shape == (1, 1, 32, 32, 32)
    assert network.enlarged(logits).shape == (1, 1, 128, 128, 128)

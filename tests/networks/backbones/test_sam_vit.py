import pytest
import small_backbones
import torch
import torch.nn.functional as F
from sam_reference import as_sam_sees, box_prompts, encode_with_adapters, one_image, randomize, sam_masks
from segment_anything.modeling import MaskDecoder, PromptEncoder

from samdpo.errors import PlansError
from samdpo.networks.backbones.sam_modules import vit_encoder
from samdpo.networks.encoder_parts import encoder_parts
from samdpo.networks.freezing import set_trainable
from samdpo.networks.published.loading import as_own
from samdpo.networks.registry import build_network
from samdpo.networks.weights import load_into
from samdpo.plans import NetworkPlan


def small(adapters=False, size=0):
    network = build_network(NetworkPlan(backbone="small_vit", adapters=adapters, input_size=size, text_dim=8))
    randomize(network)
    return network.requires_grad_(False)


def reference_of(network, size=small_backbones.SIZE):
    """``segment_anything``'s encoder with the network's weights, but for adapters."""
    encoder = vit_encoder(small_backbones.SHAPE, size)
    own = {k: v for k, v in network.image_encoder.state_dict().items() if "Adapter" not in k}
    encoder.load_state_dict(own)
    return encoder.requires_grad_(False).eval()


def test_the_encoder_normalises_as_sam_does_and_gives_what_sam_gives():
    network, image = small(), one_image(64)
    torch.testing.assert_close(network.encode_image(image), reference_of(network)(as_sam_sees(image)))


def test_slices_of_another_size_are_resampled_on_the_way_in():
    network, image = small(), one_image(96)
    seen = F.interpolate(image, size=(64, 64), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(network.encode_image(image), reference_of(network)(as_sam_sees(seen)))
    assert network.embedding_shape == (256, 4, 4)


def test_the_adapter_is_that_of_sam_med2d():
    network, image = small(adapters=True), one_image(64)
    expected = encode_with_adapters(
        reference_of(network), network.image_encoder.state_dict(), as_sam_sees(image)
    )
    torch.testing.assert_close(network.encode_image(image), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, reference_of(network)(as_sam_sees(image)), atol=0.1)


def test_with_last_weights_of_zero_an_adapter_is_not_there():
    network, image = small(adapters=True), one_image(64)
    for name, parameter in network.image_encoder.named_parameters():
        if "Adapter.norm" in name:
            parameter.zero_()
    torch.testing.assert_close(network.encode_image(image), reference_of(network)(as_sam_sees(image)))


def test_weights_of_a_larger_input_are_resampled_as_sam_med2d_did():
    large, image = small(size=128), one_image(64)
    network = build_network(NetworkPlan(backbone="small_vit", adapters=False, text_dim=8))
    published = {k: v for k, v in large.state_dict().items() if not k.startswith("text_projection")}
    load_into(network, as_own(published, network), "small")
    # SAM's own attention interpolates rel_pos itself where the grid is another one; only pos_embed needs help.
    reference = reference_of(large, size=128)
    grid = reference.pos_embed.permute(0, 3, 1, 2)
    reference.pos_embed = torch.nn.Parameter(
        F.interpolate(grid, size=(4, 4), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    )
    torch.testing.assert_close(network.encode_image(image), reference(as_sam_sees(image)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slice_size", [64, 96, 256])
def test_boxes_are_counted_in_pixels_of_the_slice_and_masks_come_in_its_size(slice_size):
    network = small()
    prompt_encoder = PromptEncoder(256, (4, 4), (64, 64), 16)
    prompt_encoder.load_state_dict(network.prompt_encoder.state_dict())
    decoder = MaskDecoder(transformer_dim=256, transformer=network.mask_decoder.transformer)
    decoder.load_state_dict(network.mask_decoder.state_dict())
    embedding = torch.randn(1, 256, 4, 4, generator=torch.Generator().manual_seed(3))
    boxes = torch.tensor([[0.2, 0.1, 0.6, 0.9], [0.5, 0.5, 0.8, 0.7]])  # shares of the slice
    low = sam_masks(prompt_encoder, decoder, embedding, boxes * 64 - 0.5)  # SAM adds half a pixel itself
    expected = F.interpolate(low[:, None], (slice_size, slice_size), mode="bilinear", align_corners=False)[:, 0]
    logits, _ = network.decode(embedding, box_prompts(boxes * slice_size - 0.5, slice_size, 8))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_mask_prompt_is_brought_to_the_size_that_the_prompt_encoder_takes():
    network = small()
    batch = box_prompts(torch.tensor([[10.0, 10.0, 50.0, 50.0]]), 96, 8)
    batch.mask_valid[:] = True
    empty = network.encode_prompts(batch)[1]
    batch.mask_logits[:, 20:60, 20:60] = 8.0
    assert empty.shape == (1, 256, 4, 4)
    assert not torch.allclose(network.encode_prompts(batch)[1], empty, atol=1e-3)


def test_a_stage_ends_with_a_block_of_global_attention():
    parts = encoder_parts(small().image_encoder)
    assert [part.names for part in parts] == [
        ("patch_embed", "pos_embed", "blocks.0", "blocks.1"), ("blocks.2", "blocks.3")
    ]


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("stages", [0, 1, 2, -1])
def test_prefix_and_suffix_make_the_whole_encoder(adapters, stages):
    network, image = small(adapters), one_image(96)
    boundary = network.encode_prefix(image, stages)
    assert torch.equal(network.encode_suffix(boundary, stages), network.encode_image(image))


def test_the_position_embedding_is_frozen_with_the_first_stage():
    network = small(adapters=True)
    set_trainable(network, 1)
    frozen = {n for n, p in network.image_encoder.named_parameters() if not p.requires_grad}
    assert "pos_embed" in frozen
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0", "1"}
    assert network.image_encoder.neck[0].weight.requires_grad


@pytest.mark.parametrize(
    ("backbone", "size", "multiple"),
    [("sam_med2d_b", 240, 32), ("sam_vit_b", 250, 16), ("mobile_sam", 24, 16), ("tiny_sam", 130, 4)],
)
def test_an_input_size_that_does_not_divide_is_refused(backbone, size, multiple):
    with pytest.raises(PlansError, match=rf"input_size' is {size}; {backbone} needs a multiple of {multiple}"):
        build_network(NetworkPlan(backbone=backbone, input_size=size), pretrained=False)


def test_a_backbone_of_one_size_refuses_others():
    with pytest.raises(PlansError, match="input_size' is 512; lite_medsam works at 256 pixels alone"):
        build_network(NetworkPlan(backbone="lite_medsam", input_size=512), pretrained=False)


@pytest.mark.parametrize(("size", "grid"), [(0, 64), (128, 32), (64, 16)])
def test_the_tiny_network_sees_slices_at_the_size_that_the_plan_says(size, grid):
    network = build_network(NetworkPlan(backbone="tiny_sam", input_size=size, text_dim=8)).eval()
    assert network.input_size == (size or 256,) * 2 and network.embedding_shape == (64, grid, grid)
    with torch.no_grad():
        embedding = network.encode_image(one_image(256))
        logits, _ = network.decode(embedding, box_prompts(torch.tensor([[40.0, 50.0, 150.0, 170.0]]), 256, 8))
    assert embedding.shape == (1, 64, grid, grid) and logits.shape[-2:] == (256, 256)


def test_nothing_but_weights_is_in_the_state_dict():
    assert not [name for name in small(adapters=True).state_dict() if "slice_input" in name]

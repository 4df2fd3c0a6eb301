import pytest
import small_backbones  # noqa: F401
import torch

from samdpo.errors import PlansError
from samdpo.networks.freezing import frozen_stages, parameter_counts, set_trainable
from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan


def trained_parts(network):
    names = [n for n, p in network.named_parameters() if p.requires_grad]
    return {".".join(n.split(".")[:3 if n.startswith("image_encoder.layers") else 2]) for n in names
            if n.startswith("image_encoder")}


def test_zero_trains_everything(tiny):
    set_trainable(tiny, 0)
    assert all(p.requires_grad for p in tiny.parameters())


def test_leading_stages_are_frozen(tiny):
    set_trainable(tiny, 2)
    assert trained_parts(tiny) == {"image_encoder.layers.2", "image_encoder.layers.3", "image_encoder.neck"}


def test_with_all_stages_frozen_the_neck_trains(lite):
    set_trainable(lite, 4)
    assert trained_parts(lite) == {"image_encoder.neck"}
    lite.requires_grad_(False)


def test_minus_one_freezes_the_whole_encoder_and_nothing_else(tiny):
    set_trainable(tiny, -1)
    assert trained_parts(tiny) == set()
    assert all(p.requires_grad for n, p in tiny.named_parameters() if not n.startswith("image_encoder"))


def test_freezing_less_thaws_again(tiny):
    set_trainable(tiny, -1)
    set_trainable(tiny, 1)
    assert "image_encoder.layers.1" in trained_parts(tiny)


@pytest.mark.parametrize("frozen", [5, -2])
def test_more_stages_than_there_are_is_refused(tiny, frozen):
    with pytest.raises(PlansError, match=rf"frozen_stages' is {frozen}; expected 0 .* to 4"):
        set_trainable(tiny, frozen)


# Seconds each with the full network, so it is asked only where tokens meet its grid.
STAGES = [*(("tiny", n) for n in (0, 1, 2, 3, 4, -1)), ("lite", 1), ("lite", 4)]


@pytest.mark.parametrize(("name", "stages"), STAGES)
def test_prefix_and_suffix_make_the_whole_encoder(request, name, stages):
    network = request.getfixturevalue(name)
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        boundary = network.encode_prefix(images, stages)
        assert torch.equal(network.encode_suffix(boundary, stages), network.encode_image(images))


@pytest.mark.parametrize("stages", [2, -1])
def test_kept_float16_activations_are_taken(tiny, stages):
    boundary = tiny.encode_prefix(torch.rand(1, 3, 256, 256), stages)
    embeddings = tiny.encode_suffix(boundary.half(), stages)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, tiny.encode_suffix(boundary, stages), atol=0.01, rtol=0.01)


def test_frozen_stages_get_no_gradient_and_the_rest_does(tiny):
    set_trainable(tiny, 2)
    boundary = tiny.encode_prefix(torch.rand(1, 3, 256, 256), 2)
    assert not boundary.requires_grad
    tiny.encode_suffix(boundary, 2).square().mean().backward()
    assert tiny.image_encoder.layers[1][0].weight.grad is None
    assert tiny.image_encoder.layers[2][0].weight.grad.abs().sum() > 0


def test_parameters_are_counted_by_part(tiny):
    set_trainable(tiny, -1)
    counts = parameter_counts(tiny)
    assert counts["image_encoder"]["trained"] == 0
    assert counts["mask_decoder"]["trained"] == counts["mask_decoder"]["all"]
    assert counts["network"]["all"] == sum(p.numel() for p in tiny.parameters())
    assert counts["network"]["all"] == sum(v["all"] for k, v in counts.items() if k != "network")


def test_decoder_trains_the_decoder_and_the_text_projection_alone(tiny):
    set_trainable(tiny, 0, "decoder")
    trained = {n.split(".")[0] for n, p in tiny.named_parameters() if p.requires_grad}
    assert trained == {"mask_decoder", "text_projection"}
    assert frozen_stages(0, "decoder") == -1


def test_adapters_trains_of_the_encoder_the_adapters_alone():
    network = build_network(NetworkPlan(backbone="small_vit", text_dim=8))
    set_trainable(network, 1, "adapters")
    trained = {n for n, p in network.image_encoder.named_parameters() if p.requires_grad}
    assert {tuple(n.split(".")[1:3]) for n in trained} == {("2", "Adapter"), ("3", "Adapter")}
    assert all(p.requires_grad for n, p in network.named_parameters() if not n.startswith("image_encoder"))
    assert frozen_stages(1, "adapters") == 1


@pytest.mark.parametrize(("train", "frozen"), [("adapters", 0), ("lora", 0), ("adapters", -1)])
def test_what_the_encoder_does_not_have_cannot_train(tiny, train, frozen):
    with pytest.raises(PlansError, match=rf"'network\.train' is '{train}', but the image encoder has none"):
        set_trainable(tiny, frozen, train)

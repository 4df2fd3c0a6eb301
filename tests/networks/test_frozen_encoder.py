import gc

import pytest
import torch

from samdpo.networks import frozen_encoder
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    gc.collect()  # encoders of other tests
    monkeypatch.setattr(FrozenEncoder, "_kept", frozen_encoder.kept_activations(64 * 1024**2))


@pytest.fixture
def images():
    return torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0))


def tiny():
    return build_network(NetworkPlan(backbone="tiny_sam")).requires_grad_(False)


def counted(network):
    """How many slices each stage of a network, and its neck, has seen; a list that grows."""
    encoder, seen = network.image_encoder, {}
    parts = {"first": encoder.patch_embed, "neck": encoder.neck}
    parts |= {f"layer {i}": layer for i, layer in enumerate(encoder.layers)}
    for name, part in parts.items():
        part.register_forward_hook(
            lambda _, inputs, __, name=name: seen.__setitem__(name, seen.get(name, 0) + len(inputs[0]))
        )
    return seen


def test_embeddings_are_those_of_the_network(images):
    network = tiny()
    encode = FrozenEncoder(network, CPU, "fp32")
    with torch.no_grad():
        expected = network.encode_image(images)
    torch.testing.assert_close(encode(images), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encode(images[[2, 0]]), expected[[2, 0]], atol=1e-6, rtol=1e-5)  # kept ones


def test_leading_stages_that_two_encoders_share_run_once(images):
    published, trained = tiny(), tiny()
    trained.image_encoder.layers[2].requires_grad_(False)[0].weight += 0.1
    with torch.no_grad():
        expected = trained.encode_image(images)
    of_published, of_trained = counted(published), counted(trained)
    first, second = FrozenEncoder(published, CPU, "fp32"), FrozenEncoder(trained, CPU, "fp32")
    assert first.shared_stages() == second.shared_stages() == 2
    first(images)
    torch.testing.assert_close(second(images), expected, atol=1e-6, rtol=1e-5)
    assert of_published == {"first": 3, "layer 0": 3, "layer 1": 3, "layer 2": 3, "layer 3": 3, "neck": 3}
    assert of_trained == {"layer 2": 3, "layer 3": 3, "neck": 3}


def test_a_model_that_trained_the_decoder_alone_encodes_nothing_anew(images):
    before, after = tiny(), tiny()
    after.mask_decoder.iou_token.weight += 1
    FrozenEncoder(before, CPU, "fp32")(images)
    seen = counted(after)
    FrozenEncoder(after, CPU, "fp32")(images)
    assert seen == {}


@pytest.mark.parametrize("difference", ["weight", "statistics", "neck", "precision"])
def test_what_differs_is_not_shared(images, difference):
    one, other = tiny(), tiny()
    if difference == "weight":
        other.image_encoder.patch_embed[0].weight += 0.1
    elif difference == "statistics":
        other.image_encoder.patch_embed[1].running_mean += 0.1
    elif difference == "neck":
        other.image_encoder.neck[0].weight += 0.1
    first = FrozenEncoder(one, CPU, "fp32")
    second = FrozenEncoder(other, CPU, "bf16" if difference == "precision" else "fp32")
    assert second.shared_stages() == (4 if difference == "neck" else 0)
    assert not torch.equal(first(images), second(images))


def test_a_changed_slice_is_another_one(images):
    encode = FrozenEncoder(tiny(), CPU, "fp32")
    before = encode(images)
    images[1, 0, 5, 5] += 0.5
    after = encode(images)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])


def test_what_is_kept_has_a_limit(images, monkeypatch):
    kept = frozen_encoder.kept_activations(64 * 64 * 64 * 4 * 2)  # two embeddings of the tiny network
    monkeypatch.setattr(FrozenEncoder, "_kept", kept)
    encode = FrozenEncoder(tiny(), CPU, "fp32")
    encode(images)
    assert len(kept) == 2
    seen = counted(encode.network)
    encode(images[2:])
    encode(images[1:2])
    assert seen == {}
    encode(images[:1])  # the least recently used one was dropped
    assert seen["neck"] == 1


def test_an_encoder_of_unknown_stages_is_taken_as_one(images):
    network = tiny()
    network.image_encoder = torch.nn.Sequential(network.image_encoder)
    encode = FrozenEncoder(network, CPU, "fp32")
    assert len(encode.stage_keys) == 1
    assert encode(images).shape == (3, 64, 64, 64)


@pytest.mark.parametrize("hashed", [True, False], ids=["on a CPU", "on a GPU"])
def test_networks_with_one_encoder_share_it_and_a_slice_is_encoded_once(images, monkeypatch, hashed):
    if not hashed:  # a GPU's encoders have no keys
        monkeypatch.setattr(frozen_encoder, "_stage_keys", lambda *_: [])
    networks, known = [tiny() for _ in range(3)], []
    networks[1].mask_decoder.iou_token.weight += 1
    networks[2].image_encoder.neck[0].weight += 0.1
    seen = [counted(network) for network in networks]
    first, second, third = (FrozenEncoder.shared(network, CPU, "fp32", known) for network in networks)
    assert first is second and first is not third and known == [first, third]
    assert torch.equal(first(images), second(images))
    assert seen[0]["neck"] == 3 and seen[1] == {}
    assert not torch.equal(third(images), first(images))

import pytest
import small_backbones  # noqa: F401
import torch
from sam_reference import one_image, randomize

from samdpo.errors import ModelFolderError, PlansError
from samdpo.networks.freezing import parameter_counts, set_trainable
from samdpo.networks.lora import is_lora
from samdpo.networks.published.loading import load_file
from samdpo.networks.registry import build_network
from samdpo.networks.weights import load_into, load_weights, save_weights
from samdpo.plans import LoraPlan, NetworkPlan

VIT = {"backbone": "small_vit", "adapters": False, "text_dim": 8}


def lora(rank=2, dropout=0.0, **settings):
    plan = NetworkPlan(train="lora", lora=LoraPlan(rank=rank, alpha=4.0, dropout=dropout), **{**VIT, **settings})
    return build_network(plan, pretrained=False)


def plain():
    return build_network(NetworkPlan(**VIT))


def matrices(network):
    return {name for name, _ in network.named_parameters() if is_lora(name)}


def test_a_network_with_new_matrices_says_what_it_said_before():
    before = build_network(NetworkPlan(**VIT))
    torch.testing.assert_close(lora().encode_image(one_image(64)), before.encode_image(one_image(64)))


def test_each_projection_of_each_attention_gets_two_matrices_of_the_rank():
    network = lora(rank=3)
    assert len(matrices(network)) == 4 * 2 * 2  # blocks, projections, matrices
    qkv = network.image_encoder.blocks[0].attn.qkv
    assert qkv.lora_A["default"].weight.shape == (3, 64)
    assert qkv.lora_B["default"].weight.shape == (192, 3)
    assert qkv.scaling["default"] == pytest.approx(4 / 3)


def test_the_attention_of_tiny_vit_gets_matrices_too():
    network = lora(backbone="mobile_sam", input_size=64)
    assert len(matrices(network)) == (2 + 6 + 2) * 2 * 2
    for name, parameter in network.named_parameters():
        if is_lora(name):
            torch.nn.init.normal_(parameter)
    with torch.no_grad():
        moved = network.encode_image(one_image(64))
        for name, parameter in network.named_parameters():
            if is_lora(name):
                parameter.zero_()
        assert not torch.allclose(moved, network.encode_image(one_image(64)), atol=1e-3)


def test_frozen_stages_get_none():
    assert {name.split(".")[2] for name in matrices(lora(frozen_stages=1))} == {"2", "3"}


def test_of_the_encoder_only_the_matrices_train():
    network = lora()
    set_trainable(network, 0, "lora")
    trained = {n for n, p in network.image_encoder.named_parameters() if p.requires_grad}
    assert trained and all(map(is_lora, trained))
    assert all(p.requires_grad for p in network.mask_decoder.parameters())
    assert parameter_counts(network)["image_encoder"]["trained"] == 4 * 2 * (64 + 192 + 64 + 64)
    network.encode_image(one_image(64)).square().mean().backward()
    assert network.image_encoder.blocks[0].attn.proj.lora_B["default"].weight.grad.abs().sum() > 0


def test_saved_weights_load_back_exactly(tmp_path):
    network = lora()
    randomize(network)
    save_weights(network.state_dict(), tmp_path / "w.safetensors")
    other = lora()
    load_into(other, load_weights(tmp_path / "w.safetensors"), "w")
    assert torch.equal(other.encode_image(one_image(64)), network.encode_image(one_image(64)))


@pytest.mark.parametrize("published", [True, False])
def test_weights_without_matrices_start_a_network_that_has_them(tmp_path, published):
    source, network = plain(), lora()
    randomize(source)
    state = {k: v for k, v in source.state_dict().items() if not (published and k.startswith("text_projection"))}
    torch.save(state, tmp_path / "w.pth")
    load_file(network, tmp_path / "w.pth")
    assert torch.equal(network.encode_image(one_image(64)), source.encode_image(one_image(64)))


def test_weights_with_matrices_do_not_fit_a_network_without(tmp_path):
    save_weights(lora().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelFolderError, match=r"unexpected, first 'image_encoder\.blocks\.0\.attn\.\w+\.base_layer"):
        load_file(plain(), tmp_path / "w.safetensors")


def test_dropout_is_for_training_alone():
    network = lora(dropout=0.5)
    randomize(network)
    image = one_image(64)
    assert torch.equal(network.encode_image(image), network.encode_image(image))
    network.train()
    assert not torch.equal(network.encode_image(image), network.encode_image(image))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"backbone": "tiny_sam"}, "'tiny_sam' has no attention"), ({"frozen_stages": -1}, "no attention"),
     ({"dropout": 1.0}, "dropout 1.0")],
)
def test_where_there_is_nothing_to_put_matrices_beside_the_plan_is_wrong(settings, said):
    with pytest.raises(PlansError, match=said):
        lora(**settings)

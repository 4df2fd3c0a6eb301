import argparse

import pytest
import torch

from samdpo.errors import ConfigurationError, ModelFolderError, PlansError
from samdpo.lab.sam_med3d import network as sam_med3d
from samdpo.lab.sam_med3d.network import build_sam_med3d
from samdpo.networks.published.catalogue import published_file
from samdpo.networks.published.loading import load_file, verify
from samdpo.networks.registry import build_network
from samdpo.networks.weights import save_weights
from samdpo.plans import NetworkPlan

TINY = NetworkPlan(backbone="sam_med3d_tiny")


def tiny(seed=0, **settings):
    torch.manual_seed(seed)
    return build_network(NetworkPlan(backbone="sam_med3d_tiny", **settings), pretrained=False)


def publish(file, state):
    """Save as the authors' training script does."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [120, 180])
    content = {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()}
    content |= {"lr_scheduler_state_dict": schedule.state_dict(), "losses": [0.5], "best_loss": float("inf")}
    torch.save({**content, "args": argparse.Namespace(img_size=128), "used_datas": ["data/train/liver/ct"]}, file)
    return file


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_the_published_file_is_loaded_with_every_key(tmp_path):
    source, network = tiny(seed=1), tiny(seed=2)
    assert not same(source.state_dict(), network.state_dict())
    load_file(network, publish(tmp_path / "sam_med3d_turbo.pth", source.state_dict()))
    assert same(source.state_dict(), network.state_dict())


def test_a_file_of_training_is_loaded_as_well(tmp_path):
    source, network = tiny(seed=1), tiny(seed=2)
    save_weights(source.state_dict(), tmp_path / "checkpoint_final.safetensors")
    load_file(network, tmp_path / "checkpoint_final.safetensors")
    assert same(source.state_dict(), network.state_dict())


KEY = "mask_decoder.iou_token.weight"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state: state.pop(KEY), f"1 missing, first '{KEY}'"),
        (lambda state: state.update({"mask_decoder.other": torch.ones(1)}), "1 unexpected, first 'mask_decoder.other'"),
        (lambda state: state.update({KEY: torch.ones(1, 7)}), rf"first '{KEY}': found \(1, 7\), expected \(1, 48\)"),
    ],
)
def test_what_does_not_fit_is_named_and_the_network_stays_as_it_was(tmp_path, spoil, said):
    network, state = tiny(seed=2), tiny(seed=1).state_dict()
    spoil(state)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ModelFolderError, match=rf"turbo\.pth do not fit the network: .*{said}"):
        load_file(network, publish(tmp_path / "turbo.pth", state))
    assert same(before, network.state_dict())


def test_a_larger_input_gets_the_position_tables_resampled(tmp_path):
    source, network = tiny(seed=1), tiny(seed=2, input_size=64)
    torch.nn.init.constant_(source.image_encoder.pos_embed, 0.25)
    torch.nn.init.normal_(source.image_encoder.blocks[1].attn.rel_pos_h)
    load_file(network, publish(tmp_path / "turbo.pth", source.state_dict()))
    torch.testing.assert_close(network.image_encoder.pos_embed.data, torch.full((1, 8, 8, 8, 48), 0.25))
    wide, narrow = (n.image_encoder.blocks[1].attn.rel_pos_h.data for n in (network, source))
    assert (wide.shape, narrow.shape) == ((15, 24), (7, 24))
    torch.testing.assert_close(wide[7], narrow[3])  # both of distance 0
    assert torch.equal(network.image_encoder.blocks[0].attn.rel_pos_h, source.image_encoder.blocks[0].attn.rel_pos_h)


def test_a_missing_published_file_says_where_it_is_published_and_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("samdpo_weights", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"uni-medical/SAM-Med3D .* put it into .* sam_med3d_turbo\.pth"):
        build_network(TINY)


def test_the_published_file_is_verified_by_its_structure(tmp_path, monkeypatch):
    monkeypatch.setitem(sam_med3d.SHAPES, "sam_med3d", sam_med3d.SHAPES["sam_med3d_tiny"])
    file = publish(tmp_path / "sam_med3d_turbo.pth", tiny().state_dict())
    said = verify(published_file("sam_med3d_turbo"), file)
    assert f"every name and shape ({len(tiny().state_dict())} tensors)" in said


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (NetworkPlan(backbone="sam_vit_b"), "'sam_vit_b'; SAM-Med3D is one of sam_med3d, sam_med3d_tiny"),
        (NetworkPlan(backbone="sam_med3d", input_size=100), "is 100; sam_med3d takes multiples of 16, or 0 for 128"),
    ],
)
def test_what_the_network_cannot_be_is_said(plan, said):
    with pytest.raises(PlansError, match=said):
        build_sam_med3d(plan, False)

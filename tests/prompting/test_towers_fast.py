"""What makes the towers' fit fast leaves its results alone: held against the plain way of ``benchmarks/towers.py``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from test_towers import CHANNELS, blobs, texts

from samdpo.prompting import towers as library
from samdpo.prompting.towers import (
    ALL_PIXELS,
    BRIGHTNESS_CHANNELS,
    Towers,
    _interpolated,
    _interpolation,
    fit_towers,
    principal_basis,
    structure_logits,
)

_FILE = Path(__file__).parents[2] / "benchmarks" / "towers.py"
_SPEC = importlib.util.spec_from_file_location("towers_benchmark", _FILE)
plain = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(plain)

SUBSETS = [ALL_PIXELS, (slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(1, None, 2))]


def some_towers() -> Towers:
    torch.manual_seed(0)
    return Towers(CHANNELS, 24, 16)


@pytest.mark.parametrize("pixels", SUBSETS)
@pytest.mark.parametrize("size", [(32, 32), (20, 27)])
def test_activations_and_gradients_are_those_of_the_plain_layers(size, pixels):
    towers = some_towers().train()
    inputs = torch.randn(2, CHANNELS + BRIGHTNESS_CHANNELS, *size)
    weight = torch.randn(2, 48, *size)[..., pixels[0], pixels[1]]

    def run(activations):
        torch.manual_seed(3)  # of the dropped components
        found = activations(inputs)
        towers.zero_grad()
        (found * weight).sum().backward()
        used = {name: p.grad.clone() for name, p in towers.named_parameters() if p.grad is not None}
        return found.detach(), used

    found, gradients = run(lambda x: towers.activations(x, pixels))
    expected, plain_gradients = run(lambda x: plain.plain_activations(towers, x)[..., pixels[0], pixels[1]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert gradients.keys() == plain_gradients.keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        scale = float(plain_gradients[name].abs().max())
        torch.testing.assert_close(gradient, plain_gradients[name], atol=1e-4 * max(scale, 1), rtol=1e-3)


def test_a_few_steps_end_where_the_plain_fit_of_the_same_pixels_ends():
    data = blobs(4, 2)
    options = {"dim": 16, "steps": 4, "lr": 1e-3, "seed": 3}
    fast = fit_towers(*data, texts(2), **options)
    same = plain.plain_fit(*data, texts(2), draw_pixels=library._draw_pixels, smooth=library._SMOOTH, **options)
    other = plain.plain_fit(*data, texts(2), **options)
    features, images, _ = blobs(2, 2, seed=8)
    maps, expected, unlike = (structure_logits(one, features, images, texts(2)) for one in (fast, same, other))
    torch.testing.assert_close(maps, expected, atol=5e-3, rtol=0)
    assert (maps - unlike).abs().max() > 5e-3  # of all pixels: the bound above tells the two apart


def test_a_step_looks_at_every_pixel_in_its_turn():
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(6, 6)
    for _ in range(40):
        rows, columns = library._draw_pixels(generator)
        assert seen[rows, columns].numel() == 9
        seen[rows, columns] += 1
    assert (seen > 0).all()


def test_one_thread_and_two_find_the_same():
    data, threads, maps = blobs(3, 1), torch.get_num_threads(), []
    features, images, _ = blobs(2, 1, seed=6)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            towers = fit_towers(*data, texts(1), dim=16, steps=4, lr=1e-3, seed=0)
            maps.append(structure_logits(towers, features, images, texts(1)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(maps[0], maps[1], atol=5e-3, rtol=0)


def test_nothing_of_a_fit_is_in_double_precision_but_the_basis_on_the_cpu(monkeypatch):
    # An mps device has no float64: what is there must come to the CPU before it is made so.
    made, double = [], torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda self: made.append(self.device.type) or double(self))
    mean, basis = principal_basis(torch.randn(2, 5, 16, 16).half(), 3)
    assert made == ["cpu"] and mean.dtype == basis.dtype == torch.float32
    towers = fit_towers(*blobs(2, 1), texts(1), dim=16, steps=1, lr=1e-3, seed=0)
    assert all(tensor.dtype == torch.float32 for tensor in towers.state_dict().values())


def test_what_prediction_has_kept_serves_a_fit():
    _interpolation.cache_clear()
    with torch.inference_mode():
        _interpolation(8, 16)
    maps = torch.zeros(1, 2, 8, 8, requires_grad=True)
    _interpolated(maps, _interpolation(8, 16), _interpolation(8, 16)).sum().backward()
    assert maps.grad is not None

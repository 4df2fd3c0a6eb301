from __future__ import annotations

import numpy as np
import torch

from samdpo.prompting.fitting import cross_fit_folds
from samdpo.prompting.image_text import ImageTextModel, ImageView
from samdpo.prompting.lite_model import LiteTowersModel
from samdpo.prompting.towers import (
    BRIGHTNESS_CHANNELS,
    TowerTexts,
    brightness_scales,
    fit_towers,
    principal_basis,
    structure_logits,
    tower_size,
)

CHANNELS = 12


def texts(n_structures: int) -> TowerTexts:
    generator = torch.Generator().manual_seed(1)
    return TowerTexts(
        [torch.randn(3, 24, generator=generator) for _ in range(n_structures)],
        torch.randn(5, 24, generator=generator),
    )


def blobs(n: int, n_structures: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features in which structure s lights channel s at a random place, plain images, and the structures' shares."""
    generator = np.random.default_rng(seed)
    features = generator.normal(0, 0.5, (n, CHANNELS, 32, 32)).astype(np.float32)
    shares = np.zeros((n, n_structures, 32, 32), np.float32)
    for i in range(n):
        for s in range(n_structures):
            y, x = int(generator.integers(2, 22)), int(generator.integers(2, 6)) + 14 * s
            shares[i, s, y : y + 9, x : x + 9] = 1
    features[:, :n_structures] += 3 * shares
    return torch.from_numpy(features), torch.full((n, 3, 64, 64), 0.5), torch.from_numpy(shares)


def fit(features, images, shares, seed=0, steps=60):
    return fit_towers(features, images, shares, texts(shares.shape[1]), dim=16, steps=steps, lr=5e-3, seed=seed)


def test_towers_find_each_structure_on_new_images():
    towers = fit(*blobs(4, 2), steps=150)
    features, images, shares = blobs(3, 2, seed=9)
    maps = structure_logits(towers, features, images, texts(2))
    for s in range(2):
        inside = maps[:, s][shares[:, s] > 0].mean()
        assert inside > 0.5 > -1 > maps[:, s][shares[:, s] == 0].mean()


def test_a_finer_grid_shows_what_is_smaller_than_a_pixel_of_the_features():
    """Dots of 2 pixels of 64, where a pixel of the features is 8 wide and says nothing of them."""
    generator = np.random.default_rng(0)
    images, features = torch.full((8, 3, 64, 64), 0.3), torch.randn(8, CHANNELS, 8, 8)
    shares = torch.zeros(8, 1, 64, 64)
    for n in range(8):
        y, x = generator.integers(4, 60, 2)
        images[n, :, y : y + 2, x : x + 2] = 0.9
        shares[n, 0, y : y + 2, x : x + 2] = 1

    def found(grid: int, size: int) -> float:
        given = torch.nn.functional.adaptive_avg_pool2d(shares, size)
        towers = fit_towers(features[:5], images[:5], given[:5], texts(1), dim=16, steps=80, lr=5e-3, seed=0, grid=grid)
        maps = structure_logits(towers, features[5:], images[5:], texts(1))
        assert maps.shape[-2:] == (size, size)
        best = torch.nn.functional.interpolate(maps, size=64, mode="nearest").flatten(1).argmax(1)
        rows, columns = best // 64, best % 64
        return float(shares[5:, 0][torch.arange(3), rows, columns].mean())

    assert found(64, 64) == 1
    assert found(0, 8) < 1
    assert tower_size((32, 40), 36) == (36, 40), "what is finer stays as it is"


def test_the_same_seed_gives_the_same_towers_and_leaves_the_global_state_alone():
    data = blobs(3, 1)
    torch.manual_seed(5)
    first = fit(*data, seed=2, steps=5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    second = fit(*data, seed=2, steps=5).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(after, torch.rand(1))
    assert not torch.equal(fit(*data, seed=3, steps=5).state_dict()["text.weight"], first["text.weight"])


def test_one_image_is_enough_to_fit():
    towers = fit(*blobs(1, 1), steps=5)
    assert torch.isfinite(structure_logits(towers, *blobs(1, 1, seed=4)[:2], texts(1))).all()


def test_the_towers_answer_through_the_common_interface():
    towers = fit(*blobs(3, 1), steps=20)
    features, images, _ = blobs(1, 1, seed=7)
    model = LiteTowersModel(towers, texts(1), lambda images: features.expand(len(images), -1, -1, -1))
    assert isinstance(model, ImageTextModel)
    view, text = ImageView(images[0], features[0]), towers.embed_text(texts(1).structures[0])
    assert model.similarity(view).shape == (1, 32, 32)
    layer = model.channel_activations(view, text)
    assert layer.activations.shape[1:] == (32, 32)
    assert layer.importance.shape == (3, layer.activations.shape[0]) and layer.importance.abs().sum() > 0
    assert model.image_scores(torch.rand(2, 3, 64, 64), text).shape == (2, 3)


def test_brightness_scales_show_a_dark_mass_on_brighter_tissue():
    image = torch.full((1, 3, 128, 128), 0.7)
    image[:, :, 50:78, 50:78] = 0.2
    channels = brightness_scales(image, (64, 64))
    assert channels.shape == (1, BRIGHTNESS_CHANNELS, 64, 64)
    fine_minus_coarse = channels[0, 9]
    assert fine_minus_coarse[32, 32] < -0.2 and abs(fine_minus_coarse[0, 0]) < 0.05


def test_the_features_basis_whitens():
    features = torch.randn(2, 5, 16, 16) * torch.tensor([1.0, 5.0, 0.1, 2.0, 3.0])[:, None, None] + 4
    mean, basis = principal_basis(features, 3)
    projected = torch.einsum("bchw,ck->bkhw", features - mean[None, :, None, None], basis)
    torch.testing.assert_close(projected.transpose(0, 1).flatten(1).cov(), torch.eye(3), atol=0.01, rtol=0.01)


def test_a_group_is_held_out_as_a_whole():
    groups = {"a1": "A", "a2": "A", "b1": "B", "c1": "C"}
    folds = cross_fit_folds(["a1", "a2", "b1", "c1", "d1"], groups, 3, seed=0)
    assert folds["a1"] == folds["a2"] and len(set(folds.values())) == 3
    assert cross_fit_folds(["a1", "a2"], groups, 4, seed=0) == {"a1": 0, "a2": 0}



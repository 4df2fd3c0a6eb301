from __future__ import annotations

import numpy as np
import torch

from samdpo.prompting.fitting import cross_fit_folds
from samdpo.prompting.image_text import ImageTextModel, ImageView
from samdpo.prompting.lite_model import LiteTowersModel
from samdpo.prompting.towers import TowerTexts, fit_towers, structure_logits

CHANNELS = 12


def texts(n_structures: int) -> TowerTexts:
    generator = torch.Generator().manual_seed(1)
    return TowerTexts(
        [torch.randn(3, 24, generator=generator) for _ in range(n_structures)],
        torch.randn(5, 24, generator=generator),
    )


def blobs(n: int, n_structures: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in which structure s lights channel s, at a random place."""
    generator = np.random.default_rng(seed)
    features = generator.normal(0, 0.5, (n, CHANNELS, 32, 32)).astype(np.float32)
    labels = np.zeros((n, 32, 32), np.int64)
    for i in range(n):
        for s in range(n_structures):
            y, x = generator.integers(2, 20, 2)
            labels[i, y : y + 9, x : x + 9] = s + 1
    for s in range(n_structures):
        features[:, s] += 3 * (labels == s + 1)
    return torch.from_numpy(features), torch.from_numpy(labels)


def fit(features, labels, n_structures, seed=0):
    return fit_towers(features, labels, texts(n_structures), dim=16, steps=60, lr=5e-3, seed=seed)


def test_towers_find_each_structure_on_new_images():
    towers = fit(*blobs(4, 2), 2)
    features, labels = blobs(3, 2, seed=9)
    maps = structure_logits(towers, features, texts(2))
    for s in range(2):
        inside = maps[:, s][labels == s + 1].mean()
        assert inside > 1 > -1 > maps[:, s][labels != s + 1].mean()


def test_the_same_seed_gives_the_same_towers_and_leaves_the_global_state_alone():
    features, labels = blobs(3, 1)
    torch.manual_seed(5)
    first = fit(features, labels, 1, seed=2).state_dict()
    after = torch.rand(1)
    torch.manual_seed(5)
    second = fit(features, labels, 1, seed=2).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(after, torch.rand(1))
    assert not torch.equal(fit(features, labels, 1, seed=3).state_dict()["text.weight"], first["text.weight"])


def test_one_image_is_enough_to_fit():
    towers = fit(*blobs(1, 1), 1)
    assert torch.isfinite(structure_logits(towers, blobs(1, 1, seed=4)[0], texts(1))).all()


def test_the_towers_answer_through_the_common_interface():
    towers = fit(*blobs(3, 1), 1)
    features, _labels = blobs(1, 1, seed=7)
    model = LiteTowersModel(towers, texts(1), lambda images: features.expand(len(images), -1, -1, -1))
    assert isinstance(model, ImageTextModel)
    view, text = ImageView(torch.rand(3, 64, 64), features[0]), towers.embed_text(texts(1).structures[0])
    assert model.similarity(view).shape == (1, 32, 32)
    layer = model.channel_activations(view, text)
    assert layer.activations.shape[1:] == (32, 32)
    assert layer.importance.shape == (3, layer.activations.shape[0]) and layer.importance.abs().sum() > 0
    assert model.image_scores(torch.rand(2, 3, 64, 64), text).shape == (2, 3)


def test_a_group_is_held_out_as_a_whole():
    groups = {"a1": "A", "a2": "A", "b1": "B", "c1": "C"}
    folds = cross_fit_folds(["a1", "a2", "b1", "c1", "d1"], groups, 3, seed=0)
    assert folds["a1"] == folds["a2"] and len(set(folds.values())) == 3
    assert cross_fit_folds(["a1", "a2"], groups, 4, seed=0) == {"a1": 0, "a2": 0}



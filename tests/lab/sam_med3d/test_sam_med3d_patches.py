"""Patches of one structure each."""

import numpy as np
import pytest
import torch

from samdpo.lab.sam_med3d.cubes import PatchSamples
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import IGNORED, SliceStore


@pytest.fixture
def samples(tmp_path):
    """Two cases of 192 mm in voxels of 12 mm: structure 1 left, 2 in one of them, ignored above, brightness = label."""
    store, geometry = SliceStore(tmp_path), SliceGeometry(0, (16, 16, 16), 16)
    for name in ("a", "b"):
        label = np.zeros((16, 16, 16), np.int16)
        label[4:9, 4:9, 2:6] = 1
        if name == "a":
            label[10:13, 10:13, 10:13] = 2
        label[15] = IGNORED
        image = np.clip(label, 0, 2)[:, None] / 2
        store.put(name, image, label, {
            "geometry": geometry.to_dict(), "labelled": True, "spacing": [12.0, 12.0, 12.0], "channels": [0, 0, 0],
        })
    return PatchSamples(store, [1, 2, 3], size=16)


def test_a_sample_is_a_structure_of_a_case(samples):
    assert samples.keys(["a", "b"]) == [("a", 1), ("a", 2), ("b", 1)]


def test_mean_positions_are_fractions_of_the_volume_along_x_y_z(samples):
    positions = samples.mean_positions(["a", "b"])
    assert positions[1] == pytest.approx([4 / 16, 6.5 / 16, 6.5 / 16])
    assert positions[2] == pytest.approx([11.5 / 16] * 3)
    assert 3 not in positions


def test_patches_of_training_show_their_structure_turned_over_like_its_truth(samples):
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(12):
        batch = samples.draw([("a", 2), ("b", 1)], generator)
        assert batch.truth.flatten(1).any(1).all()
        assert torch.equal(batch.truth[0], batch.images[0] == 1.0)
        assert torch.equal(batch.truth[1], batch.images[1] == 0.5)
        seen.add(tuple(batch.truth[1, 0].nonzero().float().mean(0).tolist()))
        assert not (batch.truth & ~batch.counted).any()
    assert len(seen) > 6


def test_patches_of_prediction_are_centred_on_the_click(samples):
    batch = samples.around([("a", 2)], {2: samples.cubes.get("a").grid.fraction((11, 11, 11))})
    assert batch.truth[0, 0].nonzero().amin(0).tolist() == [7, 7, 7]
    assert batch.truth[0, 0, 8, 8, 8]
    assert (~batch.counted[0, 0]).nonzero().amin(0).tolist()[2] == 12  # z = 15

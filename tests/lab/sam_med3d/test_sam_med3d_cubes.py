"""Volumes of cubic voxels from stored slices, and back."""

import numpy as np
import pytest
import torch

from samdpo.errors import DatasetError
from samdpo.lab.sam_med3d.cubes import CubeGrid, cut_patch
from samdpo.preprocessing.slicing import SliceGeometry


def in_slices(volume, geometry):
    """A volume (Z, Y, X) as it lies in the store."""
    return geometry.to_slices(volume[None].astype(np.float32))[:, 0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_case_gets_cubic_voxels_whatever_the_axis_of_its_slices(axis):
    z, y, x = np.meshgrid(np.arange(10), np.arange(24), np.arange(12), indexing="ij")
    volume = (z >= 5) * 1.0 + (y >= 12) * 2.0 + (x >= 6) * 4.0
    geometry = SliceGeometry(axis, volume.shape, image_size=48)
    grid = CubeGrid.of(geometry, (12.0, 4.0, 8.0), size=32)  # 120 x 96 x 96 mm in voxels of 6 mm
    assert grid.shape == (16, 16, 20)
    cubes = grid.to_cubes(in_slices(volume, geometry))
    for corner, value in {(2, 2, 2): 0, (2, 2, 17): 1, (2, 13, 2): 2, (13, 2, 2): 4, (13, 13, 17): 7}.items():
        assert cubes[corner] == pytest.approx(value, abs=1e-4)
    labels = grid.label_to_cubes(geometry.label_to_slices(volume.astype(np.uint8)))
    assert labels[8:, :8, :10].unique().tolist() == [4]
    assert labels[:8, 8:, 10:].unique().tolist() == [3]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_probabilities_come_back_to_their_slices(axis):
    geometry = SliceGeometry(axis, (20, 24, 28), image_size=32)
    smooth = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in (20, 24, 28)), indexing="ij")).mean(0)
    slices = in_slices(smooth, geometry)
    grid = CubeGrid.of(geometry, (6.0, 6.0, 6.0), size=64)
    there = grid.to_cubes(slices)
    back = np.concatenate([grid.to_slices(there[None], range(i, i + 1)) for i in range(geometry.n_slices)])[:, 0]
    assert np.abs(back - slices).max() < 0.04


def test_a_place_and_its_fraction_are_one():
    grid = CubeGrid(SliceGeometry(0, (4, 4, 4), 8), (10, 20, 30))
    assert grid.voxel(grid.fraction((3, 0, 29))) == (3, 0, 29)
    assert grid.voxel((1.0, 0.0, 2.0)) == (9, 0, 29)


def test_voxels_of_unknown_size_are_refused():
    with pytest.raises(DatasetError, match="19980 x 64 x 64 mm large .* true size of voxels"):
        CubeGrid.of(SliceGeometry(0, (20, 64, 64), 64), (999.0, 1.0, 1.0), size=32)


def test_a_patch_that_reaches_beyond_the_volume_is_filled():
    volume = torch.arange(27.0).view(3, 3, 3) + 1
    patch = cut_patch(volume, (-1, 1, 2), 3)
    assert torch.equal(patch[1:, :2, 0], volume[:2, 1:, 2])
    assert patch.count_nonzero() == 4
    assert not cut_patch(volume, (5, 0, 0), 3).any()

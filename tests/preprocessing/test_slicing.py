"""Slices and the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samdpo.preprocessing.slicing import SliceGeometry, keep_small_objects, neighbour_step, with_neighbours


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def native_label(geometry: SliceGeometry, label: np.ndarray) -> np.ndarray:
    """Labels (S, size, size) -> (Z, Y, X): what the slices say of the middle of each native pixel."""
    rows, columns = (((np.arange(n) + 0.5) * geometry.image_size / n).astype(int) for n in geometry.slice_shape)
    return np.moveaxis(label[:, rows[:, None], columns[None]], 0, geometry.axis)


def blob(shape: tuple[int, int, int]) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    return sum(a**2 for a in axes) < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 96, 80), (1, 1, 7), (1, 500, 1), (3, 5, 700), (20, 30, 40), (1, 256, 256)])
def test_the_way_back_has_exactly_the_native_shape(shape: tuple[int, int, int], axis: int) -> None:
    geometry = SliceGeometry(axis, shape)
    image = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    slices = geometry.to_slices(image)
    assert slices.shape == (shape[axis], 2, 256, 256)
    assert slices.dtype == np.float32
    back = geometry.to_native(slices)
    assert back.shape == image.shape
    label = (image[0] * 4).astype(np.int16)
    cut = geometry.label_to_slices(label)
    assert cut.shape == (shape[axis], 256, 256)
    assert cut.dtype == label.dtype
    assert native_label(geometry, cut).shape == shape


@pytest.mark.parametrize("shape", [(1, 96, 80), (1, 1024, 700), (1, 257, 255), (12, 300, 280)])
def test_a_mask_comes_back_nearly_as_it_was(shape: tuple[int, int, int]) -> None:
    geometry, mask = SliceGeometry(0, shape), blob(shape)
    probabilities = geometry.label_to_slices(mask)[:, None].astype(np.float32)
    assert dice(geometry.to_native(probabilities)[0] > 0.5, mask) > 0.99


def test_labels_up_to_256_pixels_come_back_exactly() -> None:
    label = np.random.default_rng(0).integers(0, 5, (4, 100, 256)).astype(np.uint8)
    geometry = SliceGeometry(0, label.shape)
    assert np.array_equal(native_label(geometry, geometry.label_to_slices(label)), label)


def test_image_and_label_stay_on_each_other() -> None:
    shape = (1, 431, 333)
    mask = blob(shape)
    geometry = SliceGeometry(0, shape)
    image = geometry.to_slices(mask[None].astype(np.float32))[:, 0]
    assert dice(image > 0.5, geometry.label_to_slices(mask)) > 0.995


def test_shrinking_averages_instead_of_picking() -> None:
    checkerboard = np.indices((1024, 1024)).sum(0)[None, None] % 2
    shrunk = SliceGeometry(0, (1, 1024, 1024)).to_slices(checkerboard.astype(np.float32))
    assert np.allclose(shrunk, 0.5, atol=0.02)


def test_slices_are_cut_along_the_axis() -> None:
    volume = np.zeros((1, 4, 6, 8), np.float32)
    volume[:, :, 2] = 1
    slices = SliceGeometry(1, (4, 6, 8)).to_slices(volume)
    assert [bool(s.all()) for s in slices[:, 0]] == [i == 2 for i in range(6)]
    back = SliceGeometry(1, (4, 6, 8)).to_native(slices)
    assert np.array_equal(back, volume)


def test_a_geometry_survives_json() -> None:
    geometry = SliceGeometry(2, (5, 6, 7), 128)
    assert SliceGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="native shape"):
        SliceGeometry(0, (1, 5, 6)).to_slices(np.zeros((1, 1, 6, 5)))
    with pytest.raises(ValueError, match="slices"):
        SliceGeometry(0, (1, 5, 6)).to_native(np.zeros((2, 1, 256, 256)))


def cut_with_small(label: np.ndarray, labels: dict[str, int], axis: int = 0) -> tuple[np.ndarray, dict]:
    geometry = SliceGeometry(axis, label.shape)
    cut = geometry.label_to_slices(label)
    return cut, keep_small_objects(geometry, label, cut, labels, -1)


def test_an_object_between_the_pixels_of_the_grid_keeps_the_one_under_its_centre() -> None:
    label = np.zeros((2, 1500, 1400), np.int16)
    places = [(3, 5), (700, 811), (1498, 0)]
    for y, x in places:
        label[1, y : y + 2, x : x + 2] = 3
    cut, counts = cut_with_small(label, {"spot": 3})
    assert counts["spot"][0] == 3
    assert counts["spot"][2] == 0
    assert not cut[0].any()
    assert sorted(zip(*(i.tolist() for i in np.nonzero(cut[1])))) == sorted(
        (int((y + 1) * 256 / 1500), int((x + 1) * 256 / 1400)) for y, x in places
    )


def test_a_label_that_loses_nothing_is_cut_as_ever() -> None:
    label = blob((1, 1024, 700)).astype(np.int16)
    cut, counts = cut_with_small(label, {"blob": 1})
    assert counts == {"blob": [1, 0, 0]}
    assert np.array_equal(cut, SliceGeometry(0, label.shape).label_to_slices(label))
    assert cut_with_small(label[:, :256, :200], {"blob": 1})[1] == {}


def test_small_objects_are_kept_along_any_axis() -> None:
    label = np.zeros((600, 3, 700), np.int16)
    label[301, 1, 401] = 1
    cut, counts = cut_with_small(label, {"spot": 1}, axis=1)
    assert counts == {"spot": [1, 1, 0]}
    assert np.argwhere(cut).tolist() == [[1, int(301.5 * 256 / 600), int(401.5 * 256 / 700)]]


def test_an_object_inside_another_structure_is_not_taught_as_absent() -> None:
    label = np.full((1, 1024, 1024), 1, np.int16)
    label[0, 401, 401] = 2
    cut, counts = cut_with_small(label, {"organ": 1, "spot": 2})
    assert counts["spot"] == [1, 1, 1]
    assert cut[0, 100, 100] == -1
    assert (cut == -1).sum() == 1


def test_pixels_that_are_ignored_may_be_given_to_an_object() -> None:
    label = np.full((1, 1024, 1024), -1, np.int16)
    label[0, 401, 401] = 2
    cut, counts = cut_with_small(label, {"spot": 2})
    assert counts["spot"] == [1, 1, 0]
    assert np.argwhere(cut == 2).tolist() == [[0, 100, 100]]


def test_each_of_many_objects_has_a_pixel() -> None:
    generator = np.random.default_rng(0)
    label = np.zeros((1, 900, 900), np.int16)
    label[0, generator.integers(0, 900, 60), generator.integers(0, 900, 60)] = 1
    cut, counts = cut_with_small(label, {"spot": 1})
    assert counts["spot"][1] > 40
    assert counts["spot"][2] == 0
    native = {(int((y + 0.5) * 256 / 900), int((x + 0.5) * 256 / 900)) for _, y, x in np.argwhere(label)}
    assert {(y, x) for _, y, x in np.argwhere(cut).tolist()} == native


def test_neighbours_are_the_nearest_slices_in_millimetres_and_ends_repeat_themselves():
    assert [neighbour_step(6.0, spacing) for spacing in (1.5, 5.0, 6.0, 10.0, 20.0)] == [4, 1, 1, 1, 1]
    assert neighbour_step(0.0, 5.0) == 0
    assert neighbour_step(5.0, 30.0) == 0, "another part of the body"
    assert [with_neighbours(i, 4, 1) for i in range(4)] == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert with_neighbours(1, 3, 5) == [0, 1, 2]

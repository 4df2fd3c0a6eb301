"""The slice store: slice by slice, whole or not at all."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import SliceStore

GEOMETRY = SliceGeometry(0, (5, 30, 40))
PROPERTIES = {"hash": "abc", "labelled": True, "geometry": GEOMETRY.to_dict(), "channels": [0, 0, 0]}


@pytest.fixture
def slices() -> np.ndarray:
    return np.random.default_rng(0).random((5, 1, 256, 256), dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path, slices: np.ndarray) -> SliceStore:
    store = SliceStore(tmp_path / "samdpoPlans_2d_256")
    label = np.zeros((5, 256, 256), np.int16)
    label[2, 3, 4] = 2
    store.put("case", slices, label, PROPERTIES)
    return store


def test_a_slice_comes_back_with_three_channels(store: SliceStore, slices: np.ndarray) -> None:
    image = store.image("case", 3)
    assert image.shape == (3, 256, 256)
    assert image.dtype == np.float32
    assert np.abs(image - slices[3]).max() < 5e-4
    assert store.cases() == ["case"]
    assert store.slices("case") == store.n_slices("case") == 5
    assert store.geometry("case") == GEOMETRY


def test_labels_come_back_in_the_smallest_type(store: SliceStore, slices: np.ndarray) -> None:
    assert store.label("case", 2)[3, 4] == 2
    assert store.label("case", 2).dtype == np.uint8
    store.put("many", slices, np.full((5, 256, 256), 300, np.int16), PROPERTIES)
    assert store.label("many", 0)[0, 0] == 300


def test_a_grey_image_is_stored_once_and_a_slice_is_a_chunk(store: SliceStore) -> None:
    array = blosc2.open(str(store.image_file("case")), mode="r")
    assert array.shape == (5, 1, 256, 256)
    assert array.chunks == (1, 1, 256, 256)
    assert array.dtype == np.float16


def test_a_case_without_label_gives_none_even_where_it_had_one(store: SliceStore, slices: np.ndarray) -> None:
    store.put("case", slices, None, {**PROPERTIES, "labelled": False})
    assert store.label("case", 0) is None
    assert not store.has_label("case")
    assert not store.label_file("case").exists()


def test_a_case_called_like_a_label_file_is_no_harm(store: SliceStore, slices: np.ndarray) -> None:
    store.put("case_seg", slices[:1], None, {**PROPERTIES, "labelled": False})
    assert store.label("case", 2)[3, 4] == 2


def test_a_case_counts_only_when_everything_is_there(store: SliceStore) -> None:
    assert store.has("case", "abc")
    assert not store.has("case", "other content")
    store.label_file("case").unlink()
    assert not store.has("case", "abc")


def test_a_write_that_dies_leaves_no_half_case(
    store: SliceStore, slices: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blosc2, "asarray", full)
    with pytest.raises(ConfigurationError, match="disk is full"):
        store.put("new", slices, None, PROPERTIES)
    assert not store.has("new")
    assert store.cases() == ["case"]
    assert np.abs(store.image("case", 3) - slices[3]).max() < 5e-4


def test_a_damaged_file_is_named_with_the_remedy(store: SliceStore) -> None:
    store.image_file("case").write_bytes(store.image_file("case").read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"case\.b2nd is damaged.*samdpo_preprocess"):
        SliceStore(store.folder).image("case", 4)


def test_a_missing_file_is_named_with_the_remedy(store: SliceStore) -> None:
    store.image_file("case").unlink()
    with pytest.raises(DatasetError, match=r"case\.b2nd is missing.*samdpo_preprocess"):
        SliceStore(store.folder).image("case", 0)


def test_an_unknown_case_is_named_with_the_remedy(store: SliceStore) -> None:
    with pytest.raises(DatasetError, match="ghost is not preprocessed.*samdpo_preprocess"):
        store.image("ghost", 0)


def test_a_slice_that_is_not_there_is_refused(store: SliceStore) -> None:
    with pytest.raises(IndexError, match="0 to 4"):
        store.image("case", 5)


def test_a_removed_case_is_gone(store: SliceStore) -> None:
    store.remove("case")
    assert store.cases() == []
    assert list(store.folder.iterdir()) == []


def test_a_store_travels_to_another_process(store: SliceStore) -> None:
    store.image("case", 0)
    assert pickle.loads(pickle.dumps(store)).image("case", 1).shape == (3, 256, 256)

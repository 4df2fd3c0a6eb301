"""The slice store: slice by slice, whole or not at all."""

from __future__ import annotations

import errno
import json
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


def test_an_encoder_sees_the_slices_before_and_after_where_the_case_says_so(
    store: SliceStore, slices: np.ndarray
) -> None:
    np.testing.assert_array_equal(store.seen_image("case", 3), store.image("case", 3))
    assert store.neighbours("case") == 0
    store.put("beside", slices, None, {**PROPERTIES, "neighbours": 2})
    for index, shown in ((0, (0, 0, 2)), (2, (0, 2, 4)), (3, (1, 3, 4))):
        assert np.abs(store.seen_image("beside", index) - slices[list(shown), 0]).max() < 5e-4
        assert np.abs(store.image("beside", index) - slices[index]).max() < 5e-4, "people see the slice itself"
    channels, three = store.seen("beside", 1)
    assert channels.shape == (3, 256, 256) and channels.dtype == np.float16 and three == [0, 1, 2]
    with pytest.raises(IndexError, match="the slices 0 to 4"):
        store.seen("beside", 5)


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


def flip_a_bit(file: Path, share: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["image_file", "label_file"])
def test_one_bit_that_changed_on_the_disk_is_noticed_where_it_is_read(
    store: SliceStore, kind: str, share: float
) -> None:
    file = getattr(store, kind)("case")
    noise = np.random.default_rng(1).integers(0, 256, (5, 256, 256), np.int16)  # so that every byte matters
    store.put("case", np.random.default_rng(0).random((5, 1, 256, 256), dtype=np.float32), noise, PROPERTIES)
    assert not store.damaged("case")
    flip_a_bit(file, share)
    assert store.damaged("case")
    read = {"image_file": SliceStore.stored, "label_file": SliceStore.label}[kind]
    with pytest.raises(DatasetError, match=rf"{file.name} is damaged.*samdpo_preprocess -d DATASET"):
        for index in range(5):
            read(SliceStore(store.folder), "case", index)


def test_a_slice_is_compared_where_it_is_read_first(store: SliceStore, slices: np.ndarray) -> None:
    store.image("case", 1)
    record = store.folder / "case.json"
    content = json.loads(record.read_text())
    checksums = content["checksums"]["image"]
    assert len(checksums["slices"]) == 5 * 8
    assert len(checksums["file"]) == 64
    fresh = SliceStore(store.folder)
    other = np.random.default_rng(3).random(slices.shape, dtype=np.float32)
    fresh.put("other", other, None, {**PROPERTIES, "labelled": False})
    store.image_file("other").replace(store.image_file("case"))
    with pytest.raises(DatasetError, match="slice 2 is not as it was written"):
        SliceStore(store.folder).image("case", 2)


def test_a_digit_that_changed_in_the_record_is_noticed(store: SliceStore) -> None:
    record = store.folder / "case.json"
    content = json.loads(record.read_text())
    content["geometry"]["native_shape"][1] = 31
    record.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"case\.json is damaged.*samdpo_preprocess"):
        SliceStore(store.folder).geometry("case")
    assert store.damaged("case")


def test_the_command_that_mends_names_dataset_and_plan(tmp_path: Path) -> None:
    for name, command in (("samdpoPlans_2d_256", "-d 7"), ("mine_2d_256", "-d 7 -plans_name mine")):
        with pytest.raises(DatasetError, match=f"Type: samdpo_preprocess {command}$"):
            SliceStore(tmp_path / "Dataset007_X" / name).properties("ghost")


def test_a_store_of_an_older_version_goes_on_working(store: SliceStore, slices: np.ndarray) -> None:
    record = store.folder / "case.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({k: v for k, v in content.items() if not k.startswith("checksum")}))
    old = SliceStore(store.folder)
    assert np.abs(old.image("case", 3) - slices[3]).max() < 5e-4
    assert old.summaries()["case"].source == "abc"
    assert not old.damaged("case")
    flip_a_bit(store.label_file("case"), 0.5)
    store.image_file("case").write_bytes(store.image_file("case").read_bytes()[:-100])
    assert old.damaged("case")


def test_only_a_case_of_the_store_is_removed(store: SliceStore) -> None:
    others = {
        "dataset.json": {"labels": {"background": 0}}, "splits_final.json": [{"train": ["case"], "val": ["case"]}],
        "thesis.json": {"chapters": 7},
    }
    for name, content in others.items():
        (store.folder / name).write_text(json.dumps(content))
    (store.folder / "thesis.b2nd").write_text("mine")
    assert store.cases() == store.recorded() == ["case"]
    for name in others:
        with pytest.raises(DatasetError, match="is no case of slices"):
            store.remove(name.removesuffix(".json"))
    for name in ("../case", "", "..", "/case"):
        with pytest.raises(DatasetError, match="Expected a plain name"):
            store.remove(name)
    assert {f.name for f in store.folder.iterdir()} >= {*others, "thesis.b2nd", "case.json", "case.b2nd"}


def test_a_folder_of_others_is_not_taken_for_slices(tmp_path: Path) -> None:
    theirs = tmp_path / "nnUNetPlans_2d"
    theirs.mkdir()
    blosc2.asarray(np.zeros((1, 4, 4)), urlpath=str(theirs / "case.b2nd"))
    (theirs / "case.pkl").write_text("")
    with pytest.raises(ConfigurationError, match=r"holds case\.b2nd, which samdpo has not written"):
        SliceStore(theirs).claim()
    assert len(list(theirs.iterdir())) == 2


def test_half_a_case_of_a_killed_run_does_not_close_the_folder(store: SliceStore) -> None:
    (store.folder / "case.json").unlink()
    store.claim()
    store.clear()
    assert list(store.folder.iterdir()) == []


def test_clearing_deletes_nothing_where_something_of_others_lies(store: SliceStore) -> None:
    (store.folder / "photo.png").write_text("")
    with pytest.raises(ConfigurationError, match=r"holds photo\.png.*--clean deletes nothing"):
        store.clear()
    assert store.has("case", "abc")
    (store.folder / "photo.png").unlink()
    store.clear()
    assert list(store.folder.iterdir()) == []


def test_a_store_that_may_only_be_read_is_read(store: SliceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(120):  # more than are worth an index
        (store.folder / f"c{number}.json").write_bytes((store.folder / "case.json").read_bytes())

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        assert SliceStore(store.folder).cases() == ["case"]
        assert SliceStore(store.folder).image("case", 0).shape == (3, 256, 256)
    assert not list(store.folder.glob(".*"))

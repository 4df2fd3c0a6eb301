import logging

import numpy as np
import pytest
import torch

from samdpo.networks.embedding_store import EmbeddingStore


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "embeddings", "weights A")


def test_what_was_put_is_got_as_float16(store):
    array = torch.randn(4, 8, 8)
    store.put("case", 3, "flip", array)
    assert store.has("case", 3, "flip")
    assert np.array_equal(store.find(("case", 3, "flip")), array.half().numpy())


def test_what_is_got_cannot_be_changed(store):
    store.put("a", np.ones(2, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        store.find("a")[:] = 0
    assert store.find("a").tolist() == [1.0, 1.0]


def test_the_same_key_finds_everything_again(store):
    store.put("a", torch.ones(2))
    assert EmbeddingStore(store.folder, "weights A").has("a")


def test_another_key_drops_everything(store):
    store.put("a", torch.ones(2))
    other = EmbeddingStore(store.folder, "weights B")
    assert not other.has("a")
    assert not EmbeddingStore(store.folder, "weights A").has("a")


def test_similar_names_do_not_meet(store):
    for value, name in enumerate([("a", 1, "b"), ("a", "1+b"), ("a/1", "b"), ("a 1 (b)",), ("ä",)]):
        store.put(*name, torch.tensor([float(value)]))
    assert store.find(("a", 1, "b")).item() == 0
    assert store.find(("a", "1+b")).item() == 1
    assert store.find(("a/1", "b")).item() == 2
    assert store.find("ä").item() == 4


def test_bfloat16_and_huge_values_stay_finite(store):
    store.put("a", torch.tensor([1e6, -1e6, 0.5], dtype=torch.bfloat16))
    assert np.isfinite(store.find("a")).all()
    assert store.find("a")[2] == 0.5


def test_of_an_unknown_name_nothing_is_found(store):
    assert store.find("nothing") is None


def test_a_damaged_file_is_named_and_dropped(store, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    store.put("a", torch.ones(2000))
    file = store.folder / "a.npy"
    file.write_bytes(file.read_bytes()[:500])
    assert store.find("a") is None
    assert f"{file} is damaged" in caplog.text and not file.exists()

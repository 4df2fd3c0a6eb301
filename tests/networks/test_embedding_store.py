import numpy as np
import pytest
import torch

from samdpo.errors import ConfigurationError
from samdpo.networks.embedding_store import EmbeddingStore


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "embeddings", "weights A")


def test_what_was_put_is_got_as_float16(store):
    array = torch.randn(4, 8, 8)
    store.put("case", 3, "flip", array)
    assert store.has("case", 3, "flip")
    assert torch.equal(store.get("case", 3, "flip"), array.half())


def test_a_list_of_names_is_got_as_one_batch_in_its_order(store):
    arrays = {name: torch.full((2, 3), value) for name, value in (("a", 1.0), ("b", 2.0))}
    for name, array in arrays.items():
        store.put(name, array)
    assert store.get(["b", "a", "b"])[:, 0, 0].tolist() == [2.0, 1.0, 2.0]


def test_names_in_parts_may_be_listed_too(store):
    store.put("a", 0, "view", np.ones((2, 2), np.float32))
    assert store.get([("a", 0, "view"), ("a", 0, "view")]).shape == (2, 2, 2)


def test_what_is_got_may_be_changed_without_changing_what_is_kept(store):
    store.put("a", torch.ones(2))
    store.get("a").zero_()
    store.get(["a"]).zero_()
    assert store.get("a").tolist() == [1.0, 1.0]


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
    assert store.get("a", 1, "b").item() == 0
    assert store.get("a", "1+b").item() == 1
    assert store.get("a/1", "b").item() == 2
    assert store.get("ä").item() == 4


def test_bfloat16_and_huge_values_stay_finite(store):
    store.put("a", torch.tensor([1e6, -1e6, 0.5], dtype=torch.bfloat16))
    assert store.get("a").isfinite().all()
    assert store.get("a")[2] == 0.5


def test_an_unknown_name_is_a_key_error(store):
    with pytest.raises(KeyError, match="nothing"):
        store.get("nothing")


def test_a_damaged_file_is_named(store):
    store.put("a", torch.ones(2000))
    file = store.folder / "a.npy"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ConfigurationError, match=r"a\.npy is damaged .* Remove the folder"):
        store.get(["a"])

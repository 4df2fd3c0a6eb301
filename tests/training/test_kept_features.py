"""Features of a frozen encoder on disk: whose they are, who shares them, and when they are dropped."""

from __future__ import annotations

from dataclasses import replace

import torch

from samdpo.networks.embedding_store import EmbeddingStore
from samdpo.training.kept_features import claimed_folder


def filled(root, owner: str, key: str) -> EmbeddingStore:
    store = EmbeddingStore(claimed_folder(root, owner, key), key)
    store.put("case", torch.ones(2))
    return store


def test_stages_with_the_same_encoder_share_what_is_kept(tmp_path):
    filled(tmp_path, "samdpoPlans__align", "one")
    assert EmbeddingStore(claimed_folder(tmp_path, "samdpoPlans__fixmatch", "one"), "one").has("case")


def test_a_stage_with_another_encoder_neither_sees_nor_drops_it(tmp_path):
    align = filled(tmp_path, "samdpoPlans__align", "one")
    other = EmbeddingStore(claimed_folder(tmp_path, "samdpoPlans__prompt_only", "two"), "two")
    assert not other.has("case")
    assert align.has("case")


def test_a_stage_trained_anew_drops_what_no_other_stage_uses(tmp_path):
    shared, own = filled(tmp_path, "samdpoPlans__align", "one"), filled(tmp_path, "samdpoPlans__finetune", "two")
    filled(tmp_path, "samdpoPlans__fixmatch", "one")
    filled(tmp_path, "samdpoPlans__align", "three")
    filled(tmp_path, "samdpoPlans__finetune", "three")
    assert shared.folder.is_dir() and not own.folder.exists()
    filled(tmp_path, "samdpoPlans__fixmatch", "three")
    assert [path.name for path in tmp_path.iterdir() if path.name != "owners"] == ["three"]


def test_the_same_stage_of_another_plan_keeps_its_own(planned):
    first = planned.trainer("finetune", "network.train=decoder")
    first.initialize()
    second = planned.trainer("finetune", "network.train=decoder", "network.frozen_stages=1")
    second.initialize()
    kept = first.feature_cache(-1)
    kept.store.put("case", torch.ones(2))
    second.data = replace(second.data, plans=replace(second.data.plans, plans_name="otherPlans"))
    another = second.feature_cache(1)
    assert not another.store.has("case") and kept.store.has("case")
    assert another.store.folder.parent == kept.store.folder.parent


def test_what_the_disk_budget_has_no_room_for_is_computed_and_gives_the_same(planned, caplog):
    everything = ["network.train=decoder"]
    whole = planned.trainer("finetune", *everything)
    whole.initialize()
    whole.on_train_start()
    batch = whole.samples.collate([whole.samples.sample(key) for key in whole.train_keys])
    expected = whole.embeddings(batch)
    size = max(file.stat().st_size for file in whole.features.store.folder.glob("*.npy"))
    for file in whole.features.store.folder.glob("*.npy"):
        file.unlink()

    caplog.clear()
    bounded = planned.trainer("finetune", *everything, f"kept_gib={2.5 * size / 2**30}")
    bounded.initialize()
    with caplog.at_level("INFO", "samdpo"):
        bounded.on_train_start()
    kept = list(bounded.features.store.folder.glob("*.npy"))
    assert len(kept) == 2 < len(whole.train_keys)
    wanted = 2 * len(whole.train_keys)  # each and its mirror image
    assert f"{wanted - 2} of {wanted} image embeddings are not kept" in caplog.text
    assert bounded.features.has(batch)
    bounded.network.train()
    torch.testing.assert_close(bounded.embeddings(batch), expected, atol=2e-3, rtol=2e-3)
    assert bounded.network.training, "computing in a step leaves the network as it was"
    assert len(list(bounded.features.store.folder.glob("*.npy"))) == 2


def test_a_full_store_keeps_nothing_more(tmp_path):
    one = torch.ones(1024)  # 2 KiB
    store = EmbeddingStore(tmp_path, "key", most_gib=5 * 1024 / 2**30)
    assert [store.put(name, one) for name in "abc"] == [True, True, False]
    assert store.lacks(["a", "b", "c"]) == ["c"]
    assert store.find("c") is None
    again = EmbeddingStore(tmp_path, "key", most_gib=5 * 1024 / 2**30)
    assert not again.put("c", one), "what is there counts after a restart"
    assert EmbeddingStore(tmp_path, "key").put("c", one)

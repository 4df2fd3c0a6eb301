"""Features of a frozen encoder on disk: whose they are, who shares them, and when they are dropped."""

from __future__ import annotations

from dataclasses import replace

import torch

from samdpo.networks.embedding_store import EmbeddingStore
from samdpo.training.features import FeatureCache, claimed_folder


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
    kept = FeatureCache(first, -1)
    kept.store.put("case", torch.ones(2))
    second.data = replace(second.data, plans=replace(second.data.plans, plans_name="otherPlans"))
    another = FeatureCache(second, 1)
    assert not another.store.has("case") and kept.store.has("case")
    assert another.store.folder.parent == kept.store.folder.parent

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import read_json, write_json, write_text
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.prompting.making import make_prompts
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.training.fold_data import FoldData


def prompt(name: str, label: int, present: bool, seed: int) -> StructurePrompt:
    generator = np.random.default_rng(seed)
    count = int(present)
    regions = np.zeros((32, 32), np.uint8)
    regions[4:9, 3:8] = count
    return StructurePrompt(
        name,
        label,
        present,
        0.25,
        generator.normal(size=(64, 64)).astype(np.float16),
        regions,
        generator.random((count, 4), np.float32),
        generator.random((5 * count, 2), np.float32),
        generator.random((label * count, 4), np.float32),
        generator.random(label * count, np.float32),
        "It is round." * count,
        "An organ.",
        generator.random(384, np.float32),
    )


def volume() -> list[list[StructurePrompt]]:
    return [[prompt("liver", 1, i != 1, i), prompt("aorta", 2, i == 2, 10 + i)] for i in range(3)]


def assert_same(one: StructurePrompt, other: StructurePrompt) -> None:
    for field in dataclasses.fields(StructurePrompt):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all(), field.name
        else:
            assert a == b, field.name


def test_what_is_put_comes_back_slice_by_slice(tmp_path):
    PromptStore(tmp_path, "key").put("case_1", volume())
    store = PromptStore(tmp_path, "key")
    assert store.cases() == ["case_1"] and store.slices("case_1") == 3
    for index, expected in enumerate(volume()):
        for one, other in zip(store.get("case_1", index), expected, strict=True):
            assert_same(one, other)


def test_prompts_of_other_settings_or_of_a_replaced_image_do_not_count(tmp_path):
    PromptStore(tmp_path, "old").put("case_1", volume(), "image a")
    assert PromptStore(tmp_path, "new").cases() == []
    assert PromptStore(tmp_path, "old").summaries()["case_1"].case_key == "image a"
    with pytest.raises(ConfigurationError, match="samdpo_prompt"):
        PromptStore(tmp_path, "new").get("case_1", 0)


def test_a_damaged_file_is_named(tmp_path):
    store = PromptStore(tmp_path, "key")
    store.put("case_1", volume())
    path = tmp_path / "case_1.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigurationError, match=r"case_1\.npz is damaged"):
        store.get("case_1", 0)


def test_a_changed_digit_is_noticed_and_the_case_is_made_again(tmp_path):
    store = PromptStore(tmp_path, "key")
    store.put("case_1", volume())
    file = tmp_path / "case_1.json"
    text = file.read_text()
    write_text(file, text.replace('"slice": 1', '"slice": 0'))
    assert text != file.read_text()
    again = PromptStore(tmp_path, "key")
    assert again.cases() == []
    with pytest.raises(ConfigurationError, match=r"case_1\.json is damaged .*once more"):
        again.get("case_1", 0)


def test_prompts_of_an_older_version_have_no_checksum_and_count(tmp_path):
    PromptStore(tmp_path, "key").put("case_1", volume())
    content = read_json(tmp_path / "case_1.json")
    del content["checksum"]
    write_json(tmp_path / "case_1.json", content)
    assert PromptStore(tmp_path, "key").cases() == ["case_1"]


def test_a_slice_that_does_not_exist_is_refused(tmp_path):
    store = PromptStore(tmp_path, "key")
    store.put("case_1", volume())
    with pytest.raises(ConfigurationError, match="3 slices, slice 7"):
        store.get("case_1", 7)


def test_folds_and_groups_are_read_before_any_prompt_is_made(tiny_dataset, roots):
    """By training, ``samdpo_prompt`` and the page alike."""
    plans = plan_and_preprocess(901)
    folder = roots.preprocessed / tiny_dataset.name
    splits = folder / "splits_final.json"
    good = splits.read_text()
    content = read_json(splits)
    for fold in content:
        fold["val"] = [f"{case}.png" for case in fold["val"]]
    write_json(splits, content)
    readers = (
        lambda: make_prompts(plans, 0, "cpu"), lambda: make_prompts(plans, "all", "cpu"),
        lambda: FoldData.load(plans, 0, "cpu", with_prompts=False),
    )
    for read in readers:
        with pytest.raises(DatasetError, match=r"splits_final\.json: fold 0 names xray_tr_\d+\.png.*meant"):
            read()
    splits.write_text(good)
    (tiny_dataset / "case_groups.json").write_text("[]")
    for read in readers:
        with pytest.raises(DatasetError, match=r"case_groups\.json must map"):
            read()


def test_the_key_of_prompts_knows_who_is_kept_apart(tiny_dataset, monkeypatch):
    keys = []

    def record(folder, key):
        keys.append(key)
        raise KeyboardInterrupt

    monkeypatch.setattr("samdpo.prompting.making.PromptStore", record)
    for groups in ({}, {"xray_tr_001": "a", "xray_tr_002": "a"}, {"xray_tr_001": "a", "xray_tr_003": "a"}, {}):
        (tiny_dataset / "case_groups.json").write_text(json.dumps(groups))
        plans = plan_and_preprocess(901)
        with pytest.raises(KeyboardInterrupt):
            make_prompts(plans, "all", "cpu")
    assert keys[0] == keys[3]
    assert len(set(keys)) == 3


class TwoFiles:
    """Stands for a prompter."""

    def save(self, folder):
        write_text(folder / "towers.safetensors", "weights")
        write_text(folder / "prompter.json", "{}")


@pytest.mark.parametrize("damage", ["", "towers.safetensors", "made.json"])
def test_only_the_very_prompter_of_the_prompts_counts(tmp_path, damage):
    """A run that was killed has replaced the prompts and not the prompter of new images."""
    PromptStore(tmp_path, "old").save_prompter(TwoFiles())
    assert PromptStore(tmp_path, "old").has_prompter
    assert not PromptStore(tmp_path, "new").has_prompter
    if damage:
        (tmp_path / "prompter" / damage).write_text("w")
        assert not PromptStore(tmp_path, "old").has_prompter


def test_a_prompter_of_an_older_version_has_no_list_and_counts(tmp_path):
    TwoFiles().save(tmp_path / "prompter")
    assert PromptStore(tmp_path, "key").has_prompter
    assert not PromptStore(tmp_path / "empty", "key").has_prompter

"""``samdpo_apply_postprocessing``: largest parts alone, of the structures that the file names."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from predicted_folders import PICTURE

from samdpo.cli.apply_postprocessing import main
from samdpo.dataset.images import read_label, write_label
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.selection.postprocessing import Postprocessing, StructureEffect, apply_postprocessing


@pytest.fixture
def masks(tmp_path):
    """A folder with a mask in which liver and spleen are of two parts each."""
    mask = np.zeros((1, 40, 48), np.int16)
    for label, row in ((1, 2), (3, 22)):
        mask[0, row : row + 10, 2:12] = label
        mask[0, row : row + 3, 20:23] = label
    write_label(mask, tmp_path / "in" / "a.png", PICTURE)
    (tmp_path / "in" / "a.json").write_text("{}")
    return tmp_path / "in"


@pytest.fixture
def chosen(tmp_path):
    effects = {"liver": StructureEffect(1, 0.8, 0.9), "spleen": StructureEffect(3, 0.8, 0.7)}
    Postprocessing(effects).save(tmp_path / "postprocessing.json")
    return tmp_path / "postprocessing.json"


def test_only_what_was_helped_is_cleaned(masks, chosen, tmp_path, monkeypatch):
    words = ["samdpo_apply_postprocessing", "-i", masks, "-o", tmp_path / "out", "-pp_file", chosen, "-np", 1]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    main()
    cleaned = read_label(tmp_path / "out" / "a.png")
    assert (cleaned == 1).sum() == 100 and (cleaned == 3).sum() == 109
    assert (read_label(masks / "a.png") == 1).sum() == 109, "the input is left as it was"


def test_the_file_may_be_edited_by_hand(masks, chosen, tmp_path):
    content = json.loads(chosen.read_text())
    assert content["liver"]["keep_largest_component"] and not content["spleen"]["keep_largest_component"]
    content["spleen"]["keep_largest_component"] = True
    chosen.write_text(json.dumps(content))
    apply_postprocessing(masks, tmp_path / "out", chosen)
    assert (read_label(tmp_path / "out" / "a.png") == 3).sum() == 100


def test_an_effect_that_is_none_or_not_a_number_is_not_applied():
    nan = float("nan")
    effects = {"liver": StructureEffect(1, 0.8, 0.8), "spleen": StructureEffect(3, nan, nan)}
    post = Postprocessing(effects)
    assert post.helped == {} and post.dice == pytest.approx(0.8)


def test_wrong_folders_and_files_are_sentences(masks, chosen, tmp_path):
    with pytest.raises(ConfigurationError, match="none is not a folder"):
        apply_postprocessing(tmp_path / "none", tmp_path / "out", chosen)
    with pytest.raises(ConfigurationError, match="is the input folder"):
        apply_postprocessing(masks, masks, chosen)
    with pytest.raises(ConfigurationError, match=r"samdpo_find_best_configuration"):
        apply_postprocessing(masks, tmp_path / "out", tmp_path / "none.json")
    chosen.write_text('["liver"]')
    with pytest.raises(ConfigurationError, match="keep_largest_component"):
        apply_postprocessing(masks, tmp_path / "out", chosen)
    chosen.write_text("{}")
    (masks / "a.png").unlink()
    with pytest.raises(DatasetError, match="holds no mask"):
        apply_postprocessing(masks, tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()


def test_a_choice_of_another_dataset_and_masks_of_other_values_are_refused(masks, chosen, tmp_path):
    listed = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "numTraining": 1,
              "file_ending": ".png"}
    (masks / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(ConfigurationError, match="spleen has the label 3, but dataset.json beside the masks lists"):
        apply_postprocessing(masks, tmp_path / "out", chosen)
    listed["labels"]["spleen"] = 3
    (masks / "dataset.json").write_text(json.dumps(listed))
    write_label(np.full((1, 40, 48), 7), masks / "b.png", PICTURE)
    with pytest.raises(DatasetError, match=r"b\.png holds the value\(s\) 7"):
        apply_postprocessing(masks, tmp_path / "out", chosen)


def test_yes_is_neither_true_nor_false(masks, chosen, tmp_path):
    content = json.loads(chosen.read_text())
    content["liver"]["keep_largest_component"] = "yes"
    chosen.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="must hold an object like"):
        apply_postprocessing(masks, tmp_path / "out", chosen)

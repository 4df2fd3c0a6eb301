"""Candidates on disk: what is written comes back; what is missing or of another image is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

from samdpo.errors import ModelFolderError
from samdpo.preferences.candidates import disagreement, pairwise_iou, without_near_duplicates
from samdpo.preferences.records import CandidateSet, item_id
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates

SIZE = 20  # not a multiple of 8: packed bits end in the middle of a byte


def of_slice(index: int, disagreement: float, structure: str = "lung") -> ItemCandidates:
    rng = np.random.default_rng(index)
    boxes = np.array([[1, 2, 9, 12.5]], np.float32)
    return ItemCandidates(index, structure, rng.random((4, SIZE, SIZE)) > 0.5, boxes, disagreement)


@pytest.fixture
def described(tmp_path) -> CandidateSet:
    return CandidateSet("abc", "Dataset901_X", "0", "align", "samdpoPlans", "m", "p", datetime.now(timezone.utc),
                        str(tmp_path / "abc"))


@pytest.fixture
def made(described) -> dict[tuple[str, int, str], ItemCandidates]:
    """Two cases, one with two slices and a slice of two structures; what was written, by place."""
    writer = CandidateWriter(Path(described.folder))
    given = {"scan.1": [of_slice(3, 0.2), of_slice(7, 0.9), of_slice(7, 0.4, "heart")], "b": [of_slice(0, 0.5)],
             "nothing": []}
    for case, items in given.items():
        images = {item.slice_index: image(item.slice_index, coloured=case == "b") for item in items}
        writer.put(case, "key", images, items)
    writer.finish(described, {"labels": {"lung": 1}})
    return {(case, item.slice_index, item.structure): item for case, items in given.items() for item in items}


def image(index: int, coloured: bool = False) -> np.ndarray:
    shape = (3, SIZE, SIZE) if coloured else (SIZE, SIZE)
    return np.random.default_rng(index).random(shape).astype(np.float32)


def test_masks_boxes_and_images_come_back(described, made):
    stored = StoredCandidates.open(described.folder)
    assert stored.candidate_set == described and stored.description["labels"] == {"lung": 1}
    assert len(stored.items) == len(made) == 4
    for item in stored.items:
        given = made[item.case, item.slice_index, item.structure]
        assert item.id == item_id("abc", item.case, item.slice_index, item.structure)
        assert item.candidates == 4 and item.position == given.disagreement
        np.testing.assert_array_equal(stored.masks(item), given.masks)
        np.testing.assert_array_equal(stored.boxes(item), given.boxes)
        np.testing.assert_allclose(stored.image(item), image(item.slice_index, item.case == "b"), atol=1e-5)


def test_what_an_encoder_sees_beside_a_slice_is_kept_apart(described):
    writer, seen = CandidateWriter(Path(described.folder)), np.stack([image(1), image(2), image(3)])
    writer.put("a", "key", {3: image(2)}, [of_slice(3, 0.2)], {3: seen})
    writer.put("b", "key", {3: image(2)}, [of_slice(3, 0.1)])
    writer.finish(described, {})
    stored = StoredCandidates.open(described.folder)
    with_more, without = stored.items
    np.testing.assert_allclose(stored.seen(with_more), seen, atol=1e-5)
    np.testing.assert_allclose(stored.image(with_more), image(2), atol=1e-5)
    assert stored.seen(without) is None


def test_the_items_come_by_disagreement(described, made):
    assert [item.position for item in StoredCandidates.open(described.folder).items] == [0.9, 0.5, 0.4, 0.2]


def test_many_threads_read_at_once(described, made):
    stored = StoredCandidates.open(described.folder)
    with ThreadPoolExecutor(8) as pool:
        for item, masks in zip(stored.items * 20, pool.map(stored.masks, stored.items * 20)):
            np.testing.assert_array_equal(masks, made[item.case, item.slice_index, item.structure].masks)


def test_a_set_counts_only_when_it_is_finished(described):
    writer = CandidateWriter(Path(described.folder))
    writer.put("a", "key", {3: image(3)}, [of_slice(3, 0.2)])
    assert writer.has("a", "key") and not writer.has("b", "key")
    with pytest.raises(ModelFolderError, match=r"candidates\.json is missing.*samdpo_annotate"):
        StoredCandidates.open(described.folder)


def test_new_cases_join_a_finished_set_which_keeps_its_date(described, made):
    writer = CandidateWriter(Path(described.folder))
    writer.put("new", "key", {1: image(1)}, [of_slice(1, 0.7)])
    writer.finish(dataclasses.replace(described, created=datetime.now(timezone.utc)), {})
    stored = StoredCandidates.open(described.folder)
    assert stored.candidate_set == described and {item.case for item in stored.items} == {"scan.1", "b", "new"}


def test_a_replaced_image_is_refused_since_people_have_seen_the_old_one(described, made):
    with pytest.raises(ModelFolderError, match=r"'scan\.1'.*another name"):
        CandidateWriter(Path(described.folder)).has("scan.1", "other key")


@pytest.mark.parametrize(
    ("content", "said"),
    [({"version": 99}, "version 99, expected 1"), ([], "version None"), ({"version": 1}, "damaged")],
)
def test_a_file_that_cannot_be_read_is_a_sentence(described, made, content, said):
    (Path(described.folder) / "candidates.json").write_text(json.dumps(content))
    with pytest.raises(ModelFolderError, match=said):
        StoredCandidates.open(described.folder)


def test_a_damaged_case_is_a_sentence(described, made):
    stored = StoredCandidates.open(described.folder)
    (Path(described.folder) / "cases" / "b.npz").write_bytes(b"PK")
    item = next(item for item in stored.items if item.case == "b")
    with pytest.raises(ModelFolderError, match=r"b\.npz is missing or damaged"):
        stored.masks(item)


def test_a_set_is_found_where_the_results_have_moved_to(described, made, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    there = tmp_path / "results" / described.dataset / "T__P__finetune" / "fold_0" / "candidates" / "abc"
    there.parent.mkdir(parents=True)
    assert StoredCandidates.find(described).folder == tmp_path / "abc"
    shutil.move(described.folder, there)
    assert StoredCandidates.find(described).folder == there
    shutil.rmtree(there)
    with pytest.raises(ModelFolderError, match="is missing"):
        StoredCandidates.find(described)


def squares(*sides: int) -> torch.Tensor:
    masks = torch.zeros(len(sides), 32, 32, dtype=torch.bool)
    for mask, side in zip(masks, sides):
        mask[:side, :side] = True
    return masks


def test_disagreement_is_one_less_the_mean_overlap_of_pairs():
    masks = squares(10, 10, 20)
    assert torch.allclose(pairwise_iou(masks)[0], torch.tensor([1.0, 1.0, 0.25]))
    assert disagreement(masks) == pytest.approx(1 - (1 + 0.25 + 0.25) / 3)
    assert disagreement(squares(10, 10)) == 0 and disagreement(squares(0, 0)) == 0
    assert disagreement(squares(10, 0)) == 1


def test_near_duplicates_are_drawn_again_and_others_stay():
    drawn = iter([squares(1, 2, 3, 20), squares(5, 6, 7, 8)])
    masks = without_near_duplicates(squares(20, 10, 20, 20), lambda: next(drawn))
    assert masks.flatten(1).sum(1).tolist() == [400, 100, 9, 64], "the third at once, the fourth at the second try"


def test_what_can_only_be_drawn_alike_stays():
    calls = []
    masks = without_near_duplicates(squares(20, 20), lambda: calls.append(1) or squares(20, 20), tries=3)
    assert torch.equal(masks, squares(20, 20)) and len(calls) == 3

"""From a box or a point to a mask, by the model that made the candidates: what the page shows is what it predicts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from samdpo.align.candidate_set import make_candidate_set
from samdpo.annotate.page.ranking_page import NoSegmenterError
from samdpo.annotate.page.segmenter import ModelSegmenter, load_maker
from samdpo.dataset.phantom_xray import xray_phantom
from samdpo.errors import ModelFolderError
from samdpo.model.predictor import Predictor
from samdpo.preferences.records import Item
from samdpo.preferences.stored_candidates import StoredCandidates
from samdpo.preprocessing.preprocess import prepare_channels


@pytest.fixture
def stored(finetuned) -> StoredCandidates:
    return make_candidate_set(901, 0, device="cpu")


@pytest.fixture
def segmenter(stored: StoredCandidates) -> Iterator[ModelSegmenter]:
    made = ModelSegmenter(partial(load_maker, stored.candidate_set, stored.folder, "cpu"), stored)
    yield made
    made.close()


class OneImage:
    """A picture as large as the network's slices, normalised as candidates keep it."""

    def __init__(self, picture: np.ndarray, predictor: Predictor) -> None:
        channels, _ = prepare_channels(picture[None, None].astype(np.float32), predictor.plans)
        self.slice = channels[0, 0].astype(np.float16).astype(np.float32)

    def image(self, item: Item) -> np.ndarray:
        return self.slice

    def seen(self, item: Item) -> None:
        return None


def test_a_box_and_a_point_give_the_mask_that_the_predictor_gives(finetuned) -> None:
    predictor = Predictor.from_model_folder(finetuned.finetuned, [0], device="cpu")
    size = predictor.plans.preprocessing.image_size
    image, label = xray_phantom(np.random.default_rng(3), (size, size))
    segmenter = ModelSegmenter(lambda: predictor, OneImage(image, predictor))
    item = Item(1, "set", "case", 0, "lung", 0.5, 4)
    rows, columns = label.nonzero()
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    point = (float(columns[0]), float(rows[0]))
    predictor.set_image(image)
    for ours, given in [
        (segmenter.segment(item, box, None), {"boxes": [box]}),
        (segmenter.segment(item, None, point), {"points": [point]}),
    ]:
        expected = predictor.predict(structure="lung", **given).segmentation[0] > 0
        assert ours.any() and (ours == expected).all()
    assert not (ours == segmenter.segment(item, box, None)).all()
    segmenter.close()


def test_what_is_prepared_is_encoded_once_whoever_asks(stored, segmenter, monkeypatch) -> None:
    looked: list[str] = []
    look_at, all_looked = segmenter._look_at, threading.Event()

    def counted(item: Item):
        looked.append(item.case)
        seen = look_at(item)
        if len(looked) >= 3:
            all_looked.set()
        return seen

    monkeypatch.setattr(segmenter, "_look_at", counted)
    segmenter.prepare(stored.items[:3])
    assert all_looked.wait(60)
    assert looked == [item.case for item in stored.items[:3]], "the item at hand first"
    box = (5.0, 5.0, 40.0, 40.0)
    with ThreadPoolExecutor(8) as people:
        masks = list(people.map(lambda _: segmenter.segment(stored.items[0], box, None), range(8)))
        others = list(people.map(lambda _: segmenter.segment(stored.items[3], box, None), range(8)))
    assert all((mask == masks[0]).all() for mask in masks) and all((mask == others[0]).all() for mask in others)
    assert len(looked) == 4


def test_what_waits_when_the_page_ends_is_left(stored, segmenter, monkeypatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(segmenter, "_look_at", lambda item: looked.append(item.id))
    segmenter.close()
    segmenter.prepare(stored.items)
    assert not segmenter._worker.is_alive() and looked == []


def test_a_model_that_is_gone_is_told_to_whoever_asks_and_in_the_log(stored, caplog) -> None:
    def gone() -> Predictor:
        raise ModelFolderError("The folder is gone.")

    segmenter = ModelSegmenter(gone, stored)
    segmenter.prepare(stored.items)
    with pytest.raises(NoSegmenterError, match="The folder is gone"):
        segmenter.segment(stored.items[0], (0.0, 0.0, 5.0, 5.0), None)
    assert "which are stored all the same: The folder is gone" in caplog.text


def test_a_slice_that_cannot_be_read_is_told_and_tried_again(stored, segmenter, monkeypatch) -> None:
    image = stored.image

    def damaged(item: Item) -> np.ndarray:
        raise ModelFolderError("The file is damaged.")

    monkeypatch.setattr(stored, "image", damaged)
    with pytest.raises(ModelFolderError, match="The file is damaged"):
        segmenter.segment(stored.items[0], None, (20.0, 20.0))
    monkeypatch.setattr(stored, "image", image)
    assert segmenter.segment(stored.items[0], None, (20.0, 20.0)).shape == image(stored.items[0]).shape[-2:]


def test_a_model_that_was_trained_anew_is_told(finetuned, stored, caplog) -> None:
    weights = finetuned.finetuned / "fold_0" / "checkpoint_final.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # it may be linked elsewhere
    weights.write_bytes(content)
    (weights.parent / "manifest.json").unlink()  # as of a training that has ended with these
    load_maker(stored.candidate_set, stored.folder, "cpu")
    assert "trained anew since it made these candidates" in caplog.text

"""Predictions that a person looks at: what is shown of them, and what the answers make of the masks."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from predicted_folders import plans_of

from samdpo.annotate import review as module
from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.review import BEFORE, REVIEW, Predictions, Review, _slices, _structures_in_question, store_flagged
from samdpo.dataset.cases import Case
from samdpo.dataset.images import read_label_with_properties
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import read_json, sha256_of_file, write_json
from samdpo.plan_sections import ChannelNormalization
from samdpo.preferences.records import Item, Judgement
from samdpo.preferences.stored_candidates import StoredCandidates

SPACING = (2.0, 1.0, 4.0)  # x, y, z of the volume
SHAPE = (6, 40, 60)  # z, y, x
LIVER, SPLEEN = 1, 3


class BoxSegmenter:
    """The box, or a square of 20 pixels round the point, in pixels of the 256 grid."""

    def probability(self, item: Item, box, point) -> np.ndarray:
        x0, y0, x1, y1 = box or (point[0] - 10, point[1] - 10, point[0] + 10, point[1] + 10)
        rows, columns = np.mgrid[:256, :256] + 0.5
        return ((columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)).astype(np.float32)


@pytest.fixture
def direction() -> tuple[int, ...]:
    """As the plan has it; else the volume is turned before it is cut."""
    return (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.fixture
def predictions(tmp_path: Path, direction: tuple[int, ...]) -> Predictions:
    """A volume whose liver is in question: on slices 2 and 3, with a spleen beside it on slice 3; and a fine one."""
    plans = plans_of({"liver": LIVER, "spleen": SPLEEN}, ending=".nii.gz")
    cut = dataclasses.replace(plans.preprocessing, normalization=[ChannelNormalization("percentile", 0.0, 100.0)],
                              orientation="LPS")
    plans = dataclasses.replace(plans, preprocessing=cut)
    folder = tmp_path / "predictions"
    cases = {}
    for name, reasons in (("doubtful", ["liver: confidence 0.41 is below 0.62, which 9 of 10 training images exceed"]),
                          ("fine", [])):
        image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[2:4, 10:20, 10:30] = LIVER
        label[3, 25:35, 40:50] = SPLEEN
        for values, file in ((image, tmp_path / "images" / f"{name}_0000.nii.gz"), (label, folder / f"{name}.nii.gz")):
            file.parent.mkdir(exist_ok=True)
            volume = SimpleITK.GetImageFromArray(values)
            volume.SetSpacing(SPACING)
            volume.SetOrigin((5, 6, 7))
            volume.SetDirection(direction)
            SimpleITK.WriteImage(volume, str(file))
        structures = {"liver": {"pixels": 400, "volume_ml": 3.2, "confidence": 0.41, "prompts": []},
                      "spleen": {"pixels": 100, "volume_ml": 0.8, "confidence": 0.9, "prompts": []}}
        write_json(folder / f"{name}.json", {"case": name, "structures": structures, "look_at": bool(reasons),
                                             "reasons": reasons, "mask_cut": 0.5, "made_by": "m" * 16})
        cases[name] = Case(name, (tmp_path / "images" / f"{name}_0000.nii.gz",), None, name)
    return Predictions(folder, cases, plans, SimpleNamespace(mask_cut=0.5), "m" * 16, "finetune")


def answer(item: Item, **said) -> Judgement:
    values = {"verdict": "none_acceptable", "best": None, **said}
    return Judgement(item=item.id, annotator="ann", mode="best", ranks=None, ratings=None, seconds=1.0,
                     client_key=str(uuid.uuid4()), time=datetime.now(timezone.utc), **values)


@contextmanager
def reviewing(predictions: Predictions) -> Iterator[tuple[StoredCandidates, PreferenceDatabase, Callable]]:
    """A review at work; at its end what is answered is written. ``say`` stores an answer as the page does."""
    stored = store_flagged(predictions)
    database = PreferenceDatabase.open(f"sqlite:///{predictions.folder / REVIEW / 'answers.sqlite'}")
    database.add_candidate_set(stored.candidate_set, stored.items)
    review = Review(predictions, stored, database, BoxSegmenter())

    def say(item: Item, **said) -> None:
        database.record(answer(item, **said))
        review.answered(item)

    try:
        yield stored, database, say
    finally:
        review.problems = review.close()
        database.close()
        stored.review = review


def label_of(predictions: Predictions, name: str = "doubtful", folder: str = ".") -> np.ndarray:
    return read_label_with_properties(predictions.folder / folder / f"{name}.nii.gz")[0]


def test_of_a_volume_the_slices_of_the_structure_in_question_are_shown_and_one_beyond_each_end(predictions) -> None:
    with reviewing(predictions) as (stored, database, _):
        assert [(item.case, item.structure, item.slice_index) for item in stored.items] == [
            ("doubtful", "liver", index) for index in (1, 2, 3, 4)
        ]
        masks = [stored.masks(item) for item in database.items(stored.candidate_set.id)]  # in the order of work
        assert [mask.shape for mask in masks] == [(1, 256, 256)] * 4
        assert [mask.mean() for mask in masks] == pytest.approx([0, 200 / 2400, 200 / 2400, 0], abs=0.002)
    assert stored.review.note(stored.items[0]).startswith("liver: confidence 0.41")
    assert stored.review.aspect(stored.items[0]) == pytest.approx(60 * 2 / 40)


def test_what_is_mended_is_written_in_the_images_geometry_and_what_was_predicted_is_kept(predictions) -> None:
    predicted = label_of(predictions)
    bits = sha256_of_file(predictions.folder / "doubtful.nii.gz")
    with reviewing(predictions) as (stored, _, say):
        items = {item.slice_index: item for item in stored.items}
        say(items[1], verdict="accepted", best=0)
        say(items[2], box=(0.0, 0.0, 128.0, 128.0))  # the left upper quarter
        say(items[3], point=(200.0, 192.0))  # onto the spleen: whoever was asked about wins
        say(items[4])  # it is not here
    mended, properties = read_label_with_properties(predictions.folder / "doubtful.nii.gz")
    expected = predicted.copy()
    expected[2][expected[2] == LIVER] = 0
    expected[2, :20, :30] = LIVER
    assert (mended[:3] == expected[:3]).all() and (mended[4:] == predicted[4:]).all()
    assert not (mended[3, 10:20, 10:30] == LIVER).any() and (mended[3] == LIVER).sum() == pytest.approx(15, abs=6)
    assert (mended[3] == SPLEEN).sum() == 100 - (mended[3, 25:35, 40:50] == LIVER).sum()
    assert tuple(properties["sitk_stuff"]["spacing"]) == SPACING
    assert tuple(properties["sitk_stuff"]["origin"]) == (5, 6, 7)
    assert sha256_of_file(predictions.folder / BEFORE / "doubtful.nii.gz") == bits
    report = read_json(predictions.folder / "doubtful.json")
    assert report["look_at"] is False and report["made_by"] == "m" * 16
    assert report["review"] == {"asked": 4, "accepted": 1, "mended": 2, "removed": 1, "by": ["ann"]}
    assert report["structures"]["liver"]["pixels"] == (mended == LIVER).sum()
    assert report["structures"]["liver"]["volume_ml"] == pytest.approx((mended == LIVER).sum() * 8 / 1000)
    assert read_json(predictions.folder / BEFORE / "doubtful.json")["look_at"] is True
    assert not (predictions.folder / BEFORE / "fine.nii.gz").exists()
    assert stored.review.problems == []


@pytest.mark.parametrize("direction", [(-1, 0, 0, 0, 1, 0, 0, 0, -1)])
def test_a_volume_that_lies_otherwise_is_mended_where_it_lies(predictions) -> None:
    """Its columns run to the right and its slices to the feet: what is left on the page is right in the file."""
    with reviewing(predictions) as (stored, _, say):
        assert [item.slice_index for item in stored.items] == [1, 2, 3, 4]
        say(stored.items[2], box=(0.0, 0.0, 128.0, 128.0))  # slice 3 of those that were cut, slice 2 of the file
    mended, properties = read_label_with_properties(predictions.folder / "doubtful.nii.gz")
    assert (mended[2, :20, 30:] == LIVER).all() and (mended[2] == LIVER).sum() == 20 * 30
    assert (mended[3] == label_of(predictions, folder=BEFORE)[3]).all()
    assert tuple(properties["sitk_stuff"]["direction"]) == (-1, 0, 0, 0, 1, 0, 0, 0, -1)


def test_an_answer_that_is_taken_back_gives_the_prediction_again(predictions) -> None:
    predicted, bits = label_of(predictions), sha256_of_file(predictions.folder / "doubtful.nii.gz")
    with reviewing(predictions) as (stored, _, say):
        say(stored.items[1], box=(0.0, 0.0, 128.0, 128.0))
    assert (label_of(predictions) != predicted).any()
    with reviewing(predictions) as (stored, database, _):
        database.undo_last("ann", stored.candidate_set.id)
        # As the page does after an undo; a review that was stopped before would do so when it goes on.
    with reviewing(predictions):
        pass
    assert sha256_of_file(predictions.folder / "doubtful.nii.gz") == bits and predicted.any()
    assert read_json(predictions.folder / "doubtful.json")["look_at"] is True


def test_what_is_accepted_stays_to_the_last_bit_and_is_not_flagged_any_more(predictions) -> None:
    bits = sha256_of_file(predictions.folder / "doubtful.nii.gz")
    with reviewing(predictions) as (stored, _, say):
        for item in stored.items[:-1]:
            say(item, verdict="accepted", best=0)
        say(stored.items[-1], verdict="skipped")
    assert read_json(predictions.folder / "doubtful.json")["look_at"] is True, "one slice was skipped"
    with reviewing(predictions) as (stored, database, say):
        database.undo_last("ann", stored.candidate_set.id)
        say(stored.items[-1], verdict="accepted", best=0)
    assert read_json(predictions.folder / "doubtful.json")["look_at"] is False
    assert sha256_of_file(predictions.folder / "doubtful.nii.gz") == bits
    assert [file.name for file in (predictions.folder / BEFORE).iterdir()] == ["doubtful.json"]


def test_what_was_stopped_before_the_mask_was_written_is_written_later(predictions, monkeypatch, caplog) -> None:
    predicted = label_of(predictions)

    def full(*_) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, "write_label", full)
        with reviewing(predictions) as (stored, _, say):
            say(stored.items[1], box=(0.0, 0.0, 128.0, 128.0))
        assert stored.review.problems == ["doubtful: No space left on device"]
        assert "The answers about doubtful are stored" in caplog.text
        assert (label_of(predictions) == predicted).all() and (label_of(predictions, folder=BEFORE) == predicted).all()
    with reviewing(predictions):  # nothing is answered this time
        pass
    assert (label_of(predictions)[2, :20, :30] == LIVER).all()


def test_a_mask_that_somebody_else_has_changed_is_left_alone(predictions) -> None:
    with reviewing(predictions) as (stored, _, say):
        say(stored.items[1], box=(0.0, 0.0, 128.0, 128.0))
    file = predictions.folder / "doubtful.nii.gz"
    file.write_bytes((predictions.folder / "fine.nii.gz").read_bytes() + b"\0")
    with pytest.raises(ConfigurationError, match="predicted anew or edited.*move away"):
        store_flagged(predictions)


def test_an_image_of_another_size_is_refused(predictions) -> None:
    other = SimpleITK.GetImageFromArray(np.zeros((2, 5, 5), np.uint8))
    SimpleITK.WriteImage(other, str(predictions.folder / "doubtful.nii.gz"))
    with pytest.raises(DatasetError, match="expected the image that it was predicted of"):
        store_flagged(predictions)


def test_where_nothing_is_flagged_there_is_nothing_to_review(predictions) -> None:
    (predictions.folder / "doubtful.json").unlink()
    with pytest.raises(ConfigurationError, match="there is nothing to review"):
        store_flagged(predictions)


@pytest.mark.parametrize(
    ("reasons", "structures"),
    [
        (["liver: nothing was found, and it is always there"], ["liver"]),
        (["spleen: confidence 0.1 …", "liver: confidence 0.2 …"], ["liver", "spleen"]),
        (["every pixel has the value 0"], ["liver", "spleen"]),
        (["its voxels are half as large", "liver: confidence 0.2 …"], ["liver", "spleen"]),
    ],
)
def test_the_reasons_say_which_structures_are_in_question(reasons, structures) -> None:
    assert _structures_in_question({"reasons": reasons}, ["liver", "spleen"]) == structures


@pytest.mark.parametrize(
    ("sizes", "entry", "most", "slices"),
    [
        ([0, 0, 5, 9, 0, 0], {}, None, [1, 2, 3, 4]),
        ([4, 5], {}, None, [0, 1]),
        ([7], {}, None, [0]),
        ([0, 0, 0], {"prompts": [{"slice": 0, "presence": 0.2}, {"slice": 2, "presence": 0.6}]}, None, [2]),
        ([0, 0, 0], {}, None, [1]),
        ([1] * 6 + [9] + [1] * 5, {}, 3, [0, 6, 11]),
        ([1] * 12, {}, 1, [0]),
        ([1, 9] + [1] * 10, {}, 4, [1, 4, 7, 11]),
    ],
)
def test_which_slices_of_a_volume_are_shown(sizes, entry, most, slices) -> None:
    assert _slices(np.array(sizes), entry, most) == slices

"""A raw dataset is opened once, by id, name or folder, and says all there is to say about its cases."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset import raw_dataset
from samdpo.dataset.raw_dataset import RawDataset, content_hashes
from samdpo.errors import ConfigurationError, DatasetError


@pytest.mark.parametrize("by", [901, "901", "name", "folder"])
def test_it_is_opened_by_id_name_or_folder(tiny_dataset: Path, by: int | str) -> None:
    raw = RawDataset.open({"name": tiny_dataset.name, "folder": tiny_dataset}.get(str(by), by))
    assert (raw.folder, raw.name, raw.number) == (tiny_dataset, tiny_dataset.name, 901)
    assert [len(raw.labelled), len(raw.unlabelled), len(raw.cases)] == [8, 4, 12]
    assert RawDataset.open(raw) is raw


def test_a_folder_that_holds_nothing_of_a_dataset_is_told_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither dataset.json nor imagesTr"):
        RawDataset.open(tmp_path)


def test_cases_are_listed_once_and_again_by_whoever_is_sent_it(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    original = raw_dataset.files_of
    monkeypatch.setattr(raw_dataset, "files_of", lambda folder: listed.append(folder.name) or original(folder))
    raw = RawDataset.open(tiny_dataset)
    assert raw.meta.structures and not listed, "nothing is listed before it is asked for"
    assert raw.cases == raw.cases and raw.labelled
    assert sorted(listed) == ["imagesTr", "imagesTr", "imagesUl"], "imagesTr a second time, for names in both"
    sent = pickle.loads(pickle.dumps(raw))
    assert not {"whole_labelled", "whole_unlabelled", "groups"} & vars(sent).keys()
    assert sent.cases == raw.cases


def test_image_and_label_of_a_case_are_those_of_its_files(tiny_dataset: Path) -> None:
    raw = RawDataset.open(tiny_dataset)
    case = raw.labelled[0]
    image = raw.image(case)
    assert np.array_equal(image.data[0, 0], np.array(Image.open(case.images[0])))
    assert np.array_equal(raw.label(case, image)[0], np.array(Image.open(case.label)))


def test_one_check_tells_every_reader_that_a_label_does_not_fit(tiny_dataset: Path) -> None:
    raw = RawDataset.open(tiny_dataset)
    case = raw.labelled[0]
    image = raw.image(case)
    Image.fromarray(np.full((20, 30), 7, np.uint8)).save(case.label)
    problems = raw.checked_label(case, image).problems
    assert len(problems) == 2 and "30 x 20" in problems[0] and "the value(s) 7" in problems[1]
    with pytest.raises(DatasetError, match="30 x 20"):
        raw.label(case, image)
    with pytest.raises(DatasetError, match=r"the value\(s\) 7"):
        raw.label(case)


def test_the_spacing_beside_a_stack_is_a_file_of_its_case(tiny_dataset: Path) -> None:
    case = RawDataset.open(tiny_dataset).labelled[0]
    assert case.files == [case.images[0], case.label]
    stack = case.images[0].with_suffix(".tif")
    stack.write_bytes(b"II")
    (beside := stack.with_suffix(".json")).write_text("{}")
    assert type(case)("a", (stack,), None, "a").files == [stack, beside]
    assert content_hashes([case], threads=2).keys() == set(case.files)

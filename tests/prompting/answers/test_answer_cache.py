"""Answers on disk: kept while they come, shared, edited by hand, never lost."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from samdpo.errors import ConfigurationError
from samdpo.files import locked
from samdpo.prompting.answers.cache import AnswerCache, cache_file, image_key

QUESTION = "Where is the lung?"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return cache_file(tmp_path, "google/medgemma-4b-it")


def filled(file: Path, count: int, model: str = "model") -> AnswerCache:
    cache = AnswerCache(model, file)
    for number in range(count):
        cache.put(f"image{number}", QUESTION, f"answer {number}", ("case_1", number))
    return cache


def test_the_file_is_named_after_the_model(file):
    assert file.name == "answers_google_medgemma-4b-it.json"


def test_answers_are_written_every_few_of_them(file):
    filled(file, 15)
    assert not file.is_file()
    filled(file, 40)
    assert len(AnswerCache("model", file)) >= 16  # what a killed run leaves


def test_what_is_written_is_read_by_image_and_question(file):
    filled(file, 3).flush()
    cache = AnswerCache("model", file)
    assert cache.get("image2", QUESTION) == "answer 2"
    assert cache.get("image2", "Another?") is None and cache.get("image9", QUESTION) is None
    assert dict(cache.of_slices())["case_1", 2] == {QUESTION: "answer 2"}


def test_edits_and_other_runs_answers_survive_a_write(file):
    cache = filled(file, 2)
    cache.flush()
    content = json.loads(file.read_text())
    content["images"]["image0"]["answers"][QUESTION] = "edited"
    file.write_text(json.dumps(content))
    other = AnswerCache("model", file)
    other.put("image7", QUESTION, "of another fold")
    other.flush()
    cache.put("image8", QUESTION, "new")
    cache.flush()
    read = AnswerCache("model", file)
    assert [read.get(f"image{n}", QUESTION) for n in (0, 1, 7, 8)] == ["edited", "answer 1", "of another fold", "new"]
    assert cache.get("image0", QUESTION) == "edited"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"model": "model"}', '{"model": "model", "images": {"a": {"answers": {"Q": 3}}}}']
)
def test_a_damaged_file_is_named_and_left_alone(file, content):
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=file.name):
        AnswerCache("model", file)
    assert file.read_text() == content


def test_answers_of_another_model_are_refused(file):
    filled(file, 1, "model a").flush()
    with pytest.raises(ConfigurationError, match="holds answers of 'model a', expected those of 'model b'"):
        AnswerCache("model b", file)


def test_an_image_has_one_key_whatever_its_precision():
    image = np.random.default_rng(0).random((3, 8, 8)).astype(np.float16)
    assert image_key(image) == image_key(image.astype(np.float32)) != image_key(image[:, ::-1])


def test_two_runs_that_write_at_once_wait_for_each_other(tmp_path):
    """One reads the file, adds its answers and writes it: between the two nobody else may."""
    first, second = (AnswerCache("model", tmp_path / "answers_model.json") for _ in range(2))
    first.put("one", "?", "yes")
    second.put("two", "?", "no")
    with ThreadPoolExecutor(1) as thread:
        with locked(tmp_path / ".answers_model.json.lock"):
            waiting = thread.submit(second.flush)
            time.sleep(0.1)
            assert not waiting.done() and not second.file.exists()
        waiting.result(timeout=60)
    first.flush()
    assert {AnswerCache("model", first.file).get(image, "?") for image in ("one", "two")} == {"yes", "no"}

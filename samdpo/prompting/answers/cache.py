"""Answers of one model, kept as JSON by image and question: shared between folds, edited by people.

A pass over a large dataset takes hours, so answers are written while they come. A run that is killed loses a few.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.errors import ConfigurationError
from samdpo.files import locked, read_json, write_json
from samdpo.preprocessing.store import SliceKey

log = logging.getLogger(__name__)

_EVERY = 16  # answers between two writes
_WRITING_SHARE = 0.05  # of the time may go into writing: a large file is written less often
_NOTE = "Edit the answers as you like: prompts are made again from what stands here. Delete one to have it asked again."


def image_key(image: np.ndarray) -> str:
    """Hash of a slice (3, H, W) in [0, 1], the same in training and in prediction.

    Over float16, the precision in which slices are kept.
    """
    return hashlib.sha256(np.ascontiguousarray(image, np.float16).tobytes()).hexdigest()[:16]


def cache_file(folder: Path, model: str) -> Path:
    """Where a dataset's answers of a model lie, for example ``answers_google_medgemma-4b-it.json``."""
    return Path(folder) / f"answers_{re.sub(r'[^A-Za-z0-9.-]+', '_', model)}.json"


class AnswerCache:
    """Answers of one model by image and question.

    Args:
        model: its name.
        file: JSON to read from and write to; None keeps the answers in memory.

    Raises:
        ConfigurationError: the file is not JSON of this form, or of another model.
    """

    def __init__(self, model: str, file: Path | None = None) -> None:
        self.model, self.file = model, file
        self._images: dict[str, dict[str, Any]] = self._read()
        self._pending: dict[str, dict[str, Any]] = {}
        self._written, self._writing = time.monotonic(), 0.0

    def get(self, image: str, question: str) -> str | None:
        """The answer about the image of this key, or None."""
        return self._images.get(image, {}).get("answers", {}).get(question)

    def put(self, image: str, question: str, answer: str, seen_in: SliceKey | None = None) -> None:
        """Keep an answer. It is written with the next few, or by :meth:`flush`."""
        for images in (self._images, self._pending):
            entry = images.setdefault(image, {"case": None, "slice": None, "answers": {}})
            if seen_in is not None:
                entry["case"], entry["slice"] = seen_in
            entry["answers"][question] = answer
        waiting = sum(len(entry["answers"]) for entry in self._pending.values())
        if waiting >= _EVERY and self._writing <= _WRITING_SHARE * (time.monotonic() - self._written):
            self.flush()

    def flush(self) -> None:
        """Write what is new, into the file as it now is: edits made meanwhile, and answers of other runs, stay."""
        if self.file is None or not self._pending:
            return
        started = time.monotonic()
        with locked(self.file.with_name(f".{self.file.name}.lock")):  # other runs read, add and write too
            images = self._read()
            for key, entry in self._pending.items():
                there = images.setdefault(key, {**entry, "answers": {}})
                there["answers"] = {**there["answers"], **entry["answers"]}
            write_json(self.file, {"model": self.model, "note": _NOTE, "images": images})
        self._images, self._pending = images, {}
        self._written = time.monotonic()
        self._writing = self._written - started

    def of_slices(self) -> Iterator[tuple[SliceKey, dict[str, str]]]:
        """Case and slice, and question -> answer, of every image that a dataset's slice showed."""
        for entry in self._images.values():
            if entry.get("case") is not None:
                yield (entry["case"], int(entry["slice"])), entry["answers"]

    def __len__(self) -> int:
        """Number of answers."""
        return sum(len(entry["answers"]) for entry in self._images.values())

    def _read(self) -> dict[str, dict[str, Any]]:
        if self.file is None or not self.file.is_file():
            return {}
        remedy = "Correct it, or delete it to have every question asked again."
        content = read_json(self.file, remedy=remedy)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, dict) or not all(map(_is_entry, images.values())):
            raise ConfigurationError(
                f'{self.file} must hold {{"model": …, "images": {{KEY: {{"case": …, "slice": …, "answers": {{QUESTION: '
                f"ANSWER}}}}}}}}. {remedy}"
            )
        if content.get("model") != self.model:
            raise ConfigurationError(
                f"{self.file} holds answers of {content.get('model')!r}, expected those of {self.model!r}. Rename the "
                "file or the model's folder."
            )
        return images


def _is_entry(entry: Any) -> bool:
    """Whether a value of ``images`` has the form that :meth:`AnswerCache.flush` writes."""
    if not isinstance(entry, dict) or not isinstance(entry.get("answers"), dict):
        return False
    place = entry.get("case"), entry.get("slice")
    return all(isinstance(answer, str) for answer in entry["answers"].values()) and (
        place[0] is None or (isinstance(place[0], str) and isinstance(place[1], int))
    )

"""A model that answers questions about images, and the memory of what it has answered."""

from __future__ import annotations

import atexit
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from samdpo.plans import PromptingPlan
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.answers.cache import AnswerCache, cache_file, image_key

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

BY_MODEL = ("vlm", "medvint")  # values of prompting.answers


class VisionLanguageModel(Protocol):
    """Answers questions about images."""

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each pair of RGB image and question, computed in one batch."""
        ...


class Answerer:
    """A model with its memory. The model is loaded when there is a question whose answer is not known.

    Args:
        name: under which the answers are kept.
        load: device -> the model.
        batch_size: questions a pass.

    Attributes:
        may_download: whether a model that is not on this machine may be fetched. False until whoever makes a plan's
            prompts says so: that a model folder names a model is no reason to use the network.
    """

    may_download = False

    def __init__(
        self, name: str, load: Callable[[torch.device | str], VisionLanguageModel], batch_size: int
    ) -> None:
        self.name, self.batch_size = name, batch_size
        self.cache = AnswerCache(name)
        self._load = load
        self._model: VisionLanguageModel | None = None
        atexit.register(self.flush)

    def keep_in(self, folder: Path) -> None:
        """Read the answers kept in a dataset's folder, as they now are, and keep new ones there."""
        self.flush()
        self.cache = AnswerCache(self.name, cache_file(folder, self.name))
        if len(self.cache):
            log.info("%d answers of %s are known: %s", len(self.cache), self.name, self.cache.file)

    def flush(self) -> None:
        """Write the answers that are not written yet."""
        self.cache.flush()

    def release(self) -> None:
        """Write what is not written yet, and let go of the model: training needs the memory."""
        self.flush()
        if self._model is not None:
            self._model = None
            import torch

            torch.cuda.empty_cache()  # does nothing without a GPU

    def answers(
        self,
        images: Sequence[np.ndarray],
        questions: Sequence[str],
        seen_in: Sequence[SliceKey | None] | None = None,
        device: torch.device | str = "auto",
    ) -> list[str]:
        """Answers about images; what is not known is asked and kept.

        Args:
            images: (3, H, W) in [0, 1], one a question; the same array may come several times.
            questions: one an image.
            seen_in: case and slice of each image; None for images of no dataset.
            device: where a model that is not loaded yet is put.

        Raises:
            ConfigurationError: a model is needed and cannot be loaded.
        """
        keys = {id(image): image_key(image) for image in images}
        pairs = [(keys[id(image)], question) for image, question in zip(images, questions)]
        first = {pair: row for row, pair in reversed(list(enumerate(pairs)))}
        rows = sorted(row for pair, row in first.items() if self.cache.get(*pair) is None)
        if rows and self._model is None:
            self._model = self._load(device)
        starts = range(0, len(rows), self.batch_size)
        for start in tqdm(starts, desc=f"Answers of {self.name}", leave=False, disable=len(starts) < 2):
            batch = rows[start : start + self.batch_size]
            given = self._model.answer([_picture(images[row]) for row in batch], [questions[row] for row in batch])
            for row, answer in zip(batch, given, strict=True):
                self.cache.put(*pairs[row], answer, seen_in[row] if seen_in else None)
        return [self.cache.get(*pair) or "" for pair in pairs]


def asks_a_model(prompting: PromptingPlan) -> bool:
    """Whether a model answers."""
    return prompting.use_answers and prompting.answers in BY_MODEL


def answerer_of(prompting: PromptingPlan) -> Answerer:
    """The process's one answerer of the plan's model, whatever the number of folds."""
    return _answerer(prompting.answers, prompting.vlm, prompting.vlm_batch_size, prompting.vlm_max_new_tokens)


@functools.lru_cache(maxsize=2)
def _answerer(kind: str, model: str, batch_size: int, max_new_tokens: int) -> Answerer:
    folder = Path(model).expanduser()
    name = folder.resolve().name if folder.is_dir() or folder.is_absolute() else model

    def load(device: torch.device | str) -> VisionLanguageModel:
        if kind == "medvint":
            from samdpo.prompting.answers.medvint import MedVInT

            return MedVInT(folder, device, max_new_tokens)
        from samdpo.prompting.answers.vlm import ImageTextToText

        return ImageTextToText(model, device, max_new_tokens, answerer.may_download)

    answerer = Answerer(f"medvint {name}" if kind == "medvint" else name, load, batch_size)
    return answerer


def _picture(image: np.ndarray) -> Image.Image:
    """(3, H, W) in [0, 1] -> RGB picture."""
    pixels = (np.asarray(image, np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))

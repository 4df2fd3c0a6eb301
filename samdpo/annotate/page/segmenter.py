"""From a box or a point to a mask, while somebody waits: a resident model, and what it knows of the slices at hand."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from samdpo.annotate.page.item_views import Candidates
from samdpo.annotate.page.ranking_page import NoSegmenterError
from samdpo.caches import LruCache
from samdpo.errors import ConfigurationError, SamdpoError
from samdpo.files import content_hash
from samdpo.model.given_prompts import GivenPrompts
from samdpo.model.predictor import Predictor
from samdpo.preferences.records import Box, CandidateSet, Item, Point
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.proposals import PlaceProposer

log = logging.getLogger(__name__)

KEPT = 48  # slices whose embeddings stay in memory; one of LiteMedSAM has 4 MiB
WAITING = 16  # slices that wait to be encoded ahead; of more the oldest are dropped
_NICENESS = 10
_LAST_WORK = 60.0  # seconds that the last slice may still take
WEIGHTS = "checkpoint_final.safetensors"


@dataclass(frozen=True)
class _Seen:
    """A slice as each fold of the model sees it.

    Attributes:
        embeddings: of each fold, (1, C, h, w) float32 on the model's device.
        texts: of each fold, structure -> embedding (D,) of what is said of it; structures without a text are left out.
    """

    embeddings: list[torch.Tensor]
    texts: list[dict[str, np.ndarray]]


class ModelSegmenter:
    """Answers with a trained model: the box or the point alone and the text of the structure, no mask prompt.

    Slices are encoded one at a time, ahead of time where :meth:`prepare` has announced them; an answer then takes the
    decoder's time.

    Args:
        load: gives the model; called once, in the background, so that the page is there at once.
        candidates: gives the slices, normalised as the network wants them.
        published: whether the network answers as it was published, without a text: what proposes places decodes a
            person's box in the same way, on the page and when it is learned from.
    """

    def __init__(self, load: Callable[[], Predictor], candidates: Candidates, published: bool = False) -> None:
        self._load, self._candidates, self._published = load, candidates, published
        self._model: Future[Predictor] = Future()
        self._seen: LruCache[SliceKey, Future[_Seen]] = LruCache(KEPT)
        self._waiting: OrderedDict[SliceKey, Item] = OrderedDict()  # the last one is next
        self._lock = threading.Condition()
        self._encoding = threading.Lock()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="segmenter", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """End the work in the background: a program that ends in the middle of it would be aborted."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._worker.join(_LAST_WORK)

    def prepare(self, items: Sequence[Item]) -> None:
        """See :class:`~samdpo.annotate.page.ranking_page.Segmenter`."""
        with self._lock:
            for item in reversed(items):
                place = (item.case, item.slice_index)
                if place not in self._seen:
                    self._waiting[place] = item
                    self._waiting.move_to_end(place)
            while len(self._waiting) > WAITING:
                self._waiting.popitem(last=False)
            self._lock.notify()

    def segment(self, item: Item, box: Box | None, point: Point | None) -> np.ndarray:
        """See :class:`~samdpo.annotate.page.ranking_page.Segmenter`."""
        return self.probability(item, box, point) > self._predictor().mask_cut

    @torch.inference_mode()
    def probability(self, item: Item, box: Box | None, point: Point | None) -> np.ndarray:
        """(H, W) float32 of what :meth:`segment` cuts."""
        predictor, seen = self._predictor(), self._of_slice(item)
        if self._published:
            size = (predictor.plans.preprocessing.image_size,) * 2
            proposer = PlaceProposer(predictor.folds[0].prompter.extractor.network)
            given = {"points": np.array([point])} if box is None else {"boxes": np.array([box])}
            return proposer.decode(seen.embeddings[0][0], size, **given).masks[0].numpy()
        points = np.zeros((0, 2), np.float32) if point is None else np.array([point], np.float32)
        boxes = np.zeros((0, 4), np.float32) if box is None else np.array([box], np.float32)
        given = GivenPrompts(points, np.ones(len(points), bool), boxes, None)
        size, text_dim = predictor.plans.preprocessing.image_size, predictor.plans.network.text_dim
        found = []
        for fold, embeddings, texts in zip(predictor.folds, seen.embeddings, seen.texts):
            batch = given.batch(size, texts.get(item.structure), text_dim).to(predictor.device)
            logits, _ = fold.network.decode(embeddings, batch)
            found.append(logits[0].sigmoid().cpu().numpy())
        return np.mean(found, axis=0)

    def _predictor(self) -> Predictor:
        try:
            return self._model.result()
        except SamdpoError as error:
            raise NoSegmenterError(str(error)) from error

    def _of_slice(self, item: Item) -> _Seen:
        place = (item.case, item.slice_index)
        with self._lock:
            self._waiting.pop(place, None)
            future = self._seen.get(place)
            mine = future is None
            if future is None:
                future = Future()
                self._seen.put(place, future)
        if mine:
            try:
                with self._encoding:
                    future.set_result(self._look_at(item))
            except BaseException as error:  # whoever waits for it is told too, and the next one tries again
                with self._lock:
                    self._seen.drop(place)
                future.set_exception(error)
        return future.result()

    @torch.inference_mode()
    def _look_at(self, item: Item) -> _Seen:
        predictor = self._predictor()
        image = self._candidates.image(item).astype(np.float32)
        image = np.ascontiguousarray(np.broadcast_to(image, (3, *image.shape[-2:])))
        with_neighbours = self._candidates.seen(item)
        seen = torch.from_numpy(image if with_neighbours is None else with_neighbours)[None]
        if self._published:
            return _Seen([predictor.folds[0].prompter.extractor(seen)], [])
        prompting = predictor.plans.prompting
        told = prompting.use_answers or prompting.use_descriptions
        embeddings, texts = [], []
        for fold in predictor.folds:
            given = {}
            if with_neighbours is not None and getattr(fold.prompter, "sees_features", False):
                given = {"features": fold.prompter.extractor(seen)[0]}
            prompts = fold.prompter.prompt(image, **given) if told else []
            texts.append({prompt.structure: prompt.text_embedding for prompt in prompts if prompt.text})
            embeddings.append(fold.encoder(seen))
        return _Seen(embeddings, texts)

    def _work(self) -> None:
        """Load the model, then encode what waits, until it is closed."""
        _be_nice()
        try:
            self._model.set_result(self._load())
        except BaseException as error:
            log.warning("No outline is drawn of the boxes and points that people give, which are stored all the same: "
                        "%s", error)
            told = error if isinstance(error, SamdpoError) else ConfigurationError(f"{type(error).__name__}: {error}")
            self._model.set_exception(told)
            return
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                _, item = self._waiting.popitem()
            try:
                self._of_slice(item)
            except Exception as error:  # it is told to whoever asks for a mask
                log.debug("%s, slice %d, cannot be prepared: %s", item.case, item.slice_index, error)


def _be_nice() -> None:
    """Let this thread, and those that it starts, give way to the others: who waits for an outline comes first."""
    with suppress(AttributeError, OSError):  # Linux alone has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def load_maker(candidate_set: CandidateSet, folder: Path, device: str = "auto") -> Predictor:
    """The model that made a candidate set.

    Args:
        candidate_set: the set.
        folder: where its candidates lie: ``candidates/ID`` in the fold of the model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ModelFolderError: it is not there, or not whole.
        ConfigurationError: its network takes no prompts, or is of a class that nobody names.
    """
    fold = folder.absolute().parents[1]
    predictor = Predictor.from_model_folder(fold.parent, [fold.name.removeprefix("fold_")], device=device)
    if any(one.encoder is None for one in predictor.folds):
        raise ConfigurationError(f"The network of {fold.parent} takes no prompts.")
    if content_hash(fold / WEIGHTS) != candidate_set.model_hash:
        log.warning("%s has been trained anew since it made these candidates; what it is now draws the outlines of "
                    "boxes and points.", fold)
    return predictor

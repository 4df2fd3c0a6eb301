"""Predictions that a person should look at, on the page: accepted as they are, or mended by a box or a click.

Everything lies with the predictions: ``review/`` holds what is shown and the answers, ``before_review/`` the masks and
reports as they were predicted. A mask is a function of its prediction and of the answers, which are stored first: what
was stopped between the two is written when the review goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.page.item_views import aspect_ratio
from samdpo.annotate.page.segmenter import ModelSegmenter
from samdpo.dataset.cases import Case, find_inputs
from samdpo.dataset.images import read_image, read_label_with_properties, write_label
from samdpo.dataset.orientation import Turn, orientation, turn_to
from samdpo.errors import ConfigurationError, DatasetError, SamdpoError
from samdpo.evaluation.doubt import confidence_of
from samdpo.files import copy_file, hash_of, read_json, sha256_of_file, write_json
from samdpo.inference.predict_folder import ARGUMENTS_FILE, made_by
from samdpo.model.dicom_seg import write_dicom_seg
from samdpo.model.export import DICOM_RESULT_ENDING
from samdpo.model.folder import read_plans
from samdpo.model.predictor import Predictor
from samdpo.paths import model_parts, results_root
from samdpo.plans import Plans
from samdpo.preferences.records import CandidateSet, Item, Judgement
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates
from samdpo.preprocessing.normalization import distinct_channels
from samdpo.preprocessing.preprocess import prepare_channels
from samdpo.preprocessing.slicing import SliceGeometry, neighbour_step, resize_plane, with_neighbours
from samdpo.preprocessing.training_images import as_trained

log = logging.getLogger(__name__)

BEFORE, REVIEW = "before_review", "review"  # folders beside the masks
ANSWERS = "answers.sqlite"
_SHOWN = "cases_shown"  # in review/: how each case was cut
_WRITTEN = "masks_written"  # likewise: what the review has made of each mask, and of which answers


@dataclass(frozen=True)
class Predictions:
    """A folder that ``samdpo_predict`` wrote, its images and its model.

    Attributes:
        folder: of the masks.
        cases: identifier -> images, of all that were predicted and are there.
        plans: of the model.
        predictor: the model.
        made_by: hash of what made the masks.
        stage: of the model.
    """

    folder: Path
    cases: dict[str, Case]
    plans: Plans
    predictor: Predictor
    made_by: str
    stage: str

    @classmethod
    def open(cls, folder: Path, images: Path | None = None, model: Path | None = None, device: str = "auto",
             trainer: str | None = None) -> Predictions:
        """Find the images and load the model.

        Args:
            folder: of the masks.
            images: where the images are now; None for where they were.
            model: its folder; None for the one of that name in ``nnUNet_results``.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            trainer: as of :meth:`Predictor.from_model_folder`.

        Raises:
            ConfigurationError: the folder is none of samdpo_predict's, or its images or its model are not found.
        """
        asked = asked_of(folder)
        source = images or Path(asked["input"])
        if not source.exists():
            raise ConfigurationError(
                f"The images of {folder} are not at {source} any more, where they were predicted. Name them with: "
                f"samdpo_annotate --review {folder} -i IMAGES"
            )
        at = model or _find_model(folder, asked)
        predictor = Predictor.from_model_folder(at, asked["folds"], asked["checkpoint"], device, trainer=trainer)
        if any(fold.encoder is None for fold in predictor.folds):
            raise ConfigurationError(
                f"The network of {at} takes no prompts, so that nothing can be mended with it. Name a model of stage "
                "finetune or align of the same structures with -m."
            )
        plans = predictor.plans
        if made_by(at, plans, asked["folds"], asked["checkpoint"], asked["mirror"]) != asked["made_by"]:
            log.warning("%s is not the model that made %s, or has been trained anew since; it mends all the same.", at,
                        folder)
        found = find_inputs(source, None, len(plans.preprocessing.normalization), plans.training_images.files_per_case,
                            folder)
        parts = model_parts(at.name)
        return cls(folder, {case.identifier: case for case in found.cases}, plans, predictor, asked["made_by"],
                   parts[2] if parts else "finetune")

    def mask(self, case: str) -> Path:
        """The file of a case's mask; raises DatasetError where there is none."""
        endings = (self.plans.file_ending, DICOM_RESULT_ENDING)
        found = next((file for end in endings if (file := self.folder / f"{case}{end}").is_file()), None)
        if found is None:
            raise DatasetError(f"{self.folder / case}{endings[0]} is missing, though there is a report of it.")
        return found


@dataclass(frozen=True)
class _Shown:
    """How a case was cut, and what of it is shown.

    Attributes:
        geometry: of the slices.
        turn: by which the image was turned before.
        aspect: width over height of a slice, in millimetres.
        mask: file name.
        prediction: SHA-256 of the mask as it was predicted.
        reasons: why a person should look at it.
        dicom_files: of a series.
    """

    geometry: SliceGeometry
    turn: Turn
    aspect: float
    mask: str
    prediction: str
    reasons: list[str]
    dicom_files: list[str]

    def to_json(self) -> dict[str, Any]:
        return {"geometry": self.geometry.to_dict(), **self.turn.to_json(), "aspect": self.aspect, "mask": self.mask,
                "prediction": self.prediction, "reasons": self.reasons, "dicom_files": self.dicom_files}

    @classmethod
    def of(cls, content: dict[str, Any]) -> _Shown:
        return cls(SliceGeometry.from_dict(content["geometry"]), Turn.of(content), content["aspect"], content["mask"],
                   content["prediction"], content["reasons"], content["dicom_files"])


def store_flagged(predictions: Predictions, max_slices: int | None = None) -> StoredCandidates:
    """What is shown of the cases that a person should look at: each mask as the only candidate.

    Of a picture the structures that the report's reasons name, or all of them where the image itself is in question; of
    a volume each slice on which such a structure was found and the one before and behind, one after another, or the one
    where it was likeliest.

    Args:
        predictions: the folder; what was shown before stays.
        max_slices: of a structure of a volume at most so many, evenly spread.

    Raises:
        ConfigurationError: no report says that a person should look, or a mask was changed by somebody else.
    """
    folder = predictions.folder / REVIEW
    flagged = _flagged(predictions)
    writer = CandidateWriter(folder)
    for number, (case, report) in enumerate(tqdm(flagged.items(), desc="cases to look at", leave=False)):
        state = folder / _SHOWN / f"{case}.json"
        if not state.is_file():
            shown, images, seen, items = _cut(predictions, case, report, max_slices)
            first, share = 1 - number / len(flagged), 1 / len(flagged) / (len(items) + 1)
            items = [replace(item, disagreement=first - share * place) for place, item in enumerate(items)]
            writer.put(case, shown.prediction, images, items, seen)
            write_json(state, shown.to_json())
        else:
            _check_own(predictions.folder, case, read_json(state))
    described = CandidateSet(
        id=hash_of("review", predictions.made_by, str(predictions.folder.absolute())),
        dataset=predictions.plans.dataset_name, fold="all", stage=predictions.stage,
        plans_name=predictions.plans.plans_name, model_hash=predictions.made_by, plan_hash="review",
        created=datetime.now(timezone.utc), folder=str(folder.absolute()),
    )
    writer.finish(described, {"labels": {name: one.label for name, one in predictions.plans.structures.items()}})
    return StoredCandidates.open(folder)


class Review:
    """Writes masks as people answer, in the background; the page has to wait for none.

    Args:
        predictions: the folder.
        stored: what is shown of it.
        database: of the answers.
        segmenter: makes masks of boxes and points.
    """

    def __init__(
        self, predictions: Predictions, stored: StoredCandidates, database: PreferenceDatabase,
        segmenter: ModelSegmenter,
    ) -> None:
        self._predictions, self._stored, self._database = predictions, stored, database
        self._segmenter = segmenter
        self._items = {item.id: item for item in stored.items}
        self._shown = {
            case: _Shown.of(read_json(predictions.folder / REVIEW / _SHOWN / f"{case}.json"))
            for case in {item.case for item in stored.items}
        }
        self._waiting: dict[str, None] = dict.fromkeys(self._shown)  # what an earlier review has not written
        self._failed: dict[str, str] = {}
        self._lock = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="review", daemon=True)
        self._worker.start()

    def aspect(self, item: Item) -> float:
        """Width over height of an item's image as it was taken."""
        return self._shown[item.case].aspect

    def note(self, item: Item) -> str:
        """Why a person should look at an item's case."""
        reasons = self._shown[item.case].reasons
        own = [reason for reason in reasons if reason.startswith(f"{item.structure}: ")]
        return "; ".join(own or reasons)

    def answered(self, item: Item) -> None:
        """An answer to an item was stored or taken back."""
        with self._lock:
            self._waiting[item.case] = None
            self._lock.notify()

    def summary(self) -> str:
        """What became of the masks, as sentences."""
        answers = [one for one in self._database.judgements(self._stored.candidate_set.id) if one.verdict != "skipped"]
        mended = {self._items[one.item].case for one in answers if one.verdict == "none_acceptable"}
        left = {item.id for item in self._stored.items} - {one.item for one in answers}
        folder = self._predictions.folder
        said = f"Of {len(self._shown)} cases {len(mended)} were mended, in {folder}"
        said += f"; as they were predicted they are in {folder / BEFORE}." if mended else "."
        return said + (f" {len(left)} of {len(self._items)} outlines are still to be looked at." if left else "")

    def close(self) -> list[str]:
        """Write what waits; a sentence for each case that could not be written."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._worker.join()
        return [f"{case}: {problem}" for case, problem in sorted(self._failed.items())]

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if not self._waiting:
                    return
                case = next(iter(self._waiting))
                del self._waiting[case]
            try:
                self._write(case)
                self._failed.pop(case, None)
            except (SamdpoError, OSError) as error:
                log.error("The answers about %s are stored, its mask could not be written: %s", case, error)
                self._failed[case] = str(error)

    def _write(self, case: str) -> None:
        """The mask that a case's prediction and answers make, unless it is written already."""
        answers = [one for one in self._database.judgements(self._stored.candidate_set.id)
                   if self._items[one.item].case == case]
        said = hash_of([(one.item, one.verdict, one.box, one.point) for one in answers])
        folder, shown = self._predictions.folder, self._shown[case]
        record = folder / REVIEW / _WRITTEN / f"{case}.json"
        if (read_json(record)["answers"] if record.is_file() else hash_of([])) == said:
            return
        _check_own(folder, case, shown.to_json())
        mask, report, dicom = folder / shown.mask, folder / f"{case}.json", folder / f"{case}.dcm"
        kept = folder / BEFORE / shown.mask
        predicted, properties = read_label_with_properties(kept if kept.is_file() else mask)
        mended = shown.turn.undo(self._mended(shown, shown.turn.apply(predicted), answers))
        changed = not np.array_equal(mended, predicted)
        for file in (report, *((mask, dicom) if changed else ())):
            if file.is_file() and not (folder / BEFORE / file.name).is_file():
                copy_file(file, folder / BEFORE / file.name)
        write_json(record, {"answers": None, "mask": None})  # what is there after a power cut is the review's
        write_json(report, self._report(case, predicted, mended, answers, properties))
        if changed:
            write_label(mended, mask, properties)
            if dicom.is_file():
                write_dicom_seg(mended, shown.dicom_files, self._predictions.plans.structures, dicom)
        else:
            for file in (mask, dicom):
                if (folder / BEFORE / file.name).is_file():
                    copy_file(folder / BEFORE / file.name, file)
        write_json(record, {"answers": said, "mask": sha256_of_file(mask)})

    def _mended(self, shown: _Shown, turned: np.ndarray, answers: Sequence[Judgement]) -> np.ndarray:
        """(Z, Y, X) labels in the plan's orientation, the answers laid over them in the order in which they came."""
        planes = np.moveaxis(turned.copy(), shown.geometry.axis, 0)
        for answer in answers:
            if answer.verdict != "none_acceptable":
                continue
            item = self._items[answer.item]
            label, plane = self._predictions.plans.structures[item.structure].label, planes[item.slice_index]
            plane[plane == label] = 0
            if answer.box is not None or answer.point is not None:
                probability = self._segmenter.probability(item, answer.box, answer.point)
                native = resize_plane(probability, shown.geometry.slice_shape)
                plane[native > self._predictions.predictor.mask_cut] = label
        return np.moveaxis(planes, 0, shown.geometry.axis)

    def _report(
        self, case: str, predicted: np.ndarray, mended: np.ndarray, answers: Sequence[Judgement],
        properties: dict[str, Any],
    ) -> dict[str, Any]:
        """The report of the prediction, with sizes as they are now and what people said."""
        report = read_json(self._predictions.folder / BEFORE / f"{case}.json")
        for name, entry in report["structures"].items():
            label = self._predictions.plans.structures[name].label
            if (mended == label).sum() != (predicted == label).sum():
                entry["pixels"] = int((mended == label).sum())
                if "volume_ml" in entry:
                    entry["volume_ml"] = entry["pixels"] * float(np.prod(properties["spacing"])) / 1000
        asked = sum(item.case == case for item in self._stored.items)
        answered = [one for one in answers if one.verdict != "skipped"]
        placed = [one for one in answered if one.box is not None or one.point is not None]
        accepted = sum(one.verdict in ("accepted", "ranked") for one in answered)
        report["look_at"] = len({one.item for one in answered}) < asked
        report["review"] = {
            "asked": asked, "accepted": accepted, "mended": len(placed),
            "removed": len(answered) - accepted - len(placed), "by": sorted({one.annotator for one in answered}),
        }
        return report


def asked_of(folder: Path) -> dict[str, Any]:
    """What samdpo_predict was asked for when it wrote a folder; of several parts that of the first.

    Raises:
        ConfigurationError: it has written none of this name, or the parts are of several models.
    """
    files = sorted(folder.glob(ARGUMENTS_FILE.replace(".json", "*.json")))
    contents = [content for file in files if isinstance(content := read_json(file), dict)]
    keys = {"input", "model", "folds", "checkpoint", "mirror", "made_by"}
    if not contents or not all(keys <= content.keys() for content in contents):
        raise ConfigurationError(
            f"{folder} has no {ARGUMENTS_FILE} of this version, so it is not a folder that samdpo_predict wrote. Write "
            f"one with: samdpo_predict -i IMAGES -o {folder}"
        )
    if len({content["made_by"] for content in contents}) > 1:
        raise ConfigurationError(
            f"The parts of {folder} were predicted by different models or settings ({', '.join(f.name for f in files)})"
            ". Predict them into folders of their own."
        )
    return contents[0]


def _find_model(folder: Path, asked: dict[str, Any]) -> Path:
    plans = read_json(folder / "plans.json")
    dataset = plans.get("dataset_name") if isinstance(plans, dict) else None
    found = results_root() / str(dataset) / asked["model"]
    if not found.is_dir():
        raise ConfigurationError(
            f"The model {asked['model']} that made {folder} is not at {found}. Name its folder with -m."
        )
    read_plans(found)
    return found


def _flagged(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """Case -> report, of those that a person should look at or has begun to, the least confident first."""
    found = {}
    for case in sorted(predictions.cases):
        before = predictions.folder / BEFORE / f"{case}.json"
        file = before if before.is_file() else predictions.folder / f"{case}.json"
        report = read_json(file) if file.is_file() else {}
        if isinstance(report, dict) and report.get("look_at"):
            found[case] = report
    if not found:
        raise ConfigurationError(
            f"No report in {predictions.folder} says that a person should look at its case (look_at), or their images "
            "are not where they are looked for: there is nothing to review."
        )
    return dict(sorted(found.items(), key=lambda one: confidence_of(one[1])))


def _check_own(folder: Path, case: str, shown: dict[str, Any]) -> None:
    """Refuse a mask that is neither the prediction nor what the review has made of it."""
    record = folder / REVIEW / _WRITTEN / f"{case}.json"
    written = read_json(record)["mask"] if record.is_file() else shown["prediction"]
    mask = folder / shown["mask"]
    if written is not None and mask.is_file() and sha256_of_file(mask) not in (shown["prediction"], written):
        raise ConfigurationError(
            f"{mask} is neither the prediction that was shown nor what the review has made of it: it was predicted "
            f"anew or edited. To review it from the start move away {folder / REVIEW} and {folder / BEFORE}."
        )


def _cut(
    predictions: Predictions, case: str, report: dict[str, Any], max_slices: int | None
) -> tuple[_Shown, dict[int, np.ndarray], dict[int, np.ndarray], list[ItemCandidates]]:
    """How a case was cut, its slices that are shown, the same (3, H, W) as encoders see them where these see more, and
    its items in the order in which they come."""
    plans, mask = predictions.plans, predictions.mask(case)
    image = read_image(predictions.cases[case].images, n_channels=len(plans.preprocessing.normalization) or None)
    image, _ = as_trained(image, plans)
    label, _ = read_label_with_properties(mask)
    if label.shape != image.data.shape[1:]:
        raise DatasetError(
            f"{mask} has {label.shape} voxels (z, y, x) and its image {image.data.shape[1:]}; expected the image that "
            "it was predicted of. Name the folder of the images with -i."
        )
    turn = turn_to(orientation(image.properties), plans.preprocessing.orientation)
    channels, geometry = prepare_channels(turn.apply(image.data), plans)
    shown = distinct_channels(plans.preprocessing.channel_mapping)[1]
    planes, on_grid = np.moveaxis(turn.apply(label), geometry.axis, 0), geometry.label_to_slices(turn.apply(label))
    images: dict[int, np.ndarray] = {}
    seen: dict[int, np.ndarray] = {}
    items = []
    step = neighbour_step(plans.preprocessing.neighbours, turn.along(image.spacing)[geometry.axis])
    for name in _structures_in_question(report, list(plans.structures)):
        number = plans.structures[name].label
        sizes = (planes == number).sum((1, 2))
        for index in _slices(sizes, report["structures"].get(name, {}), max_slices):
            images[index] = channels[index][shown].astype(np.float32)
            if step:
                seen[index] = channels[with_neighbours(index, len(channels), step), 0].astype(np.float32)
            masks = on_grid[index][None] == number
            items.append(ItemCandidates(index, name, masks, np.zeros((0, 4), np.float32), 0.0))
    z, y, x = turn.along(image.spacing)
    dicom = [str(file) for file in image.properties.get("dicom_files", ())]
    cut = _Shown(geometry, turn, aspect_ratio(geometry, (z, y, x)), mask.name, sha256_of_file(mask),
                 list(report["reasons"]), dicom)
    return cut, {index: one[0] if (one == one[0]).all() else one for index, one in images.items()}, seen, items


def _structures_in_question(report: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Those that the reasons name; all of them where a reason is about the image itself."""
    own = {reason: [name for name in names if reason.startswith(f"{name}: ")] for reason in report["reasons"]}
    if not own or not all(own.values()):
        return list(names)
    return [name for name in names if any(name in of for of in own.values())]


def _slices(sizes: np.ndarray, entry: dict[str, Any], most: int | None) -> list[int]:
    """Which slices of a structure are shown, in their order.

    Args:
        sizes: (S,) pixels of the structure on each slice.
        entry: of the structure in the report.
        most: at most so many; None for all.
    """
    found = np.flatnonzero(sizes)
    if not len(found):
        presence = {prompt["slice"]: prompt["presence"] for prompt in entry.get("prompts", [])}
        return [max(presence, key=lambda index: presence[index]) if presence else len(sizes) // 2]
    first, last = max(found[0] - 1, 0), min(found[-1] + 1, len(sizes) - 1)  # where an end may be missed
    indices = list(range(first, last + 1))
    if most is None or len(indices) <= most:
        return indices
    largest = int(sizes.argmax())
    spread = {indices[round(place)] for place in np.linspace(0, len(indices) - 1, most)} if most > 1 else set()
    if largest not in spread:
        spread.discard(min(spread, key=lambda index: abs(index - largest), default=largest))
        spread.add(largest)
    return sorted(spread)

"""A resident model: ``from_model_folder`` once, then ``set_image`` and ``predict`` as often as you like.

``set_image`` does once what every prediction of an image needs: it reads and cuts it, and of a picture it makes the
prompts and the embeddings too. Slices of a volume are encoded when one of them is asked for.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from samdpo.dataset.images import read_image
from samdpo.dataset.orientation import AS_IT_LIES, Turn, orientation, turn_to, unknown_orientation
from samdpo.dataset.volume import Volume
from samdpo.errors import ConfigurationError, DatasetError, ModelFolderError
from samdpo.model.folder import FoldModel, load_fold, needs_prompts, read_plans, trained_folds
from samdpo.model.given_prompts import Plane, read_prompts
from samdpo.model.masks import NativeCollector, keep_largest_components
from samdpo.model.slices import SlicePredictions, predict_slices, segment_slices
from samdpo.model.smoothing import SliceSmoother
from samdpo.networks.device import resolve_device
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.precision import fast_matrix_products, memory_format, resolve_precision
from samdpo.plans import Plans
from samdpo.preprocessing.normalization import distinct_channels
from samdpo.preprocessing.preprocess import lies_across, prepare_channels
from samdpo.preprocessing.slicing import SliceGeometry, neighbour_step, with_neighbours
from samdpo.preprocessing.training_images import as_trained
from samdpo.prompting.box_prompt import WholeImagePrompter
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompter import Prompter

log = logging.getLogger(__name__)

SLICES_AT_ONCE = 16  # of which all probabilities are in memory


@dataclass(frozen=True)
class Prediction:
    """Result for one image, in its native geometry.

    Attributes:
        segmentation: (Z, Y, X) int16 label ids; Z is 1 for a 2D image.
        probabilities: (L, Z, Y, X) float32, one structure a row, in the order of the plan; None where they were not to
            be kept. An answer to a person's prompts has one structure, and of a volume one slice.
        report: per structure confidence, size and the prompts used, and whether a person should look at the case.
        properties: of the image read, for writing the result with the same geometry.
    """

    segmentation: np.ndarray
    probabilities: np.ndarray | None
    report: dict[str, Any]
    properties: dict[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class _SeenSlice:
    """A slice of the image, as each fold sees it.

    Attributes:
        index: among the slices that were cut.
        prompts: of each fold, one a structure.
        embeddings: of each fold, (1, C, h, w) float32 on its device; the same where encoders are.
    """

    index: int
    prompts: list[list[StructurePrompt]]
    embeddings: list[torch.Tensor]


@dataclass(frozen=True)
class _SeenVolume:
    """A volume as the prompter of one fold sees it.

    Attributes:
        raw: saliency of each slice before calibration, (L, 64, 64) float16.
        present: which structures each slice shows, as far as that is decided over the volume.
    """

    raw: list[np.ndarray]
    present: list[dict[str, bool]]


@dataclass
class _CutImage:
    """The image at hand.

    Attributes:
        name: in messages.
        channels: (S, C, size, size) float16, each channel that is shown once.
        shown: which of them the three of a slice are.
        geometry: way back to the turned image.
        turn: how the image was turned before it was cut.
        spacing: (z, y, x) mm of the image in its file.
        properties: of the image in its file.
        unlike: how it differs from the images of training.
        neighbours: how many slices away those are that the encoder sees beside a slice; 0 where it sees none.
        seen: the slice that was asked for last.
        volumes: of each fold that sees volumes, what it sees of every slice; None before the first prediction.
    """

    name: str
    channels: np.ndarray
    shown: Sequence[int]
    geometry: SliceGeometry
    turn: Turn
    spacing: Sequence[float]
    properties: dict[str, Any]
    unlike: list[str]
    neighbours: int = 0
    seen: _SeenSlice | None = None
    volumes: dict[int, _SeenVolume] | None = None

    def slice(self, index: int) -> np.ndarray:
        """A slice itself, (3, H, W) float32 in [0, 1]."""
        return self.channels[index][self.shown].astype(np.float32)

    def seen_slice(self, index: int) -> np.ndarray:
        """What an encoder sees of a slice, likewise."""
        if self.neighbours == 0:
            return self.slice(index)
        return self.channels[with_neighbours(index, len(self.channels), self.neighbours), 0].astype(np.float32)


class Predictor:
    """Segments images, without any prompt from a person or with one.

    Args:
        plans: of the model.
        folds: their networks, in eval mode, and prompters; one or several to average over.
        device: to run on; the networks are moved there.
        mirror: average with the mirror image's prediction (twice the time) where the plan says so.

    Example:
        >>> predictor = Predictor.from_model_folder("results/Dataset003_Liver/AlignTrainer__samdpoPlans__align")
        >>> predictor.set_image("case_0000.png")
        >>> mask = predictor.predict().segmentation  # every structure, without a prompt
        >>> liver = predictor.predict(boxes=[[40, 60, 200, 180]], structure="liver").segmentation
    """

    sees_neighbours = True  # where the plan shows them; False of networks that see the volume itself
    sees_batches = True  # of inference_batch_size slices; False where the volume is in memory as a whole

    def __init__(self, plans: Plans, folds: list[FoldModel], device: torch.device, mirror: bool = True) -> None:
        self.plans, self.folds, self.device = plans, folds, device
        self.mirror = mirror and plans.inference.mirror
        stage = folds[0].settings["stage"]
        self.precision = resolve_precision(plans.stage(stage).precision, device)
        self.batch_size = plans.stage(stage).inference_batch_size
        fast_matrix_products(device)
        encoders: list[FrozenEncoder] = []
        for fold in folds:
            self.place(fold.network)
            fold.network.decoder_precision = self.precision
            if needs_prompts(fold.network):
                fold.encoder = FrozenEncoder.shared(fold.network, device, self.precision, encoders)
        self.mask_cut = float(np.mean([f.settings["mask_cut"] for f in folds]))
        self._cut: _CutImage | None = None

    @classmethod
    def from_model_folder(
        cls,
        folder: Path | str,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = "checkpoint_final",
        device: str = "auto",
        mirror: bool = True,
        trainer: str | type | None = None,
    ) -> Predictor:
        """Load a trained model.

        Args:
            folder: ``TRAINER__PLANS__STAGE``.
            folds: to average over; by default those that are trained.
            checkpoint: ``checkpoint_final`` or ``checkpoint_best``.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
            mirror: average with the mirror image's prediction (twice the time) where the plan says so.
            trainer: class, or ``module:Class``, of a model that was trained by a class of your own with another
                architecture. No file's word is taken for that: a model folder is data.

        Raises:
            ModelFolderError: a file is missing or truncated, or a fold is not trained.
            ConfigurationError: the model is of a class of somebody's own, which is neither named nor installed.
        """
        folder, file = Path(folder), f"{checkpoint.removesuffix('.safetensors')}.safetensors"
        read_plans(folder)  # is it a model?
        there = trained_folds(folder, file)
        wanted = [str(f) for f in folds] if folds else there
        for fold in wanted:
            if fold not in there:
                raise ModelFolderError(
                    f"{folder / f'fold_{fold}' / file} is missing; trained folds: {', '.join(there) or 'none'}."
                )
        if not wanted:
            raise ModelFolderError(f"{folder} has no fold with {file}. Train one with: samdpo_train")
        plans = read_plans(folder, wanted)
        place = resolve_device(device)
        models = [load_fold(folder, fold, plans, file, place, trainer) for fold in wanted]
        return cls.of(plans, models, place, mirror)

    @classmethod
    def of(cls, plans: Plans, folds: list[FoldModel], device: torch.device, mirror: bool = True) -> Predictor:
        """What predicts with some networks: this class, or the one that networks of their kind bring."""
        own = getattr(folds[0].network, "predictor_class", None)
        return (own() if own else cls)(plans, folds, device, mirror)

    def place(self, network: nn.Module) -> None:
        """Move a network to the device, in the memory layout that is fastest there."""
        network.to(self.device, memory_format=memory_format(self.device))

    def set_image(self, image: Path | str | Sequence[Path | str] | np.ndarray) -> None:
        """Choose the image: a file, one file a channel, the folder of a DICOM series, or an array.

        An array is (Y, X), (C, Y, X) or (C, Z, Y, X).
        """
        if isinstance(image, np.ndarray):
            data = image.astype(np.float32)
            data = data[None, None] if data.ndim == 2 else data[:, None] if data.ndim == 3 else data
            if data.ndim != 4:
                raise DatasetError(f"An image array must be (Y, X), (C, Y, X) or (C, Z, Y, X); found {image.shape}.")
            read, name = Volume(data, (999.0, 1.0, 1.0), {}), "the array"
        else:
            files = [image] if isinstance(image, (str, Path)) else list(image)
            channels = len(self.plans.preprocessing.normalization) or None
            read, name = read_image([Path(f) for f in files], n_channels=channels), str(files[0])
        read, unlike = as_trained(read, self.plans)
        turn = turn_to(orientation(read.properties), self.plans.preprocessing.orientation)
        channels, geometry = prepare_channels(turn.apply(read.data), self.plans)
        unlike += [said] if (said := lies_across(read, geometry, self.plans.preprocessing)) else []
        step = neighbour_step(self.plans.preprocessing.neighbours, turn.along(read.spacing)[geometry.axis])
        shown = distinct_channels(self.plans.preprocessing.channel_mapping)[1]
        # Float16 as the store of training keeps them.
        self._cut = _CutImage(name, channels.astype(np.float16), shown, geometry, turn, read.spacing,
                              read.properties, unlike, step)
        if geometry.n_slices == 1 and self._takes_prompts:
            self._seen(0)

    def predict(
        self,
        points: Any = None,
        boxes: Any = None,
        mask: Any = None,
        structure: str | None = None,
        labels: Any = None,
        slice_index: int | None = None,
        keep_probabilities: bool = True,
    ) -> Prediction:
        """Segment the image chosen with :meth:`set_image`: without any prompt, or one structure where a person shows.

        With a point, a box or a mask only the decoder runs, once a fold. What is not given is not made up: SAM's own
        way, with the text of the structure beside it. Several boxes are parts of one structure. The answer is not
        averaged with the mirror image, and only the structure asked for is in it.

        Args:
            points: (N, 2) x, y in pixels of the image as it was given.
            boxes: (M, 4) x0, y0, x1, y1, likewise; x1 and y1 lie just outside.
            mask: (h, w) logits over the whole image, of any resolution, such as of an earlier answer.
            structure: whose text goes with the prompts and whose label is written; may be left out where the model
                knows one.
            labels: (N,) 1 for a point on the structure, 0 for one beside it; all 1 where left out.
            slice_index: of a volume, which slice is prompted on: it counts along the axis that the model cuts across,
                and x, y along the other two. The result has this slice alone.
            keep_probabilities: False for large volumes, whose probabilities may not fit into memory.

        Raises:
            DatasetError: there is no image yet.
            ConfigurationError: prompts that are none, lie outside of the image, or mean nothing to this model.
        """
        if self._cut is None:
            raise DatasetError("There is no image yet; call set_image first.")
        if points is not None or boxes is not None or mask is not None:
            return self._predict_prompted(points, labels, boxes, mask, structure, slice_index, keep_probabilities)
        for what, given in (("structure", structure), ("labels", labels), ("slice_index", slice_index)):
            if given is not None:
                raise ConfigurationError(
                    f"{what} is given ({given!r}) without a point, a box or a mask. Give one of them, or leave {what} "
                    "out to segment every structure without a prompt."
                )
        cut = self._cut
        prediction = self.predict_prepared(
            cut.geometry, cut.seen_slice if self.sees_neighbours else cut.slice, self._prompts_of,
            cut.turn.along(cut.spacing), cut.properties, keep_probabilities, cut.turn,
        )
        unknown = unknown_orientation(cut.properties, self.plans.preprocessing.orientation)
        if unknown:
            log.warning("%s: %s. A person should look at it.", cut.name, unknown)
        prediction.report["reasons"] = [*cut.unlike, *prediction.report["reasons"], *([unknown] if unknown else [])]
        prediction.report["look_at"] = bool(prediction.report["reasons"])
        return prediction

    @property
    def _takes_prompts(self) -> bool:
        return all(fold.encoder is not None for fold in self.folds)

    def _seen(self, index: int) -> _SeenSlice:
        """A slice of the image with its prompts and embeddings; of the last one that was asked for they are kept."""
        if self._cut.seen is None or self._cut.seen.index != index:
            seen = torch.from_numpy(self._cut.seen_slice(index)[None])
            prompts = [self._prompt(fold, index) for fold in self.folds]
            encoders = {id(fold.encoder): fold.encoder for fold in self.folds}
            embeddings = {key: encode(seen) for key, encode in encoders.items()}
            self._cut.seen = _SeenSlice(index, prompts, [embeddings[id(fold.encoder)] for fold in self.folds])
        return self._cut.seen

    def _features(self, prompter: Prompter | WholeImagePrompter, index: int) -> dict[str, torch.Tensor]:
        """What the published encoder makes of a slice where it sees its neighbours; else prompters do it themselves."""
        if self._cut.neighbours == 0 or not getattr(prompter, "sees_features", False):
            return {}
        return {"features": prompter.extractor(torch.from_numpy(self._cut.seen_slice(index)[None]))[0]}

    def _prompt(self, fold: FoldModel, index: int) -> list[StructurePrompt]:
        """The prompts of a slice by itself."""
        return fold.prompter.prompt(self._cut.slice(index), **self._features(fold.prompter, index))

    def _prompts_of(self, fold: FoldModel, index: int, image: np.ndarray) -> list[StructurePrompt]:
        seen, number = self._cut.seen, next(i for i, own in enumerate(self.folds) if own is fold)
        if self._cut.volumes is None:
            self._cut.volumes = self._seen_volumes()
        if number in self._cut.volumes:
            volume = self._cut.volumes[number]
            given = self._features(fold.prompter, index) if fold.prompter.judges else {}
            return fold.prompter.prompt(
                self._cut.slice(index), raw=volume.raw[index], present=volume.present[index], **given
            )
        if seen is not None and seen.index == index:
            return seen.prompts[number]
        return self._prompt(fold, index)

    def _seen_volumes(self) -> dict[int, _SeenVolume]:
        """Of each fold whose prompter decides over all slices of a volume together; {} for a picture."""
        cut = self._cut
        asked = {i: fold.prompter for i, fold in enumerate(self.folds) if getattr(fold.prompter, "sees_volumes", False)}
        if not asked or cut.geometry.n_slices == 1:
            return {}
        raw: dict[int, list[np.ndarray]] = {i: [] for i in asked}
        # From the last slice, so that what frozen stages say of the first ones is kept still when these are segmented;
        # and slice by slice, so that what folds share is computed once.
        for index in tqdm(range(cut.geometry.n_slices - 1, -1, -1), desc="presence", leave=False):
            for i, prompter in asked.items():
                given = self._features(prompter, index)
                raw[i].append(prompter.raw_saliency(cut.slice(index), **given).astype(np.float16))
        spacing = float(cut.turn.along(cut.spacing)[cut.geometry.axis])
        return {
            i: _SeenVolume(raw[i][::-1], prompter.presence(raw[i][::-1], spacing)) for i, prompter in asked.items()
        }

    @torch.no_grad()
    def _predict_prompted(
        self, points: Any, labels: Any, boxes: Any, mask: Any, structure: str | None, slice_index: int | None,
        keep_probabilities: bool,
    ) -> Prediction:
        name, cut = self._structure(structure), self._cut
        plane, n_slices = Plane(cut.geometry, cut.turn), cut.geometry.n_slices
        if slice_index is None and n_slices > 1:
            raise ConfigurationError(
                f"The image has {n_slices} slices; say on which one the prompts are, with slice_index=0 to "
                f"{n_slices - 1}."
            )
        index = slice_index or 0
        if not 0 <= index < n_slices:
            raise ConfigurationError(f"slice_index is {index}; the image has the slices 0 to {n_slices - 1}.")
        given, number = read_prompts(points, labels, boxes, mask, plane), plane.cut_index(index)
        if not len(given.points) and not len(given.boxes) and given.mask is None:
            raise ConfigurationError("There is no point and no box among the prompts; give one, or a mask.")
        prompting, found = self.plans.prompting, []
        seen = self._seen(number)
        for fold, prompts, embeddings in zip(self.folds, seen.prompts, seen.embeddings):
            own = next(prompt for prompt in prompts if prompt.structure == name)
            told = own.text if prompting.use_answers or prompting.use_descriptions else ""
            batch = given.batch(cut.geometry.image_size, own.text_embedding if told else None,
                                self.plans.network.text_dim)
            found.append(fold.network.decode(embeddings, batch.to(self.device))[0].sigmoid().cpu().numpy())
        text = next(prompt.text for prompt in seen.prompts[0] if prompt.structure == name)
        shape = list(cut.geometry.native_shape)
        shape[cut.geometry.axis] = 1
        one_slice = dataclasses.replace(cut.geometry, native_shape=tuple(shape))
        collected = NativeCollector(one_slice, [self.plans.structures[name].label], self.mask_cut, keep_probabilities)
        collected.add(0, np.mean(found, axis=0)[None])
        pixels = int(np.count_nonzero(collected.segmentation))
        entry = {"confidence": round(collected.confidence(0), 4), "pixels": pixels,
                 "prompts": [given.report(number, text)]}
        report = {"structures": {name: entry}, "look_at": bool(cut.unlike), "reasons": list(cut.unlike),
                  "mask_cut": self.mask_cut, **cut.turn.to_json()}
        return _turned_back(collected, cut.turn, report, cut.properties)

    def _structure(self, name: str | None) -> str:
        """The structure that a person's prompts are of."""
        if not self._takes_prompts:
            raise ConfigurationError(
                f"The network of this model ({type(self.folds[0].network).__name__}) takes no prompts; call predict "
                "without points, boxes and mask."
            )
        known = list(self.plans.structures)
        if name is None and len(known) == 1:
            return known[0]
        if name not in known:
            what = "Say of which structure the prompts are" if name is None else f"There is no structure {name!r}"
            raise ConfigurationError(f"{what}; this model knows structure={' or '.join(map(repr, known))}.")
        return name

    def predict_prepared(
        self,
        geometry: SliceGeometry,
        image_of: Callable[[int], np.ndarray],
        prompts_of: Callable[[FoldModel, int, np.ndarray], list[StructurePrompt]],
        spacing: Sequence[float],
        properties: dict[str, Any],
        keep_probabilities: bool = True,
        turn: Turn = AS_IT_LIES,
    ) -> Prediction:
        """Segment slices that are already cut; a few are in memory at once.

        Args:
            geometry: way back to native pixels.
            image_of: slice index -> (3, H, W) float32 in [0, 1].
            prompts_of: fold, slice index and image -> prompts of the slice's structures.
            spacing: (z, y, x) mm of what was cut.
            properties: of the image file.
            keep_probabilities: whether the result holds them.
            turn: how the image was turned before it was cut.
        """
        labels = [s.label for s in self.plans.structures.values()]
        collected = NativeCollector(geometry, labels, self.mask_cut, keep_probabilities)
        used: dict[str, list[dict[str, Any]]] = {name: [] for name in self.plans.structures}
        presence: dict[str, list[float]] = {n: [] for n, plan in self.plans.structures.items() if plan.may_be_absent}
        smoother = SliceSmoother(self.plans.inference.smooth_mm / spacing[geometry.axis], geometry.n_slices)
        starts = range(0, geometry.n_slices, SLICES_AT_ONCE)
        for start in tqdm(starts, desc="slices", leave=False, disable=len(starts) < 2):
            indices = range(start, min(start + SLICES_AT_ONCE, geometry.n_slices))
            images = torch.from_numpy(np.stack([np.asarray(image_of(index), np.float32) for index in indices]))
            # Prompts of all folds first: what they need of a slice is computed once, and so is its embedding by folds
            # whose encoders are the same.
            prompts = [self._prompts(fold, indices, images, prompts_of) for fold in self.folds]
            of_folds = [self._predict_fold(fold, indices, images, of) for fold, of in zip(self.folds, prompts)]
            for of_slice in zip(*prompts):
                for name, scores in presence.items():
                    found = [prompt.score for of_fold in of_slice for prompt in of_fold if prompt.structure == name]
                    scores += [round(float(np.mean(found)), 4)] if found else []
            collected.add(*smoother.push(np.mean([predicted.probabilities for predicted in of_folds], axis=0)))
            for index, of, places in zip(indices, of_folds[0].used, of_folds[0].places):
                for prompt, place in zip(of, places):
                    used[prompt.structure].append(_prompt_entry(index, prompt, place))
        whole = [self.plans.structures[name].label for name in self.plans.inference.largest_component]
        keep_largest_components(collected.segmentation, whole)
        report = self._report(collected, used, presence, spacing)
        report.update(turn.to_json())  # slices, boxes and points are counted after it
        return _turned_back(collected, turn, report, properties)

    def _prompts(
        self, fold: FoldModel, indices: range, images: torch.Tensor,
        prompts_of: Callable[[FoldModel, int, np.ndarray], list[StructurePrompt]],
    ) -> list[list[StructurePrompt]]:
        if fold.encoder is None:
            return [[] for _ in indices]
        return [prompts_of(fold, index, image) for index, image in zip(indices, images.numpy())]

    def _predict_fold(
        self, fold: FoldModel, indices: range, images: torch.Tensor, prompts: list[list[StructurePrompt]]
    ) -> SlicePredictions:
        if fold.encoder is None:
            return segment_slices(
                fold.network, images, self.device, self.precision, self.mirror, self.batch_size
            )
        return predict_slices(
            fold.network, images, prompts, self.plans, self.device, self.precision, self.mirror, self.batch_size,
            encode=fold.encoder,
        )

    def _report(
        self, collected: NativeCollector, used: dict[str, list[dict[str, Any]]], presence: dict[str, list[float]],
        spacing: Sequence[float],
    ) -> dict[str, Any]:
        """What a person reads beside the mask; boxes and points in pixels of the 256 grid."""
        structures, reasons = {}, []
        sizes = np.bincount(collected.segmentation.ravel(), minlength=max(collected.labels) + 1)
        for row, (name, plan) in enumerate(self.plans.structures.items()):
            confidence, pixels = collected.confidence(row), int(sizes[plan.label])
            entry: dict[str, Any] = {"confidence": round(confidence, 4), "pixels": pixels}
            if collected.segmentation.shape[0] > 1:
                entry["volume_ml"] = pixels * float(np.prod(spacing)) / 1000
            thresholds = [fold.prompter.settings.calibrations[name].presence_threshold for fold in self.folds
                          if isinstance(fold.prompter, Prompter)
                          and fold.prompter.decides_by_score(name, collected.geometry.n_slices)]
            if presence.get(name) and thresholds:
                entry |= {"presence": presence[name], "presence_threshold": round(float(np.mean(thresholds)), 4)}
            structures[name] = {**entry, "prompts": used[name]}
            threshold = float(np.mean([f.settings.get("confidence_threshold", {}).get(name, 0.0) for f in self.folds]))
            if pixels == 0 and not plan.may_be_absent:
                reasons.append(f"{name}: nothing was found, and it is always there in the training cases")
            elif pixels and confidence < threshold:
                reasons.append(f"{name}: confidence {confidence:.2f} is below {threshold:.2f}, "
                               "which 9 of 10 training images exceed")
            believed = [one["place_confidence"] for one in used[name] if "place_confidence" in one]
            doubtful = self._doubtful_place(name)
            if believed:
                entry = structures[name] = {**structures[name], "place_confidence": round(min(believed), 4)}
                if entry["place_confidence"] < doubtful:
                    reasons.append(f"{name}: it may be elsewhere; the judge's belief in its place is "
                                   f"{min(believed):.2f}, below {doubtful:.2f}, which 9 of 10 right ones exceed")
        return {"structures": structures, "look_at": bool(reasons), "reasons": reasons, "mask_cut": self.mask_cut}

    def _doubtful_place(self, name: str) -> float:
        """Mean over the folds of the belief below which a structure's place is doubtful."""
        judged = [fold.prompter.settings.judges[name].doubtful for fold in self.folds
                  if fold.encoder is not None and name in getattr(fold.prompter, "judges", {})]
        return float(np.mean(judged)) if judged else 0.0


def _turned_back(
    collected: NativeCollector, turn: Turn, report: dict[str, Any], properties: dict[str, Any]
) -> Prediction:
    probabilities = collected.probabilities
    return Prediction(
        turn.undo(collected.segmentation), None if probabilities is None else turn.undo(probabilities), report,
        properties,
    )


def _prompt_entry(index: int, prompt: StructurePrompt, place: int) -> dict[str, Any]:
    """The prompt used on a slice, as the report lists it."""
    entry = {
        "slice": index, "presence": float(prompt.score), "place": place, "boxes": prompt.boxes.tolist(),
        "points": prompt.points.tolist(), "text": prompt.text,
    }
    return entry | ({"place_confidence": prompt.place_confidence} if prompt.place_confidence != 1 else {})

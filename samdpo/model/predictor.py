"""A resident model: ``from_model_folder`` once, then ``set_image`` and ``predict`` as often as you like."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from samdpo.dataset.images import read_image
from samdpo.dataset.orientation import AS_IT_LIES, Turn, orientation, turn_to, unknown_orientation
from samdpo.dataset.volume import Volume
from samdpo.errors import DatasetError, ModelFolderError
from samdpo.model.clean_up import keep_largest_components
from samdpo.model.folder import FoldModel, load_fold, read_plans, trained_folds
from samdpo.model.native import NativeCollector
from samdpo.model.prompt_free import segment_slices
from samdpo.model.slices import SlicePredictions, predict_slices
from samdpo.model.smoothing import SliceSmoother
from samdpo.networks.device import resolve_device
from samdpo.networks.frozen_encoder import FrozenEncoder
from samdpo.networks.precision import fast_matrix_products, memory_format, resolve_precision
from samdpo.networks.prompt_free import PromptFreeNetwork
from samdpo.networks.sam import SamNetwork
from samdpo.networks.volume_network import VolumeNetwork
from samdpo.plans import Plans
from samdpo.preprocessing.normalization import distinct_channels
from samdpo.preprocessing.preprocess import prepare_channels
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.training_images import as_trained
from samdpo.prompting.prompt import StructurePrompt

if TYPE_CHECKING:
    from samdpo.training.trainer import Trainer

log = logging.getLogger(__name__)

SLICES_AT_ONCE = 16  # of which all probabilities are in memory


@dataclass(frozen=True)
class Prediction:
    """Result for one image, in its native geometry.

    Attributes:
        segmentation: (Z, Y, X) int16 label ids; Z is 1 for a 2D image.
        probabilities: (L, Z, Y, X) float32, one structure a row, in the order of the plan; None where they were not to
            be kept.
        report: per structure confidence, size and the prompts used, and whether a person should look at the case.
        properties: of the image read, for writing the result with the same geometry.
    """

    segmentation: np.ndarray
    probabilities: np.ndarray | None
    report: dict[str, Any]
    properties: dict[str, Any] = field(repr=False, default_factory=dict)


class Predictor:
    """Segments images without any prompt from a person.

    Example:
        >>> predictor = Predictor.from_model_folder("results/Dataset003_Liver/AlignTrainer__samdpoPlans__align")
        >>> predictor.set_image("case_0000.png")
        >>> mask = predictor.predict().segmentation
    """

    def __init__(self, plans: Plans, folds: list[FoldModel], device: torch.device, mirror: bool = True) -> None:
        self.plans, self.folds, self.device = plans, folds, device
        self.mirror = mirror and plans.inference.mirror
        stage = folds[0].settings["stage"]
        self.precision = resolve_precision(plans.stage(stage).precision, device)
        self.batch_size = plans.stage(stage).inference_batch_size
        fast_matrix_products(device)
        for fold in folds:
            fold.network.decoder_precision = self.precision
            if isinstance(fold.network, SamNetwork):
                fold.encoder = FrozenEncoder(fold.network, device, self.precision)
        self.mask_cut = float(np.mean([f.settings["mask_cut"] for f in folds]))
        self._image: Volume | None = None
        self._name = "the array"  # of the image, in messages
        self._unlike: list[str] = []  # how it differs from the images of training

    @classmethod
    def from_model_folder(
        cls,
        folder: Path | str,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = "checkpoint_final",
        device: str = "auto",
        mirror: bool = True,
        trainer: str | type[Trainer] | None = None,
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
        if isinstance(models[0].network, VolumeNetwork):
            return models[0].network.predictor_class()(plans, models, place, mirror)
        for model in models:
            model.network.to(place, memory_format=memory_format(place))
        return cls(plans, models, place, mirror)

    def set_image(self, image: Path | str | Sequence[Path | str] | np.ndarray) -> None:
        """Choose the image: a file, one file a channel, the folder of a DICOM series, or an array.

        An array is (Y, X), (C, Y, X) or (C, Z, Y, X).
        """
        if isinstance(image, np.ndarray):
            data = image.astype(np.float32)
            data = data[None, None] if data.ndim == 2 else data[:, None] if data.ndim == 3 else data
            if data.ndim != 4:
                raise DatasetError(f"An image array must be (Y, X), (C, Y, X) or (C, Z, Y, X); found {image.shape}.")
            self._image, self._name = Volume(data, (999.0, 1.0, 1.0), {}), "the array"
        else:
            files = [image] if isinstance(image, (str, Path)) else list(image)
            channels = len(self.plans.preprocessing.normalization) or None
            self._image, self._name = read_image([Path(f) for f in files], n_channels=channels), str(files[0])
        self._image, self._unlike = as_trained(self._image, self.plans)

    def predict(self, keep_probabilities: bool = True) -> Prediction:
        """Segment the image chosen with :meth:`set_image`.

        Args:
            keep_probabilities: False for large volumes, whose probabilities may not fit into memory.
        """
        if self._image is None:
            raise DatasetError("There is no image yet; call set_image first.")
        read, wanted = self._image.properties, self.plans.preprocessing.orientation
        turn = turn_to(orientation(read), wanted)
        channels, geometry = prepare_channels(turn.apply(self._image.data), self.plans)
        channels = channels.astype(np.float16)  # as the store of training keeps them
        shown = distinct_channels(self.plans.preprocessing.channel_mapping)[1]
        prediction = self.predict_prepared(
            geometry,
            lambda index: channels[index][shown].astype(np.float32),
            lambda fold, _, image: fold.prompter.prompt(image),
            turn.along(self._image.spacing), read, keep_probabilities, turn,
        )
        unknown = unknown_orientation(read, wanted)
        if unknown:
            log.warning("%s: %s. A person should look at it.", self._name, unknown)
        prediction.report["reasons"] = [*self._unlike, *prediction.report["reasons"], *([unknown] if unknown else [])]
        prediction.report["look_at"] = bool(prediction.report["reasons"])
        return prediction

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
        smoother = SliceSmoother(self.plans.inference.smooth_mm / spacing[geometry.axis], geometry.n_slices)
        starts = range(0, geometry.n_slices, SLICES_AT_ONCE)
        for start in tqdm(starts, desc="slices", leave=False, disable=len(starts) < 2):
            indices = range(start, min(start + SLICES_AT_ONCE, geometry.n_slices))
            images = torch.from_numpy(np.stack([np.asarray(image_of(index), np.float32) for index in indices]))
            of_folds = [self._predict_fold(fold, indices, images, prompts_of) for fold in self.folds]
            collected.add(*smoother.push(np.mean([predicted.probabilities for predicted in of_folds], axis=0)))
            for index, of, places in zip(indices, of_folds[0].used, of_folds[0].places):
                for prompt, place in zip(of, places):
                    used[prompt.structure].append(_prompt_entry(index, prompt, place))
        whole = [self.plans.structures[name].label for name in self.plans.inference.largest_component]
        keep_largest_components(collected.segmentation, whole)
        report = self._report(collected, used, spacing)
        report.update(turn.to_json())  # slices, boxes and points are counted after it
        probabilities = collected.probabilities
        return Prediction(
            turn.undo(collected.segmentation), None if probabilities is None else turn.undo(probabilities), report,
            properties,
        )

    def _predict_fold(
        self, fold: FoldModel, indices: range, images: torch.Tensor,
        prompts_of: Callable[[FoldModel, int, np.ndarray], list[StructurePrompt]],
    ) -> SlicePredictions:
        if isinstance(fold.network, PromptFreeNetwork):
            return segment_slices(
                fold.network, images, self.device, self.precision, self.mirror, self.batch_size
            )
        prompts = [prompts_of(fold, index, image) for index, image in zip(indices, images.numpy())]
        return predict_slices(
            fold.network, images, prompts, self.plans, self.device, self.precision, self.mirror, self.batch_size,
            encode=fold.encoder,
        )

    def _report(
        self, collected: NativeCollector, used: dict[str, list[dict[str, Any]]], spacing: Sequence[float]
    ) -> dict[str, Any]:
        """What a person reads beside the mask; boxes and points in pixels of the 256 grid."""
        structures, reasons = {}, []
        sizes = np.bincount(collected.segmentation.ravel(), minlength=max(collected.labels) + 1)
        for row, (name, plan) in enumerate(self.plans.structures.items()):
            confidence, pixels = collected.confidence(row), int(sizes[plan.label])
            entry: dict[str, Any] = {"confidence": round(confidence, 4), "pixels": pixels}
            if collected.segmentation.shape[0] > 1:
                entry["volume_ml"] = pixels * float(np.prod(spacing)) / 1000
            structures[name] = {**entry, "prompts": used[name]}
            threshold = float(np.mean([f.settings.get("confidence_threshold", {}).get(name, 0.0) for f in self.folds]))
            if pixels == 0 and not plan.may_be_absent:
                reasons.append(f"{name}: nothing was found, and it is always there in the training cases")
            elif pixels and confidence < threshold:
                reasons.append(f"{name}: confidence {confidence:.2f} is below {threshold:.2f}, "
                               "which 9 of 10 training images exceed")
        return {"structures": structures, "look_at": bool(reasons), "reasons": reasons, "mask_cut": self.mask_cut}


def _prompt_entry(index: int, prompt: StructurePrompt, place: int) -> dict[str, Any]:
    """The prompt used on a slice, as the report lists it."""
    return {
        "slice": index, "presence": float(prompt.score), "place": place, "boxes": prompt.boxes.tolist(),
        "points": prompt.points.tolist(), "text": prompt.text,
    }

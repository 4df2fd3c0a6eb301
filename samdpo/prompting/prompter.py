"""Everything needed to prompt a new slice: image-text model, its calibration, the structures. Saved as one folder."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from samdpo.errors import ModelFolderError
from samdpo.files import read_json, write_json
from samdpo.networks.device import resolve_device
from samdpo.plans import NetworkPlan, PromptingPlan, StructurePlan
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.answers.asking import with_model_answers
from samdpo.prompting.assemble import assemble_prompt, prompt_at, with_text_embeddings
from samdpo.prompting.axial import AxialMap
from samdpo.prompting.calibration import StructureCalibration, presence_scores
from samdpo.prompting.frozen_features import FeatureExtractor
from samdpo.prompting.image_text import ImageTextModel, ImageView
from samdpo.prompting.judge import JudgeSettings, PlaceJudge, load_judges, measure, save_judges
from samdpo.prompting.lite_model import LiteTowersModel
from samdpo.prompting.open_clip_files import find_open_clip
from samdpo.prompting.open_clip_loading import shared_open_clip
from samdpo.prompting.open_clip_model import OpenClipModel
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.proposals import PlaceProposer, thinned
from samdpo.prompting.saliency import raw_saliency
from samdpo.prompting.text_encoder import TextEncoder, shared_text_encoder
from samdpo.schema import from_dict, to_dict

log = logging.getLogger(__name__)

_WEIGHTS, _SETTINGS, _JUDGES = "towers.safetensors", "prompter.json", "judges.safetensors"
_REMEDY = "Train the model again, or make its prompts with: samdpo_prompt DATASET FOLD"


@dataclass(frozen=True)
class PrompterSettings:
    """What the JSON of a prompter's folder holds.

    Attributes:
        structures: by name, in the order of the prompts.
        prompting: names the image-text model.
        network: names the backbone whose frozen features the towers see.
        calibrations: by structure.
        feature_channels: of those features.
        image_text_checksum: SHA-256 of the weights of a pretrained image-text model, which are not copied.
        judges: of the structures whose place a judge chooses, what it looks at.
        axial: where structures lie along a volume's axis; None where presence is decided slice by slice.
    """

    structures: dict[str, StructurePlan]
    prompting: PromptingPlan
    network: NetworkPlan
    calibrations: dict[str, StructureCalibration] = field(default_factory=dict)
    feature_channels: int = 256
    image_text_checksum: str = ""
    judges: dict[str, JudgeSettings] = field(default_factory=dict)  # of structures whose place a judge chooses
    axial: AxialMap | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.feature_channels <= 1 << 16:
            raise ValueError(f"'feature_channels' is {self.feature_channels}; expected 1 to {1 << 16}")
        for name in self.axial.places if self.axial else ():
            if name not in self.structures:
                raise ValueError(f"'axial' has the structure {name!r}, which is not among 'structures'")


class Prompter:
    """Prompts slices, one after another.

    Args:
        settings: structures, prompting, backbone and calibrations.
        model: the settings' image-text model, on ``device``.
        device: where models run.
        judges: of the structures that ``settings.judges`` names.
    """

    def __init__(
        self, settings: PrompterSettings, model: ImageTextModel, device: torch.device | str = "cpu",
        judges: Mapping[str, PlaceJudge] | None = None,
    ) -> None:
        self.settings, self.model, self.device = settings, model, resolve_device(device)
        self.judges = dict(judges or {})

    @functools.cached_property
    def extractor(self) -> FeatureExtractor:
        """The published network, which proposes what judges choose from."""
        encode = getattr(self.model, "encode", None)
        return encode if isinstance(encode, FeatureExtractor) else FeatureExtractor(self.settings.network, self.device)

    @property
    def sees_features(self) -> bool:
        """Whether it looks at features of the frozen encoder: fitted towers do, and judges."""
        return self.settings.prompting.fits_towers or bool(self.judges)

    @property
    def text_encoder(self) -> TextEncoder:
        """Of answers and descriptions."""
        if self.settings.prompting.text_encoder == "image_text_model":
            return self.model.text_encoder
        return shared_text_encoder()

    def raw_saliency(self, image: np.ndarray, features: torch.Tensor | None = None) -> np.ndarray:
        """(S, 64, 64) saliency before calibration of an image (3, H, W) in [0, 1]."""
        view = ImageView(torch.from_numpy(np.ascontiguousarray(image, np.float32)), features)
        prompting = self.settings.prompting
        phrases = [plan.phrase or name for name, plan in self.settings.structures.items()]
        return raw_saliency(self.model, view, phrases, prompting.saliency, prompting.gscorecam_top_k)

    @property
    def sees_volumes(self) -> bool:
        """Whether it decides over all slices of a volume together which structures are present."""
        return self.settings.axial is not None

    def decides_by_score(self, structure: str, n_slices: int) -> bool:
        """Whether the presence score of a slice alone, and its calibrated threshold, say if a structure is there.

        Args:
            structure: its name.
            n_slices: of the image; a single one has no others to decide with.
        """
        axial = self.settings.axial if n_slices > 1 else None
        return structure in self.settings.calibrations and not (axial and structure in axial.places)

    def presence(self, raw: Sequence[np.ndarray], spacing: float) -> list[dict[str, bool]]:
        """Which structures each slice of a volume shows; those that are decided slice by slice are left out.

        Args:
            raw: of every slice in order, what :meth:`raw_saliency` gives.
            spacing: mm between two slices.
        """
        if self.settings.axial is None:
            return [{} for _ in raw]
        scores = presence_scores(self.settings.structures, self.settings.calibrations, raw)
        found = self.settings.axial.present(dict(zip(self.settings.structures, scores.T)), spacing)
        return [{name: bool(of[index]) for name, of in found.items()} for index in range(len(raw))]

    def prompt(
        self, image: np.ndarray, features: torch.Tensor | np.ndarray | None = None, seed: int = 0,
        raw: np.ndarray | None = None, present: Mapping[str, bool] | None = None,
    ) -> list[StructurePrompt]:
        """Prompt one slice.

        Args:
            image: (3, H, W) in [0, 1].
            features: (C, h, w) of the frozen, pretrained encoder; computed of the image alone where None, so a plan
                with ``preprocessing.neighbours`` needs them. An encoder that stage 1 has trained gives other ones.
            seed: of the points.
            raw: what :meth:`raw_saliency` gives of the image, where it is known already.
            present: what :meth:`presence` gives of the slice, of a volume.

        Returns:
            One prompt a structure, in the plan's order, absent ones included.
        """
        return self.with_texts([self.locate(image, features, seed, raw, present)], [image])[0]

    def with_texts(
        self,
        prompts: Sequence[Sequence[StructurePrompt]],
        images: Sequence[np.ndarray],
        seen_in: Sequence[SliceKey | None] | None = None,
    ) -> list[list[StructurePrompt]]:
        """What :meth:`locate` gave for some slices, with the answers of a model where the plan asks one, embedded.

        Args:
            prompts: for each slice the prompts of its structures.
            images: the slices, (3, H, W) in [0, 1].
            seen_in: case and number of each slice, by which a person finds its answers.
        """
        settings = self.settings
        prompts = with_model_answers(
            prompts, images, settings.structures, settings.prompting, seen_in, self.device
        )
        return [with_text_embeddings(of_slice, self.text_encoder) for of_slice in prompts]

    def locate(
        self,
        image: np.ndarray,
        features: torch.Tensor | np.ndarray | None = None,
        seed: int = 0,
        raw: np.ndarray | None = None,
        present: Mapping[str, bool] | None = None,
    ) -> list[StructurePrompt]:
        """As :meth:`prompt`, without text embeddings and a model's answers: what is fast."""
        image = np.asarray(image, np.float32)  # a tensor too
        if features is not None and not isinstance(features, torch.Tensor):
            features = torch.from_numpy(np.asarray(features))
        if self.judges and features is None:
            features = self.extractor(torch.from_numpy(image[None]))[0]
        raw = self.raw_saliency(image, features) if raw is None else raw
        generator, of_places = np.random.default_rng(seed), np.random.default_rng(seed)  # as training draws them
        prompts = []
        for row, (name, plan) in enumerate(self.settings.structures.items()):
            calibration = self.settings.calibrations.get(name, StructureCalibration())
            logits = calibration.apply(raw[row])
            there = (present or {}).get(name)
            prompt = assemble_prompt(name, plan, self.settings.prompting, calibration, image, logits, generator, there)
            if name in self.judges and prompt.present:
                prompt = self.judged(prompt, image, features, of_places)
            prompts.append(prompt)
        return prompts

    def judged(
        self, prompt: StructurePrompt, image: np.ndarray, features: torch.Tensor, generator: np.random.Generator
    ) -> StructurePrompt:
        """A prompt at the place that the structure's judge likes best; as it was where nothing is proposed.

        Args:
            prompt: of the saliency.
            image: (3, H, W) in [0, 1].
            features: (C, h, w) of the published encoder.
            generator: of the points.
        """
        settings, judge = self.settings.judges[prompt.structure], self.judges[prompt.structure]
        proposer = PlaceProposer(self.extractor.network, settings.blobs, settings.kept, settings.grid)
        proposals = proposer.propose(image, features, prompt.hypotheses, settings.shape)
        if not len(proposals):
            return prompt
        measured = measure(image, features, prompt.saliency, prompt.coarse_mask, proposals)
        said = judge.judge(measured, thinned(proposals.masks))  # as in training
        plan = self.settings.structures[prompt.structure]
        return prompt_at(prompt, proposals.masks[said.first].numpy(), proposals.saliency[said.first], plan,
                         self.settings.prompting, generator, said.confidence)

    def save(self, folder: Path) -> None:
        """Write settings and fitted towers into ``folder``, each file atomically.

        A pretrained model is not copied: the settings hold its name and the checksum of its weights.
        """
        folder = Path(folder)
        if isinstance(self.model, LiteTowersModel):
            self.model.save(folder / _WEIGHTS)
        if self.judges:
            save_judges(self.judges, folder / _JUDGES)
        write_json(folder / _SETTINGS, to_dict(self.settings))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", may_download: bool = True) -> Prompter:
        """Read what :meth:`save` wrote.

        A pretrained model is found at once and loaded when it is first needed; training only needs its prompts.

        Args:
            folder: that was written.
            device: where models run.
            may_download: whether a pretrained model that is not on this machine is fetched because the folder names
                it; see :func:`~samdpo.prompting.open_clip_files.find_open_clip`.

        Raises:
            ModelFolderError: a file is missing, truncated or of other settings.
            ConfigurationError: the pretrained model is not on this machine and cannot be downloaded.
        """
        folder, device = Path(folder), resolve_device(device)
        settings = from_dict(
            PrompterSettings,
            read_json(folder / _SETTINGS, error=ModelFolderError, remedy=_REMEDY),
            source=str(folder / _SETTINGS),
        )
        judges = load_judges(settings.judges, folder / _JUDGES) if settings.judges else {}
        if not settings.prompting.fits_towers:
            name = find_open_clip(settings.prompting.image_text_model, may_download).name
            load = functools.partial(shared_open_clip, name, str(device), settings.image_text_checksum, may_download)
            return cls(settings, OpenClipModel(load), device, judges)
        try:
            model = LiteTowersModel.load(
                folder / _WEIGHTS, len(settings.structures), settings.feature_channels, settings.prompting.tower_dim,
                FeatureExtractor(settings.network, device), device, settings.prompting.tower_grid,
            )
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ModelFolderError(
                f"{folder / _WEIGHTS} is missing, truncated or of other settings ({first}). {_REMEDY}"
            ) from error
        return cls(settings, model, device, judges)

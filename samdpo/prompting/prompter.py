"""Everything needed to prompt a new slice: fitted towers, their calibration, the structures. Saved as one folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from samdpo.errors import ModelFolderError
from samdpo.files import read_json, write_json
from samdpo.networks.device import resolve_device
from samdpo.networks.weights import save_weights
from samdpo.plans import NetworkPlan, PromptingPlan, StructurePlan
from samdpo.prompting.assemble import assemble_prompt, with_text_embeddings
from samdpo.prompting.calibration import StructureCalibration
from samdpo.prompting.features import FeatureExtractor
from samdpo.prompting.image_text import ImageView
from samdpo.prompting.lite_model import LiteTowersModel
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.saliency import raw_saliency
from samdpo.prompting.towers import Towers, TowerTexts
from samdpo.schema import from_dict, to_dict

log = logging.getLogger(__name__)

_WEIGHTS, _SETTINGS = "towers.safetensors", "prompter.json"
_REMEDY = "Train the model again, or make its prompts with: samdpo_prompt DATASET FOLD"


@dataclass(frozen=True)
class PrompterSettings:
    """What the JSON of a prompter's folder holds."""

    structures: dict[str, StructurePlan]
    prompting: PromptingPlan
    network: NetworkPlan
    calibrations: dict[str, StructureCalibration] = field(default_factory=dict)
    feature_channels: int = 256


class Prompter:
    """Prompts slices, one after another.

    Args:
        settings: structures, prompting, backbone and calibrations.
        towers: fitted towers.
        texts: embedded phrases, structures in the settings' order.
        extractor: the frozen encoder; made from the settings when first needed if None.
    """

    def __init__(
        self,
        settings: PrompterSettings,
        towers: Towers,
        texts: TowerTexts,
        extractor: FeatureExtractor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = resolve_device(device)
        self.settings, self.towers, self.texts = settings, towers.to(self.device), texts
        self._extractor = extractor
        self.model = LiteTowersModel(towers, texts, self.extract)

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) float16 of images (B, 3, H, W) in [0, 1] by the frozen encoder."""
        if self._extractor is None:
            self._extractor = FeatureExtractor(self.settings.network, self.device)
        return self._extractor(images)

    def raw_saliency(self, image: np.ndarray, features: torch.Tensor | None) -> np.ndarray:
        """(S, 64, 64) saliency before calibration of an image (3, H, W) in [0, 1]."""
        view = ImageView(torch.from_numpy(np.ascontiguousarray(image, np.float32)), features)
        prompting = self.settings.prompting
        phrases = [plan.phrase or name for name, plan in self.settings.structures.items()]
        return raw_saliency(self.model, view, phrases, prompting.saliency, prompting.gscorecam_top_k)

    def prompt(
        self, image: np.ndarray, features: torch.Tensor | np.ndarray | None = None, seed: int = 0
    ) -> list[StructurePrompt]:
        """Prompt one slice.

        Args:
            image: (3, H, W) in [0, 1].
            features: (C, h, w) of the frozen, pretrained encoder; computed where None. An encoder that stage 1 has
                trained gives other features: pass None then.
            seed: of the points.

        Returns:
            One prompt a structure, in the plan's order, absent ones included.
        """
        image = np.asarray(image, np.float32)  # a tensor too
        if features is not None and not isinstance(features, torch.Tensor):
            features = torch.from_numpy(np.asarray(features))
        raw = self.raw_saliency(image, features)
        generator = np.random.default_rng(seed)
        prompts = []
        for row, (name, plan) in enumerate(self.settings.structures.items()):
            calibration = self.settings.calibrations.get(name, StructureCalibration())
            logits = calibration.apply(raw[row])
            prompts.append(
                assemble_prompt(name, plan, self.settings.prompting, calibration, image, logits, generator)
            )
        return with_text_embeddings(prompts)

    def save(self, folder: Path) -> None:
        """Write towers and settings into ``folder``, each file atomically."""
        tensors = {f"towers.{key}": value for key, value in self.towers.state_dict().items()}
        tensors["texts.background"] = self.texts.background
        for row, wordings in enumerate(self.texts.structures):
            tensors[f"texts.structure.{row}"] = wordings
        folder = Path(folder)
        save_weights(tensors, folder / _WEIGHTS)
        write_json(folder / _SETTINGS, to_dict(self.settings))

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Prompter:
        """Read what :meth:`save` wrote.

        Raises:
            ModelFolderError: a file is missing, truncated or of other settings.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        settings = from_dict(
            PrompterSettings,
            read_json(folder / _SETTINGS, error=ModelFolderError, remedy=_REMEDY),
            source=str(folder / _SETTINGS),
        )
        path = folder / _WEIGHTS
        try:
            tensors = load_file(str(path), device=str(resolve_device(device)))
            texts = TowerTexts(
                [tensors[f"texts.structure.{row}"] for row in range(len(settings.structures))],
                tensors["texts.background"],
            )
            towers = Towers(settings.feature_channels, texts.background.shape[1], settings.prompting.tower_dim)
            towers.load_state_dict(
                {key[len("towers.") :]: value for key, value in tensors.items() if key.startswith("towers.")}
            )
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise ModelFolderError(f"{path} is missing, truncated or of other settings ({first}). {_REMEDY}") from error
        return cls(settings, towers.eval().requires_grad_(False), texts, device=device)

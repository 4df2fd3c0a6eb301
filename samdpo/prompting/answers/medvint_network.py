"""MedVInT-TD (Zhang et al. 2023, PMC-VQA): what an image shows becomes 32 tokens before a LLaMA's question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import LlamaConfig

_HEADS = 8  # of the query decoder; its weights do not tell
_DROPPED = 2  # last parts of PMC-CLIP's tower: its fourth stage and its attention pooling
_EXPANSION = 4  # of a bottleneck's channels


@dataclass(frozen=True)
class MedVIntSizes:
    """Sizes of the visual part; the defaults are the published ones.

    Attributes:
        width: of the ResNet's stem; its third stage gives ``16 * width`` channels at a sixteenth of the image's side.
        blocks: bottlenecks of the three stages kept.
        queries: learned queries, one a visual token.
        layers: of the query decoder.
        feedforward: width of its feed-forward blocks.
    """

    width: int = 64
    blocks: tuple[int, int, int] = (3, 4, 6)
    queries: int = 32
    layers: int = 12
    feedforward: int = 1024

    @property
    def channels(self) -> int:
        """Of the image features and the queries."""
        return 4 * self.width * _EXPANSION

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor]) -> MedVIntSizes:
        """Sizes of a state dict; KeyError where it lacks a part."""
        return cls(
            width=state["vision_model.6.weight"].shape[0],
            blocks=tuple(_count(state, f"vision_model.{stage}.") for stage in (10, 11, 12)),  # type: ignore[arg-type]
            queries=state["query_embed.weight"].shape[0],
            layers=_count(state, "decoder.layers."),
            feedforward=state["decoder.layers.0.linear1.weight"].shape[0],
        )


class MedVIntNetwork(nn.Module):
    """PMC-CLIP's ResNet, a query decoder, two linear layers, a LLaMA; module names are those of the checkpoint.

    Args:
        sizes: of the visual part.
        config: of the LLaMA.
    """

    def __init__(self, sizes: MedVIntSizes, config: LlamaConfig) -> None:
        super().__init__()
        from transformers import LlamaForCausalLM

        self.vision_model = _visual_tower(sizes)
        self.query_embed = nn.Embedding(sizes.queries, sizes.channels)
        layer = nn.TransformerDecoderLayer(sizes.channels, _HEADS, sizes.feedforward, norm_first=True, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, sizes.layers, nn.LayerNorm(sizes.channels))
        self.fc_l1 = nn.Linear(sizes.channels, sizes.channels)
        self.fc_l2 = nn.Linear(sizes.channels, config.hidden_size)
        self.llamacasual = LlamaForCausalLM(config)

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, 512, 512) -> visual tokens (B, 32, LLaMA's width)."""
        features = self.vision_model(images).flatten(2).transpose(1, 2)  # (B, 32 * 32, 1024)
        queries = self.query_embed.weight.expand(len(images), -1, -1)
        return self.fc_l2(self.fc_l1(self.decoder(queries, features)).relu())

    def prefixed(
        self, images: torch.Tensor, questions: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input of the LLaMA: visual tokens, then the question; shorter rows are padded on the left.

        Args:
            images: (B, 3, 512, 512), normalised.
            questions: B vectors of token ids.

        Returns:
            embeddings (B, T, width); mask (B, T), 1 where there is a token.
        """
        embed = self.llamacasual.get_input_embeddings()
        seen = self.see(images).to(embed.weight.dtype)
        rows = [torch.cat([tokens, embed(ids)]) for tokens, ids in zip(seen, questions)]
        longest = max(map(len, rows))
        embeddings = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=embeddings.device)
        mask = torch.arange(longest, device=embeddings.device) >= longest - lengths[:, None]
        return embeddings, mask.long()


def _visual_tower(sizes: MedVIntSizes) -> nn.Sequential:
    from open_clip.modified_resnet import ModifiedResNet

    # The fourth stage and the pooling are made and thrown away: their sizes do not matter.
    tower = ModifiedResNet([*sizes.blocks, 1], output_dim=8, heads=1, image_size=32, width=sizes.width)
    return nn.Sequential(*list(tower.children())[:-_DROPPED])


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Numbered children under ``prefix``."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})

"""Networks built once, and prompts drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from samdpo.networks.prompt_batch import PromptBatch
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.plans import NetworkPlan


@pytest.fixture(scope="session")
def lite() -> SamNetwork:
    """LiteMedSAM with its published weights; tests leave it as it is."""
    return build_network(NetworkPlan()).requires_grad_(False)


@pytest.fixture
def tiny() -> SamNetwork:
    """A fresh tiny network with a text dimension of 8."""
    return build_network(NetworkPlan(backbone="tiny_sam", text_dim=8))


@pytest.fixture(scope="session")
def prompts() -> Callable[..., PromptBatch]:
    """Draw N prompts over two images with K = 2 boxes, P = 3 points, a text and a mask each; which of them count
    is said by name."""

    def draw(
        n: int,
        text_dim: int = 8,
        *,
        boxes: int = 2,
        points: int = 3,
        text: bool = True,
        mask: bool = True,
        seed: int = 0,
    ) -> PromptBatch:
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=generator)

        corner = uniform(n, 2, 2) * 120
        return PromptBatch(
            image_index=torch.arange(n) % 2,
            boxes=torch.cat([corner, corner + 20 + 100 * uniform(n, 2, 2)], dim=-1),
            boxes_valid=(torch.arange(2) < boxes).repeat(n, 1),
            points=uniform(n, 3, 2) * 255,
            points_valid=(torch.arange(3) < points).repeat(n, 1),
            text=uniform(n, text_dim) - 0.5,
            text_valid=torch.full((n,), text),
            mask_logits=8 * uniform(n, 256, 256) - 4,
            mask_valid=torch.full((n,), mask),
        )

    return draw

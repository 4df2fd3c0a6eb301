from __future__ import annotations

import torch

from samdpo.prompting.gscorecam import gscorecam
from samdpo.prompting.image_text import ChannelActivations, ImageTextModel, ImageView


class OneChannelCauses:
    """A toy: text t's score is the brightness of the image's quadrant t; channel t lights that quadrant."""

    def __init__(self) -> None:
        self.passes = 0
        self.activations = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
        self.activations[0, :4, :4] += 1
        self.activations[1, 4:, 4:] += 1

    def embed_text(self, phrases):
        return torch.eye(2)[[int(p) for p in phrases]]

    def image_input(self, image):
        return image

    def channel_activations(self, view, texts):
        importance = torch.full((len(texts), 6), -0.1)
        importance += texts @ torch.eye(2, 6)
        return ChannelActivations(self.activations, importance)

    def image_scores(self, images, texts):
        self.passes += len(images)
        quadrants = torch.stack([images[:, :, :16, :16].mean((1, 2, 3)), images[:, :, 16:, 16:].mean((1, 2, 3))], 1)
        return 60 * quadrants @ texts.T


def test_the_channel_that_causes_the_score_decides_the_map():
    model = OneChannelCauses()
    assert isinstance(model, ImageTextModel)
    maps = gscorecam(model, ImageView(torch.ones(3, 32, 32)), model.embed_text(["0", "1"]), top_k=4)
    assert maps.shape == (2, 8, 8)
    assert maps[0, :4, :4].mean() > 0.6 > 0.3 > maps[0, 4:, 4:].mean()
    assert maps[1, 4:, 4:].mean() > 0.6 > 0.3 > maps[1, :4, :4].mean()
    assert maps.min() >= 0 and maps.max() <= 1


def test_more_channels_than_there_are_means_all_and_each_is_masked_once_for_all_texts():
    model = OneChannelCauses()
    gscorecam(model, ImageView(torch.ones(3, 32, 32)), model.embed_text(["0", "1"]), top_k=300, batch_size=4)
    assert model.passes == 6


def test_the_batch_size_does_not_change_the_map():
    model = OneChannelCauses()
    view, texts = ImageView(torch.rand(3, 32, 32)), model.embed_text(["1"])
    torch.testing.assert_close(gscorecam(model, view, texts, 3, 1), gscorecam(model, view, texts, 3, 16))

"""gScoreCAM through open_clip's towers: the right channels, a layer where patches count, every kind of tower."""

from __future__ import annotations

import pytest
import torch
from clip_folders import write_clip
from torch import nn

from samdpo.errors import ConfigurationError, PlansError
from samdpo.prompting.gscorecam import gscorecam
from samdpo.prompting.image_text import ImageView
from samdpo.prompting.open_clip_files import find_open_clip
from samdpo.prompting.open_clip_loading import OpenClip, load_open_clip
from samdpo.prompting.open_clip_model import OpenClipModel, find_saliency_layer
from samdpo.prompting.saliency import raw_saliency

PHRASES = ["left lung", "round tumor", "heart"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> OpenClip:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_clip(folder)
    return load_open_clip(find_open_clip(f"local-dir:{folder}"))


def picture(size: int = 96) -> torch.Tensor:
    """(3, size, size) in [0, 1]: soft blobs of colour."""
    coarse = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")[0].clamp(0, 1)


def saliency(clip: OpenClip, top_k: int = 20, precision: str = "fp32", phrases: list[str] = PHRASES) -> torch.Tensor:
    model = OpenClipModel(lambda: clip, precision)
    return gscorecam(model, ImageView(picture()), model.embed_text(phrases), top_k)


# ---- a model whose answer is known ----------------------------------------------------------------------------------


class ColourTower(nn.Module):
    """An image's embedding is how much of it is red, green and blue: channels 2, 0 and 5 of its only layer."""

    CHANNELS = (2, 0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Conv2d(3, 8, 16, stride=16, bias=False)
        with torch.no_grad():
            self.layer4.weight.normal_(std=1e-3, generator=torch.Generator().manual_seed(1))
            for colour, channel in enumerate(self.CHANNELS):
                self.layer4.weight[channel] = 0
                self.layer4.weight[channel, colour] = 1 / 16**2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = self.layer4(images).mean((-2, -1))[:, list(self.CHANNELS)]
        return torch.cat([means, torch.full_like(means[:, :1], 0.2)], 1)  # what is dark looks like no colour


class ColourClip(nn.Module):
    """A CLIP of :class:`ColourTower`; texts are the axes of its space."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = ColourTower()
        self.logit_scale = nn.Parameter(torch.tensor(3.0), requires_grad=False)

    def encode_image(self, images: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        embeddings = self.visual(images)
        return nn.functional.normalize(embeddings, dim=-1) if normalize else embeddings


def test_the_channel_that_causes_the_score_is_found_and_its_place_lights_up():
    clip = OpenClip(ColourClip().eval(), None, (64, 64), (0.0,) * 3, (1.0,) * 3, "bicubic", 4)
    model, texts = OpenClipModel(lambda: clip, "fp32"), torch.eye(4)[:3]
    image = torch.zeros(3, 64, 64)
    image[0, :16, :16], image[1, -16:, :16], image[2, -16:, -16:] = 1, 1, 1
    layer = model.channel_activations(ImageView(image), texts)
    assert layer.activations.shape == (8, 4, 4)
    assert tuple(layer.importance.argmax(1).tolist()) == ColourTower.CHANNELS
    maps = gscorecam(model, ImageView(image), texts, top_k=2)
    for colour, (row, column) in enumerate(((0, 0), (3, 0), (3, 3))):
        assert maps[colour, row, column] > 0.99
        assert maps[colour].sum() < 1.5  # and nothing else does


# ---- a ViT with BERT, as BiomedCLIP ---------------------------------------------------------------------------------


def test_two_texts_give_two_maps(clip):
    maps = saliency(clip)
    assert maps.shape == (3, 10, 10) and maps.min() >= 0 and maps.max() <= 1
    alike = torch.corrcoef(maps.flatten(1))
    assert max(alike[0, 1], alike[0, 2], alike[1, 2]) < 0.8
    assert torch.equal(maps, saliency(clip))


def test_structures_that_share_their_passes_get_the_maps_they_get_alone(clip):
    alone = torch.cat([saliency(clip, phrases=[phrase]) for phrase in PHRASES])
    torch.testing.assert_close(saliency(clip), alone, atol=1e-4, rtol=0)


def test_after_the_last_attention_the_patches_gradient_is_zero_and_at_the_layer_chosen_it_is_not(clip):
    module, grids = clip.module, {}
    layer = find_saliency_layer(module.visual)
    assert layer.module is module.visual.trunk.blocks[-1].norm1 and layer.prefix_tokens == 1
    hooks = []
    for name, one in (("norm2", module.visual.trunk.blocks[-1].norm2), ("chosen", layer.module)):
        def keep(_module, _inputs, output, name=name):
            grids[name] = output.detach().requires_grad_(True)
            return grids[name]

        hooks.append(one.register_forward_hook(keep))
        score = module.encode_image(OpenClipModel(lambda: clip).image_input(picture())[None], normalize=True)[0, 0]
        gradient = torch.autograd.grad(score, grids[name])[0][0]  # (1 + patches, C)
        hooks.pop().remove()
        if name == "norm2":
            assert gradient[0].abs().sum() > 0  # the CLS token's
            assert gradient[1:].abs().max() == 0
        else:
            assert (gradient[1:].abs().sum(1) > 0).all()


def test_importance_is_the_mean_gradient_over_the_patches(clip):
    model = OpenClipModel(lambda: clip)
    texts = model.embed_text(PHRASES)
    layer = model.channel_activations(ImageView(picture()), texts)
    norm1, step = clip.module.visual.trunk.blocks[-1].norm1, 1e-2
    channel = int(layer.importance[0].abs().argmax())
    inputs = model.image_input(picture())[None]

    def score(shift: float) -> torch.Tensor:
        def raised(_module, _inputs, output):
            output = output.clone()
            output[:, 1:, channel] += shift
            return output

        hook = norm1.register_forward_hook(raised)
        try:
            return OpenClipModel(lambda: clip, "fp32").image_scores(inputs, texts)[0, 0]
        finally:
            hook.remove()

    difference = (score(step) - score(-step)) / (2 * step) / layer.activations[0].numel()
    torch.testing.assert_close(difference, layer.importance[0, channel], rtol=0.02, atol=0)


def test_half_precision_gives_nearly_the_same_maps(clip):
    assert (saliency(clip, precision="bf16") - saliency(clip)).abs().mean() < 0.03


def test_more_channels_than_there_are_means_all(clip):
    torch.testing.assert_close(saliency(clip, top_k=300), saliency(clip, top_k=64))


def test_masks_are_multiplied_with_the_normalised_image(clip, monkeypatch):
    model, seen = OpenClipModel(lambda: clip, "fp32"), []
    scores = model.image_scores
    monkeypatch.setattr(model, "image_scores", lambda inputs, texts: (seen.append(inputs), scores(inputs, texts))[1])
    gscorecam(model, ImageView(picture()), model.embed_text(PHRASES[:1]), top_k=4, batch_size=3)
    assert [len(inputs) for inputs in seen] == [3, 1]
    assert (torch.cat(seen).abs().amin((1, 2, 3)) < 1e-6).all()  # where the mask is 0 is the tower's mean grey
    assert (torch.cat(seen).abs() <= model.image_input(picture()).abs() + 1e-6).all()


def test_a_clip_gives_no_similarity_map_and_says_so(clip):
    model = OpenClipModel(lambda: clip)
    with pytest.raises(PlansError, match="set 'prompting.saliency' to 'gscorecam'"):
        raw_saliency(model, ImageView(picture()), PHRASES, "similarity", 10)
    maps = raw_saliency(model, ImageView(picture()), PHRASES, "gscorecam", 10)
    assert maps.shape == (3, 64, 64) and 3 < abs(maps).max() < 4


# ---- other towers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vision_cfg", "channels", "grid"), [
    ({"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 96}, 64, 6),
    ({"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 96}, 256, 3),
    ({"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 96}, 96, 3),
    ({"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 96}, 64, 3),
], ids=["clip_vit", "clip_resnet", "timm_resnet", "timm_convnext"])
def test_other_towers_go_through_the_same_code(vision_cfg, channels, grid):
    from open_clip.model import _build_vision_tower

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = ColourClip()
        module.visual = _build_vision_tower(32, vision_cfg).eval().requires_grad_(False)
    clip = OpenClip(module, None, (96, 96), (0.5,) * 3, (0.25,) * 3, "bicubic", 32)
    texts = nn.functional.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(3)), dim=-1)
    model = OpenClipModel(lambda: clip, "fp32")
    layer = model.channel_activations(ImageView(picture()), texts)
    assert layer.activations.shape == (channels, grid, grid) and (layer.importance.abs().sum(1) > 0).all()
    maps = gscorecam(model, ImageView(picture()), texts, top_k=max(4, channels // 4))
    assert (maps[0] - maps[1]).abs().max() > 0.05


def test_a_tower_without_a_layer_that_is_known_is_a_sentence():
    with pytest.raises(ConfigurationError, match="Linear has no layer"):
        find_saliency_layer(nn.Linear(3, 3))

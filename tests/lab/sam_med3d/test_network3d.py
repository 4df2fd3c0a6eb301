import pytest
import torch

from samdpo.lab.sam_med3d.network import build_sam_med3d, normalised
from samdpo.plans import NetworkPlan


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_sam_med3d(NetworkPlan(backbone="sam_med3d_tiny"), False).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def embedding(network):
    return network.encode_image(torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)))


def clicks(*places):
    return torch.tensor([places, places], dtype=torch.float32)


def test_a_patch_and_a_click_give_a_mask_of_the_patch(network, embedding):
    assert embedding.shape == (2, 48, 4, 4, 4)
    logits = network.decode(embedding, clicks((16, 16, 16)), torch.ones(2, 1, dtype=torch.bool))
    assert logits.shape == (2, 1, 16, 16, 16)
    assert network.enlarged(logits).shape == (2, 1, 32, 32, 32)


def test_samples_of_a_batch_do_not_touch_each_other(network, embedding):
    points, inside = torch.tensor([[[3.0, 9, 20]], [[25.0, 9, 1]]]), torch.tensor([[True], [False]])
    together = network.decode(embedding, points, inside)
    alone = network.decode(embedding[1:], points[1:], inside[1:])
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("change", ["place", "kind", "mask"])
def test_every_part_of_a_prompt_is_heard(network, embedding, change):
    inside = torch.ones(2, 1, dtype=torch.bool)
    said = network.decode(embedding, clicks((16, 16, 16)), inside)
    point = (2, 16, 16) if change == "place" else (16, 16, 16)
    before = torch.ones(2, 1, 16, 16, 16) if change == "mask" else None
    other = network.decode(embedding, clicks(point), inside if change != "kind" else ~inside, before)
    assert (said - other).abs().max() > 1e-4


def test_the_first_mask_is_an_empty_one_not_none(network, embedding):
    inside = torch.ones(2, 1, dtype=torch.bool)
    empty = network.decode(embedding, clicks((16, 16, 16)), inside, torch.zeros(2, 1, 16, 16, 16))
    assert torch.equal(network.decode(embedding, clicks((16, 16, 16)), inside), empty)
    sparse, dense = network.prompt_encoder(clicks((16, 16, 16)), inside, None)
    assert sparse.shape == (2, 2, 48)
    torch.testing.assert_close(dense[1, :, 3, 0, 2], network.prompt_encoder.no_mask_embed.weight[0])


def test_the_codes_of_places_have_the_first_two_axes_exchanged_as_published(network):
    codes = network.prompt_encoder.dense_positions()[0]
    a_click = network.prompt_encoder.pe_layer(torch.tensor([0.375, 0.875, 0.125]))  # centre of the token (1, 3, 0)
    torch.testing.assert_close(codes[:, 3, 1, 0], a_click)
    assert not torch.allclose(codes[:, 1, 3, 0], a_click)
    torch.testing.assert_close(a_click[:16], a_click[32:])  # the sine stands twice


def test_only_voxels_above_zero_decide_the_normalisation():
    patch = torch.zeros(2, 1, 4, 4, 4)
    patch[0, 0, 1] = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    values = patch[0, 0, 1]
    result = normalised(patch)
    torch.testing.assert_close(result[0, 0, 1], (values - values.mean()) / values.std())
    torch.testing.assert_close(result[0, 0, 0], torch.full((4, 4), (-values.mean() / values.std()).item()))
    assert torch.equal(result[1], torch.zeros(1, 4, 4, 4))


def test_a_patch_of_one_value_stays_finite():
    assert torch.isfinite(normalised(torch.full((1, 1, 4, 4, 4), 0.3))).all()

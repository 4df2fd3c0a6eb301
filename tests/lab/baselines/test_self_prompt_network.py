"""A network that prompts itself: how it begins, what it makes of its first mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samdpo.lab.baselines import self_prompt
from samdpo.lab.baselines.self_prompt import (
    POINTS,
    SelfPromptNetwork,
    box_round,
    main_parts,
    points_inside,
    prompts_from,
)
from samdpo.networks.decoding import decode_masks
from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan


@pytest.fixture
def network() -> SelfPromptNetwork:
    """Two structures."""
    return SelfPromptNetwork(build_network(NetworkPlan(backbone="tiny_sam", text_dim=8)), 2).eval()


def test_the_first_pass_begins_as_sam_without_a_prompt(network):
    images = torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        embeddings = network.encode_image(images)
        first, _ = network.decode_twice(embeddings, (256, 256))
        dense = network.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        none = torch.zeros(2, 0, embeddings.shape[1])
        plain, _ = decode_masks(
            network.mask_decoder, embeddings + dense, network.prompt_encoder.get_dense_pe(), none,
            torch.zeros(2, 0, dtype=torch.bool),
        )
        expected = torch.nn.functional.interpolate(plain[:, None], (256, 256), mode="bilinear")
    for structure in range(2):
        assert torch.allclose(first[:, structure], expected[:, 0], atol=1e-4)


def test_the_tokens_tell_the_structures_apart_in_both_passes(network):
    with torch.no_grad():
        network.structure_tokens[1] += 1
        for logits in network.decode_twice(network.encode_image(torch.rand(2, 3, 256, 256)), (256, 256)):
            assert not torch.allclose(logits[:, 0], logits[:, 1])


def test_a_slice_is_segmented_alike_whatever_else_is_in_the_batch(network):
    images = torch.rand(3, 3, 256, 256)
    with torch.no_grad():
        network.structure_tokens[1] += 1
        assert torch.allclose(network.segment(images)[1:2], network.segment(images[1:2]), atol=1e-4)
        assert network(images).shape == (3, 2, 256, 256)


def test_both_passes_train_the_tokens_and_no_gradient_flows_through_the_prompts(network, monkeypatch):
    network.requires_grad_(True)
    embeddings = network.encode_image(torch.rand(1, 3, 256, 256)).detach()
    first_masks = []

    def listening(logits, nothing):
        first_masks.append(logits)
        return prompts_from(logits, nothing)

    monkeypatch.setattr(self_prompt, "prompts_from", listening)
    for index in range(2):
        network.zero_grad()
        network.decode_twice(embeddings, (256, 256))[index].sum().backward()
        assert network.structure_tokens.grad.abs().sum() > 0
    assert len(first_masks) == 2 and not any(mask.requires_grad for mask in first_masks)


def test_the_mask_gives_a_box_points_and_itself(network):
    logits = torch.full((2, 64, 64), -5.0)
    logits[0, 10:30, 20:50] = 5
    logits[1, 4:8, 4:8] = 5
    prompts = prompts_from(logits, network.no_prompts(1, (64, 64)))
    assert prompts.boxes[:, 0].tolist() == [[20, 10, 50, 30], [4, 4, 8, 8]]
    assert prompts.boxes_valid.all() and prompts.points_valid.all() and prompts.mask_valid.all()
    assert torch.equal(prompts.mask_logits, logits) and not prompts.text_valid.any()
    for row in range(2):
        columns, rows = prompts.points[row].long().T
        assert (logits[row, rows, columns] > 0).all()


def test_an_empty_mask_gives_the_whole_slice_as_box_and_no_point(network):
    prompts = prompts_from(torch.full((2, 48, 64), -5.0), network.no_prompts(1, (48, 64)))
    assert prompts.boxes[:, 0].tolist() == [[0, 0, 64, 48]] * 2 and prompts.boxes_valid.all()
    assert not prompts.points_valid.any() and prompts.mask_valid.all()


def test_specks_do_not_widen_the_box_and_two_lungs_have_one():
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:20] = mask[10:30, 40:50] = True
    mask[60, 60] = True
    assert box_round(main_parts(mask)).tolist() == [10, 10, 50, 30]


def test_points_are_distinct_and_the_same_every_time():
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    points = points_inside(mask)
    assert points.shape == (POINTS, 2) and len({tuple(p) for p in points.tolist()}) == POINTS
    assert np.array_equal(points, points_inside(mask))
    assert (points > 20).all() and (points < 39).all(), "not on the border"
    line = np.zeros((64, 64), bool)
    line[5, 5:9] = True
    assert {y for _, y in points_inside(line).tolist()} == {5}

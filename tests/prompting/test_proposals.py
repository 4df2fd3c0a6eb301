"""Proposals of places: what the outlines say of where to look, blobs of every scale, and masks that differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ellipses import SIZE, EllipseNetwork, ellipse, of_three_channels, picture

from samdpo.networks.registry import build_network
from samdpo.plans import NetworkPlan
from samdpo.prompting.proposals import (
    AGAIN,
    BLOB,
    HYPOTHESIS,
    SPECK,
    PlaceProposer,
    PlaceShape,
    Proposals,
    blob_boxes,
    boxes_of_masks,
    distinct,
)
from samdpo.prompting.regions import mask_iou
from samdpo.schema import from_dict, to_dict

FEATURES = torch.zeros(4, 16, 16)


def box_overlaps(boxes: np.ndarray, other: tuple[float, float, float, float]) -> np.ndarray:
    """IoU of boxes (K, 4) with one."""
    low, high = np.maximum(boxes[:, :2], other[:2]), np.minimum(boxes[:, 2:], other[2:])
    inside = np.clip(high - low, 0, None).prod(1)
    area = np.prod(np.array(other[2:]) - other[:2])
    return inside / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + area - inside)


def proposals_of(*masks: np.ndarray) -> Proposals:
    logits = torch.from_numpy(np.stack(masks)).float() * 16 - 8
    return Proposals(logits, torch.ones(len(masks)), boxes_of_masks(logits > 0), [f"{i}" for i in range(len(masks))])


# ---- where to look --------------------------------------------------------------------------------------------------


def test_the_outlines_say_how_large_how_wide_and_how_bright():
    masks = [ellipse(100, 100, 40, 20), ellipse(120, 90, 20, 10), np.zeros((SIZE, SIZE), bool)]
    shape = PlaceShape.of(masks, [picture(mask) for mask in masks])
    sizes = np.sqrt(40 * 20), np.sqrt(20 * 10)
    assert shape.dark and shape.aspect == pytest.approx(2, abs=0.1)
    assert list(shape.radii) == sorted(shape.radii) and len(set(shape.radii)) == len(shape.radii)
    assert shape.radii[0] < min(sizes) < max(sizes) < shape.radii[-1] < 2 * max(sizes)
    bright = PlaceShape.of(masks, [picture(mask, inside=0.9, outside=0.3) for mask in masks])
    assert not bright.dark and bright.radii == shape.radii


def test_without_an_outline_the_usual_shape_is_looked_for():
    assert PlaceShape.of([], []) == PlaceShape.of([np.zeros((8, 8), bool)], [np.zeros((8, 8))]) == PlaceShape()


def test_an_outline_of_the_whole_slice_has_no_ring_and_still_a_shape():
    whole = np.ones((SIZE, SIZE), bool)
    assert PlaceShape.of([whole], [np.zeros((SIZE, SIZE))]).radii[-1] > SIZE / 2


@pytest.mark.parametrize("line", [np.s_[10, :], np.s_[:, 10], np.s_[10, 10]], ids=["row", "column", "pixel"])
def test_an_outline_as_thin_as_a_line_has_a_shape_too(line):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[line] = True
    shape = PlaceShape.of([mask], [picture(mask)])
    assert 0 < shape.aspect < SIZE and len(blob_boxes(picture(mask), shape, 6)) <= 6


@pytest.mark.parametrize("wrong", [{"radii": ()}, {"radii": (0.0,)}, {"radii": (1e9,)}, {"aspect": 0.0},
                                   {"aspect": float("nan")}])
def test_a_shape_of_a_foreign_file_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PlaceShape(**wrong)


def test_a_shape_comes_back_from_json():
    shape = PlaceShape.of([ellipse(100, 100, 40, 20)], [picture(ellipse(100, 100, 40, 20))])
    assert from_dict(PlaceShape, json.loads(json.dumps(to_dict(shape)))) == shape


# ---- blobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", PlaceShape().radii)
@pytest.mark.parametrize("dark", [True, False])
def test_a_disc_of_each_scale_is_found_by_its_kind_alone(radius, dark):
    image = picture(ellipse(140, 110, radius, radius), *((0.2, 0.7) if dark else (0.7, 0.2)))
    around = (140 - radius, 110 - radius, 140 + radius, 110 + radius)
    found, other = (blob_boxes(image, PlaceShape(dark=kind), 18) for kind in (dark, not dark))
    assert box_overlaps(found, around).max() > 0.7
    assert box_overlaps(other, around).max(initial=0) < 0.5


def test_the_strongest_of_each_scale_come_first():
    image = picture(ellipse(140, 110, 32, 32))
    shape = PlaceShape(radii=(32.0,))
    first = blob_boxes(image, shape, 4)[0]
    assert box_overlaps(first[None], (108, 78, 172, 142))[0] > 0.8


def test_a_wide_structure_is_looked_for_with_wide_boxes():
    image, around = picture(ellipse(128, 128, 60, 20)), (68, 108, 188, 148)
    radius = np.sqrt(60 * 20)
    wide, round_ = (box_overlaps(blob_boxes(image, PlaceShape((radius,), aspect), 6), around).max()
                    for aspect in (3.0, 1.0))
    assert wide > 0.75 > round_


def test_a_blob_at_the_border_has_a_box_that_ends_there():
    boxes = blob_boxes(picture(ellipse(4, 128, 30, 30)), PlaceShape(), 18)
    assert boxes.min() >= 0 and boxes.max() <= SIZE
    assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
    assert box_overlaps(boxes, (0, 98, 34, 158)).max() > 0.5


@pytest.mark.parametrize(("count", "most"), [(0, 0), (1, 6), (18, 18), (20, 18), (60, 60)])
def test_no_more_boxes_than_wanted_are_shared_among_the_scales(count, most):
    image = np.random.default_rng(1).random((SIZE, SIZE))
    boxes = blob_boxes(image, PlaceShape(), count)
    assert boxes.shape[1] == 4 and len(boxes) <= most and (len(boxes) > 0) == (count > 0)


def test_an_even_image_has_no_blob():
    assert blob_boxes(np.full((SIZE, SIZE), 0.4), PlaceShape(), 18).shape == (0, 4)


# ---- masks ----------------------------------------------------------------------------------------------------------


def test_boxes_of_masks_end_just_outside_and_are_zero_where_nothing_is():
    masks = torch.zeros(3, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 3:9], masks[1, 7, 0] = True, True
    assert boxes_of_masks(masks).tolist() == [[3, 2, 9, 5], [0, 7, 1, 8], [0, 0, 0, 0]]


def test_overlaps_are_iou_and_zero_where_both_are_empty():
    masks = torch.zeros(3, 4, 10, dtype=torch.bool)
    masks[0, :, :6], masks[1, :, 3:] = True, True
    found = mask_iou(masks, masks)
    assert found[0, 1] == pytest.approx(3 / 10) and torch.equal(found, found.T)
    assert found.diagonal().tolist() == [1, 1, 0]


def test_near_duplicates_specks_and_whole_slices_are_left_out_in_the_order_given():
    whole, speck = np.ones((SIZE, SIZE), bool), ellipse(200, 200, 2, 2)
    assert speck.mean() < SPECK
    one, same, other = ellipse(100, 100, 30, 30), ellipse(101, 100, 30, 30), ellipse(100, 100, 30, 20)
    kept = distinct(proposals_of(whole, one, speck, same, np.zeros_like(one), other), 10)
    assert kept.makers == ["1", "5"]
    assert distinct(proposals_of(other, one, same), 1).makers == ["0"]


def test_nothing_but_specks_leaves_no_proposal():
    assert len(distinct(proposals_of(ellipse(20, 20, 2, 2), np.zeros((SIZE, SIZE), bool)), 8)) == 0


def test_proposals_come_from_every_maker_and_no_two_are_alike():
    disc = ellipse(140, 110, 32, 32)
    image = of_three_channels(picture(disc))
    hypotheses = np.array([[20, 30, 80, 90], [21, 30, 80, 90]], np.float32)
    proposer = PlaceProposer(EllipseNetwork(grown=0.8), blobs=18, kept=32)
    found = proposer.propose(image, FEATURES, hypotheses, PlaceShape())
    assert set(found.makers) == {HYPOTHESIS, BLOB, AGAIN} and found.makers.count(HYPOTHESIS) == 1
    assert mask_iou(found.masks, torch.from_numpy(disc)[None]).max() > 0.6
    same = mask_iou(found.small, found.small).fill_diagonal_(0)
    assert same.max() < 0.9
    shares = found.small.flatten(1).float().mean(1)
    assert shares.min() >= SPECK and len(found) <= 32
    again = proposer.propose(image, FEATURES, hypotheses, PlaceShape())
    assert torch.equal(again.logits, found.logits) and again.makers == found.makers


def test_a_mask_is_prompted_once_more_by_its_own_box():
    network = EllipseNetwork(grown=0.6)
    PlaceProposer(network, blobs=0).propose(
        np.zeros((3, SIZE, SIZE), np.float32), FEATURES, np.array([[50, 60, 150, 160]], np.float32), PlaceShape())
    first, second = (seen.boxes[0, 0] for seen in network.seen)
    assert first.tolist() == [50, 60, 150, 160]
    assert second.tolist() == pytest.approx([70, 80, 130, 140], abs=1)


def test_proposals_are_decoded_on_the_grid_that_the_plan_names_and_a_person_s_box_on_the_encoder_s():
    network = EllipseNetwork()
    proposer = PlaceProposer(network, blobs=0, grid=32)
    box = np.array([[50, 60, 150, 160]], np.float32)
    proposer.propose(np.zeros((3, SIZE, SIZE), np.float32), FEATURES, box, PlaceShape())
    proposer.decode(FEATURES, (SIZE, SIZE), box)
    assert network.grids == [32, 32, 0]


def test_no_more_are_kept_than_wanted():
    image = np.random.default_rng(1).random((3, SIZE, SIZE)).astype(np.float32)
    found = PlaceProposer(EllipseNetwork(), blobs=60, kept=5).propose(image, FEATURES, np.zeros((0, 4)), PlaceShape())
    assert len(found) == len(found.boxes) == len(found.makers) == len(found.quality) == 5


@pytest.mark.parametrize("network", [EllipseNetwork(), EllipseNetwork(grown=0.0), EllipseNetwork(grown=9.0)],
                         ids=["nothing to decode", "empty masks", "masks of the whole slice"])
def test_where_nothing_is_proposed_there_is_an_empty_set(network):
    even = np.full((3, SIZE, SIZE), 0.4, np.float32)
    hypotheses = np.zeros((0, 4), np.float32) if network.grown == 1 else np.array([[90, 90, 170, 170]], np.float32)
    found = PlaceProposer(network).propose(even, FEATURES, hypotheses, PlaceShape())
    assert len(found) == 0 and found.masks.shape == (0, SIZE, SIZE)
    assert found.saliency.shape == (0, 64, 64) and found.small.shape[0] == 0


def test_a_mask_as_mask_prompt_has_the_range_of_a_saliency():
    found = proposals_of(ellipse(100, 100, 30, 30), ellipse(50, 50, 10, 10))
    assert found.saliency.shape == (2, 64, 64) and found.saliency.dtype == np.float16
    assert found.saliency.min() == -6 and found.saliency.max() == 6
    assert (found.saliency[0] > 0).mean() == pytest.approx(float(found.masks[0].float().mean()), abs=5e-3)


def test_a_box_or_a_point_is_decoded_alone_without_text_and_without_a_mask():
    network = EllipseNetwork()
    proposer = PlaceProposer(network)
    boxes, points = np.array([[10, 20, 60, 90.0]]), np.array([[40.0, 50.0], [80.0, 90.0]])
    assert len(proposer.decode(FEATURES, (SIZE, SIZE), boxes=boxes)) == 1
    assert len(proposer.decode(FEATURES, (SIZE, SIZE), points=points)) == 2
    of_box, of_points = network.seen
    for seen in network.seen:
        assert not seen.text_valid.any() and not seen.mask_valid.any()
    assert of_box.boxes_valid.all() and not of_box.points_valid.any()
    assert of_points.points_valid.all() and not of_points.boxes_valid.any()
    assert of_points.points[:, 0].tolist() == points.tolist()


def test_what_a_network_makes_of_a_box_does_not_depend_on_the_others():
    network = build_network(NetworkPlan(backbone="tiny_sam")).eval()
    proposer, generator = PlaceProposer(network), torch.Generator().manual_seed(0)
    features = torch.randn(64, 64, 64, generator=generator)
    boxes = np.array([[10, 20, 60, 90], [100, 100, 200, 180], [30, 30, 40, 60]], np.float32)
    together = proposer.decode(features, (SIZE, SIZE), boxes)
    for row, box in enumerate(boxes):
        alone = proposer.decode(features, (SIZE, SIZE), box[None])
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.quality[0], together.quality[row], atol=1e-5, rtol=1e-4)


def test_some_of_them_and_all_of_several_keep_their_rows_together():
    found = proposals_of(ellipse(100, 100, 30, 30), ellipse(50, 50, 10, 10), ellipse(20, 90, 8, 8))
    some = found.select([2, 0])
    assert some.makers == ["2", "0"] and np.array_equal(some.boxes, found.boxes[[2, 0]])
    both = Proposals.cat([some, found])
    assert both.makers == ["2", "0", "0", "1", "2"] and torch.equal(both.logits[1], found.logits[0])

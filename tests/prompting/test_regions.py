from __future__ import annotations

import numpy as np

from samdpo.prompting.regions import (
    box_hypotheses,
    box_iou,
    boxes_of,
    largest_components,
    least_mask,
    most_salient_component,
    points_in,
)


def two_discs() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[10:30, 5:20] = True
    mask[10:26, 40:55] = True
    mask[60, 60] = True
    return mask


def test_components_are_numbered_by_size_and_specks_are_dropped():
    regions = largest_components(two_discs(), count=3, min_share=0.15)
    assert regions[15, 10] == 1 and regions[15, 45] == 2
    assert regions[60, 60] == 0
    assert largest_components(two_discs(), count=1, min_share=0.15).max() == 1


def test_the_one_component_of_a_structure_is_the_most_salient_not_the_largest():
    probability = np.where(two_discs(), 0.6, 0.1)
    probability[10:26, 40:55] = 0.9
    probability[60, 60] = 1.0
    regions = most_salient_component(two_discs(), probability, 0.15)
    assert regions[15, 45] == 1 and regions.sum() == 16 * 15
    assert not most_salient_component(np.zeros((8, 8), bool), np.zeros((8, 8)), 0.15).any()


def test_an_empty_mask_has_neither_boxes_nor_points():
    regions = largest_components(np.zeros((8, 8), bool), 2, 0.15)
    assert boxes_of(regions).shape == (0, 4)
    assert points_in(regions, 5, np.random.default_rng(0)).shape == (0, 2)


def test_a_boxes_area_is_the_number_of_pixels_it_covers():
    boxes = boxes_of(largest_components(two_discs(), 2, 0.15))
    assert boxes.tolist() == [[5, 10, 20, 30], [40, 10, 55, 26]]


def test_points_are_distinct_lie_in_every_component_and_follow_the_seed():
    regions = largest_components(two_discs(), 2, 0.15)
    points = points_in(regions, 5, np.random.default_rng(3))
    assert len({tuple(p) for p in points.tolist()}) == 5
    components = [regions[int(y), int(x)] for x, y in points]
    assert set(components) == {1, 2}
    assert (points == points_in(regions, 5, np.random.default_rng(3))).all()


def test_fewer_pixels_than_points_give_every_pixel_once():
    regions = np.zeros((8, 8), np.uint8)
    regions[2, 2:5] = 1
    points = points_in(regions, 10, np.random.default_rng(0))
    assert sorted(points.tolist()) == [[2, 2], [3, 2], [4, 2]]


def test_overlap_of_boxes():
    iou = box_iou(np.array([[0, 0, 10, 10]]), np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]]))
    np.testing.assert_allclose(iou, [[1, 1 / 3, 0]], rtol=1e-6)


def bumps(*peaks: tuple[int, int, float]) -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    return np.max([h * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 200) for cx, cy, h in peaks], axis=0)


def test_hypotheses_start_with_the_coarse_box_find_the_second_place_and_do_not_repeat():
    probability = bumps((30, 30, 0.9), (100, 90, 0.7))
    coarse = largest_components(probability > 0.5, 1, 0.15)
    boxes, scores = box_hypotheses(probability, coarse, components=1, count=5)
    assert boxes[0].tolist() == boxes_of(coarse)[0].tolist()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert np.abs(centres - [100, 90]).sum(1).min() < 4
    overlap = box_iou(boxes, boxes) - np.eye(len(boxes))
    assert overlap.max() < 0.8
    assert ((scores >= 0) & (scores <= 1)).all() and (np.diff(scores) <= 0).all()


def test_a_hypothesis_of_two_lungs_encloses_both():
    probability = bumps((30, 60, 0.9), (100, 60, 0.9))
    coarse = largest_components(probability > 0.5, 2, 0.15)
    boxes, _ = box_hypotheses(probability, coarse, components=2, count=5)
    assert boxes[0][0] < 30 and boxes[0][2] > 100


def test_the_least_mask_is_where_the_saliency_is_highest():
    mask = least_mask(bumps((30, 30, 0.1)), 0.01)
    assert mask[30, 30] and 0.005 < mask.mean() < 0.03

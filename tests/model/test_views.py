import numpy as np
import torch

from samdpo.model.views import FLIPPED, IDENTITY, View, draw_view, jitter_boxes, view_image, view_mask, view_prompt
from samdpo.plans import AugmentationPlan
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import boxes_of

PLAN = AugmentationPlan(box_jitter=0.0)


def make_prompt() -> StructurePrompt:
    regions = np.zeros((256, 256), np.uint8)
    regions[40:120, 30:90] = 1
    regions[60:100, 150:200] = 2
    rng = np.random.default_rng(0)
    return StructurePrompt(
        structure="lung", label=1, present=True, score=1.0, saliency=rng.normal(size=(64, 64)).astype(np.float16),
        regions=regions, boxes=boxes_of(regions), points=np.array([[40.0, 50.0], [160.0, 80.0]], np.float32),
        hypotheses=boxes_of(regions), hypothesis_scores=np.array([0.9, 0.5], np.float32), answer="", description="",
        text_embedding=np.zeros(384, np.float32),
    )


def test_a_flip_twice_is_the_identity():
    prompt = make_prompt()
    twice = view_prompt(view_prompt(prompt, FLIPPED, PLAN, 5), FLIPPED, PLAN, 5)
    for name in ("saliency", "regions", "boxes", "points", "hypotheses"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(prompt, name), err_msg=name)
    image = torch.rand(3, 256, 256)
    assert torch.equal(view_image(view_image(image, FLIPPED), FLIPPED), image)


def test_boxes_enclose_the_moved_regions_and_points_lie_in_them():
    view = View(flip=True, rotation=8.0, scale=1.05, shift=(0.03, -0.02), seed=3)
    moved = view_prompt(make_prompt(), view, PLAN, 5)
    np.testing.assert_array_equal(moved.boxes, boxes_of(moved.regions))
    assert len(moved.points) == 5
    assert all(moved.regions[int(y), int(x)] > 0 for x, y in moved.points)


def test_image_and_mask_move_together():
    view = View(rotation=10.0, scale=0.95, shift=(0.05, 0.02), seed=1)
    regions = torch.from_numpy(make_prompt().regions) > 0
    image = regions.float().expand(3, -1, -1)
    from_image = view_image(image, view)[0] > 0.5
    from_mask = view_mask(regions[None], view)[0]
    assert (from_image != from_mask).float().mean() < 0.002


def test_a_rotation_turns_the_content_counter_clockwise():
    mask = torch.zeros(1, 256, 256, dtype=torch.bool)
    mask[:, 120:136, 200:216] = True  # to the right of the centre
    turned = view_mask(mask, View(rotation=30.0))[0].nonzero().float().mean(0)
    assert turned[0] < 110  # rows count downwards: it went up


def test_a_view_can_be_replayed():
    generator = torch.Generator().manual_seed(5)
    view = draw_view(AugmentationPlan(), generator)
    first, second = (view_prompt(make_prompt(), view, AugmentationPlan(), 5) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert draw_view(AugmentationPlan(), torch.Generator().manual_seed(5)) == view


def test_a_structure_moved_out_of_the_picture_is_absent():
    moved = view_prompt(make_prompt(), View(shift=(1.5, 0.0), seed=0), PLAN, 5)
    assert not moved.present


def test_jitter_stays_within_its_share_and_the_picture():
    boxes = np.array([[0.0, 0.0, 100.0, 50.0]], np.float32)
    moved = jitter_boxes(boxes, 0.1, 256, np.random.default_rng(0))
    assert np.all(np.abs(moved - boxes) <= [10, 5, 10, 5]) and moved.min() >= 0
    assert not np.array_equal(moved, boxes)


def test_the_identity_changes_nothing():
    prompt = make_prompt()
    assert view_prompt(prompt, IDENTITY, PLAN, 5) is prompt

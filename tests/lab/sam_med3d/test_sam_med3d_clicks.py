"""Clicks of training, and the loss after each."""

import numpy as np
import torch

from samdpo.lab.sam_med3d.cubes import innermost
from samdpo.lab.sam_med3d.trainer import dice_ce_loss, next_clicks


def everywhere(truth):
    return torch.ones_like(truth, dtype=torch.bool)


def test_the_first_click_is_in_the_structure_and_the_next_ones_where_the_mask_is_wrong():
    torch.manual_seed(0)
    truth = torch.zeros(1, 1, 6, 6, 6, dtype=torch.bool)
    truth[0, 0, 1:3, 1:3, 1:3] = True
    logits = torch.full(truth.shape, -1.0)
    logits[0, 0, 2:4, 1:3, 1:3] = 1.0  # misses x = 1, has x = 3 too much
    seen = set()
    for _ in range(40):
        points, inside = next_clicks(truth, everywhere(truth))
        assert truth[(0, 0, *points[0, 0].long())] and inside.item()
        points, inside = next_clicks(truth, everywhere(truth), logits)
        seen.add((points[0, 0, 0].item(), inside.item()))
    assert seen == {(1.0, True), (3.0, False)}


def test_no_click_falls_where_nothing_is_known_and_a_right_mask_is_confirmed():
    truth = torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    truth[:, 0, 1, 1, 1] = True
    logits = torch.where(truth, 1.0, -1.0)
    counted = everywhere(truth)
    logits[1, 0, 3], counted[1, 0, 3] = 1.0, False
    points, inside = next_clicks(truth, counted, logits)
    assert points.tolist() == [[[1, 1, 1]], [[1, 1, 1]]]
    assert inside.all()


def test_the_innermost_voxel_is_in_the_middle_of_the_thickest_part():
    mask = np.zeros((20, 9, 9), bool)
    mask[2:9, 1:8, 1:8] = True
    mask[9:, 4, 4] = True
    assert innermost(mask) == (5, 4, 4)
    assert innermost(np.ones((3, 3, 3), bool)) == (1, 1, 1)


def test_the_loss_is_dice_with_squares_plus_cross_entropy():
    logits = torch.tensor([0.0, 2.0, -1.0, 0.5]).view(1, 1, 1, 2, 2)
    truth = torch.tensor([True, True, False, False]).view(1, 1, 1, 2, 2)
    p, y = logits.sigmoid().flatten(), truth.float().flatten()
    dice = 1 - 2 * (p * y).sum() / ((p * p).sum() + y.sum())
    entropy = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(dice_ce_loss(logits, truth, everywhere(truth)), dice + entropy, atol=1e-4, rtol=0)


def test_ignored_voxels_have_no_gradient():
    logits = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    truth = torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    truth[0, 0, 0], counted = True, everywhere(truth)
    counted[0, 0, 1, 1] = False
    dice_ce_loss(logits, truth, counted).backward()
    assert torch.equal(logits.grad != 0, counted)

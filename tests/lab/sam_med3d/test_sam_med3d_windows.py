"""From one click to a whole structure."""

import torch

from samdpo.lab.sam_med3d.predictor import segment_from_click


class Bright:
    """Stands for the network: says that what is bright in a window is the structure, if the click is in it."""

    size = 8

    def __init__(self):
        self.windows = 0

    def encode_image(self, patch):
        self.windows += 1
        return patch

    def decode(self, embedding, points, inside):
        assert inside.all()
        hit = embedding[(0, 0, *points[0, 0].long())] > 0.5
        return torch.where((embedding > 0.5) & hit, 5.0, -5.0)

    def enlarged(self, logits):
        return logits


def segmented(volume, click):
    network = Bright()
    found = segment_from_click(network, volume, click, torch.device("cpu"), "fp32")
    return found > 0.5, network.windows


def test_windows_follow_a_structure_that_is_larger_than_one():
    volume = torch.zeros(40, 12, 12)
    volume[2:38, 4:7, 4:7] = 1.0
    mask, windows = segmented(volume, (20, 5, 5))
    assert torch.equal(mask, volume > 0.5)
    assert windows < 15  # of 80 or so that the volume has


def test_one_window_is_enough_for_a_structure_that_ends_in_it():
    volume = torch.zeros(40, 40, 40)
    volume[10:13, 10:13, 10:13] = 1.0
    mask, windows = segmented(volume, (11, 11, 11))
    assert torch.equal(mask, volume > 0.5)
    assert windows == 1


def test_windows_end_where_the_volume_ends():
    volume = torch.ones(10, 9, 3)
    mask, windows = segmented(volume, (0, 0, 0))
    assert mask.all()
    assert windows <= 3 * 3 * 2


def test_a_click_beside_the_structure_finds_nothing():
    volume = torch.zeros(16, 16, 16)
    volume[10:13, 10:13, 10:13] = 1.0
    assert not segmented(volume, (2, 2, 2))[0].any()

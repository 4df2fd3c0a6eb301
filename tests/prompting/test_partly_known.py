"""Prompts fitted to slices that are labelled in part."""

from __future__ import annotations

import numpy as np
import torch
from test_towers import blobs, texts

from samdpo.preprocessing.store import IGNORED
from samdpo.prompting.calibration import calibrate, calibrate_known
from samdpo.prompting.fitting import anything_known, known_shares
from samdpo.prompting.towers import fit_towers, structure_logits


def test_a_slice_that_is_ignored_all_over_says_nothing():
    assert not anything_known(None) and not anything_known(np.full((4, 4), IGNORED))
    assert anything_known(np.array([[IGNORED, 0]]))


def test_the_known_share_of_a_feature_pixel_is_measured_and_none_where_all_is_known():
    label = np.zeros((8, 8), np.int16)
    assert known_shares([label, label], (4, 4)) is None
    label[:, :3] = IGNORED
    assert known_shares([label], (4, 4))[0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]


def test_towers_do_not_take_what_is_ignored_for_background():
    features, images, shares = blobs(4, 1)
    twin = torch.cat([features, features.flip(-1)], dim=-1)  # the structure once more, in the half that is ignored
    drawn = torch.cat([shares, torch.zeros_like(shares)], dim=-1)
    known = torch.cat([torch.ones_like(shares[:, 0]), torch.zeros_like(shares[:, 0])], dim=-1)
    there = torch.cat([torch.zeros_like(shares), shares.flip(-1)], dim=-1) > 0

    def found(**options) -> float:
        towers = fit_towers(twin, images, drawn, texts(1), dim=16, steps=60, lr=5e-3, seed=0, **options)
        return float(structure_logits(towers, twin, images, texts(1))[there].mean())

    assert found(known=known) > 0 > found()


def cases() -> tuple[list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(0)
    masks = [np.zeros((64, 64), bool) for _ in range(6)]
    for mask in masks[:4]:
        mask[20:36, 10:30] = True
    return [np.where(m, 12.0, -20.0) + generator.normal(0, 8, m.shape) for m in masks], masks


def test_calibration_is_blind_to_ignored_pixels():
    raw, masks = cases()
    known = np.ones((6, 64, 64), bool)
    known[:4, 40:] = False
    wild = [np.where(sure, one, 500.0) for one, sure in zip(raw, known)]
    wrong = [mask | ~sure for mask, sure in zip(masks, known)]
    assert calibrate_known(wild, wrong, known, True) == calibrate_known(raw, masks, known, True)
    assert calibrate_known(raw, masks, None, True) == calibrate(raw, masks, True)
    assert calibrate_known(raw, masks, np.ones_like(known), True) == calibrate(raw, masks, True)


def test_a_structure_not_seen_in_the_known_part_of_a_slice_is_not_called_absent():
    raw, masks = cases()
    known = np.ones((6, 64, 64), bool)
    known[4:, :10] = False
    assert calibrate_known(raw, masks, known, may_be_absent=True).presence_threshold == 0
    assert calibrate_known(raw, masks, None, may_be_absent=True).presence_threshold > 0

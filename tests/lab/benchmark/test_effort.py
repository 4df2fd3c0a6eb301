"""Bits that an annotator gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samdpo.lab.benchmark.effort import judgement_bits, outline_bits

ONE, TWO = {"tumour": {"components": 1}}, {"tumour": {"components": 1}, "lung": {"components": 2}}


def settings(objective: str = "preferences", kind: str = "virtual", scoring: str = "ranking", rounds: int = 2) -> dict:
    return {"objective": objective, "prompt_rounds": rounds, "candidates": {"count": 4},
            "annotator": {"kind": kind, "scoring": scoring, "rating_bins": [0.4, 0.55, 0.7]}}


@pytest.mark.parametrize(("given", "bits"), [
    (settings(), math.log2(24)),
    (settings(scoring="best"), 2),
    (settings(scoring="rating"), 8),  # four ratings of four values
    (settings("best_candidate"), 2),
    (settings("self_training"), 0),
    (settings("mean_teacher"), 0),
])
def test_one_judgement_of_one_image(given, bits):
    assert judgement_bits(given, ONE, 5, 1, has_places=False) == pytest.approx(bits)


def test_the_virtual_annotator_is_asked_in_every_epoch_and_people_once():
    once = judgement_bits(settings(), ONE, 5, 1, has_places=False)
    assert judgement_bits(settings(), ONE, 5, 7, has_places=False) == pytest.approx(7 * once)
    assert judgement_bits(settings(kind="recorded"), ONE, 5, 7, has_places=False) == pytest.approx(once)


def test_rounds_about_places_ask_for_one_of_the_hypotheses_and_the_own_box():
    more = judgement_bits(settings(), TWO, 5, 1, True) - judgement_bits(settings(), TWO, 5, 1, False)
    assert more == pytest.approx(2 * math.log2(6))  # the lungs cannot be elsewhere


def test_an_outline_is_its_chain_code():
    label = np.zeros((256, 256), np.int16)
    assert outline_bits(label) == 0
    label[10:20, 10:20] = 1  # 36 pixels of boundary
    assert outline_bits(label) == 3 * 36 + 16
    label[50:52, 50:52] = 2
    assert outline_bits(label) == 3 * 36 + 16 + 3 * 4 + 16
    label[100:120] = -1  # ignored
    assert outline_bits(label) == 3 * 36 + 16 + 3 * 4 + 16

"""``benchmarks/judge.py``: its rows are made by the functions that training uses, so they must go on to fit."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from samdpo.prompting import judge


@pytest.fixture
def benchmark(monkeypatch):
    file = Path(__file__).parents[2] / "benchmarks" / "judge.py"
    spec = importlib.util.spec_from_file_location("benchmarks_judge", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "fit_to_outlines", functools.partial(judge.fit_to_outlines, steps=30))
    monkeypatch.setattr(module, "learn_from_answers", functools.partial(judge.learn_from_answers, steps=30))
    return module


def image(number: int) -> dict:
    """Six proposals in places of their own, whose first measure tells how good they are."""
    rng = np.random.default_rng(number)
    overlap = rng.permutation(np.linspace(0, 0.9, 6)).astype(np.float32)
    measured = rng.normal(size=(6, judge.n_measures(16))).astype(np.float32)
    measured[:, 0] = overlap + rng.normal(0, 0.02, 6)
    small = torch.zeros(6, 16, 16, dtype=torch.bool)
    for row in range(6):
        small[row, 2 * row : 2 * row + 2] = True
    return {"case": f"case_{number}", "measured": measured, "overlap": overlap, "meant": overlap * 0.95, "small": small}


def test_a_draw_has_every_row_and_no_choice_is_better_than_the_best(benchmark):
    images = [image(number) for number in range(16)]
    scale = np.concatenate([one["measured"] for one in images])
    rows = benchmark.of_draw(images, 4, 6, 0, scale)
    assert list(rows) == [
        "SAM's quality", "outlines", "+ own order", "+ order of six", "+ places", "+ boxes", "+ boxes, anchored",
        "+ boxes, listwise", "+ every overlap", "best of six", "best of all",
    ]
    assert rows["best of all"] == pytest.approx(1.8 / 1.9) == rows["best of six"]
    assert all(0 <= value <= rows["best of all"] + 1e-6 for value in rows.values())
    assert rows["SAM's quality"] > 0.9, "the first measure tells them apart"

"""The demo, small: every step of the method on both kinds of phantoms."""

from __future__ import annotations

import imageio.v3 as iio
import pytest
from trained_models import short_fits

from samdpo.demo import METRICS, STAGES, DemoSize, run_demo
from samdpo.errors import ConfigurationError
from samdpo.files import read_json

SMALL = DemoSize(
    cases={"xray": 5, "ultrasound": 5}, test=1, finetune_epochs={"xray": 1, "ultrasound": 1}, align_epochs=1,
    tower_steps=2, backbone="tiny_sam",
)


def test_the_demo_ends_with_a_table_and_a_figure(roots, tmp_path, monkeypatch):
    short_fits(monkeypatch)
    result = run_demo(tmp_path / "demo", ["xray", "ultrasound"], 0, SMALL, 1)
    assert read_json(tmp_path / "demo" / "demo.json") == result
    assert set(result["scores"]) == {"xray", "ultrasound"}
    for of_kind in result["scores"].values():
        assert set(of_kind) == set(STAGES)
        assert all(0 <= scores[metric] <= 1 for scores in of_kind.values() for metric in METRICS)
    figure = iio.imread(tmp_path / "demo" / "demo.png")
    assert min(figure.shape[:2]) > 300 and figure.std() > 10


def test_an_unknown_kind_is_a_sentence(roots, tmp_path):
    with pytest.raises(ConfigurationError, match="xray, ultrasound"):
        run_demo(tmp_path / "demo", ["mri"], 0, SMALL, 1)

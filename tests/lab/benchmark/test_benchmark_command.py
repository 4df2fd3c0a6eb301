"""``samdpo_benchmark`` as typed: what it refuses, and what it says before it does anything."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from samdpo.cli import benchmark
from samdpo.lab.benchmark.methods import GROUPS
from samdpo.lab.benchmark.settings import MINUTES


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tiny_dataset):
    monkeypatch.setattr("samdpo.cli.common.configure_logging", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *given: None)


def typed(monkeypatch, caplog, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["samdpo_benchmark", *words])
    with caplog.at_level(logging.INFO):
        benchmark.main()
    return caplog.text


@pytest.mark.parametrize(("words", "sentence"), [
    (["-d", "77"], "There is no dataset '77'"),
    (["-d", "901", "--methods", "aling"], "--methods names 'aling'"),
    (["-d", "901", "--labelled", "2"], "--labelled is 2"),
    (["-d", "901", "--ablations", "nois"], "--ablations names 'nois'"),
    (["-d", "901", "--seeds", "0"], "--seeds is 0"),
])
def test_what_cannot_be_meant_is_refused_before_anything_is_made(monkeypatch, caplog, roots, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        typed(monkeypatch, caplog, *words)
    assert stopped.value.code == 2 and sentence in caplog.text
    assert not list(roots.results.iterdir())


def test_a_dry_run_says_what_would_be_run_and_makes_nothing(monkeypatch, caplog, roots):
    words = "-d 901 --labelled 0.1 1 --seeds 2 --minutes 2 --dry_run"
    said = typed(monkeypatch, caplog, *words.split())
    assert "Budget: 2 minutes of computing" in said and "46 trainings: 46 to run." in said
    assert "labelled_0.1/seed_12345" in said and "labelled_1/seed_1" in said and "sam_med3d" not in said
    assert not list(roots.results.iterdir()) and not list(roots.preprocessed.iterdir())


def test_the_help_names_the_settings_own_minutes():
    assert benchmark.arguments().get_default("minutes") == MINUTES


def test_ablations_without_a_name_are_all_of_them(monkeypatch, caplog):
    said = typed(monkeypatch, caplog, "-d", "901", "--seeds", "1", "--methods", "align", "--ablations", "--dry_run")
    assert "align_noise_30" in said and "align_loss_ipo" in said and "labelled_0.1_unlabelled_0.4/seed_12345" in said
    assert "align_own_order" in said and "align_random_50" in said and "effort" not in said


def test_the_help_names_every_group():
    text = " ".join(benchmark.arguments().format_help().split()).replace("- ", "-")
    assert all(group in text for group in GROUPS)


def test_an_effort_study_alone_runs_what_its_figure_shows(monkeypatch, caplog, roots):
    said = typed(monkeypatch, caplog, "-d", "901", "--seeds", "1", "--effort", "--dry-run", "-device", "cpu")
    assert "26 trainings: 26 to run." in said and "align_effort_outlines_60" in said and "unet" not in said
    threads = torch.get_num_threads()
    assert f"26 trainings of 3 minutes on {threads} thread" in said and f"or {1.3 * threads:.1f} core-hours" in said
    said = typed(monkeypatch, caplog, "-d", "901", "--seeds", "1", "--effort", "--methods", "align", "--dry_run")
    assert "27 trainings: 27 to run." in said and not list(roots.results.iterdir())


def test_collecting_where_nothing_was_run_says_so(monkeypatch, caplog, roots):
    said = typed(monkeypatch, caplog, "-d", "901", "--only_collect")
    assert "Nothing was run" in said and not (roots.results / "benchmark").exists()

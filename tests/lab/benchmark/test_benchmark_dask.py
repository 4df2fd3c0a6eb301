"""On a Dask cluster the same steps run, each after what it needs."""

from __future__ import annotations

import sys

import pytest
from fake_runs import DATASET
from test_steps import asked, commands  # noqa: F401

from samdpo.errors import ConfigurationError
from samdpo.lab.benchmark.execute import cost_of
from samdpo.lab.benchmark.runner import run_on_dask
from samdpo.lab.benchmark.steps import all_steps


@pytest.fixture
def scheduler():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as made:
        yield made.scheduler_address


def test_steps_run_in_order_and_failures_stop_what_needs_them(scheduler, commands, tmp_path):  # noqa: F811
    steps = all_steps(asked(tmp_path, "align", "unet", seeds=(1, 2)), [], {DATASET: 2})
    commands.fail = {"unet"}
    run_on_dask(steps, scheduler)
    assert {s.stage for s in steps if s.is_done and s.kind == "train"} == {"finetune", "align"}
    assert {cost_of(s.log).reason for s in steps if s.stage == "unet"} == {"out of luck"}
    commands.fail, before = set(), len(commands.typed)
    run_on_dask(steps, scheduler)
    assert len(commands.typed) == before
    run_on_dask(steps, scheduler, retry=True)
    assert all(step.is_done for step in steps)


def test_without_dask_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigurationError, match=r"pip install \"samdpo\[dask\]\""):
        run_on_dask([], "tcp://nowhere:1")

"""A command runs in a process of its own; its cost, its log and its failure are kept."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from samdpo.lab.benchmark import execute
from samdpo.lab.benchmark.execute import cost_of, run_logged
from samdpo.training.run_log import peak_memory_gib

WORDS = ["samdpo_train", "901", "finetune", "0"]


@pytest.fixture
def program(monkeypatch):
    """Sets what a command does instead of training."""

    def says(code: str) -> None:
        monkeypatch.setattr(execute, "_python", lambda words: [sys.executable, "-c", code])

    return says


def test_a_command_that_ends_well_leaves_its_log_and_its_cost(program, tmp_path):
    program("import os\nfor _ in range(10**6): pass\nprint('hello', os.environ['colour'])")
    cost = run_logged(WORDS, tmp_path / "logs" / "a.log", {**os.environ, "colour": "red"})
    assert cost.status == "done" and cost.command == "samdpo_train 901 finetune 0" and cost.reason == ""
    assert cost.cpu_seconds > 0 and cost.wall_seconds > 0
    # Linux counts the copy of the parent that a process is before it begins its own program.
    assert 0.001 < cost.peak_memory_gib < max(1, 1.1 * peak_memory_gib())
    assert (tmp_path / "logs" / "a.log").read_text() == "$ samdpo_train 901 finetune 0\nhello red\n"
    assert cost_of(tmp_path / "logs" / "a.log") == cost


def test_children_count(program, tmp_path):
    program("import subprocess, sys; subprocess.run([sys.executable, '-c', 'for _ in range(10**7): pass'])")
    alone = "import time; time.sleep(0.1)"
    with_child = run_logged(WORDS, tmp_path / "a.log", os.environ)
    program(alone)
    assert with_child.cpu_seconds > 2 * run_logged(WORDS, tmp_path / "b.log", os.environ).cpu_seconds


def test_a_failure_keeps_the_last_line_of_the_error(program, tmp_path):
    program("import sys; print('first'); raise ValueError('no such colour')")
    cost = run_logged(WORDS, tmp_path / "a.log", os.environ)
    assert (cost.status, cost.reason) == ("failed", "ValueError: no such colour")
    program("import sys; sys.exit(2)")
    assert run_logged(WORDS, tmp_path / "a.log", os.environ).reason == "ended with code 2 and said nothing"


def test_a_killed_command_says_so(program, tmp_path):
    program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "SIGKILL" in run_logged(WORDS, tmp_path / "a.log", os.environ).reason


def test_a_stopped_command_is_no_failure_and_its_cost_is_added_up(program, tmp_path):
    program("import sys, time; time.sleep(0.2); sys.exit(130)")
    with pytest.raises(KeyboardInterrupt):
        run_logged(WORDS, tmp_path / "a.log", os.environ)
    stopped = cost_of(tmp_path / "a.log")
    assert stopped.status == "stopped" and stopped.wall_seconds > 0.2
    program("pass")
    cost = run_logged(WORDS, tmp_path / "a.log", os.environ)
    assert (cost.status, cost.attempts) == ("done", 2) and cost.wall_seconds > stopped.wall_seconds
    assert run_logged(WORDS, tmp_path / "a.log", os.environ).attempts == 1  # a finished one begins anew


def test_ctrl_c_ends_the_command_too(program, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "_SECONDS_TO_END", 0.1)
    program("import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with pytest.raises(KeyboardInterrupt):
        run_logged(WORDS, tmp_path / "a.log", os.environ)
    signal.signal(signal.SIGINT, before)
    cost = cost_of(tmp_path / "a.log")
    assert cost.status == "stopped" and cost.wall_seconds < 30


def test_the_programs_are_those_of_the_console_scripts():
    from documented import console_scripts

    for command, module in execute._MODULES.items():
        assert console_scripts()[command] == f"{module}:main"

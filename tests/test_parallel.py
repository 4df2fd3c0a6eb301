"""Case-level work on several processes: in order, and stopped by the first error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from samdpo.errors import ConfigurationError, DatasetError
from samdpo.parallel import map_cases


def square(n: int) -> int:
    return n * n


def process_of(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def refuse_three(n: int) -> int:
    if n == 3:
        raise DatasetError("case 3 is damaged")
    return n


def die(_: int) -> None:
    os._exit(9)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items(processes: int) -> None:
    assert list(map_cases(square, range(20), processes, "Squares", per_process=1)) == [n * n for n in range(20)]


def test_few_items_start_no_process() -> None:
    assert set(map_cases(process_of, range(4), 8, "Few")) == {os.getpid()}
    assert os.getpid() not in set(map_cases(process_of, range(4), 2, "Slow ones", per_process=1))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sentence_from_a_process_arrives_as_it_is(processes: int) -> None:
    with pytest.raises(DatasetError, match="case 3 is damaged"):
        list(map_cases(refuse_three, range(20), processes, "Checks", per_process=1))


def test_a_killed_process_is_told_with_a_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"memory ran out.*-np 1"):
        list(map_cases(die, range(4), 2, "Dying", per_process=1))


def test_ctrl_c_ends_at_once_with_one_sentence() -> None:
    program = (
        "import time\nfrom samdpo.cli.common import run_command\nfrom samdpo.parallel import map_cases\n"
        "def body():\n"
        "    for i, _ in enumerate(map_cases(time.sleep, [0.2] * 500, 2, 'Sleeping', 1)):\n"
        "        print('at work', flush=True)\n"
        "run_command(body)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped by Ctrl-C" in said
    assert "Traceback" not in said

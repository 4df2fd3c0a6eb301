"""Case-level work on several processes: in order, stopped by the first error, and not lost with a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest
from case_work import begun, deadly_five, killed_once, refuse_three, square

from samdpo.cli.common import case_workers
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.parallel import Processes, map_cases, map_threads

STARTING = 120  # seconds that processes may take to be there on a busy machine; never waited for in vain


def process_of(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out


def crash(_: int) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(_: int) -> None:
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


def test_a_killed_process_costs_its_case_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = list(map_cases(partial(killed_once, tmp_path), range(40), 2, "Work", per_process=1))
    assert found == list(range(40))
    assert "a process was killed" in caplog.text
    again = {file.name for file in tmp_path.iterdir() if not file.name.endswith("_0")}
    assert "5_1" in again and len(again) <= 6, "only what was under way is done again"


def test_a_case_that_kills_each_process_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"worked on 5 was killed.*memory ran out.*-np 1"):
        list(map_cases(partial(deadly_five, tmp_path), range(40), 2, "Work", per_process=1))
    assert {str(n) for n in range(5)} <= {file.name for file in tmp_path.iterdir()}


def test_where_every_process_is_killed_it_ends_with_a_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"memory ran out.*-np 1"):
        list(map_cases(die, range(4), 2, "Dying", per_process=1))


@pytest.mark.parametrize(("work", "how"), [(crash, "crashed (SIGSEGV)"), (leave, "ended by itself with exit code 9")])
def test_a_process_that_ended_otherwise_is_not_said_to_lack_memory(work, how: str, caplog) -> None:
    with pytest.raises(ConfigurationError) as raised:
        list(map_cases(work, range(2), 2, "Dying", per_process=1))
    assert f"the process that worked on 0 {how}" in str(raised.value) and "look at this case" in str(raised.value)
    assert "memory" not in str(raised.value) + caplog.text


def test_work_that_cannot_be_sent_is_named_before_any_process_starts() -> None:
    with pytest.raises(ConfigurationError, match=r"Work: the function .*<lambda> cannot be sent.*-np 1"):
        list(map_cases(lambda n: n, range(4), 2, "Work", per_process=1))
    with pytest.raises(ConfigurationError, match="the case <generator"):
        list(map_cases(square, [(n for n in ()), 2], 2, "Work", per_process=1))


UNGUARDED = """
from samdpo.parallel import map_cases
from samdpo.names import same_text
from samdpo.errors import SamdpoError
try:
    print(list(map_cases(same_text, ['a'] * 4, 2, 'Work', per_process=1)))
except SamdpoError as error:
    print(error)
"""


def test_a_script_without_a_guard_is_told_that_it_lacks_one(tmp_path: Path) -> None:
    script = tmp_path / "own_script.py"
    script.write_text(UNGUARDED)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=STARTING, check=True)
    assert 'own_script.py begins its work outside of a guard' in ended.stdout and "-np 1" in ended.stdout
    assert "memory" not in ended.stdout and "Traceback" not in ended.stderr


def test_only_a_few_items_are_under_way_however_many_there_are(tmp_path: Path) -> None:
    work = map_cases(partial(begun, tmp_path), range(1000), 2, "Begun", per_process=1)
    assert next(work) == 0
    time.sleep(0.5)  # nobody asks for more
    assert len(list(tmp_path.iterdir())) <= 12
    work.close()


def test_a_command_s_workers_are_processes_unless_a_cluster_is_named() -> None:
    with case_workers(Namespace(np=3, dask=None)) as workers:
        assert workers == 3
    with pytest.raises(ConfigurationError, match="-np is 0"), case_workers(Namespace(np=0)):
        pass
    assert list(map_cases(square, range(4), Processes(2), "Squares", per_process=1)) == [0, 1, 4, 9]


def test_threads_answer_in_order_for_what_waits_for_the_disk(tmp_path: Path) -> None:
    files = [tmp_path / str(n) for n in range(20)]
    assert map_threads(lambda file: file.name, files, 4) == [str(n) for n in range(20)]
    assert map_threads(str, [], 0) == []


AT_WORK = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
import os, sys, time
from pathlib import Path
from samdpo.cli.common import run_command
from samdpo.parallel import map_cases
def body():
    for pid in map_cases(work, [0.2] * 500, 2, 'Sleeping', 1):
        print(pid, flush=True)
def work(seconds):
    time.sleep(seconds)
    return os.getpid()
if __name__ == '__main__':
    run_command(body)
"""


@pytest.fixture
def at_work(tmp_path: Path):
    """A command with two processes at work on 500 items of 0.2 s, and the ids of some of its processes."""
    (tmp_path / "at_work.py").write_text(AT_WORK)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "at_work.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )
    pids = {int(process.stdout.readline()) for _ in range(6)}
    yield process, pids
    if process.poll() is None:
        process.kill()
    process.communicate()


def gone(pids: set[int]) -> bool:
    """Whether processes end; what is left of 500 items would take 50 s."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not any(runs(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
class TestStopped:
    def test_ctrl_c_ends_with_one_sentence_and_no_process_is_left(self, at_work) -> None:
        process, pids = at_work
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
        output, said = process.communicate(timeout=STARTING)
        assert process.returncode == 130
        assert "Stopped by Ctrl-C" in said
        assert "Traceback" not in said
        assert len(output.splitlines()) < 400, "it did not go on to the end"
        assert gone(pids)

    def test_processes_end_when_the_command_is_killed(self, at_work) -> None:
        process, pids = at_work
        process.kill()
        process.wait()
        assert gone(pids)

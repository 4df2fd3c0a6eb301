"""How a command ends that is told to: with a sentence and the code that shells expect."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from waiting import PATIENCE

COMMAND = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
from samdpo.cli.common import run_command
def body():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
run_command(body, "type it again with --c")
"""

HEARING = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup start what ignores it
"""


@pytest.mark.parametrize(("number", "called"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP"),
                                                (signal.SIGINT, "Ctrl-C")])
def test_a_signal_ends_a_command_with_one_sentence_and_its_code(number, called):
    process = subprocess.Popen(
        [sys.executable, "-c", HEARING + COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number and out == "tidied up\n"
    assert said == f"Error: Stopped by {called}. What was finished is kept; type it again with --c.\n"


def test_under_nohup_a_closed_terminal_ends_nothing():
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + COMMAND.replace("60", "1")
    process = subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=PATIENCE) == 0


def test_a_program_that_calls_a_command_keeps_its_own_handlers():
    from samdpo.cli.common import run_command

    before = signal.getsignal(signal.SIGTERM)
    seen = []
    run_command(lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == before and seen[0] != signal.SIG_DFL


def test_a_disk_that_is_full_is_said_whatever_a_library_calls_it():
    from samdpo.cli.common import run_command

    def body() -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error

    with pytest.raises(SystemExit) as ended:
        run_command(body)
    assert ended.value.code == 2
    with pytest.raises(RuntimeError):
        run_command(lambda: (_ for _ in ()).throw(RuntimeError("a fault of ours")))

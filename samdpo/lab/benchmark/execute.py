"""Run one command in a process of its own: its log, and what it cost, its children included."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from samdpo.files import read_json, write_json

log = logging.getLogger(__name__)

_MODULES = {"samdpo_plan_and_preprocess": "plan_and_preprocess", "samdpo_prompt": "prompt", "samdpo_train": "train"}
_LONGEST_REASON = 400  # characters of an error that a table's footnote can bear
_SECONDS_TO_END = 10.0  # after Ctrl-C
_STOPPED = (130, 129, 143, -signal.SIGINT, -signal.SIGTERM)  # return codes of a command that somebody ended


@dataclass(frozen=True)
class Cost:
    """What is known of a command, kept beside its log as JSON.

    Attributes:
        command: as typed.
        status: ``started`` is also what a command says that was killed together with this process.
        cpu_seconds: user and system time of the process and its children, all attempts together.
        wall_seconds: likewise, on the clock.
        peak_memory_gib: resident memory of the largest process.
        attempts: times it was begun; more than one where it was stopped, or failed, and continued.
        reason: last line of the error where it failed.
    """

    command: str
    status: Literal["started", "done", "failed", "stopped"] = "started"
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_gib: float = 0.0
    attempts: int = 0
    reason: str = ""


def run_logged(words: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command of ours; what it says is added to ``log_file``.

    Args:
        words: as typed, for example ``samdpo_train 101 finetune 0``.
        log_file: its JSON of the same name keeps the cost; attempts up to the one that ends well are added up.
        environment: of the process.

    Returns:
        the cost, with status ``done`` or ``failed``.

    Raises:
        KeyboardInterrupt: the command was stopped by Ctrl-C or a signal; the cost so far is kept.
    """
    typed = shlex.join(words)
    before = cost_of(log_file)
    cost = Cost(typed, attempts=1)
    if before is not None and before.status != "done":
        cost = replace(before, command=typed, status="started", attempts=before.attempts + 1, reason="")
    write_json(cost_file(log_file), asdict(cost))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log_file.open("ab") as output:
        output.write(f"$ {typed}\n".encode())
        output.flush()
        begins = output.tell()
        process = subprocess.Popen(_python(words), stdout=output, stderr=subprocess.STDOUT, env=dict(environment))
        usage, interrupted = _wait(process)
    code = process.returncode
    stopped = interrupted or code in _STOPPED
    cost = replace(
        cost,
        status="stopped" if stopped else "failed" if code else "done",
        cpu_seconds=cost.cpu_seconds + usage.ru_utime + usage.ru_stime,
        wall_seconds=cost.wall_seconds + time.perf_counter() - started,
        peak_memory_gib=max(cost.peak_memory_gib, usage.ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)),
        reason=_reason(log_file, begins, code) if code and not stopped else "",
    )
    write_json(cost_file(log_file), asdict(cost))
    if stopped:
        raise KeyboardInterrupt
    return cost


def cost_file(log_file: Path) -> Path:
    """Where the cost of the command lies that wrote ``log_file``."""
    return log_file.with_suffix(".json")


def cost_of(log_file: Path) -> Cost | None:
    """What a command cost; None where it was not run by us."""
    file = cost_file(log_file)
    return Cost(**read_json(file)) if file.is_file() else None


def failed(log_file: Path, command: str, reason: str) -> Cost:
    """Note that a command could not even be begun."""
    cost = Cost(command, "failed", reason=reason)
    write_json(cost_file(log_file), asdict(cost))
    return cost


def _python(words: Sequence[str]) -> list[str]:
    """The command with this Python, whether or not the console scripts are on PATH."""
    module = _MODULES[words[0]]
    program = f"import sys; sys.argv[0] = {words[0]!r}; from samdpo.cli.{module} import main; main()"
    return [sys.executable, "-c", program, *words[1:]]


def _wait(process: subprocess.Popen) -> tuple[Any, bool]:
    """Resources of the process and all it waited for, and whether Ctrl-C came meanwhile.

    Ctrl-C in a terminal reaches the process by itself; it is given the time to end before it is told to.
    """
    interrupted_at: float | None = None
    while True:
        try:
            pid, status, usage = os.wait4(process.pid, 0 if interrupted_at is None else os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return usage, interrupted_at is not None
            if time.perf_counter() - interrupted_at > _SECONDS_TO_END:
                os.kill(process.pid, signal.SIGTERM)
                interrupted_at = time.perf_counter()
            time.sleep(0.1)
        except KeyboardInterrupt:
            interrupted_at = interrupted_at or time.perf_counter()


def _reason(log_file: Path, begins: int, code: int) -> str:
    """The last line that the command said, or what ended it."""
    if code < 0:
        killed = ", most likely for lack of memory" if code == -signal.SIGKILL else ""
        return f"ended by signal {signal.Signals(-code).name}{killed}"
    said = log_file.read_bytes()[begins:].decode("utf-8", errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", said) if line.strip()]
    return lines[-1].removeprefix("Error: ")[:_LONGEST_REASON] if lines else f"ended with code {code} and said nothing"

"""Waiting for what other processes and threads do, on a machine that may be busy."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 600  # seconds after which something counts as hung; no test measures speed by it


def wait_until(happened: Callable[[], object], process: subprocess.Popen, said: Callable[[], str] = str) -> None:
    """Until something happened; an AssertionError with what was said, should the process end before.

    Args:
        happened: asked every few milliseconds.
        process: the one that is to bring it about.
        said: what explains a failure.
    """
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, f"the process ended with {process.returncode} before. {said()}"
        assert time.monotonic() < deadline, f"the process hangs. {said()}"
        time.sleep(0.005)

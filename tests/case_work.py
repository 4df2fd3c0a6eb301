"""Work on cases that tests hand to other processes, here and on a cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from samdpo.errors import DatasetError


def square(n: int) -> int:
    return n * n


def refuse_three(n: int) -> int:
    if n == 3:
        raise DatasetError("case 3 is damaged")
    return n


def killed_once(folder: Path, n: int) -> int:
    """Leaves a mark each time it is begun; number 5 is killed the first time."""
    times = len(list(folder.glob(f"{n}_*")))
    (folder / f"{n}_{times}").touch()
    if n == 5 and times == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def deadly_five(folder: Path, n: int) -> int:
    if n == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / str(n)).touch()
    return n


def begun(folder: Path, n: int) -> int:
    (folder / str(n)).touch()
    return n

"""Start and stop a page in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from page_client import TOKEN
from waiting import PATIENCE, wait_until


@dataclass(frozen=True)
class PageProcess:
    """A running page."""

    process: subprocess.Popen
    address: str

    def kill(self) -> None:
        """As ``kill -9``: nothing is finished, nothing is written."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_page(
    folder: Path, url: str, mode: str = "ranking", port: int | None = None, ordered: bool = True
) -> Iterator[PageProcess]:
    """A page on a drawn candidate set, once it answers; it is ended at the end of the block."""
    port = port or free_port()
    script = Path(__file__).with_name("serve_drawn.py")
    order = [] if ordered else ["in-no-order"]
    process = subprocess.Popen([sys.executable, str(script), str(folder), url, str(port), TOKEN, mode, *order])
    try:
        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{address}/sign-in", timeout=PATIENCE).status_code == 200
            return False

        wait_until(answers, process)
        yield PageProcess(process, address)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=PATIENCE)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]

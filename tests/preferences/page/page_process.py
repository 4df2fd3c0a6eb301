"""Start and stop a page in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from page_client import TOKEN

STARTS_WITHIN = 60  # seconds, on a busy machine


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
def running_page(folder: Path, url: str, mode: str = "ranking", port: int | None = None) -> Iterator[PageProcess]:
    """A page on a drawn candidate set, once it answers; it is ended at the end of the block."""
    port = port or free_port()
    script = Path(__file__).with_name("serve_drawn.py")
    process = subprocess.Popen([sys.executable, str(script), str(folder), url, str(port), TOKEN, mode])
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{address}/sign-in").status_code == 200:
                    break
            assert process.poll() is None and time.monotonic() < deadline, "the page did not start"
            time.sleep(0.05)
        yield PageProcess(process, address)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=20)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]

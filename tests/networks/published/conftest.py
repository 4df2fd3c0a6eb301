"""A server on this machine that publishes one file, with or without parts, and may break off."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from samdpo.networks.published import catalogue
from samdpo.networks.published.catalogue import PublishedFile

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Home:
    """What the server does, what it was asked, and the entry that describes its file."""

    published: PublishedFile
    content: bytes = CONTENT
    sends_parts: bool = True
    breaks_after: int = 0  # bytes of an answer
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    """The only home in the catalogue; the weights folder is ``tmp_path / "weights"``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            first = int(asked.split("=")[1].rstrip("-")) if asked and state.sends_parts else 0
            rest = state.content[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: state.breaks_after] if state.breaks_after else rest)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    published = PublishedFile(
        "demo_net", "demo_net.pth", "https://example.org/demo", f"http://127.0.0.1:{server.server_port}/demo_net.pth",
        len(CONTENT), f"sha256:{hashlib.sha256(CONTENT).hexdigest()}",
    )
    state = Home(published)
    monkeypatch.setattr(catalogue, "CATALOGUE", {"demo_net": published})
    monkeypatch.setenv("samdpo_weights", str(tmp_path / "weights"))
    yield state
    server.shutdown()
    server.server_close()

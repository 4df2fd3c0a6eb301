"""An OpenAI-compatible endpoint on loopback whose answers a test chooses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
"""Body of a request -> status and body of the answer."""


def says(text: str | None, finish: str = "stop", **message: Any) -> tuple[int, dict[str, Any]]:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "any", "choices": [choice]}


def fails(status: int, message: str) -> tuple[int, dict[str, Any]]:
    """An error as OpenAI words it."""
    return status, {"error": {"message": message, "type": "error", "code": None}}


@dataclass
class Endpoint:
    """The running server.

    Attributes:
        url: for ``--base_url``.
        bodies: of the requests, in their order.
        headers: of the requests, names in small letters.
        reply: what it answers with; may be replaced while it runs.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    reply: Reply = lambda body: says("It is round.")

    @property
    def questions(self) -> list[str]:
        """What the user's side of each request said."""
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def endpoint(reply: Reply | None = None) -> Iterator[Endpoint]:
    """Serve on a free port until the block ends."""
    served = Endpoint()
    if reply is not None:
        served.reply = reply

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.bodies.append(body)
            served.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, answer = served.reply(body)
            content = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:  # the client was killed
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()

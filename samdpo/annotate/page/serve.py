"""Take an address and answer requests until Ctrl-C."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import webbrowser
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from samdpo.annotate.page.guard import LARGEST_HEAD
from samdpo.errors import ConfigurationError

REQUEST_SECONDS = 10.0  # for a request to arrive whole
ANSWER_SECONDS = 30.0  # for a browser to take an answer; our own gives up after 15
_MOST_CONNECTIONS = 512
_CROWDED = 448  # connections from which on the one that has kept us waiting longest makes room for a new one


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that drops who keeps it waiting, so that nobody can take all connections and sit on them.

    A connection is dropped where a request has not arrived whole some seconds after the connection was opened or after
    its first byte, where an answer is not taken, and, when there are many, where it has kept us waiting longest.
    uvicorn itself limits only the time between two requests.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._until_request: asyncio.TimerHandle | None = None
        self._until_taken: asyncio.TimerHandle | None = None
        self.waiting_since: float | None = None  # time.monotonic() since when a request is on its way

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room where there is little, and give the first request its time."""
        super().connection_made(transport)
        if len(self.connections) > _CROWDED:
            slow = [one for one in self.connections if one is not self and getattr(one, "waiting_since", None)]
            if slow:
                min(slow, key=lambda one: one.waiting_since).drop()
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        """Read on; a request that is not whole has its time."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._wait_for_request()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The browser does not take the answer as fast as it comes."""
        super().pause_writing()
        if self._until_taken is None:
            self._until_taken = self.loop.call_later(ANSWER_SECONDS, self.drop)

    def resume_writing(self) -> None:
        """It has taken some."""
        if self._until_taken is not None:
            self._until_taken.cancel()
            self._until_taken = None
        super().resume_writing()

    def drop(self) -> None:
        """End the connection at once."""
        self.connections.discard(self)
        self._stop_waiting()
        self.transport.abort()

    def _wait_for_request(self) -> None:
        if self._until_request is None:
            self.waiting_since = time.monotonic()
            self._until_request = self.loop.call_later(REQUEST_SECONDS, self.drop)

    def _stop_waiting(self) -> None:
        self.waiting_since = None
        if self._until_request is not None:
            self._until_request.cancel()
            self._until_request = None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that an address in use is told before anything else is done.

    Raises:
        ConfigurationError: the address is in use or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigurationError(
            f"The page cannot listen on {host}, port {port} ({error}). Choose another one, for example: "
            f"--port {port + 1 if port < 65535 else 8765}"
        ) from error
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """What to type into a browser on this machine, or on another where the page listens to others."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}"


def configuration(app: FastAPI, behind_proxy: bool) -> uvicorn.Config:
    """How uvicorn serves the page; see :func:`serve`."""
    return uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off",
        http=ImpatientProtocol, limit_concurrency=_MOST_CONNECTIONS, h11_max_incomplete_event_size=LARGEST_HEAD,
        proxy_headers=behind_proxy, forwarded_allow_ips="127.0.0.1,::1", timeout_graceful_shutdown=5,
    )


def serve(app: FastAPI, listening: socket.socket, open_at: str | None, behind_proxy: bool) -> None:
    """Answer requests until Ctrl-C or SIGTERM; requests in progress are finished first.

    Args:
        app: see :func:`samdpo.annotate.page.app.create_app`.
        listening: see :func:`listen`.
        open_at: address to open in this machine's browser, or None.
        behind_proxy: take the client's address from a proxy on this machine, so that failed sign-ins are counted
            by person.
    """
    if open_at is not None:
        opener = threading.Timer(0.5, webbrowser.open, (open_at,))
        opener.daemon = True
        opener.start()
    try:
        uvicorn.Server(configuration(app, behind_proxy)).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again once it has ended; here it is how one stops
        pass
    finally:
        listening.close()

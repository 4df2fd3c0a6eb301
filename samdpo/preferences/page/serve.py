"""Take an address and answer requests until Ctrl-C."""

from __future__ import annotations

import socket
import threading
import webbrowser

import uvicorn
from fastapi import FastAPI

from samdpo.errors import ConfigurationError

_MOST_CONNECTIONS = 512
_LARGEST_HEADERS = 16 * 1024  # bytes


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


def serve(app: FastAPI, listening: socket.socket, open_at: str | None, behind_proxy: bool) -> None:
    """Answer requests until Ctrl-C or SIGTERM; requests in progress are finished first.

    Args:
        app: see :func:`samdpo.preferences.page.app.create_app`.
        listening: see :func:`listen`.
        open_at: address to open in this machine's browser, or None.
        behind_proxy: take the client's address from a proxy on this machine, so that failed sign-ins are counted
            by person.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off",
        limit_concurrency=_MOST_CONNECTIONS, h11_max_incomplete_event_size=_LARGEST_HEADERS,
        proxy_headers=behind_proxy, forwarded_allow_ips="127.0.0.1,::1", timeout_graceful_shutdown=5,
    )
    if open_at is not None:
        opener = threading.Timer(0.5, webbrowser.open, (open_at,))
        opener.daemon = True
        opener.start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again once it has ended; here it is how one stops
        pass
    finally:
        listening.close()

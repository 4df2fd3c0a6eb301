"""Who opens connections and sits on them."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from page_client import TOKEN
from waiting import PATIENCE

from samdpo.annotate.page import serve
from samdpo.annotate.page.app import create_app
from samdpo.annotate.page.item_views import ItemViews
from samdpo.annotate.page.ranking_page import RankingPage
from samdpo.annotate.page.settings import PageSettings
from samdpo.annotate.page.tokens import Tokens

HALF = b"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Wait: "


@pytest.fixture
def port(database, stored, caplog) -> Iterator[int]:
    """Of a page that runs in a thread of its own; it fills nobody's terminal with tracebacks."""
    page = RankingPage(database, stored.candidate_set, ItemViews(stored), PageSettings())
    server = uvicorn.Server(serve.configuration(create_app(page, Tokens(TOKEN, {})), behind_proxy=False))
    listening = serve.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(timeout=PATIENCE)
    listening.close()
    assert "Traceback" not in caplog.text


def connect(port: int, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    client.sendall(sent)
    return client


def ended(client: socket.socket) -> bool:
    """Waits until the server has ended the connection; whether it did so without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def get(port: int) -> int:
    return httpx.get(f"http://127.0.0.1:{port}/sign-in", timeout=PATIENCE).status_code


@pytest.mark.parametrize("sent", [
    b"", b"GET", HALF,
    b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nContent-Length: 99\r\n\r\nname=",
])
def test_who_sends_half_a_request_and_waits_is_dropped(port, monkeypatch, sent: bytes) -> None:
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 0.3)
    with connect(port, sent) as client:
        assert ended(client)
    assert get(port) == 200


def test_who_sends_a_request_byte_by_byte_is_dropped_too(port, monkeypatch) -> None:
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 0.5)
    with connect(port, HALF) as client:
        client.settimeout(0.01)
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                client.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    assert client.recv(1) == b""
                    break
        assert time.monotonic() < deadline


def test_a_second_request_on_a_connection_has_its_time_too(port, monkeypatch) -> None:
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 0.5)
    with connect(port, HALF + b"no\r\n\r\n") as client:
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        client.sendall(HALF)
        while client.recv(1 << 16):
            pass  # the rest of the answer, then the end


def test_a_body_that_never_comes_whole_is_nothing_that_was_sent(port) -> None:
    with connect(port, b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
                       b"Content-Length: 99\r\n\r\nname=anna&token=" + TOKEN.encode()) as client:
        client.shutdown(socket.SHUT_WR)
        client.settimeout(PATIENCE)
        assert b"303" not in client.recv(100)


def test_those_who_wait_longest_make_room_for_those_who_come(port, monkeypatch) -> None:
    monkeypatch.setattr(serve, "_CROWDED", 20)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(port, HALF)) for _ in range(30)]
        for _ in range(3):
            assert get(port) == 200
        assert all(ended(client) for client in waiting[:10])


@pytest.mark.slow
def test_however_many_sit_and_wait_a_person_gets_the_page(port) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2000:
        if hard != resource.RLIM_INFINITY and hard < 2000:
            pytest.skip("this machine allows too few open files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(connect(port, HALF))
        for _ in range(5):
            assert get(port) == 200


def test_a_head_that_never_ends_is_refused(port) -> None:
    with connect(port, HALF) as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                client.sendall(b"a" * 1024)
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in client.recv(100)

"""Every write of the page is sent again: after ``kill -9``, and to a second server on the same database; and a person
gets in while hundreds of connections wait with half a request."""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import drawn
import httpx
import pytest
from page_client import TOKEN
from page_process import PageProcess, free_port, running_page
from waiting import PATIENCE

from samdpo.annotate.database.database import PreferenceDatabase

pytestmark = pytest.mark.slow

HALF_REQUESTS = 520


class Browser(httpx.Client):
    """Somebody who has signed in; may speak to any of the servers with the same cookie."""

    def sign_in(self) -> None:
        page = self.post("/sign-in", data={"name": "anna", "token": TOKEN}).text
        self.headers["x-csrf-token"] = re.search(r'csrf-token" content="(\w+)"', page)[1]

    def at(self, address: str) -> Browser:
        """The same session at another server; a cookie's name may hold the port, which a proxy keeps the same."""
        other, ports = browser(address), [str(url.port) for url in (self.base_url, httpx.URL(address))]
        other.headers["x-csrf-token"] = self.headers["x-csrf-token"]
        other.headers["cookie"] = "; ".join(f"{c.name.replace(*ports)}={c.value}" for c in self.cookies.jar)
        return other

    def next(self) -> int:
        return self.post("/api/next", json={}).raise_for_status().json()["item"]

    def judge(self, item: int) -> dict:
        judgement = {"item": item, "mode": "ranking", "verdict": "ranked", "ranks": [2, 1, 3, 4], "seconds": 1,
                     "client_key": str(uuid.uuid4())}
        self.post("/api/judgements", json=judgement).raise_for_status()
        return judgement


def browser(address: str) -> Browser:
    return Browser(base_url=address, headers={"origin": address}, follow_redirects=True, timeout=PATIENCE)


@dataclass
class Site:
    """A page and what restarts it, or starts a second one, on the same database."""

    folder: Path
    url: str
    stack: ExitStack
    page: PageProcess

    def restarted(self) -> PageProcess:
        self.page.kill()
        port = int(self.page.address.rpartition(":")[2])
        self.page = self.stack.enter_context(running_page(self.folder, self.url, port=port))
        return self.page

    def second(self) -> PageProcess:
        return self.stack.enter_context(running_page(self.folder, self.url))

    def valid(self) -> int:
        """Judgements that are not taken back."""
        database = PreferenceDatabase.open(self.url)
        try:
            return len(database.judgements())
        finally:
            database.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    stored = drawn.draw(tmp_path / "set", n_items=8, size=16)
    url = f"sqlite:///{tmp_path / 'preferences.sqlite'}"
    with ExitStack() as stack:
        yield Site(stored.folder, url, stack, stack.enter_context(running_page(stored.folder, url, port=free_port())))


@pytest.mark.parametrize("where", ["restarted", "second"])
def test_a_write_that_is_sent_again_counts_once(site: Site, where: str, tell: Callable[[str], None]) -> None:
    person = browser(site.page.address)
    person.sign_in()
    judgements = [person.judge(person.next()) for _ in range(4)]
    undo = {"undo_key": str(uuid.uuid4())}
    assert person.post("/api/undo", json=undo).raise_for_status().json()["undone"]
    assert site.valid() == 3
    tried = 0

    again = person.at(getattr(site, where)().address)
    for judgement in judgements[:3]:
        reply = again.post("/api/judgements", json=judgement)
        assert reply.status_code == 200, reply.text
        tried += 1
    assert site.valid() == 3, "a judgement counts twice"
    reply = again.post("/api/undo", json=undo)
    assert reply.status_code == 200, reply.text
    assert site.valid() == 3, "the same undo has taken back a second judgement"
    tried += 1
    assert again.post("/api/undo", json={"undo_key": str(uuid.uuid4())}).json()["undone"]
    assert site.valid() == 2, "another undo takes back another judgement"

    assert again.post("/sign-out").status_code == 204
    here = site.restarted().address if where == "restarted" else site.page.address
    assert person.at(here).post("/api/next", json={}).status_code == 401, "the cookie that was signed out still works"
    tried += 1
    tell(f"page, {where}: {tried} writes sent again")
    assert tried == 5


def test_half_requests_do_not_keep_a_person_out(site: Site, tell: Callable[[str], None]) -> None:
    host, port = "127.0.0.1", int(site.page.address.rpartition(":")[2])
    waiting, refused = [], 0
    try:
        for _ in range(HALF_REQUESTS):
            try:
                waiting.append(socket.create_connection((host, port), timeout=PATIENCE))
                waiting[-1].sendall(b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\n")
            except OSError:
                refused += 1
        statuses = []
        while not statuses or (statuses[-1] != 200 and len(statuses) < 60):
            try:
                statuses.append(httpx.get(f"{site.page.address}/sign-in", timeout=1).status_code)
            except httpx.TransportError:
                statuses.append(0)
            if statuses[-1] != 200:
                time.sleep(0.5)
        tell(f"{len(waiting)} half requests, {refused} refused; a person got in at try {len(statuses)}")
        assert len(waiting) + refused == HALF_REQUESTS
        assert statuses[-1] == 200, "the page is closed to everybody"
    finally:
        for one in waiting:
            one.close()

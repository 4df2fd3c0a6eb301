"""``kill -9`` in the middle of work: what was acknowledged is there, once, and what was not can be sent again."""

from __future__ import annotations

import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import drawn
import httpx
from page_client import TOKEN
from page_process import free_port, running_page
from waiting import PATIENCE

from samdpo.annotate.database.database import PreferenceDatabase

PEOPLE = 4
KILLED_AFTER = 40  # acknowledged judgements


class Person:
    """Judges as fast as the server answers; remembers what was acknowledged and what was on its way."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.client = httpx.Client(
            base_url=address, headers={"origin": address}, follow_redirects=True, timeout=PATIENCE
        )
        self.acknowledged: list[dict] = []
        self.on_its_way: dict | None = None

    def sign_in(self) -> None:
        page = self.client.post("/sign-in", data={"name": self.name, "token": TOKEN}).text
        self.client.headers["x-csrf-token"] = re.search(r'csrf-token" content="(\w+)"', page)[1]

    def send(self, judgement: dict) -> dict:
        self.on_its_way = judgement
        reply = self.client.post("/api/judgements", json=judgement).raise_for_status().json()
        self.acknowledged.append(judgement)
        self.on_its_way = None
        return reply

    def work(self, one_more: threading.Semaphore) -> None:
        """Until the server is gone."""
        try:
            reply = self.client.post("/api/next", json={}).json()
            while reply["item"]:
                reply = self.send({
                    "item": reply["item"], "mode": "ranking", "verdict": "ranked", "ranks": [2, 1, 3, 4],
                    "seconds": 1, "client_key": str(uuid.uuid4()),
                })
                one_more.release()
        except httpx.TransportError:
            pass


def test_every_acknowledged_judgement_survives_kill_9_exactly_once(tmp_path: Path) -> None:
    stored = drawn.draw(tmp_path / "set", n_items=400, size=16)
    url, port = f"sqlite:///{tmp_path / 'preferences.sqlite'}", free_port()
    one_more = threading.Semaphore(0)
    with running_page(stored.folder, url, port=port) as page, ThreadPoolExecutor(PEOPLE) as pool:
        people = [Person(f"person {number}", page.address) for number in range(PEOPLE)]
        for person in people:
            person.sign_in()
        working = [pool.submit(person.work, one_more) for person in people]
        for _ in range(KILLED_AFTER):
            assert one_more.acquire(timeout=PATIENCE)
        page.kill()
        for work in working:
            work.result()
    on_its_way = [person.on_its_way for person in people if person.on_its_way]
    assert on_its_way, "nobody was interrupted"

    with running_page(stored.folder, url, port=port):
        for person in people:  # the browsers still have their cookies, and try again what was not acknowledged
            if person.on_its_way:
                person.send(person.on_its_way)
    database = PreferenceDatabase.open(url)
    held = [judgement.client_key for judgement in database.judgements(stored.candidate_set.id)]
    database.close()
    assert sorted(held) == sorted(judgement["client_key"] for person in people for judgement in person.acknowledged)

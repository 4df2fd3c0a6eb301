"""Many annotators at once: is a judgement lost or stored twice, and how long does one take to be stored?

    python benchmarks/annotate_load.py [--people 20] [--judgements 5000] [--database URL] [--pause 0.5]

The page runs in a process of its own on a drawn candidate set. Each simulated person signs in, and then does what the
page's scripts do: send a judgement, wait for the answer, load outlines and pixels of the items that probably come next,
think for half a second. That is a tenth of a person's time; ``--pause 0`` asks what the server can do at most. The
milliseconds printed are those of a judgement, from sending it to reading that it is stored and which item comes next.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import random
import re
import secrets
import statistics
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.preferences.records import CandidateSet
from samdpo.preferences.stored_candidates import CandidateWriter, ItemCandidates, StoredCandidates

SIZE, CANDIDATES, SLICES = 256, 4, 100  # pixels, per item, per case
HOST = "127.0.0.1"


def draw(folder: Path, n_items: int) -> StoredCandidates:
    """Circles on noise."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    image = generator.random((SIZE, SIZE), np.float32)
    boxes = np.zeros((1, 4), np.float32)
    writer = CandidateWriter(folder)
    for first in range(0, n_items, SLICES):
        items = []
        for index in range(min(SLICES, n_items - first)):
            x, y, radius = generator.uniform((80, 80, 30), (176, 176, 60))
            radii = radius * generator.uniform(0.8, 1.2, CANDIDATES)[:, None, None]
            masks = (rows - y) ** 2 + (columns - x) ** 2 < radii**2
            items.append(ItemCandidates(index, "circle", masks, boxes, generator.random()))
        writer.put(f"case_{first:05d}", "", dict.fromkeys(range(len(items)), image), items)
    # A name of its own for each run, so that a database that others use can be tried.
    made = CandidateSet(uuid.uuid4().hex[:16], "Dataset999_Load", "0", "align", "samdpoPlans", "", "",
                        datetime.now(timezone.utc), str(folder))
    writer.finish(made, {})
    return StoredCandidates.open(folder)


def run_server(folder: str, url: str, token: str, port: multiprocessing.Queue) -> None:
    """The page, until it is ended."""
    from samdpo.annotate.page.app import create_app
    from samdpo.annotate.page.item_views import ItemViews
    from samdpo.annotate.page.ranking_page import RankingPage
    from samdpo.annotate.page.serve import listen, serve
    from samdpo.annotate.page.settings import PageSettings
    from samdpo.annotate.page.tokens import Tokens

    stored, database = StoredCandidates.open(folder), PreferenceDatabase.open(url)
    database.add_candidate_set(stored.candidate_set, stored.items)
    page = RankingPage(database, stored.candidate_set, ItemViews(stored), PageSettings())
    listening = listen(HOST, 0)
    port.put(listening.getsockname()[1])
    serve(create_app(page, Tokens(token, {})), listening, None, behind_proxy=False)


class Person:
    """A simulated annotator on one connection."""

    def __init__(self, name: str, port: int, token: str) -> None:
        self.connection = http.client.HTTPConnection(HOST, port, timeout=60)
        self.headers = {"Origin": f"http://{HOST}:{port}"}
        form = urlencode({"name": name, "token": token})
        answer = self.request("POST", "/sign-in", form, {"Content-Type": "application/x-www-form-urlencoded"})
        self.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        page = self.request("GET", "/").body.decode()
        self.headers["X-CSRF-Token"] = re.search(r'csrf-token" content="(\w+)"', page)[1]
        self.random = random.Random(name)
        self.stored: list[str] = []
        self.seconds: list[float] = []

    def request(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None):
        """One request; the answer with its whole ``body``."""
        self.connection.request(method, path, body, {**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        answer.body = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body.decode()}")
        return answer

    def post(self, path: str, content: dict) -> dict:
        """Send JSON, read JSON."""
        return json.loads(self.request("POST", path, json.dumps(content), {"Content-Type": "application/json"}).body)

    def work(self, pause: float) -> None:
        """Judge until nothing is left."""
        reply, loaded = self.post("/api/next", {}), set()
        while reply["item"]:
            for item in {reply["item"], *reply["upcoming"]} - loaded:
                self.request("GET", f"/api/items/{item}")
                self.request("GET", f"/api/items/{item}/pixels")
                loaded.add(item)
            judgement = {
                "item": reply["item"], "mode": "ranking", "verdict": "ranked", "seconds": 1.0,
                "ranks": self.random.sample(range(1, CANDIDATES + 1), CANDIDATES), "client_key": str(uuid.uuid4()),
            }
            time.sleep(pause * self.random.uniform(0.5, 1.5))
            started = time.perf_counter()
            reply = self.post("/api/judgements", judgement)
            self.seconds.append(time.perf_counter() - started)
            self.stored.append(judgement["client_key"])


def main() -> None:
    """Draw, serve, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--judgements", type=int, default=5000)
    parser.add_argument("--database", metavar="URL", default=None, help="instead of SQLite in a temporary folder")
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds that a person looks at an item")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url, token = args.database or f"sqlite:///{folder}/preferences.sqlite", secrets.token_urlsafe(24)
        stored = draw(Path(folder) / "candidates", args.judgements)
        processes = multiprocessing.get_context("spawn")
        port = processes.Queue()
        server = processes.Process(target=run_server, args=(str(stored.folder), url, token, port))
        server.start()
        number = port.get(timeout=120)
        people = [Person(f"person {i}", number, token) for i in range(args.people)]
        started = time.perf_counter()
        with ThreadPoolExecutor(args.people) as pool:
            for done in [pool.submit(person.work, args.pause) for person in people]:
                done.result()
        wall = time.perf_counter() - started
        server.terminate()
        server.join()
        database = PreferenceDatabase.open(url)
        held = database.judgements(stored.candidate_set.id)
        database.close()
    report(people, held, wall, args.judgements, url.partition(":")[0])


def report(people: list[Person], held: list, wall: float, expected: int, kind: str) -> None:
    """Compare what was acknowledged with what is stored."""
    acknowledged = Counter(key for person in people for key in person.stored)
    keys, items = Counter(j.client_key for j in held), Counter(j.item for j in held)
    seconds = sorted(s for person in people for s in person.seconds)
    percentile = statistics.quantiles(seconds, n=20)[-1]
    print(f"{kind}, {len(people)} people, {len(seconds)} of {expected} judgements acknowledged in {wall:.1f} s "
          f"({len(seconds) / wall:.0f} a second)")
    print(f"lost {sum((acknowledged - keys).values())}, doubled {sum((keys - acknowledged).values())}, "
          f"items judged twice {sum(count - 1 for count in items.values())}")
    print(f"milliseconds until stored: median {1000 * statistics.median(seconds):.0f}, "
          f"95th percentile {1000 * percentile:.0f}, longest {1000 * seconds[-1]:.0f}")


if __name__ == "__main__":
    main()

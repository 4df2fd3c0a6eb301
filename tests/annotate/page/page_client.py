"""A client of the page: what its scripts send, without a browser."""

from __future__ import annotations

import re
import uuid

from starlette.testclient import TestClient

TOKEN = "a-token-of-the-tests"
ORIGIN = "http://localhost"


class Client(TestClient):
    """A browser that sends what the page's scripts send."""

    def sign_in(self, name: str = "anna", token: str = TOKEN):
        """Fill in the form; keeps the CSRF token of the page that follows."""
        response = self.post("/sign-in", data={"name": name, "token": token})
        found = re.search(r'name="csrf-token" content="(\w+)"', response.text)
        if found:
            self.headers["x-csrf-token"] = found[1]
        return response

    def next(self) -> dict:
        """The next item, with progress."""
        response = self.post("/api/next", json={})
        assert response.status_code == 200, response.text
        return response.json()

    def judge(self, item_id: int, **fields):
        """Send a judgement; a ranking 1, 2, 3, 4 unless told otherwise."""
        content = {"item": item_id, "mode": "ranking", "verdict": "ranked", "seconds": 2.5,
                   "client_key": str(uuid.uuid4())} | fields
        if content["verdict"] == "ranked" and not {"ranks", "ratings", "best"} & content.keys():
            content["ranks"] = [1, 2, 3, 4]
        return self.post("/api/judgements", json=content)

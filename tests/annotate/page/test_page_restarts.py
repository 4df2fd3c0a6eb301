"""What holds across restarts of the page, across its servers, and between its people."""

from __future__ import annotations

import uuid

import pytest
from page_client import ORIGIN, TOKEN

from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.annotate.page.tokens import Tokens

SET = "drawn"


@pytest.fixture
def anna_and_ben(make_client):
    """Two people on two servers of one database."""
    people = make_client(), make_client()
    for client, name in zip(people, ("anna", "ben")):
        assert client.sign_in(name).status_code == 200
    return people


def same_browser(client, server):
    """The browser of ``client`` after a restart: its cookies and what its scripts know."""
    server.cookies, server.headers["x-csrf-token"] = client.cookies, client.headers["x-csrf-token"]
    return server


# ---- sent again -----------------------------------------------------------------------------------------------------


def test_an_undo_sent_again_after_a_restart_takes_back_nothing_more(client, make_client, database) -> None:
    for _ in range(3):
        client.judge(client.next()["item"])
    undo = {"undo_key": str(uuid.uuid4())}
    first = client.post("/api/undo", json=undo).json()
    for _ in range(2):
        again = same_browser(client, make_client()).post("/api/undo", json=undo).json()
        assert (again["undone"], again["item"]) == (first["undone"], first["item"])
        assert len(database.judgements(SET)) == 2


def test_a_judgement_sent_again_after_a_restart_counts_once(client, make_client, database) -> None:
    item, key = client.next()["item"], str(uuid.uuid4())
    first = client.judge(item, client_key=key).json()
    again = same_browser(client, make_client()).judge(item, client_key=key).json()
    assert again["item"] == first["item"]
    assert len(database.judgements(SET)) == 1


def test_signing_out_holds_after_a_restart_and_on_another_server(client, make_client) -> None:
    cookies = dict(client.cookies)
    assert client.post("/sign-out").status_code == 204
    for _ in range(2):
        other = make_client()
        for name, value in cookies.items():
            other.cookies.set(name, value)
        assert other.get("/", follow_redirects=False).headers["location"] == "/sign-in"
        assert other.get("/api/items/1").status_code == 401


def test_two_pages_of_one_machine_do_not_sign_each_other_out(make_client) -> None:
    first, second = make_client(), make_client(Tokens("another-token-of-the-tests", {}))
    for client, port in ((first, 8765), (second, 8766)):
        client.base_url = client.headers["origin"] = f"{ORIGIN}:{port}"
    second.cookies.jar = first.cookies.jar  # a browser has one jar for all ports of a host
    assert first.sign_in("anna").status_code == 200
    assert second.sign_in("anna", "another-token-of-the-tests").status_code == 200
    for client in (first, second):
        assert client.get("/", follow_redirects=False).status_code == 200
    assert len(first.cookies) == 2
    assert second.post("/sign-out").status_code == 204
    assert second.get("/", follow_redirects=False).status_code == 303
    assert first.get("/", follow_redirects=False).status_code == 200


def test_behind_https_the_public_port_tells_pages_apart(make_client) -> None:
    address = "https://annotate.example.org:8443"
    client = make_client(address=address, host_names=frozenset({"annotate.example.org"}))
    client.headers["origin"], client.base_url = address, "https://annotate.example.org"  # nginx leaves the port out
    response = client.post("/sign-in", data={"name": "anna", "token": TOKEN}, follow_redirects=False)
    assert response.headers["set-cookie"].startswith("__Host-samdpo_session_8443=")


# ---- whose turn it is -----------------------------------------------------------------------------------------------


def test_nobody_judges_what_somebody_else_has_on_the_screen(anna_and_ben, database) -> None:
    anna, ben = anna_and_ben
    item, of_ben = anna.next()["item"], ben.next()["item"]
    upcoming = ben.next()["upcoming"]
    for other in (item, *upcoming):
        refused = ben.judge(other)
        assert refused.status_code == 409 and "not handed to you" in refused.json()["message"]
    assert ben.judge(item, verdict="skipped").status_code == 409
    assert anna.judge(item).status_code == ben.judge(of_ben).status_code == 200
    assert sorted(one.item for one in database.judgements(SET)) == sorted([item, of_ben])


def test_a_late_answer_that_nobody_needs_is_told_and_the_work_goes_on(make_client, database) -> None:
    late, quick = make_client(lease_seconds=0), make_client()
    late.sign_in("anna")
    quick.sign_in("ben")
    done = late.next()["item"]
    late.judge(done)
    item = late.next()["item"]
    assert quick.next()["item"] == item
    assert quick.judge(item).status_code == 200
    refused = late.judge(item)
    assert refused.status_code == 409
    assert "already judged" in refused.json()["message"]
    assert late.next()["item"] not in (item, None)
    undone = late.post("/api/undo", json={"undo_key": str(uuid.uuid4())}).json()["undone"]
    assert undone["item"] == done, "what was stored before can still be taken back"
    assert [one.item for one in database.judgements(SET)] == [item]


def test_a_late_answer_that_is_needed_is_taken(make_client, database) -> None:
    client = make_client(lease_seconds=0)
    client.sign_in()
    assert client.judge(client.next()["item"]).status_code == 200
    assert len(database.judgements(SET)) == 1


def test_an_item_of_several_people_is_judged_by_so_many(make_client, database) -> None:
    people = [make_client(overlap=OverlapRule(1.0, 2), lease_seconds=0) for _ in range(3)]
    for client, name in zip(people, ("anna", "ben", "carla")):
        client.sign_in(name)
    items = {client.next()["item"] for client in people}
    assert len(items) == 1
    assert [client.judge(*items).status_code for client in people] == [200, 200, 409]

"""Handing out, judging, undoing: what the browser gets and what the database then holds."""

from __future__ import annotations

import dataclasses
import uuid

import numpy as np
import pytest

from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.annotate.page.item_views import display_order

SET = "drawn"


def test_the_item_whose_candidates_differ_most_comes_first(client, stored) -> None:
    reply = client.next()
    assert reply["item"] == stored.items[0].id
    assert reply["upcoming"] == [item.id for item in stored.items[1:4]]
    assert reply["progress"] == {"judged": 0, "left": 12, "median_seconds": None, "skipped": 0}


def test_a_page_that_is_loaded_again_shows_the_same_item(client) -> None:
    assert client.next()["item"] == client.next()["item"]


def test_outlines_come_in_the_order_of_the_person(client, stored) -> None:
    from samdpo.annotate.page.item_views import outlines

    item = client.get(f"/api/items/{client.next()['item']}").json()
    masks = stored.masks(stored.items[0])
    order = display_order(SET, item["id"], "anna", 4)
    assert item["candidates"] == [outlines(masks[candidate]) for candidate in order]


def test_pixels_have_16_bits(client, stored) -> None:
    item = client.get(f"/api/items/{client.next()['item']}").json()
    sent = client.get(f"/api/items/{item['id']}/pixels")
    values = np.frombuffer(sent.content, "<u2").reshape(item["height"], item["width"], item["channels"])
    assert sent.headers["content-type"] == "application/octet-stream"
    assert values[..., 0] / 65535 == pytest.approx(stored.image(stored.items[0]), abs=1e-4)


@pytest.mark.parametrize("name", ["anna", "ben", "carla"])
def test_ranks_are_stored_for_the_candidates_that_were_meant(make_client, database, name: str) -> None:
    client = make_client()
    client.sign_in(name)
    item = client.next()["item"]
    assert client.judge(item, ranks=[3, 1, 2, 2]).status_code == 200
    order = display_order(SET, item, name, 4)
    (judgement,) = database.judgements(SET)
    assert [judgement.ranks[candidate] for candidate in order] == [3, 1, 2, 2]
    assert (judgement.annotator, judgement.mode, judgement.verdict) == (name, "ranking", "ranked")


def test_stars_are_stored_for_the_candidates_that_were_meant(make_client, database) -> None:
    client = make_client(mode="rating")
    client.sign_in()
    item = client.next()["item"]
    assert client.judge(item, mode="rating", ratings=[4, 1, 2, 2]).status_code == 200
    order = display_order(SET, item, "anna", 4)
    assert [database.judgements(SET)[0].ratings[candidate] for candidate in order] == [4, 1, 2, 2]


def test_the_best_is_stored_for_the_candidate_that_was_meant(make_client, database) -> None:
    client = make_client(mode="best")
    client.sign_in()
    item = client.next()["item"]
    assert client.judge(item, mode="best", best=2).status_code == 200
    assert database.judgements(SET)[0].best == display_order(SET, item, "anna", 4)[2]


@pytest.mark.parametrize("verdict", ["none_acceptable", "skipped"])
def test_none_and_skip_are_stored_without_an_order(client, database, verdict: str) -> None:
    assert client.judge(client.next()["item"], verdict=verdict).status_code == 200
    (judgement,) = database.judgements(SET)
    assert (judgement.verdict, judgement.ranks) == (verdict, None)


def test_storing_hands_out_the_next_item(client, stored) -> None:
    reply = client.judge(client.next()["item"]).json()
    assert reply["item"] == stored.items[1].id
    assert reply["progress"] == {"judged": 1, "left": 11, "median_seconds": 2.5, "skipped": 0}


def test_a_judgement_that_is_sent_twice_is_stored_once(client, database) -> None:
    item, key = client.next()["item"], str(uuid.uuid4())
    first, second = client.judge(item, client_key=key), client.judge(item, client_key=key)
    assert first.json() == second.json()
    assert len(database.judgements(SET)) == 1


def test_an_item_is_judged_once_by_a_person(client, database) -> None:
    item = client.next()["item"]
    client.judge(item)
    again = client.judge(item, ranks=[4, 3, 2, 1])
    assert again.status_code == 409
    assert "already" in again.json()["message"]
    assert len(database.judgements(SET)) == 1


def test_two_people_never_get_the_same_item(make_client) -> None:
    first, second = make_client(), make_client()
    first.sign_in("anna")
    second.sign_in("ben")
    seen = []
    reply = [first.next(), second.next()]
    while all(part["item"] for part in reply):
        seen += [part["item"] for part in reply]
        reply = [first.judge(reply[0]["item"]).json(), second.judge(reply[1]["item"]).json()]
    assert len(seen) == len(set(seen)) == 12


def test_with_overlap_they_do(make_client) -> None:
    first, second = (make_client(overlap=OverlapRule(1.0, 2)) for _ in range(2))
    first.sign_in("anna")
    second.sign_in("ben")
    assert first.next()["item"] == second.next()["item"]


def test_undo_brings_the_item_back_with_its_answer(client, database) -> None:
    item = client.next()["item"]
    client.judge(item, ranks=[2, 1, 2, 3], seconds=7)
    reply = client.post("/api/undo", json={"undo_key": str(uuid.uuid4())}).json()
    assert reply["item"] == item
    assert reply["undone"] == {"item": item, "verdict": "ranked", "ranks": [2, 1, 2, 3], "ratings": None, "best": None,
                               "seconds": 7.0}
    assert database.judgements(SET) == []


def test_an_undo_whose_reply_was_lost_takes_back_one_judgement(client, database) -> None:
    for _ in range(3):
        client.judge(client.next()["item"])
    key = str(uuid.uuid4())
    replies = [client.post("/api/undo", json={"undo_key": key}).json() for _ in range(2)]
    assert replies[0] == replies[1]
    assert len(database.judgements(SET)) == 2
    client.post("/api/undo", json={"undo_key": str(uuid.uuid4())})
    assert len(database.judgements(SET)) == 1


def test_undo_takes_back_ones_own_judgements_alone(make_client, database) -> None:
    first, second = make_client(), make_client()
    first.sign_in("anna")
    second.sign_in("ben")
    first.judge(first.next()["item"])
    reply = second.post("/api/undo", json={"undo_key": str(uuid.uuid4())}).json()
    assert reply["undone"] is None
    assert len(database.judgements(SET)) == 1


def test_when_everything_is_judged_there_is_no_item(client) -> None:
    reply = client.next()
    while reply["item"]:
        reply = client.judge(reply["item"]).json()
    assert reply["upcoming"] == []
    assert reply["progress"]["left"] == 0
    assert reply["progress"]["judged"] == 12


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"ranks": [1, 2, 3]}, "4 candidates"),
        ({"ranks": [1, 2, 3, 4, 5]}, "4 candidates"),
        ({"ranks": [1, 1, 3, 3]}, "without gaps"),
        ({"ranks": [2, 3, 4, 5]}, "without gaps"),
        ({"ranks": [0, 1, 2, 3]}, "ranks"),
        ({"ranks": [1] * 100}, "ranks"),
        ({"ranks": [1.5, 1, 2, 3]}, "ranks"),
        ({"ranks": None, "ratings": [1, 2, 3, 4]}, "ranking"),
        ({"ranks": [1, 2, 3, 4], "best": 0}, "ranking"),
        ({"verdict": "skipped", "ranks": [1, 2, 3, 4]}, "skipped"),
        ({"verdict": "approved"}, "verdict"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
        ({"seconds": "soon"}, "seconds"),
        ({"client_key": "1; DROP TABLE judgements"}, "client_key"),
        ({"ranks": [True, True, True, True]}, "ranks"),
        ({"ranks": ["1", "2", "3", "4"]}, "ranks"),
        ({"ranks": [1.0, 2.0, 3.0, 4.0]}, "ranks"),
        ({"ranks": "1234"}, "ranks"),
        ({"ranks": None, "best": True}, "best"),
        ({"ranks": None, "ratings": [True, "4", 1, 1]}, "ratings"),
        ({"seconds": True}, "seconds"),
        ({"seconds": "2.5"}, "seconds"),
        ({"item": True}, "item"),
        ({"item": "1"}, "item"),
        ({"client_key": 7}, "client_key"),
        ({"verdict": ["ranked"]}, "verdict"),
        ({"item": "../../etc/passwd"}, "item"),
        ({"item": -1}, "item"),
        ({"item": 2**53}, "item"),
        ({"annotator": "ben"}, "annotator"),
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused_with_a_sentence(client, database, fields, where: str) -> None:
    refused = client.judge(client.next()["item"], **fields)
    assert refused.status_code == 422
    assert where in refused.json()["message"]
    assert database.judgements(SET) == []


def test_an_unknown_item_is_refused(client) -> None:
    assert client.judge(12345).status_code == 404
    assert client.get("/api/items/12345").status_code == 404
    assert client.get("/api/items/12345/pixels").status_code == 404


def test_items_that_another_start_adds_are_handed_out_too(client, database, stored) -> None:
    other = dataclasses.replace(stored.items[0], id=77, slice_index=1, position=2.0)
    database.add_candidate_set(stored.candidate_set, [other])
    assert client.next()["item"] == 77
    assert client.judge(77).status_code == 200


def test_items_of_another_candidate_set_are_out_of_reach(client, database, stored) -> None:
    other = dataclasses.replace(stored.candidate_set, id="other")
    database.add_candidate_set(other, [dataclasses.replace(stored.items[0], id=78, candidate_set="other")])
    assert client.judge(78).status_code == 404
    assert client.get("/api/items/78").status_code == 404


def test_a_page_of_an_earlier_start_with_another_mode_is_told_to_load_again(client) -> None:
    refused = client.judge(client.next()["item"], mode="best", best=1)
    assert refused.status_code == 409
    assert "Load it again" in refused.json()["message"]


def test_a_database_that_does_not_answer_is_worth_another_try(client, database, monkeypatch) -> None:
    from samdpo.annotate.database.errors import DatabaseError

    def locked(judgement, overlap) -> bool:
        raise DatabaseError("sqlite:////secret/place is locked")

    item = client.next()["item"]
    monkeypatch.setattr(database, "record", locked)
    refused = client.judge(item)
    assert refused.status_code == 503
    assert "secret" not in refused.text

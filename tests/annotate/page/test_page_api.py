"""Handing out, judging, undoing: what the browser gets and what the database then holds."""

from __future__ import annotations

import dataclasses
import uuid

import numpy as np
import pytest
from drawn import EllipseSegmenter

from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.annotate.page.item_views import outlines

SET = "drawn"


def test_the_item_whose_candidates_differ_most_comes_first(client, stored) -> None:
    reply = client.next()
    assert reply["item"] == stored.items[0].id
    assert reply["upcoming"] == [item.id for item in stored.items[1:4]]
    assert reply["progress"] == {"judged": 0, "left": 12, "median_seconds": None, "skipped": 0}


def test_a_page_that_is_loaded_again_shows_the_same_item(client) -> None:
    assert client.next()["item"] == client.next()["item"]


def test_outlines_come_in_the_order_in_which_they_are_stored(client, stored) -> None:
    item = client.get(f"/api/items/{client.next()['item']}").json()
    assert item["candidates"] == [outlines(mask) for mask in stored.masks(stored.items[0])]


def test_pixels_have_16_bits(client, stored) -> None:
    item = client.get(f"/api/items/{client.next()['item']}").json()
    sent = client.get(f"/api/items/{item['id']}/pixels")
    values = np.frombuffer(sent.content, "<u2").reshape(item["height"], item["width"], item["channels"])
    assert sent.headers["content-type"] == "application/octet-stream"
    assert values[..., 0] / 65535 == pytest.approx(stored.image(stored.items[0]), abs=1e-4)


def test_ranks_are_stored_for_the_candidates_that_were_meant(client, database) -> None:
    assert client.judge(client.next()["item"], ranks=[3, 1, 2, 2]).status_code == 200
    (judgement,) = database.judgements(SET)
    assert judgement.ranks == (3, 1, 2, 2)
    assert (judgement.annotator, judgement.mode, judgement.verdict) == ("anna", "ranking", "ranked")


def test_stars_are_stored_for_the_candidates_that_were_meant(make_client, database) -> None:
    client = make_client(mode="rating")
    client.sign_in()
    assert client.judge(client.next()["item"], mode="rating", ratings=[4, 1, 2, 2]).status_code == 200
    assert database.judgements(SET)[0].ratings == (4, 1, 2, 2)


def test_the_best_is_stored_for_the_candidate_that_was_meant(make_client, database) -> None:
    client = make_client(mode="best")
    client.sign_in()
    assert client.judge(client.next()["item"], mode="best", best=2).status_code == 200
    assert database.judgements(SET)[0].best == 2


@pytest.mark.parametrize("mode", ["ranking", "best"])
def test_one_candidate_is_accepted(make_client, database, mode: str) -> None:
    client = make_client(mode=mode)
    client.sign_in()
    assert client.judge(client.next()["item"], mode=mode, verdict="accepted", best=3).status_code == 200
    (judgement,) = database.judgements(SET)
    assert (judgement.verdict, judgement.best, judgement.ranks) == ("accepted", 3, None)


@pytest.mark.parametrize("place", [{"box": [3, 4.5, 48, 20]}, {"point": [0, 47]}])
def test_where_it_is_is_stored_and_comes_back_after_an_undo(client, database, place) -> None:
    item = client.next()["item"]
    assert client.judge(item, verdict="none_acceptable", **place).status_code == 200
    (judgement,) = database.judgements(SET)
    assert {"box": judgement.box and list(judgement.box), "point": judgement.point and list(judgement.point)} == {
        "box": None, "point": None, **place,
    }
    reply = client.post("/api/undo", json={"undo_key": str(uuid.uuid4())}).json()
    assert {name: reply["undone"][name] for name in place} == place


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
                               "box": None, "point": None, "seconds": 7.0}
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
        ({"verdict": "accepted"}, "the answer of best; found that of no mode"),
        ({"verdict": "accepted", "best": 4}, "from 0 to 3"),
        ({"verdict": "accepted", "best": 0, "ranks": [1, 2, 3, 4]}, "found that of ranking and best"),
        ({"box": [1, 2, 3, 4]}, "only 'none_acceptable'"),
        ({"verdict": "none_acceptable", "box": [0, 0, 49, 10]}, "48 x 48 pixels"),
        ({"verdict": "none_acceptable", "box": [0, 10, 5, 10]}, "y0 < y1"),
        ({"verdict": "none_acceptable", "box": [0, 0, 10]}, "box"),
        ({"verdict": "none_acceptable", "box": ["0", "0", "10", "10"]}, "box"),
        ({"verdict": "none_acceptable", "point": [48, 3]}, "48 x 48 pixels"),
        ({"verdict": "none_acceptable", "point": [-1, 3]}, "point"),
        ({"verdict": "none_acceptable", "point": [True, 3]}, "point"),
        ({"verdict": "none_acceptable", "point": [1, 1], "box": [0, 0, 9, 9]}, "both a box and a point"),
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


# ---- from a box or a point to an outline ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", [{"box": [4, 6, 30, 40]}, {"point": [10, 20]}])
def test_the_outline_of_a_place_comes_in_the_form_of_the_candidates(make_client, stored, place) -> None:
    segmenter = EllipseSegmenter(48)
    client = make_client(segmenter=segmenter)
    client.sign_in()
    item = client.next()["item"]
    assert segmenter.prepared == [one.id for one in stored.items[:4]], "the item at hand first, then those that follow"
    reply = client.post(f"/api/items/{item}/segment", json=place)
    expected = segmenter.segment(stored.items[0], place.get("box"), place.get("point"))
    assert reply.json() == {"outline": outlines(expected)} and expected.any()


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ({}, "a box or a point"), ({"box": [0, 0, 5, 5], "point": [1, 1]}, "a box or a point"),
        ({"box": [0, 0, 49, 5]}, "48 x 48 pixels"), ({"box": [5, 0, 5, 5]}, "x0 < x1"),
        ({"point": [3, 48]}, "48 x 48 pixels"), ({"point": ["3", 4]}, "point"),
        ({"box": [0, 0, 5, 5], "label": 1}, "label"),
    ],
)
def test_a_place_that_is_none_is_refused_with_a_sentence(make_client, place, where: str) -> None:
    client = make_client(segmenter=EllipseSegmenter(48))
    client.sign_in()
    refused = client.post(f"/api/items/{client.next()['item']}/segment", json=place)
    assert refused.status_code == 422 and where in refused.json()["message"]


def test_without_a_model_a_place_is_stored_and_its_outline_is_refused(client, database) -> None:
    item = client.next()["item"]
    refused = client.post(f"/api/items/{item}/segment", json={"point": [1, 1]})
    assert refused.status_code == 409 and "without a model" in refused.json()["message"]
    assert client.judge(item, verdict="none_acceptable", point=[1, 1]).status_code == 200
    assert client.post("/api/items/12345/segment", json={"point": [1, 1]}).status_code == 404


# ---- when to stop ---------------------------------------------------------------------------------------------------


def test_what_the_latest_answers_say_comes_with_the_next_item(client) -> None:
    reply = client.next()
    for number in range(10):
        assert reply["outlook"] is None
        reply = client.judge(reply["item"], verdict="accepted", best=int(number < 3)).json()
    assert reply["outlook"] == {"sentence": "The first proposal was right in 7 of your dataset's last 10 answers.",
                                "stop": False}


def test_where_the_first_is_not_the_models_own_choice_nothing_is_foretold(make_client) -> None:
    client = make_client(ordered=False)
    client.sign_in()
    reply = client.next()
    for _ in range(11):
        reply = client.judge(reply["item"], verdict="accepted", best=0).json()
        assert reply["outlook"] is None


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

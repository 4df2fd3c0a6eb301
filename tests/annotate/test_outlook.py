"""What the latest answers say about the next ones, and when it is time to stop."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

import pytest

from samdpo.annotate.outlook import Outlook, first_is_right, outlook
from samdpo.preferences.records import Judgement


def said(verdict="accepted", mode="ranking", **answer) -> Judgement:
    values = {"ranks": None, "ratings": None, "best": None, **answer}
    return Judgement(item=1, annotator="ann", mode=mode, verdict=verdict, seconds=1.0, client_key=str(uuid.uuid4()),
                     time=datetime.now(timezone.utc), **values)


RIGHT, ANOTHER = said(best=0), said(best=2)
NONE = said("none_acceptable", box=(0, 0, 9, 9))
ORDERED = said("ranked", ranks=(1, 2, 3))


@pytest.mark.parametrize(
    ("judgement", "right"),
    [
        (RIGHT, True), (ANOTHER, False), (NONE, False), (said("none_acceptable", point=(1, 1)), False),
        (ORDERED, False),  # it is the best of three, which is not to say that it is right
        (said("ranked", mode="best", best=0), False), (said(mode="best", best=0), True),
        (said("ranked", mode="rating", ratings=(4, 4, 1)), True),
        (said("ranked", mode="rating", ratings=(3, 1, 1)), False),
    ],
)
def test_only_who_accepts_the_first_or_gives_it_all_stars_calls_it_right(judgement, right) -> None:
    assert first_is_right(judgement) is right


@pytest.mark.parametrize(
    ("latest", "left", "expected"),
    [
        ([RIGHT] * 9, 500, None),
        ([RIGHT] * 10, 500, Outlook(10, 10, 0, 50, stop=False)),  # too few to stop by
        ([RIGHT] * 17 + [ANOTHER, NONE, ORDERED], 500, Outlook(17, 20, 8, 50, stop=False)),
        ([RIGHT] * 18 + [NONE] * 2, 500, Outlook(18, 20, 5, 50, stop=True)),
        ([RIGHT] * 18 + [NONE] * 2, 20, Outlook(18, 20, 2, 20, stop=True)),
        ([NONE] * 3 + [RIGHT] * 17 + [RIGHT] * 100, 500, Outlook(17, 20, 8, 50, stop=False)),  # the latest come first
        ([NONE] * 20, 30, Outlook(0, 20, 30, 30, stop=False)),
    ],
)
def test_the_latest_twenty_answers_count(latest, left, expected) -> None:
    assert outlook(latest, left) == expected


def test_it_is_said_in_a_sentence_and_of_a_few_images_no_forecast_is_made() -> None:
    seen = outlook([RIGHT] * 17 + [NONE] * 3, 500)
    assert seen.sentence == ("The first proposal was right in 17 of your dataset's last 20 answers; about 8 of the "
                             "next 50 images would be corrected.")
    assert outlook([RIGHT] * 17 + [NONE] * 3, 4).sentence.endswith("last 20 answers.")

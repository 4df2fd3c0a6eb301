"""From stored candidates to a running page: what ``samdpo_annotate`` does once the candidates are there."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, replace
from functools import partial

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.exchange import export_jsonl
from samdpo.annotate.outlook import LATEST, outlook
from samdpo.annotate.page.app import create_app
from samdpo.annotate.page.item_views import ItemViews, aspect_ratios
from samdpo.annotate.page.ranking_page import RankingPage
from samdpo.annotate.page.segmenter import ModelSegmenter, load_maker
from samdpo.annotate.page.serve import address_of, listen, serve
from samdpo.annotate.page.settings import PageSettings, is_loopback
from samdpo.annotate.page.tokens import Tokens
from samdpo.annotate.review import REVIEW, Predictions, Review, store_flagged
from samdpo.errors import ConfigurationError
from samdpo.paths import preprocessed_folder
from samdpo.preferences.records import Item
from samdpo.preferences.stored_candidates import StoredCandidates
from samdpo.preprocessing.store import SliceStore

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for the database: less than the browser's (static/js/api.js), so that requests do not pile up


@dataclass(frozen=True)
class Reception:
    """Everything that can be refused before candidates are made, which takes long: database, address, tokens."""

    database: PreferenceDatabase
    listening: socket.socket
    host: str
    tokens: Tokens

    @classmethod
    def prepare(cls, url: str, host: str, port: int, tokens: Tokens) -> Reception:
        """Open the database and take the address.

        Raises:
            DatabaseError: the database cannot be opened.
            ConfigurationError: the address is in use.
        """
        return cls(PreferenceDatabase.open(url, patience=PATIENCE), listen(host, port), host, tokens)


def run_page(
    reception: Reception,
    stored: StoredCandidates,
    settings: PageSettings,
    max_slices: int | None = None,
    open_browser: bool = False,
    device: str = "auto",
) -> str:
    """Show candidates to people until Ctrl-C.

    Args:
        reception: see :meth:`Reception.prepare`.
        stored: the candidates.
        settings: what is asked, and how.
        max_slices: put only the items of this many slices into the database, those that differ most; None for all.
        open_browser: open the page in this machine's browser.
        device: of the model that makes masks of people's boxes and points.

    Returns:
        what was stored, as a sentence.

    Raises:
        ConfigurationError: there is nothing to judge.
    """
    database, candidate_set = reception.database, stored.candidate_set
    items = of_first_slices(stored.items, max_slices)
    if not items:
        raise ConfigurationError(
            f"{stored.folder} holds nothing to judge: on every slice the candidates are all the same. Let them differ "
            "more with, for example: --set candidates.field_amplitude=[1,4]"
        )
    database.add_candidate_set(candidate_set, items)
    known = database.items(candidate_set.id)
    if len(known) > len(items):
        log.info("The database holds %d items of these candidates already; all of them are handed out.", len(known))
    store = SliceStore(preprocessed_folder(candidate_set.dataset) / stored.description["data_identifier"])
    # Candidates of one place come in random order.
    settings = replace(settings, ordered=stored.description.get("proposer") == "places")
    segmenter = ModelSegmenter(partial(load_maker, candidate_set, stored.folder, device), stored,
                               published=stored.description.get("proposer") == "places")
    page = RankingPage(database, candidate_set, ItemViews(stored, aspect_ratios(store)), settings, segmenter)
    before = len(database.judgements(candidate_set.id))
    address = settings.address or address_of(reception.listening, reception.host)
    _announce(address, reception, settings, len(known), before)
    try:
        serve(create_app(page, reception.tokens), reception.listening, address if open_browser else None,
              behind_proxy=settings.address is not None)
    finally:
        segmenter.close()
    said = summary(database, candidate_set.id, before, forecast=settings.ordered)
    database.close()
    return said


def run_review(
    reception: Reception, predictions: Predictions, settings: PageSettings, max_slices: int | None = None,
    open_browser: bool = False,
) -> str:
    """Show the predictions that a person should look at until Ctrl-C, and write what is mended.

    Args:
        reception: see :meth:`Reception.prepare`; its database is of the answers to these predictions alone.
        predictions: the folder.
        settings: how people are asked.
        max_slices: of a structure of a volume at most so many slices.
        open_browser: open the page in this machine's browser.

    Returns:
        what was stored and written, as a sentence.
    """
    stored, database = store_flagged(predictions, max_slices), reception.database
    candidate_set = stored.candidate_set
    database.add_candidate_set(candidate_set, stored.items)
    before = len(database.judgements(candidate_set.id))
    segmenter = ModelSegmenter(lambda: predictions.predictor, stored)
    review = Review(predictions, stored, database, segmenter)
    page = RankingPage(database, candidate_set, ItemViews(stored, review.aspect), settings, segmenter, review)
    address = settings.address or address_of(reception.listening, reception.host)
    _announce(address, reception, settings, len(stored.items), before)
    try:
        serve(create_app(page, reception.tokens), reception.listening, address if open_browser else None,
              behind_proxy=settings.address is not None)
    finally:
        problems = review.close()
        segmenter.close()
    said = f"{summary(database, candidate_set.id, before, forecast=False)} {review.summary()}"
    export_jsonl(database, predictions.folder / REVIEW / "answers.jsonl", [candidate_set])
    database.close()
    if problems:
        told = f"{said} The answers are stored, but some masks could not be written. Type the same command again:"
        raise ConfigurationError("\n  ".join([told, *problems]))
    return said


def of_first_slices(items: list[Item], count: int | None) -> list[Item]:
    """Items of the first ``count`` slices that occur in them; all of them where it is None."""
    slices = list(dict.fromkeys((item.case, item.slice_index) for item in items))[:count]
    kept = set(slices)
    return [item for item in items if (item.case, item.slice_index) in kept]


def summary(database: PreferenceDatabase, candidate_set: str, before: int, forecast: bool = True) -> str:
    """What was stored since there were ``before`` judgements, by whom all of them are, and what more would bring."""
    judgements = database.judgements(candidate_set)
    people: dict[str, int] = {}
    for judgement in judgements:
        people[judgement.annotator] = people.get(judgement.annotator, 0) + 1
    by = ", ".join(f"{name} {count}" for name, count in sorted(people.items())) or "nobody yet"
    said = f"Judgements stored this time: {len(judgements) - before}; in all: {len(judgements)} ({by})."
    answered = {judgement.item for judgement in judgements if judgement.verdict != "skipped"}
    left = sum(item.id not in answered for item in database.items(candidate_set))
    seen = outlook(database.latest(candidate_set, LATEST), left) if forecast else None
    if seen is not None:
        said += f" {seen.sentence}{' It is time to stop.' if seen.stop else ''}"
    return said


def _announce(address: str, reception: Reception, settings: PageSettings, items: int, judged: int) -> None:
    log.info("%d items, %d judgements so far, in %s", items, judged, reception.database.url)
    if not is_loopback(reception.host) and not settings.secure:
        log.warning("Images and the token cross the network unencrypted; documentation/annotate.md tells how to "
                    "put a proxy with https in front.")
    log.info("Open    %s", address)
    if reception.tokens.shared is not None:
        log.info("Token   %s", reception.tokens.shared)
    else:
        log.info("Tokens  of %s", ", ".join(sorted(reception.tokens.personal)))
    log.info("Ctrl-C ends the page; every judgement that the page calls stored is kept.")

"""The page on drawn candidates, and clients that sign in to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import drawn
import pytest
from page_client import ORIGIN, TOKEN, Client

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.page.app import create_app
from samdpo.annotate.page.item_views import ItemViews
from samdpo.annotate.page.ranking_page import RankingPage, Segmenter
from samdpo.annotate.page.settings import PageSettings
from samdpo.annotate.page.tokens import Tokens
from samdpo.preferences.stored_candidates import StoredCandidates


@pytest.fixture(scope="session")
def _stored(tmp_path_factory: pytest.TempPathFactory) -> StoredCandidates:
    return drawn.draw(tmp_path_factory.mktemp("candidates"), n_items=12)


@pytest.fixture
def stored(_stored: StoredCandidates) -> StoredCandidates:
    """12 items of 4 candidates of 48 x 48 pixels."""
    return _stored


@pytest.fixture(scope="session")
def _database_file(_stored: StoredCandidates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("database") / "preferences.sqlite"
    opened = PreferenceDatabase.open(f"sqlite:///{file}")
    opened.add_candidate_set(_stored.candidate_set, _stored.items)
    opened.close()
    return file


@pytest.fixture
def database(tmp_path: Path, _database_file: Path) -> Iterator[PreferenceDatabase]:
    """A database of the test's own that holds those items."""
    opened = PreferenceDatabase.open(f"sqlite:///{shutil.copy(_database_file, tmp_path)}")
    yield opened
    opened.close()


@pytest.fixture
def make_client(database: PreferenceDatabase, stored: StoredCandidates) -> Callable[..., Client]:
    """Start a page and make a client of it: ``make_client(mode="rating", tokens=Tokens(...))``."""

    def make(tokens: Tokens | None = None, segmenter: Segmenter | None = None, **settings) -> Client:
        page = RankingPage(database, stored.candidate_set, ItemViews(stored), PageSettings(**settings), segmenter)
        return Client(create_app(page, tokens or Tokens(TOKEN, {})), base_url=ORIGIN, headers={"origin": ORIGIN})

    return make


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    """Anna, signed in."""
    made = make_client()
    assert made.sign_in().status_code == 200
    return made

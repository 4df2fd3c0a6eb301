"""A preference database with one candidate set, in SQLite and, marked slow, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judged_items import SET, make_items
from postgresql_server import running_postgresql

from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.preferences.records import Item


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """A server of the distribution's on a socket of its own; gives the URL of its database, emptied, at each call."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parts[-2]))
    if not binaries:
        pytest.skip("PostgreSQL is not installed (/usr/lib/postgresql/*/bin)")
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install samdpo[postgresql])")
    with running_postgresql(binaries[-1]) as empty_database:
        yield empty_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that is not there yet, or empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'preferences.sqlite'}"
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def empty(url: str) -> Iterator[PreferenceDatabase]:
    """Without any set."""
    database = PreferenceDatabase.open(url)
    yield database
    database.close()


@pytest.fixture
def items() -> list[Item]:
    return make_items(6)


@pytest.fixture
def database(empty: PreferenceDatabase, items: list[Item]) -> PreferenceDatabase:
    """With one set of six items."""
    empty.add_candidate_set(SET, items)
    return empty

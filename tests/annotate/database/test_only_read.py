"""A database whose file, or whose folder, may not be written is read all the same."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from judged_items import SET, judge, make_items

from samdpo.annotate.database.connect import make_engine
from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.errors import DatabaseError
from samdpo.annotate.database.schema import MIGRATIONS, migrate

NOBODY = 65534  # a user who owns nothing


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write everywhere, so that it has to be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        if not os.access(MIGRATIONS / "versions", os.R_OK | os.X_OK, effective_ids=True):
            pytest.skip("nobody may not read the package here")
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which everybody may look into, as not everybody may into those of a test."""
    made = Path(tempfile.mkdtemp(prefix="samdpo_read_"))
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'preferences.sqlite'}"


def lock_up(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)


def test_a_folder_in_which_nothing_may_be_written_is_read_and_left_as_it_is(folder, url):
    database, items = PreferenceDatabase.open(url), make_items(3)
    database.add_candidate_set(SET, items)
    given = judge(items[0])
    database.record(given)
    database.close()
    lock_up(folder)
    before = (folder / "preferences.sqlite").read_bytes()
    with without_rights():
        with pytest.raises(DatabaseError, match=r"chmod u\+w FILE FOLDER"):
            PreferenceDatabase.open(url, create=False)
        read = PreferenceDatabase.open(url, create=False, only_read=True)
        assert (read.candidate_sets(), read.items(SET.id), read.judgements()) == ([SET], items, [given])
        with pytest.raises(DatabaseError, match="readonly"):
            read.record(judge(items[1]))
        read.close()
    assert [file.name for file in folder.iterdir()] == ["preferences.sqlite"]
    assert (folder / "preferences.sqlite").read_bytes() == before


def test_what_others_have_just_written_is_read_too(folder, url):
    database, items = PreferenceDatabase.open(url), make_items(3)
    database.add_candidate_set(SET, items)
    given = judge(items[0])
    database.record(given)  # is in the log beside the file as long as the database is open
    assert (folder / "preferences.sqlite-wal").stat().st_size > 0
    lock_up(folder)
    with without_rights():
        read = PreferenceDatabase.open(url, create=False, only_read=True)
        assert read.judgements() == [given]
        read.close()
    folder.chmod(0o755)
    database.close()


def test_an_older_schema_has_to_be_brought_up_to_date_where_it_may_be_written(folder, url, tmp_path):
    first = shutil.copytree(MIGRATIONS, tmp_path / "first", ignore=shutil.ignore_patterns("__pycache__", "r000[23]*"))
    engine = make_engine(url)
    migrate(engine, first)
    engine.dispose()
    lock_up(folder)
    with without_rights(), pytest.raises(DatabaseError, match=r"may not be written .*chmod u\+w FILE FOLDER"):
        PreferenceDatabase.open(url, create=False, only_read=True)


def test_a_file_that_may_be_written_is_brought_up_to_date_also_by_who_only_reads(folder, url, tmp_path):
    first = shutil.copytree(MIGRATIONS, tmp_path / "first", ignore=shutil.ignore_patterns("__pycache__", "r000[23]*"))
    engine = make_engine(url)
    migrate(engine, first)
    engine.dispose()
    read = PreferenceDatabase.open(url, create=False, only_read=True)
    assert read.candidate_sets() == []
    read.close()

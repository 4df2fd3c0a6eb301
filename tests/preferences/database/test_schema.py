"""The schema's versions, and what is no preference database."""

from __future__ import annotations

import shutil

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from judged_items import SET, judge, make_items
from sqlalchemy import text

from samdpo.paths import dataset_name
from samdpo.preferences.database.connect import make_engine
from samdpo.preferences.database.database import PreferenceDatabase
from samdpo.preferences.database.errors import DatabaseError, NewerSchemaError
from samdpo.preferences.database.locate import VARIABLE, database_url, default_database_url
from samdpo.preferences.database.schema import MIGRATIONS, migrate, revision
from samdpo.preferences.database.tables import Base

LATER = '''"""A later version adds a column."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "0002"


def upgrade():
    op.add_column("judgement", sa.Column("comment", sa.String, nullable=False, server_default="none"))
'''


@pytest.fixture
def later(tmp_path):
    """Migrations of a later version of samdpo."""
    folder = shutil.copytree(MIGRATIONS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "r9999_later.py").write_text(LATER)
    return folder


def test_the_revisions_make_the_tables_of_the_code(empty):
    with empty._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_an_older_database_is_brought_up_to_date_and_keeps_its_judgements(url, later):
    database = PreferenceDatabase.open(url)
    items = make_items(3)
    database.add_candidate_set(SET, items)
    given = [judge(items[0]), judge(items[1], "bob")]
    for one in given:
        database.record(one)
    database.close()
    engine = make_engine(url)
    migrate(engine, later)
    with engine.connect() as connection:
        assert revision(connection) == "9999"
        assert connection.execute(text("SELECT comment FROM judgement")).scalars().all() == ["none"] * 2
    assert PreferenceDatabase(engine).judgements() == given
    engine.dispose()


def test_a_newer_database_is_refused_and_left_as_it_is(url, later):
    engine = make_engine(url)
    migrate(engine, later)
    with pytest.raises(NewerSchemaError, match=r"'9999'.*pip install --upgrade samdpo"):
        PreferenceDatabase.open(url)
    with engine.connect() as connection:
        assert revision(connection) == "9999"
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(url, later):
    (later / "versions" / "r9999_later.py").write_text(LATER + "    raise RuntimeError('no power')\n")
    database = PreferenceDatabase.open(url)
    database.close()
    engine = make_engine(url)
    with pytest.raises(RuntimeError, match="no power"):
        migrate(engine, later)
    engine.dispose()
    database = PreferenceDatabase.open(url)
    with database._engine.connect() as connection:
        assert revision(connection) == "0002"
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


def test_acknowledged_means_on_disk(url):
    database = PreferenceDatabase.open(url)
    with database._engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            found = [connection.execute(text(f"PRAGMA {name}")).scalar()
                     for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]
            assert found == ["wal", 2, 1, 30_000]
        else:
            assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
    database.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("preferences.sqlite", "is not a database URL"), ("mysql://host/name", "'mysql'"), ("sqlite://", "in memory"),
        ("postgresql+psycopg://nobody:secret@127.0.0.1:1/none?connect_timeout=2", "cannot be opened"),
    ],
)
def test_what_is_no_database_is_refused_in_a_sentence(given, said):
    with pytest.raises(DatabaseError, match=said) as error:
        PreferenceDatabase.open(given)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but dear to somebody " * 50)
    with pytest.raises(DatabaseError, match=r"notes\.txt cannot be opened: file is not a database"):
        PreferenceDatabase.open(f"sqlite:///{file}")
    assert file.read_text().startswith("not a database, but dear")


def test_opening_without_making_says_what_makes_one(tmp_path):
    file = tmp_path / "none.sqlite"
    with pytest.raises(DatabaseError, match="samdpo_annotate"):
        PreferenceDatabase.open(f"sqlite:///{file}", create=False)
    assert not file.exists()


def test_the_database_lies_in_the_results_unless_told_otherwise(roots, tiny_dataset, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    default = f"sqlite:///{roots.results / dataset_name(901) / 'preferences.sqlite'}"
    assert default_database_url(901) == database_url(901) == default
    monkeypatch.setenv(VARIABLE, "postgresql+psycopg://host/everyone")
    assert database_url(901) == "postgresql+psycopg://host/everyone"
    assert database_url(901, "sqlite:///mine.sqlite") == "sqlite:///mine.sqlite"

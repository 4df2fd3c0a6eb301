"""The schema's versions, and what is no preference database."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from judged_items import SET, judge, make_items
from sqlalchemy import Column, MetaData, Table, event, text
from sqlalchemy.exc import OperationalError

from samdpo.annotate.database.connect import make_engine
from samdpo.annotate.database.database import PreferenceDatabase
from samdpo.annotate.database.errors import DatabaseError, NewerSchemaError
from samdpo.annotate.database.handing_out import OverlapRule
from samdpo.annotate.database.locate import VARIABLE, database_url, default_database_url
from samdpo.annotate.database.schema import MIGRATIONS, migrate, revision
from samdpo.annotate.database.tables import Base, JudgementRow
from samdpo.paths import dataset_name

LATER = '''"""A later version adds a column."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "0003"


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


def _record_as_before_places(engine, given) -> None:
    """Store a ranking in a database whose schema does not know boxes and points."""
    columns = [column for column in JudgementRow.__table__.columns if column.name not in ("id", "box", "point")]
    table = Table("judgement", MetaData(), *(Column(column.name, column.type) for column in columns))
    values = {column.name: getattr(given, column.name) for column in columns}
    with engine.begin() as connection:
        connection.execute(table.insert().values({**values, "ranks": list(given.ranks)}))
        connection.execute(text("UPDATE item SET judged = 1 WHERE id = :item"), {"item": given.item})


def test_the_first_versions_database_is_brought_up_to_date_and_keeps_everything(url, tmp_path):
    first = shutil.copytree(MIGRATIONS, tmp_path / "first", ignore=shutil.ignore_patterns("__pycache__", "r000[23]*"))
    engine = make_engine(url)
    migrate(engine, first)
    items = make_items(3)
    old = PreferenceDatabase(engine)
    old.add_candidate_set(SET, items)
    assert old.next_item("ann", SET.id, OverlapRule()) == items[0]
    given = judge(items[1], "bob")
    _record_as_before_places(engine, given)
    old.close()
    database = PreferenceDatabase.open(url)
    assert (database.candidate_sets(), database.items(SET.id), database.judgements()) == ([SET], items, [given])
    assert database.record(judge(items[0]), OverlapRule()), "what was handed out before still is"
    assert database.undo_last("bob", SET.id, undo_key="k").client_key == given.client_key
    assert database.undo_last("bob", SET.id, undo_key="k").client_key == given.client_key
    with database._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("INSERT INTO alembic_version VALUES ('0001')", r"names 2 versions .*'0001', '0003'.*alembic_version"),
        ("DROP TABLE lease", r"lacks lease\.item"),
        ("ALTER TABLE judgement DROP COLUMN seconds", r"judgement\.seconds"),
        ("UPDATE alembic_version SET version_num = 'abcd'", "'abcd', which this version of samdpo does not know"),
    ],
)
def test_a_damaged_database_is_refused_with_what_is_wrong_and_left_as_it_is(url, damage, said):
    PreferenceDatabase.open(url).close()
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text(damage))
    with engine.connect() as connection:
        before = connection.execute(text("SELECT version_num FROM alembic_version")).all()
    for _ in range(2):
        with pytest.raises(DatabaseError, match=said):
            PreferenceDatabase.open(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == before
    engine.dispose()


def test_a_database_that_may_not_be_written_is_called_that(tmp_path):
    url = f"sqlite:///{tmp_path / 'preferences.sqlite'}"
    engine = make_engine(url)

    @event.listens_for(engine, "begin")
    def forbid(connection) -> None:
        raise OperationalError("BEGIN IMMEDIATE", {}, sqlite3.OperationalError("attempt to write a readonly database"))

    with pytest.raises(DatabaseError, match=r"may not be written \(attempt to write a readonly database\).*chmod u\+w"):
        migrate(engine)
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
        assert revision(connection) == "0003"
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
        ("postgresql:/nobody:secret@127.0.0.1/none", "is not a database URL"),
        ("postgresql+psycopg://nobody:secret@127.0.0.1:1/none?colour=blue", "cannot be opened"),
        ("postgresql+asyncpg://nobody:secret@127.0.0.1:1/none", "asyncpg"),
        ("postgresql+nothing://nobody:secret@127.0.0.1:1/none", "nothing"),
        ("sqlite:///file:x?mode=memory&uri=true", "options"), ("sqlite:///x.sqlite?colour=blue", "options"),
        ("sqlite:///x.sqlite?timeout=soon", "options"), ("sqlite://host/x.sqlite", "host"),
        ("sqlite+aiosqlite:///x.sqlite", "aiosqlite"), ("sqlite:///a\0b", "name of a file"),
        ("sqlite:///caf\udce9.sqlite", "is not a database URL"), ("sqlite:///" + "x" * 5000, "cannot be opened"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none?password=secret&connect_timeout=2", "cannot be opened"),
        ("postgresql+psycopg://[::1", "is not a database URL"), ("", "is not a database URL"),
        ("sqlite:////proc/nowhere/x.sqlite", "cannot be made"),
    ],
)
def test_what_is_no_database_is_refused_in_a_sentence(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatabaseError, match=said) as error:
        PreferenceDatabase.open(given)
    assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    PreferenceDatabase.open("sqlite:///~/mine.sqlite").close()
    assert (tmp_path / "mine.sqlite").is_file()


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

"""The schema's version: alembic revisions, applied when a database is opened."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from samdpo.annotate.database.connect import cannot_open, shown
from samdpo.annotate.database.errors import DatabaseError, NewerSchemaError
from samdpo.annotate.database.tables import Base

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_one_at_a_time = threading.Lock()  # alembic's environment is one for the whole process
_REMEDY = "Nothing was changed. Put a copy of it back, or name another database with --database."
_LOCK = 0x73616D64706F  # "samdpo": PostgreSQL's advisory lock of whoever migrates


def migrate(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Bring a database to the newest revision of ``migrations``, in one transaction; an empty one gets its tables.

    Processes that open the same database at once wait for the first.

    Raises:
        NewerSchemaError: its revision is not one of ``migrations``.
        DatabaseError: the file is not a database, or its tables are not those of its revision.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            found, newest = revision(connection), script.get_current_head()
            if found == newest:
                _check_tables(connection)
                return
            known = {one.revision for one in script.walk_revisions()}
            if found is not None and found not in known:
                raise NewerSchemaError(
                    f"The preference database {shown(engine.url)} has the schema "
                    f"{found!r}, which this version of samdpo does not know (its newest is {newest!r}): a later "
                    "version has written it. Type: pip install --upgrade samdpo"
                )
            config.attributes["connection"] = connection
            with _one_at_a_time:
                command.upgrade(config, "head")
            if found is not None:
                log.info("The preference database's schema went from %s to %s.", found, newest)
    except DBAPIError as error:
        raise cannot_open(engine, error) from error


def revision(connection: Connection) -> str | None:
    """The revision of an open database; None for an empty one.

    Raises:
        DatabaseError: it names several.
    """
    heads = MigrationContext.configure(connection).get_current_heads()
    if len(heads) > 1:
        raise DatabaseError(
            f"The preference database {shown(connection.engine.url)} names {len(heads)} versions of its schema at once "
            f"({', '.join(sorted(map(repr, heads)))}, in the table alembic_version): it was edited or is damaged. "
            f"{_REMEDY}"
        )
    return heads[0] if heads else None


def _check_tables(connection: Connection) -> None:
    found = inspect(connection)
    names = set(found.get_table_names())
    missing = []
    for name, table in Base.metadata.tables.items():
        columns = {one["name"] for one in found.get_columns(name)} if name in names else set()
        missing += [f"{name}.{column.name}" for column in table.columns if column.name not in columns]
    if missing:
        raise DatabaseError(
            f"The preference database {shown(connection.engine.url)} says that it has this version's tables, and lacks "
            f"{', '.join(missing)}: it was edited or is damaged. {_REMEDY}"
        )

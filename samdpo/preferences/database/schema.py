"""The schema's version: alembic revisions, applied when a database is opened."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from samdpo.preferences.database.connect import cannot_open
from samdpo.preferences.database.errors import NewerSchemaError

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_one_at_a_time = threading.Lock()  # alembic's environment is one for the whole process
_LOCK = 0x73616D64706F  # "samdpo": PostgreSQL's advisory lock of whoever migrates


def migrate(engine: Engine, migrations: Path = MIGRATIONS) -> None:
    """Bring a database to the newest revision of ``migrations``, in one transaction; an empty one gets its tables.

    Processes that open the same database at once wait for the first.

    Raises:
        NewerSchemaError: its revision is not one of ``migrations``.
        DatabaseError: the file is not a database.
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
                return
            known = {one.revision for one in script.walk_revisions()}
            if found is not None and found not in known:
                raise NewerSchemaError(
                    f"The preference database {engine.url.render_as_string(hide_password=True)} has the schema "
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
    """The revision of an open database; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()

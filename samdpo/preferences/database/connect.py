"""Engines for SQLite and PostgreSQL on which acknowledged means stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from samdpo.preferences.database.errors import DatabaseError

READ_ONLY = "samdpo_read_only"  # execution option of connections that only read
MAY_BE_LOST = "samdpo_may_be_lost"  # of those that write what a power cut may take back, such as leases
BUSY_SECONDS = 30.0  # a writer waits this long for another process before it gives up
_CONNECTIONS = 32  # threads that may talk to the database at once; more of them wait


def make_engine(url: str, create: bool = True) -> Engine:
    """An engine for ``url``; nothing is written yet but, for SQLite, the folder and the empty file.

    SQLite: a write-ahead log, so that readers and the writer do not wait for each other; ``synchronous=FULL``, so
    that a commit is on disk when it returns, but for :data:`MAY_BE_LOST`; foreign keys. A transaction begins with
    ``BEGIN IMMEDIATE`` unless its connection has the option :data:`READ_ONLY`: one that reads first and writes later
    could otherwise fail midway.

    PostgreSQL: ``synchronous_commit`` is switched on where the server has it off, but for :data:`MAY_BE_LOST`.

    Args:
        url: SQLAlchemy URL.
        create: whether to make an SQLite file that is not there.

    Raises:
        DatabaseError: the URL is none, names another kind of database or a driver that is not installed, or there is
            no such server or file.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        if not create and not Path(str(parsed.database)).is_file():
            raise DatabaseError(
                f"There is no preference database at {parsed.database}. It is made by samdpo_annotate DATASET FOLD; "
                "name another one with --database."
            )
        engine = _sqlite(parsed)
    else:
        engine = _postgresql(parsed)
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        engine.dispose()
        raise cannot_open(engine, error) from error
    return engine


def cannot_open(engine: Engine, error: DBAPIError) -> DatabaseError:
    """The sentence for a database that does not open; its password is not in it."""
    reason = str(error.orig).strip().splitlines()[0]
    return DatabaseError(
        f"The preference database {engine.url.render_as_string(hide_password=True)} cannot be opened: {reason}. "
        "Expected a file that samdpo_annotate has made, or a running PostgreSQL server; name it with --database."
    )


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(
            f"{url!r} is not a database URL. Expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME."
        ) from error
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise DatabaseError("A preference database in memory would be lost; expected sqlite:///FILE.")
    if backend not in ("sqlite", "postgresql"):
        raise DatabaseError(
            f"The preference database can be sqlite or postgresql; the URL names {backend!r}. Expected sqlite:///FILE "
            "or postgresql+psycopg://USER@HOST/NAME."
        )
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _sqlite(url: URL) -> Engine:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"The folder {folder} of the preference database cannot be made ({error.strerror}). Name a file in a "
            "folder you may write to: --database sqlite:///FILE"
        ) from error
    engine = create_engine(url, pool_size=_CONNECTIONS, max_overflow=0, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late, see below
        cursor = connection.cursor()
        _use_write_ahead_log(cursor)
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        # NORMAL does not wait for the disk at a commit; the next commit that does takes this one along.
        connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if options.get(MAY_BE_LOST) else 'FULL'}")
        connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY) else "BEGIN IMMEDIATE")

    return engine


def _use_write_ahead_log(cursor: Any) -> None:
    """The log is a property of the file. Two processes that make the file at once get 'locked' without any waiting."""
    import sqlite3

    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_size=_CONNECTIONS, max_overflow=0, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseError(
            f"The driver of {url.drivername!r} is not installed ({error}). Type: pip install samdpo[postgresql]"
        ) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone()[0] == "off":
                cursor.execute("SET synchronous_commit TO on")
        connection.commit()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(MAY_BE_LOST):
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    return engine

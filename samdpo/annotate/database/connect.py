"""Engines for SQLite and PostgreSQL on which acknowledged means stored."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from samdpo.annotate.database.errors import DatabaseError

READ_ONLY = "samdpo_read_only"  # execution option of connections that only read
MAY_BE_LOST = "samdpo_may_be_lost"  # of those that write what a power cut may take back, such as leases
DEADLINE = "samdpo_deadline"  # time.monotonic() until when a transaction may wait to begin
BUSY_SECONDS = 30.0  # a writer waits this long for others, all together, before it gives up
_READ_ONLY_REASONS = ("readonly", "read-only")  # SQLite's word and PostgreSQL's
_PASSWORD = re.compile(r"(?<=:)[^@]*@")
_PASSWORD_OPTION = re.compile(r"(?i)(?<=password=)[^&]*")
_EXPECTED = "Expected sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME."
_CONNECTIONS = 32  # threads that may talk to the database at once; more of them wait


def make_engine(
    url: str, create: bool = True, patience: float = BUSY_SECONDS, only_read: bool = False
) -> Engine:
    """An engine for ``url``; nothing is written yet but, for SQLite, the folder and the empty file.

    SQLite: a write-ahead log, so that readers and the writer do not wait for each other; ``synchronous=FULL``, so
    that a commit is on disk when it returns, but for :data:`MAY_BE_LOST`; foreign keys. A transaction begins with
    ``BEGIN IMMEDIATE`` unless its connection has the option :data:`READ_ONLY`: one that reads first and writes later
    could otherwise fail midway.

    PostgreSQL: ``synchronous_commit`` is switched on where the server has it off, but for :data:`MAY_BE_LOST`.

    Args:
        url: SQLAlchemy URL.
        create: whether to make an SQLite file that is not there.
        patience: seconds to wait for others who write, or for a free connection.
        only_read: whether nothing will be written: an SQLite file that may not be written opens then too.

    Raises:
        DatabaseError: the URL is none, names another kind of database or a driver that is not installed or holds
            options that it does not know, or there is no such server or file.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(str(parsed.database))
        if not create and not file.is_file():
            raise DatabaseError(
                f"There is no preference database at {parsed.database}. It is made by samdpo_annotate DATASET FOLD; "
                "name another one with --database."
            )
        engine = (_sqlite_as_it_is if only_read and not _is_writable(file) else _sqlite)(parsed, patience)
    else:
        engine = _postgresql(parsed, patience)
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        engine.dispose()
        raise cannot_open(engine, error) from error
    except (SQLAlchemyError, TypeError, ValueError) as error:  # options that the driver does not take
        engine.dispose()
        raise DatabaseError(f"{shown(engine.url)} is not a database URL ({error}). {_EXPECTED}") from error
    return engine


def shown(url: URL | str) -> str:
    """A URL for messages: without its password, also where it is too wrong to be taken apart."""
    text = url.render_as_string(hide_password=True) if isinstance(url, URL) else _PASSWORD.sub("***@", url)
    return _PASSWORD_OPTION.sub("***", text)


def cannot_open(engine: Engine, error: DBAPIError) -> DatabaseError:
    """The sentence for a database that does not open; its password is not in it."""
    reason = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
    if any(word in reason for word in _READ_ONLY_REASONS):
        return DatabaseError(
            f"The preference database {shown(engine.url)} may not be written ({reason}). Its file must be, and "
            "the folder around it, in which SQLite keeps its log: chmod u+w FILE FOLDER; or name another one with "
            "--database."
        )
    return DatabaseError(
        f"The preference database {shown(engine.url)} cannot be opened: {reason}. "
        "Expected a file that samdpo_annotate has made, or a running PostgreSQL server; name it with --database."
    )


def _parse(url: str) -> URL:
    try:
        url.encode()  # an argument of other bytes than UTF-8 cannot be told to any driver
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(f"{shown(url)[:200]!a} is not a database URL. {_EXPECTED}") from error
    if backend not in ("sqlite", "postgresql"):
        raise DatabaseError(
            f"The preference database can be sqlite or postgresql; the URL names {backend!r}. {_EXPECTED}"
        )
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise DatabaseError("A preference database in memory would be lost; expected sqlite:///FILE.")
        more = parsed.query or parsed.host or parsed.username or "\0" in str(parsed.database)
        if more or parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
            raise DatabaseError(
                f"{shown(parsed)} is more than the name of a file: SQLite is given neither a driver nor options nor a "
                "host here. Expected sqlite:///FILE, with four slashes where FILE begins with one."
            )
        if str(parsed.database).startswith("~"):
            return parsed.set(database=os.path.expanduser(str(parsed.database)))
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _sqlite(url: URL, patience: float) -> Engine:
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"The folder {folder} of the preference database cannot be made ({error.strerror}). Name a file in a "
            "folder you may write to: --database sqlite:///FILE"
        ) from error
    engine = _create(url, patience, connect_args={"timeout": patience})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late, see below
        cursor = connection.cursor()
        _use_write_ahead_log(cursor, patience)
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        left = options[DEADLINE] - time.monotonic() if DEADLINE in options else patience
        connection.exec_driver_sql(f"PRAGMA busy_timeout={max(0, round(1000 * left))}")
        # NORMAL does not wait for the disk at a commit; the next commit that does takes this one along.
        connection.exec_driver_sql(f"PRAGMA synchronous={'NORMAL' if options.get(MAY_BE_LOST) else 'FULL'}")
        connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY) else "BEGIN IMMEDIATE")

    return engine


def _is_writable(file: Path) -> bool:
    """Whether SQLite could write a file that is there: it keeps its log in the folder around it."""
    who = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    return not file.is_file() or all(os.access(place, os.W_OK, **who) for place in (file, file.parent))


def _sqlite_as_it_is(url: URL, patience: float) -> Engine:
    """A file that may not be written, nor a log be made beside it.

    Where others are writing it, their log is there and is read too. Where no log is, or an empty one, all is in the
    file, and SQLite is told that it does not change, since it would else have to make one.
    """
    file = Path(str(url.database)).absolute()
    log_file = file.with_name(f"{file.name}-wal")
    unlogged = not log_file.is_file() or log_file.stat().st_size == 0
    address = f"{file.as_uri()}?mode=ro{'&immutable=1' if unlogged else ''}"

    def connect() -> Any:
        import sqlite3

        connection = sqlite3.connect(address, uri=True, timeout=patience, check_same_thread=False)
        connection.isolation_level = None
        return connection

    engine = _create(url, patience, creator=connect)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _create(url: URL, patience: float, **options: Any) -> Engine:
    try:
        engine = create_engine(url, pool_size=_CONNECTIONS, max_overflow=0, pool_timeout=patience, **options)
    except (ImportError, NoSuchModuleError) as error:
        raise DatabaseError(
            f"The driver of {url.drivername!r} is not installed ({error}). Type: pip install samdpo[postgresql]"
        ) from error
    except (SQLAlchemyError, TypeError, ValueError) as error:
        raise DatabaseError(f"{shown(url)} is not a database URL ({error}). {_EXPECTED}") from error
    if engine.dialect.is_async:
        raise DatabaseError(f"The driver of {url.drivername!r} is an asynchronous one. {_EXPECTED}")
    return engine


def _use_write_ahead_log(cursor: Any, patience: float) -> None:
    """The log is a property of the file. Two processes that make the file at once get 'locked' without any waiting."""
    import sqlite3

    deadline = time.monotonic() + patience
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgresql(url: URL, patience: float) -> Engine:
    engine = _create(url, patience, pool_pre_ping=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout TO {round(1000 * patience)}")
            cursor.execute("SHOW synchronous_commit")
            if cursor.fetchone()[0] == "off":
                cursor.execute("SET synchronous_commit TO on")
        connection.commit()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(MAY_BE_LOST):
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    return engine

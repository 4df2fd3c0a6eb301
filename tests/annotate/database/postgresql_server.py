"""A PostgreSQL server for tests: the distribution's programs, an empty cluster, a socket of its own, no network."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE, wait_until


@contextmanager
def running_postgresql(programs: Path) -> Iterator[Callable[[], str]]:
    """Start a server from the folder of its programs; gives a function that empties its database and gives the URL."""
    owner = _owner()
    # Not pytest's folder: the path of a socket may have 107 bytes, and other users cannot look into it.
    folder = Path(tempfile.mkdtemp(prefix="samdpo_pg_"))
    if owner:
        shutil.chown(folder, owner["user"], owner["group"])

    def run(program: str, *words: object) -> None:
        subprocess.run([programs / program, *map(str, words)], check=True, stdout=subprocess.DEVNULL, **owner)

    run("initdb", "-D", folder / "data", "-U", "samdpo", "-A", "trust", "--no-sync", "-E", "UTF8")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-k", folder, "-h", ""], stdout=log, stderr=log, **owner
        )

    def empty_database() -> str:
        # One database emptied again and again: every database is a thousand files.
        run("psql", "-h", folder, "-U", "samdpo", "-d", "postgres", "-qc",
            "SET client_min_messages TO warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return f"postgresql+psycopg://samdpo@/postgres?host={folder}"

    try:
        _wait(programs, folder, server)
        yield empty_database
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def _owner() -> dict[str, Any]:
    """As whom to run; the server refuses to be root."""
    if os.geteuid() != 0:
        return {}
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    return {"user": "postgres", "group": "postgres", "cwd": "/"}


def _wait(programs: Path, folder: Path, server: subprocess.Popen) -> None:
    def ready() -> bool:
        return subprocess.run([programs / "pg_isready", "-q", "-h", folder]).returncode == 0

    wait_until(ready, server, (folder / "log").read_text)

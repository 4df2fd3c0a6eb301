"""Downloads that go on where they stopped and are checked before they count."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from samdpo.errors import ConfigurationError
from samdpo.files import locked
from samdpo.networks.published.catalogue import PublishedFile

log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte


def download(published: PublishedFile, path: Path) -> Path:
    """Fetch a file; what is there of it already is kept, and it gets its name when it is whole.

    A second process that wants the same file waits for the first one.

    Args:
        published: with a URL.
        path: where it goes. The unfinished file is beside it, ending in ``.part``.

    Raises:
        ConfigurationError: what came has another size or sum than the published file; it is removed.
        OSError, HTTPException: no network, no such file, or the disk is full. What came so far is kept.
    """
    with _part_of(path) as part:
        if path.is_file():  # another process has finished it
            Path(part.name).unlink(missing_ok=True)
            return path
        log.info("Downloading %s from %s", published.file, published.url)
        _fetch(published, part)
        found = mismatch(published, Path(part.name))
        if found:
            os.unlink(part.name)
            raise ConfigurationError(
                f"What came from {published.url} is not the published {published.file}: {found}. It was removed. Try "
                f"again with: samdpo_weights download {published.name}"
            )
        os.replace(part.name, path)
    log.info("%s is complete.", path)
    return path


def mismatch(published: PublishedFile, path: Path) -> str:
    """In what a file differs from the published one by size and sum; empty where it does not, or none is stated."""
    size = path.stat().st_size
    if published.size and size != published.size:
        return f"it has {size} bytes, expected {published.size}"
    if published.digest:
        kind, _, expected = published.digest.partition(":")
        found = _sum(path, kind)
        if found != expected:
            return f"its {kind.upper()} begins with {found[:12]}, expected {expected[:12]}"
    return ""


@contextmanager
def _part_of(path: Path) -> Iterator[BinaryIO]:
    """The unfinished file, open for appending by one process at a time."""
    with locked(path.with_name(f".{path.name}.lock")), path.with_name(f"{path.name}.part").open("ab") as part:
        yield part


def _fetch(published: PublishedFile, part: BinaryIO) -> None:
    """Append what is missing; from the beginning where the server does not send parts."""
    done = part.tell()
    if published.size and done >= published.size:
        return  # whole, or too long: the check says which
    request = urllib.request.Request(published.url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if done and answer.status != 206:
            part.truncate(0)
            done = 0
        rest = answer.headers.get("Content-Length")
        total = published.size or (done + int(rest) if rest else None)
        with tqdm(desc=published.file, total=total, initial=done, unit="B", unit_scale=True, unit_divisor=1024) as bar:
            while chunk := answer.read(_CHUNK):
                part.write(chunk)
                bar.update(len(chunk))
    part.flush()
    if total is not None and part.tell() < total:
        raise urllib.error.URLError(f"the connection ended after {part.tell()} of {total} bytes")


def _sum(path: Path, kind: str) -> str:
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

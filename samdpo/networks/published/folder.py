"""Where published weights lie: the weights folder, filled by hand or by downloads.

A download goes on where it stopped and is checked before it counts. No library here does all of that for any address:
torch.hub's begins again, huggingface_hub's goes on only with what lies on its own hub.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from samdpo.errors import ConfigurationError
from samdpo.files import digest_of_file, locked
from samdpo.networks.published.catalogue import KnownModel, PublishedFile
from samdpo.paths import folder_of

log = logging.getLogger(__name__)

VARIABLE = "samdpo_weights"
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte


def weights_folder() -> Path:
    """The folder that the variable ``samdpo_weights`` names; else ``samdpo/weights`` in the user's cache."""
    chosen = folder_of(VARIABLE)
    if chosen:
        return chosen
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "samdpo" / "weights"


def state_of(model: KnownModel) -> str:
    """``here`` where a model's weights are on this machine, else what its entry says."""
    from huggingface_hub import try_to_load_from_cache

    cached = None
    if model.repository:  # of a CLIP a person may have filled a folder of the weights folder
        by_name = (weights_folder() / model.repository.rpartition("/")[2]).is_dir()
        cached = by_name or isinstance(try_to_load_from_cache(model.repository, model.marker), str)
    filed = model.file and (weights_folder() / model.file).is_file()
    packed = model.package and importlib.util.find_spec(model.package) is not None
    return "here" if filed or packed or cached else model.otherwise


def find_weights(published: PublishedFile) -> Path:
    """The file in the weights folder; downloaded where it is missing and its home allows it.

    Raises:
        ConfigurationError: it is not there and cannot be had; says where it is published and where to put it.
    """
    path = weights_folder() / published.file
    if path.is_file():
        return path
    if not published.url:
        raise ConfigurationError(f"{missing(published, path)} No program can download it from there: {by_hand(path)}")
    try:
        return download(published, path)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigurationError(
            f"{missing(published, path)} The download failed ({reason}). Try again with: samdpo_weights download "
            f"{published.name}. Without a network: {by_hand(path)}"
        ) from error


def missing(published: PublishedFile, path: Path) -> str:
    """That a file is not there, and where it is published."""
    return f"The weights {published.name} are needed and {path} does not exist. They are published at {published.home}."


def by_hand(path: Path) -> str:
    """What to do where no program can."""
    return (
        f"get the file in a browser and put it into {path.parent} under the name {path.name}, or name it with "
        f"samdpo_train -pretrained_weights FILE, or let the variable {VARIABLE} name another folder."
    )


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
    part = path.with_name(f"{path.name}.part")
    with locked(path.with_name(f".{path.name}.lock")):
        if path.is_file():  # another process has finished it
            return path
        log.info("Downloading %s from %s", published.file, published.url)
        with part.open("ab") as file:
            _fetch(published, file)
        found = mismatch(published, part)
        if found:
            part.unlink()
            raise ConfigurationError(
                f"What came from {published.url} is not the published {published.file}: {found}. It was removed. Try "
                f"again with: samdpo_weights download {published.name}"
            )
        os.replace(part, path)
    log.info("%s is complete.", path)
    return path


def mismatch(published: PublishedFile, path: Path) -> str:
    """In what a file differs from the published one by size and sum; empty where it does not, or none is stated."""
    size = path.stat().st_size
    if published.size and size != published.size:
        return f"it has {size} bytes, expected {published.size}"
    if published.digest:
        kind, _, expected = published.digest.partition(":")
        found = digest_of_file(path, kind)
        if found != expected:
            return f"its {kind.upper()} begins with {found[:12]}, expected {expected[:12]}"
    return ""


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
    if total is not None and part.tell() < total:
        raise urllib.error.URLError(f"the connection ended after {part.tell()} of {total} bytes")

"""The one atomic write, the one JSON reader, locks and hashes of files.

Everything lands under a temporary name and is renamed when it is whole. The temporary name says which process of which
machine writes it, so that what a killed one left is told from what another one is writing (:func:`remove_abandoned`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from samdpo.errors import ConfigurationError, SamdpoError

log = logging.getLogger(__name__)

_hashed: dict[Path, tuple[tuple[int, ...], str]] = {}  # of this process: a command asks for the same files twice
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEXT_TO_NOTHING = 1 << 20  # bytes left on a disk that is full
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network disks
_TEMPORARY = re.compile(r"^\.tmp-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}_")
_ABANDONED_AFTER = 7 * 24 * 3600  # seconds; of another machine, whose processes cannot be asked
TELLS_APART = 2_000_000_000  # nanoseconds; the times of coarse file systems
DAMAGED_NPZ = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError
)
"""What NumPy raises, reading a ``.npz`` of which bytes are missing or changed."""
_DEEPEST = 100  # levels of JSON; what merges, compares and prints it later recurses, and no file of ours needs ten


def temporary_beside(path: Path) -> Path:
    """Where to write what is renamed to ``path`` when it is whole; writers never meet, threads and machines neither."""
    return path.with_name(f".tmp-{_this_machine()}-{os.getpid()}-{secrets.token_hex(6)}_{path.name}")


def remove_abandoned(folder: Path | str, *, recursive: bool = False) -> int:
    """Remove what killed runs left half written in ``folder``; called by whoever owns the folder, when it starts.

    A temporary file or folder goes when its process on this machine is gone, or, where another machine wrote it, when
    nothing has touched it for a week. What a running process writes stays, and so does everything with another name.

    Args:
        folder: may not exist.
        recursive: look into sub-folders as well; links are not followed.

    Returns:
        how many were removed.
    """
    removed = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if _is_abandoned(Path(place) / name):
                _remove(Path(place) / name)
                removed += 1
        folders[:] = [name for name in folders if recursive and not _TEMPORARY.match(name)]
    if removed:
        log.info("%d unfinished files of a run that was killed are removed from %s.", removed, folder)
    return removed


def _is_abandoned(path: Path) -> bool:
    written_by = _TEMPORARY.match(path.name)
    if not written_by:
        return False
    machine, process = written_by.group(1), int(written_by.group(2))
    if machine == _this_machine():
        return process != os.getpid() and not _is_running(process)
    try:
        return time.time() - path.lstat().st_mtime > _ABANDONED_AFTER
    except OSError:
        return False


def _is_running(process: int) -> bool:
    import psutil  # os.kill(process, 0), which asks elsewhere, sends Ctrl-C on Windows

    try:
        return psutil.pid_exists(process)
    except OverflowError:  # no number of a process at all
        return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # a folder that is only read
            path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _this_machine() -> str:
    # Containers may share a host's name but not its processes, so that a number here says nothing of one there.
    with suppress(OSError):
        return _digest(f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}")
    return _digest(socket.gethostname())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class DiskFullError(ConfigurationError):
    """Nothing more fits on the disk."""


@contextmanager
def atomic_path(path: Path | str, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block ends without an error.

    The temporary name keeps the file's ending, since many writers choose the format by it. On an error the
    temporary file is removed and what stood at ``path`` before is untouched.

    Args:
        path: of the file.
        durable: the content is on the disk before the name is, so that a power cut leaves the old file or the new one.
            Costs as long as the disk needs: for what was computed for hours, not for what is made again in seconds.

    Raises:
        ConfigurationError: the folder is not writable or the disk is full.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with _in_a_sentence(path, "type the same command again"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.exists():
                if durable:
                    _to_disk(temporary)
                os.replace(temporary, path)
                if durable:
                    _to_disk(path.parent)
    finally:
        with suppress(OSError):  # on a disk that is only read even what is not there cannot be removed
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, *, remedy: str = "type the same command again") -> Iterator[Path]:
    """Yield a new temporary folder beside ``path``; it is ``path`` when the block ends without an error.

    Everything in it is on the disk by then, see ``durable`` of :func:`atomic_path`. A folder that was at ``path`` is
    replaced.

    Args:
        path: of the folder.
        remedy: what to do once there is space on a full disk again.

    Raises:
        ConfigurationError: the parent is not writable or the disk is full.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with _in_a_sentence(path, remedy):
            temporary.mkdir(parents=True)
            yield temporary
            for place, _, files in os.walk(temporary, topdown=False):
                for name in (*files, ""):
                    _to_disk(Path(place) / name)
            remove_folder(path)
            os.replace(temporary, path)
            _to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path | str) -> None:
    """Remove a folder at once: it is gone or whole, whenever the process ends."""
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        os.replace(path, temporary)
    except FileNotFoundError:
        return
    shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _in_a_sentence(path: Path, remedy: str) -> Iterator[None]:
    """What a user can mend of an error while ``path`` is written becomes a sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SamdpoError) and not isinstance(error, DiskFullError):
            raise
        if disk_is_full(error, path.parent):
            raise DiskFullError(
                f"The disk is full while writing {path}. What was there before is untouched; free some space and "
                f"{remedy}."
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ConfigurationError(
                f"{path.parent} is not writable, so {path.name} cannot be written there ({error.strerror}). "
                "Change the folder's permissions or point the nnUNet_* variable elsewhere."
            ) from error
        if isinstance(error, OSError) and (
            (error.errno == errno.EISDIR and path.is_dir()) or error.errno in (errno.ENOTDIR, errno.EEXIST)
        ):
            raise ConfigurationError(
                f"{path} cannot be written: a {'folder' if path.is_dir() else 'file'} stands where a "
                f"{'file' if path.is_dir() else 'folder'} is to be ({error.strerror}). Move it away."
            ) from error
        raise


def disk_is_full(error: BaseException, folder: Path | str) -> bool:
    """Whether ``error`` came because nothing more fits into ``folder``: disk or quota.

    Asked before what was half written is removed, since libraries hide the operating system's reason in errors of
    their own (torch, safetensors, blosc2, SQLite), and then only the space that is left tells.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFullError) or (isinstance(cause, OSError) and cause.errno in _FULL):
            return True
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError) and error.errno is not None:
        return False  # it has said something else
    try:
        return shutil.disk_usage(folder).free < _NEXT_TO_NOTHING
    except OSError:
        return False


def _to_disk(path: Path) -> None:
    """Have a file's content, or a folder's names, written through to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a disk that cannot
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any, *, durable: bool = False) -> None:
    """Write ``content`` as indented JSON, atomically. NumPy scalars and arrays become numbers and lists."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=_to_builtin) + "\n", encoding="utf-8")


def copy_file(source: Path | str, target: Path | str) -> None:
    """Copy the content of a file, atomically."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def link_file(source: Path | str, target: Path | str) -> None:
    """As :func:`copy_file`, without taking space where the disk has hard links: of files that are never changed."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def read_json(path: Path | str, *, error: type[SamdpoError] = ConfigurationError, remedy: str = "") -> Any:
    """Read JSON of whatever origin; what cannot be read raises ``error`` with a sentence that ends in ``remedy``.

    A byte order mark, which Windows' editors write, is no part of the content.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as cause:
        raise error(f"{path} is missing. {remedy}".strip()) from cause
    except IsADirectoryError as cause:
        raise error(f"{path} is a folder; expected a JSON file. {remedy}".strip()) from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not UTF-8 text, so it cannot be JSON. {remedy}".strip()) from cause
    except OSError as cause:
        raise error(unreadable(path, cause)) from cause
    return parse_json(text, str(path), error=error, remedy=remedy)


def parse_json(text: str | bytes, what: str, *, error: type[SamdpoError] = ConfigurationError, remedy: str = "") -> Any:
    """``json.loads`` of text that is not ours; raises ``error`` with a sentence about ``what`` whatever is wrong."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as cause:
        place = f"{cause.msg} at line {cause.lineno}, column {cause.colno}"
        raise error(f"{what} is not valid JSON: {place}. {remedy}".strip()) from cause
    except UnicodeDecodeError as cause:
        raise error(f"{what} is not UTF-8 text, so it cannot be JSON. {remedy}".strip()) from cause
    except RecursionError as cause:
        raise error(f"{what} is nested too deeply to be read as JSON. {remedy}".strip()) from cause
    except ValueError as cause:  # a whole number of thousands of digits
        raise error(f"{what} is not valid JSON: {cause}. {remedy}".strip()) from cause
    if _is_deeper(content, _DEEPEST):
        raise error(f"{what} is nested too deeply to be read: more than {_DEEPEST} levels. {remedy}".strip())
    return content


def _is_deeper(content: Any, levels: int) -> bool:
    layer = [content]
    for _ in range(levels):
        containers = [c for c in layer if isinstance(c, (dict, list))]
        if not containers:
            return False
        layer = [value for c in containers for value in (c.values() if isinstance(c, dict) else c)]
    return any(isinstance(c, (dict, list)) for c in layer)


def unreadable(path: Path | str, cause: OSError) -> str:
    """The sentence about a file that is there and cannot be read: permissions are called that, not damage."""
    if cause.errno in (errno.EACCES, errno.EPERM):
        return f"{path} may not be read by you ({cause.strerror}). Change its permissions: chmod u+r {path}"
    return f"{path} cannot be read ({cause.strerror or cause})."


def sha256_of_file(path: Path | str) -> str:
    """SHA-256 of a file's content, as 64 hex digits."""
    return digest_of_file(path, "sha256")


def digest_of_file(path: Path | str, kind: str) -> str:
    """As :func:`sha256_of_file` by a hash of another name, such as ``md5``, which others publish."""
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(file: Path) -> str:
    """SHA-256 of a file, read once a process as long as nobody writes, replaces or touches it."""
    stat = file.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    recent = time.time_ns() - stat.st_ctime_ns < TELLS_APART  # two writings may have the same time
    if recent or file not in _hashed or _hashed[file][0] != state:
        _hashed[file] = state, sha256_of_file(file)
    return _hashed[file][1]


@contextmanager
def locked(path: Path | str, *, busy: str = "") -> Iterator[None]:
    """Hold the lock file ``path`` of something that is read, changed and written by several processes.

    Args:
        path: of the lock file, which stays.
        busy: raise this sentence where another process holds the lock; by default it is waited for.

    Raises:
        ConfigurationError: ``busy``, or the folder is not writable.
    """
    path = Path(path)
    lock = FileLock(path, timeout=0 if busy else -1)
    try:
        with _in_a_sentence(path, "type the same command again"):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout as cause:
        raise ConfigurationError(busy) from cause
    except (NotImplementedError, OSError) as cause:
        if isinstance(cause, OSError) and cause.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this disk has no locks, so nothing is said where two processes work on the same.", path)
    try:
        yield
    finally:
        lock.release()


def hash_of(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over JSON-able parts: the key of a cache is a hash of what made it."""
    text = json.dumps(parts, sort_keys=True, default=_to_builtin)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _to_builtin(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        import dataclasses

        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

"""Files of a download wherever they lie: in a folder, a zip or a tar. Archives are read member by member."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from samdpo.dataset.decoding import check_file, check_size
from samdpo.dataset.nifti import refuse_cut_nifti
from samdpo.errors import DatasetError
from samdpo.files import atomic_path, unreadable
from samdpo.names import ending_of

log = logging.getLogger(__name__)

_ZIP = re.compile(r"\.zip$", re.I)
_TAR = re.compile(r"\.(tar(\.\w+)?|tgz)$", re.I)
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # beside all hidden files: .DS_Store, macOS's ._x
_DEPTH = 8  # folders below the named one that are looked at
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Member:
    """One file of a download; small and picklable, so that other processes can read it."""

    container: Path  # the folder or the archive
    path: str  # inside it, with "/", without "./"
    size: int  # bytes
    order: int  # place in the archive: reading in this order never goes back
    stored: str  # the name as the archive has it

    def __str__(self) -> str:
        return str(self.container / self.path)

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """The folder inside the container; "" at its top."""
        return self.path.rpartition("/")[0]


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that is read here."""
    return path.is_file() and bool(_ZIP.search(path.name) or _TAR.search(path.name))


def is_sequential(container: Path) -> bool:
    """Whether going back means decompressing anew from the start, so that one process must read in order."""
    return not container.is_dir() and bool(_TAR.search(container.name)) and not container.name.lower().endswith(".tar")


def list_members(container: Path) -> list[Member]:
    """All files but junk, in the order in which they lie.

    Raises:
        DatasetError: neither a folder nor an archive, a damaged archive, or one with a name that leads outside.
    """
    if container.is_dir():
        return list(_walk(container))
    if not container.exists():
        raise DatasetError(f"{container} does not exist. Check the name, or that the disk is mounted.")
    if not is_archive(container):
        raise DatasetError(
            f"{container} is neither a folder nor an archive that is read here (.zip, .tar, .tar.gz, .tgz). Unpack it "
            "and name the folder."
        )
    try:
        if _ZIP.search(container.name):
            entries = [(e.filename, e.file_size) for e in _zip(container).infolist() if not e.is_dir()]
        else:
            # Links and devices are left out: what they point at is not part of the archive.
            everything = _tar(container)[0].getmembers()
            entries = [(e.name, e.size) for e in everything if e.isfile()]
            links = [e.name for e in everything if (e.issym() or e.islnk()) and ending_of(e.name)]
            if links:
                log.warning("%d links in %s are left out, for example %s.", len(links), container, links[0])
    except _DAMAGED as error:
        raise _damaged(container, error) from error
    except OSError as error:
        raise DatasetError(unreadable(container, error)) from error
    members = []
    for order, (stored, size) in enumerate(entries):
        path = _safe(container, stored)
        if not _is_junk(path):
            members.append(Member(container, str(path), size, order, stored))
    return members


def copy_member(member: Member, target: Path) -> None:
    """Copy one file byte by byte, atomically; a NIfTI file that was cut off is refused.

    Raises:
        DatasetError: damaged archive, cut NIfTI file.
    """
    with atomic_path(target) as temporary:
        _copy(member, temporary)
        with naming(temporary, member):
            refuse_cut_nifti(temporary)


@contextmanager
def local_file(member: Member) -> Iterator[Path]:
    """The member as a file of its own: itself in a folder, a temporary copy of an archive's.

    Errors raised inside name the member, never the temporary copy.
    """
    if member.container.is_dir():
        yield member.container / member.path
        return
    with tempfile.TemporaryDirectory(prefix="samdpo_") as folder:
        path = Path(folder) / member.name
        _copy(member, path)
        with naming(path, member):
            yield path


@contextmanager
def naming(local: Path, member: Member) -> Iterator[None]:
    """Errors inside name ``member`` where they would name the temporary file ``local``."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(str(error).replace(str(local), str(member))) from error


def close_archives() -> None:
    """Forget the archives that are open, so that a replaced file is not read from the old handle."""
    _zip.cache_clear()
    _tar.cache_clear()


def _walk(folder: Path) -> Iterator[Member]:
    order = 0
    for place, folders, files in os.walk(folder, onerror=_refuse_closed):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(f for f in folders if not _is_junk(PurePosixPath(f)))
        if len(inside.parts) >= _DEPTH:
            folders.clear()
        for name in sorted(files):
            file = Path(place) / name
            if _is_junk(PurePosixPath(name)):
                continue
            if file.is_symlink() and ending_of(name):
                check_file(file)  # a link to nothing would be left out without a word
            if file.is_file():
                path = (inside / name).as_posix()
                yield Member(folder, path, file.stat().st_size, order, path)
                order += 1


def _refuse_closed(error: OSError) -> None:
    """Else what lies in a folder that may not be read would be left out without a word."""
    raise DatasetError(unreadable(error.filename, error)) from error


def _is_junk(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part in _JUNK for part in path.parts)


def _safe(container: Path, stored: str) -> PurePosixPath:
    """Nothing is ever written under an archive's names, but one that tries to lead outside is not to be trusted."""
    path = PurePosixPath(stored.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", stored):
        raise DatasetError(
            f"{container} holds the name {stored!r}, which leads outside the archive. Such an archive is not read: "
            "download it again from its official source."
        )
    return path


def _copy(member: Member, target: Path) -> None:
    if not member.container.is_dir():
        _refuse_too_large(member, target.parent)
    try:
        with _open(member) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except _DAMAGED as error:
        raise _damaged(member.container, error, member.path) from error
    written = target.stat().st_size
    if written != member.size:
        raise _damaged(member.container, EOFError(f"{written} of {member.size} bytes"), member.path)


def _refuse_too_large(member: Member, folder: Path) -> None:
    """Archives hold a gigabyte of zeros in a megabyte; what cannot be an image, or has no place, is not unpacked."""
    check_size(Path(str(member)), (member.size // 4,), member.container.stat().st_size)
    free = shutil.disk_usage(folder).free
    if member.size > free:
        raise DatasetError(
            f"{member} is {member.size:,} bytes large when it is unpacked, but {folder} has {free:,} free. Free some "
            "space, or point TMPDIR at a larger disk."
        )


def _open(member: Member) -> IO[bytes]:
    if member.container.is_dir():
        try:
            return (member.container / member.path).open("rb")
        except OSError as error:
            raise DatasetError(unreadable(Path(str(member)), error)) from error
    if _ZIP.search(member.container.name):
        return _zip(member.container).open(member.stored)
    archive, entries = _tar(member.container)
    stream = archive.extractfile(entries[member.stored])
    if stream is None:
        raise tarfile.ReadError("not a file")
    return stream


@lru_cache(maxsize=4)
def _zip(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@lru_cache(maxsize=4)
def _tar(path: Path) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    archive = tarfile.open(path)  # noqa: SIM115 (stays open: finding a member anew would read all headers)
    return archive, {entry.name: entry for entry in archive.getmembers() if entry.isfile()}


def _damaged(container: Path, error: Exception, path: str = "") -> DatasetError:
    where = f" at {path}" if path else ""
    return DatasetError(
        f"{container} cannot be read{where} ({error}). The download is damaged or incomplete: download it again."
    )

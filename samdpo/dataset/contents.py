"""What a case is made from, by content: the one rule by which slices, fingerprints and copies are fresh or stale.

A time of writing says nothing: archives and mounts give many files the same one, and copying changes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from samdpo.dataset.cases import Case
from samdpo.dataset.images import spacing_file
from samdpo.files import sha256_of_file

_TELLS_APART = 2_000_000_000  # nanoseconds; the times of coarse file systems
_known: dict[Path, tuple[tuple[int, ...], str]] = {}  # of this process: a command asks for the same files twice


def files_of_case(case: Case) -> list[Path]:
    """Images, label, and the spacing that stands beside a TIFF stack."""
    files = [*case.images, *([case.label] if case.label else [])]
    return [*files, *(beside for file in files if file.is_file() and (beside := spacing_file(file)) is not None)]


def content_hashes(cases: Iterable[Case], threads: int = 1) -> dict[Path, str]:
    """SHA-256 of every file of ``cases``, as :func:`files_of_case` lists them.

    Args:
        cases: whose files are read whole.
        threads: that read; hashing waits for the disk, not for Python.
    """
    files = list(dict.fromkeys(file for case in cases for file in files_of_case(case)))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return dict(zip(files, pool.map(content_hash, files)))


def content_hash(file: Path) -> str:
    """SHA-256 of a file, read once a process as long as nobody writes, replaces or touches it."""
    stat = file.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    recent = time.time_ns() - stat.st_ctime_ns < _TELLS_APART  # two writings may have the same time
    if recent or file not in _known or _known[file][0] != state:
        _known[file] = state, sha256_of_file(file)
    return _known[file][1]

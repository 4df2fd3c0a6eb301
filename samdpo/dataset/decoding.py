"""What every reader of images asks before and around a decoder: is the file there, how large, and what went wrong.

Decoders believe headers: some 50 bytes can ask for 20 GiB. They fail with errors of their own, of any class, and some
call a file damaged that is only too large for them. So there is one check of a file, one bound, and one place where
their errors become sentences.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

from samdpo.errors import DatasetError, SamdpoError
from samdpo.files import unreadable

# Values (pixels x channels, or voxels) that any file may hold; they are read as 32-bit floats, so this is 8 GiB.
LARGEST = 2**31
# A larger file may hold so many a byte of its own: images compress by some 20, and what promises more is a trap.
_A_BYTE = 64
_GIB = 2**30
DAMAGED = "The file is damaged or cut off: copy it again from its source."


def check_file(path: Path) -> None:
    """Whether ``path`` is a file with content that may be read.

    Raises:
        DatasetError: not there, a link to nothing, a folder, a pipe or device, empty, or not permitted.
    """
    try:
        if path.is_dir():
            raise DatasetError(
                f"{path} is a folder that is named like a file. Name the file inside it, or move it out of there."
            )
        if not path.exists():
            if path.is_symlink():
                raise DatasetError(
                    f"{path} is a link to {path.readlink()}, which is not there. Mount that disk, or copy the file "
                    "itself."
                )
            raise DatasetError(f"{path} does not exist. Check the name, or that the disk is mounted.")
        if not path.is_file():
            raise DatasetError(f"{path} is a pipe or a device, not a file. Name a file.")
        if not path.stat().st_size:
            raise DatasetError(f"{path} cannot be read (it is empty, 0 bytes). {DAMAGED}")
        with path.open("rb"):
            pass
    except OSError as error:
        raise DatasetError(unreadable(path, error)) from error


def check_size(path: Path, shape: Sequence[int], stored: int | None = None) -> None:
    """Whether what a header promises may be read; asked before anything of that size is allocated.

    Args:
        path: of the file.
        shape: axes of what is decoded, in any order.
        stored: bytes on the disk; None asks the file.

    Raises:
        DatasetError: none at all, or more than :data:`LARGEST` values and than any honest file of so many bytes holds.
    """
    values = prod(max(int(n), 0) for n in shape)
    if not values:
        raise DatasetError(f"{path} holds no pixel ({' x '.join(str(int(n)) for n in shape)}). {DAMAGED}")
    if values <= LARGEST:
        return
    size = path.stat().st_size if stored is None else stored
    if values > _A_BYTE * size:
        raise DatasetError(
            f"{path} is too large: {' x '.join(str(int(n)) for n in shape)} are {values:,} values, "
            f"{4 * values / _GIB:,.0f} GiB in memory, out of a file of {size:,} bytes; up to {LARGEST:,} values are "
            "read. Cut it into parts, or save it at a lower resolution."
        )


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises inside into a DatasetError with a sentence about ``path``.

    Raises:
        DatasetError: see above; a disk that fills up while something is unpacked stays an OSError.
    """
    try:
        yield
    except SamdpoError:
        raise
    except MemoryError as error:
        raise DatasetError(
            f"{path} is too large for the memory of this machine ({error or 'there is not enough'}). Use a machine "
            "with more, cut the image into parts, or save it at a lower resolution."
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        if error.errno not in (None, errno.EINVAL):  # the system's; decoders have no number, or seek out of the file
            raise DatasetError(unreadable(path, error)) from error
        raise DatasetError(f"{path} cannot be read ({error}). {DAMAGED}") from error
    except Exception as error:  # struct.error, zlib.error, RecursionError, OverflowError, classes of their own, …
        raise DatasetError(f"{path} cannot be read ({type(error).__name__}: {error}). {DAMAGED}") from error

"""Pictures and masks of a download as samdpo stores them: one channel or RGB, masks of 0 and 1."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from samdpo.dataset.converters.source import Member, copy_member, local_file, naming
from samdpo.dataset.decoding import check_file
from samdpo.dataset.images import read_image, read_label, write_label
from samdpo.dataset.pictures import lossy_kind, read_label_picture, upright_picture, write_picture
from samdpo.errors import DatasetError
from samdpo.files import atomic_path
from samdpo.names import LOSSY_ENDINGS, ending_of

COLOURED = "are coloured; the mean of red, green and blue was written."
LOSSY = (
    "are JPEG or WebP, which is lossy, and were written as PNG with the losses they have. Prefer the originals where "
    "you have them."
)


@contextmanager
def readable_picture(member: Member) -> Iterator[tuple[Path, bool]]:
    """The picture as a file that samdpo reads, and whether it was lossy: that one is decoded to a temporary PNG."""
    with local_file(member) as path:
        check_file(path)
        if not is_lossy(path):
            yield path, False
            return
        with tempfile.TemporaryDirectory(prefix="samdpo_") as folder:
            decoded = Path(folder) / "picture.png"
            upright_picture(path).save(decoded, compress_level=1)
            with naming(decoded, member):
                yield decoded, True


def write_grey_picture(members: tuple[Member, ...], targets: tuple[Path, ...]) -> str | None:
    """One channel of a published picture that should be grey; a coloured one is averaged and remarked."""
    with readable_picture(members[0]) as (path, lossy):
        stored = read_image(path).data
        remark = LOSSY if lossy else None
        if len(stored) == 3:
            try:
                stored = read_image(path, 1).data
            except DatasetError:  # it was read a moment ago, so it is the colour that is refused
                stored, remark = stored.mean(axis=0, keepdims=True), COLOURED
    write_label(np.rint(stored[0]), targets[0], {})
    return remark


def write_own_picture(members: tuple[Member, ...], targets: tuple[Path, ...], *, channels: int) -> str | None:
    """A user's picture with 1 or 3 channels; what cannot be written anew without loss is copied unchanged.

    Raises:
        DatasetError: a coloured picture where one channel is wanted; values that the new format cannot hold.
    """
    member, target = members[0], targets[0]
    with readable_picture(member) as (path, lossy):
        stored = read_image(path).data
        grey_as_rgb = len(stored) == 3 and channels == 1
        pixels = read_image(path, 1).data if grey_as_rgb else stored  # (C, Z, Y, X)
        highest = 65535 if len(pixels) == 1 else 255
        whole = np.rint(pixels)
        kept = pixels.min() >= 0 and pixels.max() <= highest and (grey_as_rgb or np.array_equal(whole, pixels))
        kept &= len(pixels) == 1 or ending_of(target) in (".png", ".bmp")  # the writer's TIFFs are grey
        if kept and len(pixels) == 1:
            write_label(whole[0], target, {})
        elif kept:
            with atomic_path(target) as temporary:
                write_picture(np.moveaxis(whole, 0, -1).astype(np.uint8), temporary)
        elif ending_of(member.name) == ending_of(target):
            copy_member(member, target)
        else:
            raise DatasetError(
                f"{member} holds values from {pixels.min():g} to {pixels.max():g} in {len(pixels)} channel(s), which "
                f"{ending_of(target)} cannot hold. Expected whole numbers from 0 to {highest}. Save all images and "
                "masks in one format, then they are copied unchanged."
            )
    return LOSSY if lossy else None


def is_grey(member: Member) -> bool:
    """Whether a picture has one channel, or three that show a grey image with few coloured pixels.

    Raises:
        DatasetError: unreadable file.
    """
    with readable_picture(member) as (path, _):
        if len(read_image(path).data) != 3:
            return True
        try:
            read_image(path, 1)
        except DatasetError:
            return False
        return True


def write_binary_mask(members: tuple[Member, ...], targets: tuple[Path, ...]) -> None:
    """The union of masks that show one structure as anything bright, as 0 and 1.

    Raises:
        DatasetError: masks of one image that differ in size, a lossy or coloured mask.
    """
    union = None
    for member in members:
        values = read_mask(member)
        # 255, 1 or, at softened edges, what is nearer to it than to 0.
        mask = (values > values.max(initial=0) / 2).astype(np.uint8)
        if union is not None and union.shape != mask.shape:
            raise DatasetError(
                f"{member} has the size {mask.shape[::-1][:2]}, but {members[0].name} of the same image has "
                f"{union.shape[::-1][:2]}. Expected: masks of one size. Download it again."
            )
        union = mask if union is None else union | mask
    write_label(union, targets[0], {})


def read_mask(member: Member) -> np.ndarray:
    """(Z, Y, X) of a mask as it was published: any label that is read elsewhere, or a GIF.

    Raises:
        DatasetError: as of :func:`samdpo.dataset.images.read_label`.
    """
    with local_file(member) as path:
        if path.suffix.lower() != ".gif":
            return read_label(path)
        check_file(path)
        return read_label_picture(path)


def write_empty_mask(members: tuple[Member, ...], targets: tuple[Path, ...]) -> None:
    """A mask without anything, of the size of the image ``members[0]``."""
    with readable_picture(members[0]) as (path, _):
        shape = read_image(path).data.shape[1:]
    write_label(np.zeros(shape, np.uint8), targets[0], {})


def is_lossy(path: Path) -> bool:
    """Whether a picture was compressed with losses, by its name or by its content."""
    return ending_of(path) in LOSSY_ENDINGS or bool(lossy_kind(path))

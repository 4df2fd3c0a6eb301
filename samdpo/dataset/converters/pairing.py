"""Which mask belongs to which image in two folders of anyone's: by their names without ending and usual suffixes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from samdpo.dataset.converters.source import Member, list_members
from samdpo.dataset.images import LOSSY_ENDINGS, SUPPORTED_ENDINGS, ending_of
from samdpo.errors import DatasetError

MASK_SUFFIXES = ("_mask", "_label", "_seg")
_CHANNEL = "_0000"  # nnU-Net's images have it, its labels do not


def picture_members(source: Path) -> list[Member]:
    """The image files of one folder: of ``source`` itself, or of the one folder inside it that holds any.

    Raises:
        DatasetError: no image, or images in several folders.
    """
    by_folder: dict[str, list[Member]] = defaultdict(list)
    members = list_members(source.expanduser())
    for member in members:
        if ending_of(member.name):
            by_folder[member.folder].append(member)
    if "" in by_folder:
        return by_folder[""]
    if not by_folder:
        found = ", ".join(member.path for member in members[:5]) or "nothing"
        raise DatasetError(
            f"{source} holds no image. Expected files ending with {', '.join((*SUPPORTED_ENDINGS, *LOSSY_ENDINGS))}; "
            f"found: {found}. Name the folder with the images."
        )
    if len(by_folder) > 1:
        raise DatasetError(
            f"{source} holds images in {len(by_folder)} folders: {', '.join(sorted(by_folder)[:5])}. Expected one. "
            "Name the folder meant."
        )
    return next(iter(by_folder.values()))


def pair_by_stem(
    images: Sequence[Member], masks: Sequence[Member], together: bool = False
) -> list[tuple[str, Member, Member]]:
    """Case, image and mask, sorted; ``scan.jpg`` goes with ``scan.png`` and ``scan_mask.png``.

    Args:
        images: image files.
        masks: mask files.
        together: both lie in one folder, so that the suffix alone tells a mask.

    Raises:
        DatasetError: an image without mask, a mask without image, two files of one case.
    """
    if together:
        images = [m for m in images if not stem(m).lower().endswith(MASK_SUFFIXES)]
        masks = [m for m in masks if stem(m).lower().endswith(MASK_SUFFIXES)]
    by_case = _unique(images, "images")
    by_stem = _unique(masks, "masks")
    plain = _case_names(by_case)
    found, bare = [], []
    for case, image in sorted(by_case.items()):
        names = dict.fromkeys(name + suffix for name in (case, plain[case]) for suffix in ("", *MASK_SUFFIXES))
        fitting = [name for name in names if name in by_stem]
        if len(fitting) > 1:
            raise DatasetError(
                f"{image} has two masks, {by_stem[fitting[0]]} and {by_stem[fitting[1]]}. Expected one. Remove or "
                "rename one of them."
            )
        if fitting:
            found.append((plain[case], image, by_stem.pop(fitting[0])))
        else:
            bare.append(image)
    if bare or by_stem:
        lines = [f"{m} has no mask: expected a file called {stem(m)}, or {stem(m)}_mask." for m in bare[:10]]
        lines += [f"{m} has no image of the same name." for m in list(by_stem.values())[:10]]
        raise DatasetError(
            "\n".join([*lines, f"{len(bare)} image(s) and {len(by_stem)} mask(s) stand alone. Rename them, or put "
                       "images without a mask into a folder of their own and name it after --unlabelled."])
        )
    return found


def stem(member: Member) -> str:
    """The name without its ending; ``.nii.gz`` is one ending."""
    return member.name[: -len(ending_of(member.name))]


def cases_of(images: Sequence[Member]) -> list[tuple[str, Member]]:
    """Case and image, sorted, without a channel number."""
    by_case = _unique(images, "images")
    plain = _case_names(by_case)
    return [(plain[case], image) for case, image in sorted(by_case.items())]


def _case_names(stems: Iterable[str]) -> dict[str, str]:
    """Without ``_0000`` where all have it; where some have not it is a number of theirs: frame_0000, frame_0001."""
    stems = list(stems)
    numbered = all(name.endswith(_CHANNEL) for name in stems)
    return {name: name.removesuffix(_CHANNEL) if numbered else name for name in stems}


def _unique(members: Sequence[Member], what: str) -> dict[str, Member]:
    by_stem: dict[str, Member] = {}
    for member in members:
        other = by_stem.setdefault(stem(member), member)
        if other is not member:
            raise DatasetError(
                f"{other} and {member} have the same name but for the ending, so that their {what} cannot be told "
                "apart. Remove one of them."
            )
    return by_stem

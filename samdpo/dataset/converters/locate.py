"""Finding a data set's root: in the named folder, in one below it, in an archive, or in the archive in the folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from samdpo.dataset.converters.source import Member, is_archive, list_members
from samdpo.errors import DatasetError, few

log = logging.getLogger(__name__)

_CONVERTED = re.compile(r"(^|/)Dataset\d{3}_[^/]*$")  # nnU-Net's raw folders look like some downloads
_CONVERTED_PART = re.compile(r"(^|/)(\.unfinished_)?Dataset\d{3}_[^/]*/")


@dataclass(frozen=True)
class Download:
    """A data set as it was found."""

    container: Path  # folder or archive
    root: str  # inside the container, "" for its top
    members: Mapping[str, Member]  # path below the root -> file

    @property
    def name(self) -> str:
        """Name of the root folder, or of the archive without its ending."""
        if self.root:
            return PurePosixPath(self.root).name
        name = self.container.resolve().name
        return name if self.container.is_dir() else re.sub(r"\.(zip|tgz|tar(\.\w+)?)$", "", name, flags=re.I)

    def files(self, folder: str) -> list[Member]:
        """The files that lie directly in ``folder``."""
        return [member for path, member in self.members.items() if path.rpartition("/")[0] == folder]

    def __str__(self) -> str:
        return str(self.container / self.root)


def find_download(
    source: Path,
    what: str,
    folders: Sequence[str],
    layout: str,
    fits: Callable[[Download], bool] = lambda download: True,
) -> Download:
    """Find the one root below ``source`` that holds all of ``folders``.

    Args:
        source: what the user named: the root, a folder above it, an archive, or a folder with the archive.
        what: name of the data set for messages.
        folders: folders that the root must hold, with at least one file somewhere below each.
        layout: what was expected, for the message.
        fits: whether a root is the right one, where its folders do not tell.

    Raises:
        DatasetError: none or several found; the message says what was there instead.
    """
    source = source.expanduser()
    members = list_members(source)
    found = _roots(source, members, folders, fits)
    if not found and source.is_dir():
        for archive in sorted(f for f in source.iterdir() if is_archive(f)):
            found += _roots(archive, list_members(archive), folders, fits)
    if len(found) == 1:
        return found[0]
    if found:
        listing = ", ".join(str(download) for download in found)
        raise DatasetError(f"{source} holds {what} {len(found)} times: {listing}. Name one of them.")
    raise DatasetError(
        f"{source} does not hold {what}. Expected: {layout}. Found: {_listed(members)}. Name the folder it was "
        "unpacked to, a folder above it, or the archive as it was downloaded."
    )


def find_files(source: Path, pattern: re.Pattern[str], what: str, layout: str) -> list[tuple[Member, re.Match[str]]]:
    """Files of a data set that is known by their names, wherever below ``source`` they lie, sorted by path.

    Args:
        source: a folder, an archive, or a folder with archives.
        pattern: of the end of a path, from a whole name on; see ``re.fullmatch``.
        what: name of the data set for messages.
        layout: what was expected, for the message.

    Returns:
        each file with its match.

    Raises:
        DatasetError: there is none; the message says what was there instead.
    """
    source = source.expanduser()
    anywhere = re.compile(rf"(?:.*/)?(?:{pattern.pattern})", pattern.flags)
    members = list_members(source)
    found = _matching(source, members, anywhere)
    if source.is_dir():
        for archive in sorted(f for f in source.iterdir() if is_archive(f)):
            found += _matching(archive, list_members(archive), anywhere)
    if not found:
        raise DatasetError(
            f"{source} does not hold {what}. Expected: {layout}. Found: {_listed(members)}. Name the folder it was "
            "unpacked to, a folder above it, or the archive as it was downloaded."
        )
    return sorted(found, key=lambda one: one[0].path)


def _matching(
    container: Path, members: Sequence[Member], pattern: re.Pattern[str]
) -> list[tuple[Member, re.Match[str]]]:
    inside = container.resolve().name if container.is_dir() else ""
    return [
        (member, match) for member in members
        if (match := pattern.fullmatch(member.path)) and not _CONVERTED_PART.search(f"{inside}/{member.path}")
    ]


def _listed(members: Sequence[Member]) -> str:
    """What lies at the top, for messages."""
    top = sorted({member.path.partition("/")[0] for member in members})
    return few(top, 8) or "nothing"


def warn_about_counts(what: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Log a warning where a download holds another number of files than was published; it is converted all the same."""
    different = [f"{name}: {found.get(name, 0)} of {n}" for name, n in published.items() if found.get(name, 0) != n]
    if different:
        log.warning(
            "%s differs from what was published (%s). Is the download complete? It is converted as it is.",
            what, "; ".join(different),
        )


def pairs(images: Sequence[Member], labels: Sequence[Member], where: str) -> list[tuple[Member, Member]]:
    """Image and label of the same name, sorted.

    Raises:
        DatasetError: an image without label or a label without image; all are told at once.
    """
    by_name = {member.name: member for member in labels}
    alone = [member for member in images if member.name not in by_name]
    named = {member.name for member in images}
    orphans = [member for member in labels if member.name not in named]
    if alone or orphans:
        parts = []
        if alone:
            parts.append(f"{len(alone)} image(s) without a label, for example {alone[0]}")
        if orphans:
            parts.append(f"{len(orphans)} label(s) without an image, for example {orphans[0]}")
        raise DatasetError(
            f"{where} holds {' and '.join(parts)}. Expected: a label of the same name for every image. Download it "
            "again or add what is missing."
        )
    return [(image, by_name[image.name]) for image in sorted(images, key=lambda m: m.name)]


def _roots(
    container: Path, members: Sequence[Member], folders: Sequence[str], fits: Callable[[Download], bool]
) -> list[Download]:
    candidates: set[str] | None = None
    for folder in folders:
        inner = re.compile(rf"(?:^|(.*)/){re.escape(folder)}/")
        here = {(match[1] or "") for m in members if (match := inner.match(m.path))}
        candidates = here if candidates is None else candidates & here
    found = []
    for root in sorted(candidates or ()):
        if _CONVERTED.search(root or container.resolve().name):
            continue
        inside = f"{root}/" if root else ""
        below = {m.path[len(inside):]: m for m in members if m.path.startswith(inside)}
        download = Download(container, root, below)
        if fits(download):
            found.append(download)
    return found

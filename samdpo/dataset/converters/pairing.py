"""Which mask belongs to which image in two folders of anyone's: by their names without ending and usual suffixes."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from samdpo.dataset.converters.source import Member, is_archive, list_members
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.names import LOSSY_ENDINGS, SUPPORTED_ENDINGS, ending_of

log = logging.getLogger(__name__)

MASK_SUFFIXES = ("_mask", "_label", "_seg")
_MOST_STRUCTURES = 30  # more endings of names are numbers of something else
_JOINTS = "_-. "  # between a case's name and what follows
_CHANNEL = "_0000"  # nnU-Net's images have it, its labels do not


def picture_members(source: Path, masks: bool = False) -> list[Member]:
    """The image files of one folder: of ``source`` itself, or of the one folder inside it that holds any.

    Args:
        source: folder or archive.
        masks: whether they are masks, whose folders may be structures.

    Raises:
        DatasetError: no image, or images in several folders.
    """
    by_folder: dict[str, list[Member]] = defaultdict(list)
    members = list_members(source.expanduser())
    for member in members:
        if ending_of(member.name):
            by_folder[member.folder].append(member)
    _tell_left_out(source, members, by_folder)
    if "" in by_folder:
        return by_folder[""]
    if not by_folder:
        found = ", ".join(member.path for member in members[:5]) or "nothing"
        raise DatasetError(
            f"{source} holds no image. Expected files ending with {', '.join((*SUPPORTED_ENDINGS, *LOSSY_ENDINGS))}; "
            f"found: {found}. Name the folder with the images."
        )
    if len(by_folder) > 1:
        structures = " ".join(f"NAME={folder}" for folder in sorted(by_folder)[:8])
        raise DatasetError(
            f"{source} holds images in {len(by_folder)} folders: {', '.join(sorted(by_folder)[:5])}. Expected one. "
            "Name the folder meant"
            + (f", or, if each holds one structure: --structures {structures}" if masks else ".")
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
    every_mask = list(by_stem)
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
        # In one folder a second mask of a case, such as a_mask_1 beside a_mask, looks like an image without a mask.
        extra = [stem(m) for m in bare] if together else []
        suffixes = _suffixes([case for case in by_case if case not in extra], [*every_mask, *extra])
        advice = f" If each mask shows one structure: --structures {suffixes}" if suffixes else ""
        lines = [f"{m} has no mask: expected a file called {stem(m)}, or {stem(m)}_mask." for m in bare[:10]]
        lines += [f"{m} has no image of the same name." for m in list(by_stem.values())[:10]]
        raise DatasetError(
            "\n".join([*lines, f"{len(bare)} image(s) and {len(by_stem)} mask(s) stand alone. Rename them, or put "
                       "images without a mask into a folder of their own and name it after --unlabelled." + advice])
        )
    return found


def _tell_left_out(source: Path, members: Sequence[Member], by_folder: Mapping[str, Sequence[Member]]) -> None:
    """What lies beside the images of ``source`` and is not converted."""
    others = Counter(PurePosixPath(m.name).suffix.lower() or "without ending" for m in members if not ending_of(m.name))
    if others and by_folder:
        kinds = ", ".join(f"{ending} ({number})" for ending, number in others.most_common(5))
        log.warning("%d files of %s are left out, since they are no images that are read: %s.", others.total(), source,
                    kinds)
    below = {folder: len(images) for folder, images in by_folder.items() if folder}
    if "" in by_folder and below:
        log.warning("Images in folders inside %s are left out: %s.", source,
                    ", ".join(f"{folder} ({number})" for folder, number in sorted(below.items())[:5]))


@dataclass(frozen=True)
class StructureSource:
    """Where the masks of one structure lie: ``--structures NAME=SOURCE``.

    Attributes:
        name: of the structure.
        value: its label.
        source: a folder inside that of the masks, another folder or archive, or what the files' names end with.
    """

    name: str
    value: int
    source: str


def structures_of(given: Sequence[str]) -> tuple[tuple[str, ...], list[StructureSource]]:
    """``--structures``: names of the labels, background first, and where each lies; a name may come several times.

    Raises:
        ConfigurationError: a text of another form.
    """
    labels, sources = ["background"], []
    for text in given:
        name, separator, source = text.partition("=")
        if not separator or not name.strip() or not source.strip() or name == "background":
            raise ConfigurationError(
                f"--structures holds {text!r}; expected NAME=FOLDER, or NAME=ENDING of the files' names: lung=_lung."
            )
        if name not in labels:
            labels.append(name)
        sources.append(StructureSource(name, labels.index(name), source.rstrip("/")))
    return tuple(labels), sources


def pair_structures(
    images: Sequence[Member], masks: Path, sources: Sequence[StructureSource], together: bool = False
) -> list[tuple[str, Member, tuple[Member, ...], tuple[int, ...]]]:
    """Case, image, its masks in the order of ``sources``, and their values; sorted.

    A case has at least one mask; a structure without one is not there in it.

    Args:
        images: image files.
        masks: folder or archive of masks.
        sources: where each structure lies.
        together: images and masks lie in one folder.

    Raises:
        DatasetError: a source that is none, an image without any mask, a mask without image, two of one structure.
    """
    everything = [member for member in list_members(masks.expanduser()) if ending_of(member.name)]
    folders = {one: _in_folder(everything, one.source) for one in sources}
    suffixes = sorted((one.source for one in sources if not folders[one]), key=len, reverse=True)
    loose = [] if not suffixes else list(images) if together else picture_members(masks, masks=True)
    by_suffix, others = _by_suffix(loose, suffixes)
    if together:
        images = [m for m in images if not stem(m).endswith(tuple(suffixes))]
    by_case = _unique(images, "images")
    plain = _case_names(by_case)
    found: dict[str, list[tuple[Member, int]]] = {case: [] for case in by_case}
    alone: list[Member] = []
    for one in sources:
        usual = ("", *MASK_SUFFIXES, f"_{one.name}") if folders[one] else ("",)
        left = _unique(folders[one], "masks") if folders[one] else dict(by_suffix[one.source])
        if not left:
            raise DatasetError(
                f"--structures {one.name}={one.source}: there is no folder {one.source} in {masks} or here, and no "
                f"file of {masks} is called *{one.source}."
            )
        for case in by_case:
            names = dict.fromkeys(name + suffix for name in (case, plain[case]) for suffix in usual)
            fitting = [name for name in names if name in left]
            if len(fitting) > 1:
                raise DatasetError(
                    f"{by_case[case]} has two masks of {one.name}, {left[fitting[0]]} and {left[fitting[1]]}. Remove "
                    "or rename one of them."
                )
            found[case] += [(left.pop(name), one.value) for name in fitting]
        alone += left.values()
    if not together and others:
        names = tuple({*by_case, *plain.values()})
        alone += [member for member in others if not stem(member).startswith(names)]
        log.warning("%d files of %s are of no structure that --structures names and are left out, for example %s.",
                    len(others), masks, others[0].name)
    bare = [by_case[case] for case, of in found.items() if not of]
    if bare or alone:
        raise DatasetError("\n".join([
            *(f"{m} has no mask of any structure." for m in bare[:10]),
            *(f"{m} belongs to no image." for m in alone[:10]),
            f"{len(bare)} image(s) and {len(alone)} mask(s) stand alone. Rename them, or put images without a mask "
            "into a folder of their own and name it after --unlabelled.",
        ]))
    _tell_missing(sources, found)
    return [
        (plain[case], image, tuple(mask for mask, _ in found[case]), tuple(value for _, value in found[case]))
        for case, image in sorted(by_case.items())
    ]


def _by_suffix(
    members: Sequence[Member], suffixes: Sequence[str]
) -> tuple[dict[str, dict[str, Member]], list[Member]]:
    """Suffix -> name of the case -> its mask, and the files with none of ``suffixes``, which come longest first."""
    found: dict[str, dict[str, Member]] = {suffix: {} for suffix in suffixes}
    others = []
    for member in members:
        suffix = next((suffix for suffix in suffixes if stem(member).endswith(suffix)), None)
        if suffix is None:
            others.append(member)
            continue
        name = stem(member)[: -len(suffix)]
        name = name if suffix[0] in _JOINTS else name.rstrip(_JOINTS)
        other = found[suffix].setdefault(name, member)
        if other is not member:
            raise DatasetError(f"{other} and {member} are both the mask {suffix} of {name}. Remove one of them.")
    return found, others


def _tell_missing(sources: Sequence[StructureSource], found: Mapping[str, Sequence[tuple[Member, int]]]) -> None:
    for name, value in dict.fromkeys((one.name, one.value) for one in sources):
        without = [case for case, of in found.items() if value not in [v for _, v in of]]
        if without:
            log.warning(
                "%d of %d images have no mask of %s, for example %s: it counts as not there in them.", len(without),
                len(found), name, without[0],
            )


def _in_folder(members: Sequence[Member], source: str) -> list[Member]:
    inside = [m for m in members if m.folder == source or m.folder.endswith(f"/{source}")]
    path = Path(source).expanduser()
    return inside or (picture_members(path) if path.is_dir() or is_archive(path) else [])


def _suffixes(images: Sequence[str], masks: Sequence[str]) -> str:
    """``NAME=_heart NAME=_lung`` where the masks' names are those of images with a few endings; "" where not."""
    longest = sorted(images, key=len, reverse=True)
    found = set()
    for mask in masks:
        image = next((name for name in longest if mask.startswith(name)), None)
        if image is None or mask == image:
            return ""
        found.add(mask[len(image):])
    return " ".join(f"NAME={suffix}" for suffix in sorted(found)) if len(found) <= _MOST_STRUCTURES else ""


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

"""A folder of images and a folder of masks of one's own, in any formats that are read here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.masks import MaskRule, colours_of, look_at_masks, write_mask
from samdpo.dataset.converters.pairing import (
    StructureSource,
    cases_of,
    pair_by_stem,
    pair_structures,
    picture_members,
    structures_of,
)
from samdpo.dataset.converters.picture_files import is_grey, write_own_picture
from samdpo.dataset.converters.source import Member
from samdpo.dataset.converters.volume_files import write_volume
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.names import LOSSY_ENDINGS, MEDICAL_ENDINGS, check_name, ending_of
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)

DEFAULT_LABELS = ("background", "foreground")
Entry = tuple[str, Member, tuple[Member, ...], tuple[int, ...]]  # case, image, masks, values of what they show
_RGB = {"0": "R", "1": "G", "2": "B"}


def own_folder(
    images: Path,
    masks: Path,
    name: str,
    *,
    labels: Sequence[str] = DEFAULT_LABELS,
    channel: str | None = None,
    unlabelled: Path | None = None,
    test: Path | None = None,
    test_masks: Path | None = None,
    processes: int = 1,
    threshold: float | None = None,
    colours: Sequence[str] = (),
    structures: Sequence[str] = (),
) -> Conversion:
    """What becomes of images and masks that pair by their names.

    Args:
        images: folder (or archive) of images.
        masks: folder of masks; may be ``images`` itself, where the suffix ``_mask`` tells them.
        name: of the dataset.
        labels: names of the values 0, 1, …; the first is background.
        channel: what the images show (X-ray, ultrasound, CT …), which decides the normalisation. None: grey images
            are called "image", and coloured ones keep their three channels.
        unlabelled: folder of images without masks, for imagesUl.
        test: folder of images for imagesTs.
        test_masks: their masks, for labelsTs.
        processes: for looking at images and masks.
        threshold: of grey masks of one structure: what is above it is foreground. JPEG masks are then read.
        colours: of masks drawn in colours, ``NAME=R,G,B`` each; they name the labels in place of ``labels``.
        structures: of masks that show one structure a file, ``NAME=FOLDER`` or ``NAME=ENDING`` each, in the order of
            their labels; where two overlap the later one lies on top.

    Raises:
        ConfigurationError: labels that are no labels, flags that exclude each other.
        DatasetError: files that do not pair, masks that hold what was not named, volumes among pictures. Every mask is
            read for it.
    """
    labels, rule, sources = _rule(labels, threshold, colours, structures)
    if test_masks is not None and test is None:
        raise ConfigurationError("--test_masks needs the images that belong to them: name their folder after --test.")
    found = {"Tr": _pairs(images, masks, sources), "Ul": _alone(unlabelled)}
    found["Ts"] = _alone(test) if test_masks is None else _pairs(test, test_masks, sources)
    _refuse_twice(found["Tr"], found["Ul"])
    everything = [entry for part in found.values() for entry in part]
    for case, image, _, _ in everything:
        check_name(case, f"{image}: the name of the case", remedy="Rename the file.")
    all_images, all_masks = [entry[1] for entry in everything], [mask for entry in everything for mask in entry[2]]
    if threshold is None:
        _refuse_lossy(all_masks)
    ending = _common_ending(all_images, all_masks)
    channels = _channels(all_images, channel, ending, processes)
    _look(rule, everything, processes)
    tasks: list[Task] = []
    for part, entries in found.items():
        for case, image, drawn, values in entries:
            tasks.append(_image_task(image, f"images{part}/{case}_0000{ending}", len(channels)))
            make = partial(write_mask, rule=rule, values=values)
            tasks += [Task(drawn, (f"labels{part}/{case}{ending}",), make)] if drawn else []
            tasks += _spacings(image, (f"images{part}", f"labels{part}") if drawn else (f"images{part}",), case)
    if tuple(labels) == DEFAULT_LABELS:
        log.warning(
            "The structure is called 'foreground'. Its name is where prompts are found from: a real one, such as "
            "--labels background lung, or a phrase in dataset.json, serves better."
        )
    return Conversion(
        command="samdpo_convert_folder",
        name=name,
        settings={
            "images": str(images.expanduser().resolve()), "masks": str(masks.expanduser().resolve()),
            "labels": list(labels), "channels": list(channels.values()), "file_ending": ending,
            **({} if threshold is None else {"threshold": threshold}),
            **({"colours": list(colours)} if colours else {}),
            **({"structures": list(structures)} if structures else {}),
        },
        channel_names=channels,
        labels={label: value for value, label in enumerate(labels)},
        # Components and absence are measured from the masks when the dataset is planned.
        hints={label: hint(label, label) for label in labels[1:]},
        file_ending=ending,
        tasks=tasks,
    )


def _rule(
    labels: Sequence[str], threshold: float | None, colours: Sequence[str], structures: Sequence[str]
) -> tuple[tuple[str, ...], MaskRule, list[StructureSource]]:
    """Names of the labels, how a mask is read, and where each structure lies (nothing: all in one mask)."""
    named = [flag for flag, given in (("--colours", colours), ("--structures", structures)) if given]
    if len(named) > 1 or (colours and threshold is not None):
        raise ConfigurationError(
            "--colours is for masks that show all structures in one drawing; it goes neither with --structures nor "
            "with --threshold."
        )
    if named and tuple(labels) != DEFAULT_LABELS:
        raise ConfigurationError(f"{named[0]} names the labels already: leave --labels out.")
    if threshold is not None and not 0 <= threshold < float("inf"):
        raise ConfigurationError(f"--threshold is {threshold:g}; expected a number of 0 or more, such as 127.")
    if colours:
        names, values = colours_of(colours)
        _check_labels(names)
        return names, MaskRule(names, colours=values), []
    if structures:
        names, sources = structures_of(structures)
        _check_labels(names)
        return names, MaskRule(names, threshold, separate=True), sources
    _check_labels(labels)
    if threshold is not None and len(labels) != 2:
        raise ConfigurationError(
            f"--threshold makes one structure, but --labels names {len(labels) - 1}: {' '.join(labels)}. Name "
            "background and one structure."
        )
    return tuple(labels), MaskRule(tuple(labels), threshold), []


def _look(rule: MaskRule, entries: Sequence[Entry], processes: int) -> None:
    """Every mask is read before anything is written; what structures share is told."""
    cases = [(masks, values) for _, _, masks, values in entries if masks]
    overlapping, pixels = look_at_masks(rule, cases, processes)
    if overlapping:
        log.warning(
            "Structures overlap in %d of %d masks, on %d pixels in all. There the one that --structures names later "
            "was taken, of %s.", overlapping, len(cases), pixels, ", ".join(rule.labels[1:]),
        )


def _check_labels(labels: Sequence[str]) -> None:
    if len(labels) < 2 or labels[0] != "background" or len(set(labels)) < len(labels):
        raise ConfigurationError(
            f"--labels is {' '.join(labels)}; expected background first, then the structures in the order of their "
            "values in the masks, each once: --labels background lung heart."
        )


def _pairs(images: Path, masks: Path, sources: Sequence[StructureSource]) -> list[Entry]:
    together = images.expanduser().resolve() == masks.expanduser().resolve()
    of_images = picture_members(images)
    if sources:
        found = pair_structures(of_images, masks, sources, together)
    else:
        of_masks = of_images if together else picture_members(masks, masks=True)
        pairs = pair_by_stem(of_images, of_masks, together)
        found = [(case, image, (mask,), ()) for case, image, mask in pairs]
    if not found:
        raise DatasetError(f"{images} and {masks} hold no image with a mask. Name the folders that hold them.")
    return found


def _alone(images: Path | None) -> list[Entry]:
    return [] if images is None else [(case, image, (), ()) for case, image in cases_of(picture_members(images))]


def _refuse_twice(labelled: Sequence[Entry], unlabelled: Sequence[Entry]) -> None:
    by_case = {case: image for case, image, *_ in labelled}
    for case, image, *_ in unlabelled:
        if case in by_case:
            raise DatasetError(
                f"{image}, called unlabelled, has the name of {by_case[case]}, which has a mask. Expected names that "
                "differ. Rename or remove one of them."
            )


def _refuse_lossy(masks: Sequence[Member]) -> None:
    lossy = [mask for mask in masks if ending_of(mask.name) in LOSSY_ENDINGS]
    if lossy:
        raise DatasetError(
            f"{lossy[0]} is a lossy mask ({ending_of(lossy[0].name)}; {len(lossy)} of {len(masks)} are): its losses "
            "blur the edges and mix the values. Export the masks as PNG and name that folder; masks of two classes, "
            "black and white, are read as they are with --threshold 127."
        )


def _common_ending(images: Sequence[Member], masks: Sequence[Member]) -> str:
    """The one ending of all files; else .png for pictures and .nii.gz for volumes."""
    endings = {ending_of(member.name) for member in (*images, *masks)}
    medical = endings & set(MEDICAL_ENDINGS)
    if medical and endings - medical:
        raise DatasetError(
            f"{images[0].container} and {masks[0].container} mix volumes and pictures ({', '.join(sorted(endings))}). "
            "Expected: either. Put them into folders, and datasets, of their own."
        )
    if len(endings) == 1 and not endings & set(LOSSY_ENDINGS):
        return endings.pop()
    chosen = ".nii.gz" if medical else ".png"
    log.info("Files end with %s; all are written as %s.", ", ".join(sorted(endings)), chosen)
    return chosen


def _channels(images: Sequence[Member], channel: str | None, ending: str, processes: int) -> dict[str, str]:
    """One channel, or R, G, B where nobody said what the channel is and an image is coloured."""
    if channel is not None or ending in MEDICAL_ENDINGS:
        return {"0": channel or "image"}
    grey = all(map_cases(is_grey, images, processes, "looking for colours", 64))
    return {"0": "image"} if grey else dict(_RGB)


def _image_task(image: Member, target: str, n_channels: int) -> Task:
    if ending_of(target) not in MEDICAL_ENDINGS:
        return Task((image,), (target,), partial(write_own_picture, channels=n_channels))
    return Task((image,), (target,), None if ending_of(image.name) == ending_of(target) else write_volume)


def _spacings(image: Member, folders: Sequence[str], case: str) -> list[Task]:
    """A stack of pictures has its spacing in a JSON file beside it, which has to come along."""
    if ending_of(image.name) not in (".tif", ".tiff") or not image.container.is_dir():
        return []
    file = image.container / image.folder / f"{case}.json"
    if not file.is_file():
        return []
    inside = file.relative_to(image.container).as_posix()
    beside = Member(image.container, inside, file.stat().st_size, image.order, inside)
    return [Task((beside,), (f"{folder}/{case}.json",)) for folder in folders]

"""A folder of images and a folder of masks of one's own, in any formats that are read here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from samdpo.dataset.converters.conversion import Conversion, Task, hint
from samdpo.dataset.converters.pairing import cases_of, pair_by_stem, picture_members
from samdpo.dataset.converters.picture_files import is_grey, write_label_map, write_own_picture
from samdpo.dataset.converters.source import Member
from samdpo.dataset.converters.volume_files import write_volume
from samdpo.dataset.images import LOSSY_ENDINGS, MEDICAL_ENDINGS, ending_of
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.parallel import map_cases

log = logging.getLogger(__name__)

DEFAULT_LABELS = ("background", "foreground")
Entry = tuple[str, Member, "Member | None"]  # case, image, mask
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
        processes: for looking at the images.

    Raises:
        ConfigurationError: labels that are no labels.
        DatasetError: files that do not pair, lossy masks, volumes among pictures.
    """
    _check_labels(labels)
    if test_masks is not None and test is None:
        raise ConfigurationError("--test_masks needs the images that belong to them: name their folder after --test.")
    found = {"Tr": _pairs(images, masks), "Ul": _alone(unlabelled)}
    found["Ts"] = _alone(test) if test_masks is None else _pairs(test, test_masks)
    _refuse_twice(found["Tr"], found["Ul"])
    everything = [entry for part in found.values() for entry in part]
    all_images, all_masks = [image for _, image, _ in everything], [mask for _, _, mask in everything if mask]
    _refuse_lossy(all_masks)
    ending = _common_ending(all_images, all_masks)
    channels = _channels(all_images, channel, ending, processes)
    make_label = partial(write_label_map, labels=tuple(labels))
    tasks: list[Task] = []
    for part, entries in found.items():
        for case, image, mask in entries:
            tasks.append(_image_task(image, f"images{part}/{case}_0000{ending}", len(channels)))
            tasks += [Task((mask,), (f"labels{part}/{case}{ending}",), make_label)] if mask else []
            tasks += _spacings(image, (f"images{part}", f"labels{part}") if mask else (f"images{part}",), case)
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
        },
        channel_names=channels,
        labels={label: value for value, label in enumerate(labels)},
        # Components and absence are measured from the masks when the dataset is planned.
        hints={label: hint(label, label) for label in labels[1:]},
        file_ending=ending,
        tasks=tasks,
    )


def _check_labels(labels: Sequence[str]) -> None:
    if len(labels) < 2 or labels[0] != "background" or len(set(labels)) < len(labels):
        raise ConfigurationError(
            f"--labels is {' '.join(labels)}; expected background first, then the structures in the order of their "
            "values in the masks, each once: --labels background lung heart."
        )


def _pairs(images: Path, masks: Path) -> list[Entry]:
    together = images.expanduser().resolve() == masks.expanduser().resolve()
    found = pair_by_stem(picture_members(images), picture_members(masks), together)
    if not found:
        raise DatasetError(f"{images} and {masks} hold no image with a mask. Name the folders that hold them.")
    return list(found)


def _alone(images: Path | None) -> list[Entry]:
    return [] if images is None else [(case, image, None) for case, image in cases_of(picture_members(images))]


def _refuse_twice(labelled: Sequence[Entry], unlabelled: Sequence[Entry]) -> None:
    by_case = {case: image for case, image, _ in labelled}
    for case, image, _ in unlabelled:
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
            "blur the edges and mix the values. Export the masks as PNG and name that folder."
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

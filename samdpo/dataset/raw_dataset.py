"""A raw dataset, opened once: what dataset.json says, which cases there are, their images, labels and groups."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.agreement import grid_problem, value_problem
from samdpo.dataset.cases import Case, cases_of_files, label_files, reserved_name, split_channel
from samdpo.dataset.dataset_json import DatasetJson, load_dataset_json
from samdpo.dataset.foreign import broken_link, dead_links, files_of, foreign_files, sub_folders_with_images
from samdpo.dataset.images import read_image, read_label_with_properties
from samdpo.dataset.volume import Volume
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import content_hash, read_json
from samdpo.names import ending_of, name_problem, same_text
from samdpo.parallel import map_threads
from samdpo.paths import number_of, raw_folder

log = logging.getLogger(__name__)

_told: set[Path] = set()  # folders of which a warning was given; a dataset may be opened several times in a run


@dataclass(frozen=True)
class CheckedLabel:
    """A label as read, and how it agrees with its image and with dataset.json.

    Attributes:
        data: (Z, Y, X) int16, values as stored.
        values: those that it holds.
        problems: a sentence for each way in which it does not belong to its image or to dataset.json.
    """

    data: np.ndarray
    values: set[int]
    problems: list[str]


@dataclass(frozen=True)
class RawDataset:
    """``nnUNet_raw/DatasetXXX_Name``. Its files are only read; its cases are listed once, when first asked for.

    A process that is sent one lists the cases for itself, if it asks for them.

    Attributes:
        folder: of the dataset.
        meta: its dataset.json, checked.
    """

    folder: Path
    meta: DatasetJson

    @classmethod
    def open(cls, dataset: AnyDataset) -> RawDataset:
        """A dataset by id, name or folder; one that is open already is returned as it is.

        Args:
            dataset: ``3``, ``"003"``, ``"Dataset003_Liver"``, or a :class:`~pathlib.Path`.

        Raises:
            ConfigurationError: there is none, or its folder has neither dataset.json nor imagesTr.
            DatasetError: dataset.json is missing, or breaks a rule.
        """
        if isinstance(dataset, RawDataset):
            return dataset
        folder = dataset if isinstance(dataset, Path) else raw_folder(dataset)
        if not (folder / "imagesTr").is_dir() and not (folder / "dataset.json").is_file():
            raise ConfigurationError(
                f"{folder} has neither dataset.json nor imagesTr. Fill it as for nnU-Net: dataset.json, imagesTr, "
                "labelsTr."
            )
        return cls(folder, load_dataset_json(folder))

    def __reduce__(self) -> tuple[Any, ...]:
        return RawDataset, (self.folder, self.meta)  # without the list of cases

    @property
    def name(self) -> str:
        """``Dataset003_Liver``"""
        return self.folder.name

    @property
    def number(self) -> int:
        """Its id: 3 of ``Dataset003_Liver``."""
        return number_of(self.name)

    @cached_property
    def groups(self) -> dict[str, str]:
        """See :func:`load_groups`."""
        return load_groups(self.folder)

    @property
    def labelled(self) -> list[Case]:
        """Cases of imagesTr with their labels of labelsTr, sorted by identifier.

        The ``dataset`` key of dataset.json, where present, names the files instead (nnU-Net's rule).

        Raises:
            DatasetError: an image without label, a label without image, a missing channel or no case at all.
        """
        cases, problems = self.whole_labelled
        if not cases and not problems:
            problems = [f"{self.folder / 'imagesTr'} holds no image that ends with {self.meta.file_ending}."]
        if problems:
            raise DatasetError("\n".join(problems[:20]))
        return cases

    @property
    def unlabelled(self) -> list[Case]:
        """Cases of ``imagesUl/``, images without label, sorted; an absent folder means none.

        Raises:
            DatasetError: a missing channel, or an identifier that imagesTr uses too.
        """
        cases, problems = self.whole_unlabelled
        if problems:
            raise DatasetError("\n".join(problems[:20]))
        return cases

    @property
    def cases(self) -> list[Case]:
        """All of :attr:`labelled`, then all of :attr:`unlabelled`."""
        return [*self.labelled, *self.unlabelled]

    @cached_property
    def whole_labelled(self) -> tuple[list[Case], list[str]]:
        """The labelled cases that are whole, and a sentence for each one that is not."""
        if "dataset" in self.meta.raw:
            return self._listed()
        images_folder, labels_folder = self.folder / "imagesTr", self.folder / "labelsTr"
        missing = [
            broken_link(f) or f"{f} is missing: it holds the labelled {w}."
            for f, w in ((images_folder, "images"), (labels_folder, "masks"))
            if not f.is_dir()
        ]
        if missing:
            return [], missing
        ending, n_channels = self.meta.file_ending, self.meta.n_channels
        images, problems = self._images(images_folder)
        labels, of_labels = label_files(labels_folder, ending)
        problems = foreign_files(images_folder, ending) + foreign_files(labels_folder, ending) + problems + of_labels
        _warn_of_sub_folders(images_folder, labels_folder)
        spelled = {same_text(name): name for name in images}
        # A link that leads nowhere, or a name that is refused, is told already.
        about = {same_text(split_channel(link, n_channels)[0]) for link in dead_links(images_folder)}
        about |= {same_text(link.name[: -len(ending)]) for link in dead_links(labels_folder)}
        about |= {name for name in labels if reserved_name(name, labels_folder) or name_problem(name.strip())}
        for name in sorted(spelled.keys() - labels.keys() - about):
            problems.append(
                f"{images[spelled[name]][0]} has no label {labels_folder / (name + ending)}. Add it, or move the image "
                f"to {self.folder / 'imagesUl'}, the folder of unlabelled images."
            )
        for name in sorted(labels.keys() - spelled.keys() - about):
            hint = ""
            if name.endswith("_0000"):
                hint = f" A label has no channel number: rename it to {name[:-5]}{ending}."
            problems.append(f"{labels[name]} has no image {images_folder / (name + '_0000' + ending)}.{hint}")
        whole = sorted(spelled[name] for name in spelled.keys() & labels.keys())
        return [self._case(name, images[name], labels[same_text(name)]) for name in whole], problems

    @cached_property
    def whole_unlabelled(self) -> tuple[list[Case], list[str]]:
        """The cases of imagesUl that are whole, and a sentence for each one that is not."""
        folder = self.folder / "imagesUl"
        if not folder.is_dir():
            broken = broken_link(folder)
            return [], [broken] if broken else []
        images, problems = self._images(folder)
        problems = foreign_files(folder, self.meta.file_ending) + problems
        _warn_of_sub_folders(folder)
        taken = self.folder / "imagesTr"
        labelled = files_of(taken) if taken.is_dir() else []
        used = {same_text(split_channel(f, self.meta.n_channels)[0]) for f in labelled}
        twice = {name for name in images if same_text(name) in used}
        for name in sorted(twice):
            problems.append(
                f"{images[name][0]} has the name of a labelled case of {taken}. Rename or remove one of them."
            )
        return [self._case(name, images[name]) for name in sorted(images.keys() - twice)], problems

    def image(self, case: Case) -> Volume:
        """The image of a case: (C, Z, Y, X), C as dataset.json declares.

        Raises:
            DatasetError: see :func:`samdpo.dataset.images.read_image`.
        """
        return read_image(case.images, self.meta.n_channels)

    def label(self, case: Case, image: Volume | None = None) -> np.ndarray:
        """The label of a case: (Z, Y, X) int16, values as stored.

        Args:
            case: with a label.
            image: of the case, on whose grid the label must lie; None does not ask.

        Raises:
            DatasetError: it cannot be read, holds values that dataset.json does not list, or lies on another grid.
        """
        found = self.checked_label(case, image)
        if found.problems:
            raise DatasetError(found.problems[0])
        return found.data

    def checked_label(self, case: Case, image: Volume | None) -> CheckedLabel:
        """As :meth:`label`, but what is wrong with a label that can be read is listed and not raised."""
        label, properties = read_label_with_properties(case.label)
        values = np.unique(label).tolist()
        grid = None if image is None else grid_problem(case.images[0], image, case.label, label.shape, properties)
        problems = [grid, value_problem(case.label, values, self.meta.labels)]
        return CheckedLabel(label, set(values), [problem for problem in problems if problem])

    def _images(self, folder: Path) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
        files = [file for file in files_of(folder) if ending_of(file) == self.meta.file_ending]
        return cases_of_files(files, self.meta.n_channels, need_channel_suffix=True)

    def _case(self, name: str, images: tuple[Path, ...], label: Path | None = None) -> Case:
        return Case(name, images, label, self.groups.get(same_text(name), name))

    def _listed(self) -> tuple[list[Case], list[str]]:
        """nnU-Net's ``dataset`` key: {case: {"images": [...], "label": ...}}, relative paths and variables allowed.

        Images may lie anywhere, since they are only read; a case's name is that of files we write, and a plain one.
        """
        listed, n_channels, problems, cases = self.meta.raw["dataset"], self.meta.n_channels, [], []
        form, file = '{"case": {"images": ["path"], "label": "path"}}', self.folder / "dataset.json"
        groups = self.groups
        if not isinstance(listed, dict):
            return [], [f"{file}: 'dataset' must be an object like {form}."]
        written_as: dict[str, str] = {}  # what a disk without capitals calls a case -> its name
        for own, entry in sorted(listed.items()):
            name = same_text(own)
            if problem := name_problem(name):
                problems.append(f"{file}: 'dataset' names a case {own[:80]!r}, which is {problem}. Files are called "
                                "after a case: give it a plain name like case_01.")
                continue
            twin = written_as.setdefault(name.casefold(), own)
            if twin != own:
                problems.append(f"{file}: 'dataset' names the cases {twin!r} and {own!r}, which some disks take for "
                                "one. Rename one of them.")
                continue
            images = entry.get("images") if isinstance(entry, dict) else None
            label = entry.get("label") if isinstance(entry, dict) else None
            if not isinstance(images, list) or not all(isinstance(text, str) for text in (*images, label)):
                problems.append(f"{file}: 'dataset.{own}' must be written like {form}.")
                continue
            files = [self.folder / os.path.expandvars(text) for text in (*images, label)]  # an absolute one wins
            gone = [str(f) for f in files if not f.is_file()]
            if gone:
                problems.append(f"{file}: 'dataset.{own}' names {', '.join(gone)}, which is not there.")
            elif len(images) not in (1, n_channels):
                problems.append(
                    f"{file}: 'dataset.{own}' lists {len(images)} images, expected {n_channels}, one a channel."
                )
            else:
                cases.append(Case(name, tuple(files[:-1]), files[-1], groups.get(name, name)))
        reserved = {case.identifier: reserved_name(case.identifier, file) for case in cases}
        problems += [problem for problem in reserved.values() if problem]
        return [case for case in cases if not reserved[case.identifier]], problems


AnyDataset = int | str | Path | RawDataset
"""A raw dataset by id, name or folder, or as it is open already."""


def load_groups(folder: Path | str) -> dict[str, str]:
    """``case_groups.json``: identifier -> patient (or any group that splits must not separate); {} without the file.

    Identifiers are composed (NFC): look them up with :func:`samdpo.names.same_text`.

    Args:
        folder: of a raw dataset, which may lack its dataset.json.

    Raises:
        DatasetError: not JSON, not an object, or a group that is neither a text nor a whole number.
    """
    file = Path(folder) / "case_groups.json"
    if not file.exists():
        return {}
    remedy = 'Write it like {"case_1": "patient_A", "case_2": "patient_A"} or delete it.'
    groups = read_json(file, error=DatasetError, remedy=remedy)
    if not isinstance(groups, dict):
        raise DatasetError(f"{file} must map each case to the name of its group. {remedy}")
    for case, group in groups.items():
        if not isinstance(group, (str, int)) or isinstance(group, bool):
            raise DatasetError(
                f"{file} must map each case to the name of its group, but the group of {case!r} is {group!r:.80}. "
                f"{remedy}"
            )
        if not str(group).strip():  # all such cases would be one patient
            raise DatasetError(f"{file}: the group of {case!r} is empty. Leave out a case that stands alone.")
    return {same_text(case): same_text(str(group).strip()) for case, group in groups.items()}


def content_hashes(cases: Iterable[Case], threads: int = 1) -> dict[Path, str]:
    """SHA-256 of every one of :attr:`Case.files`: the one rule by which slices and fingerprints are fresh or stale.

    A time of writing says nothing: archives and mounts give many files the same one, and copying changes it.

    Args:
        cases: whose files are read whole.
        threads: that read; hashing waits for the disk, not for Python.
    """
    files = list(dict.fromkeys(file for case in cases for file in case.files))
    return dict(zip(files, map_threads(content_hash, files, threads)))


def _warn_of_sub_folders(*folders: Path) -> None:
    for folder in folders:
        if folder not in _told:
            _told.add(folder)
            for sentence in sub_folders_with_images(folder):
                log.warning("Left out: %s", sentence)

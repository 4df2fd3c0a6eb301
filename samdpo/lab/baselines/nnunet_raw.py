"""What nnU-Net is given to read: a raw dataset of the labelled training cases alone, and images to predict.

Where nnU-Net's reader sees in a file what ours sees, the file is linked; else the images of the whole dataset become
NIfTI, which holds every intensity as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.volume import Volume
from samdpo.errors import ModelFolderError
from samdpo.files import write_json
from samdpo.names import ending_of

CONVERTED = ".nii.gz"
# Reader and writer, by nnU-Net's names, of files that can be linked; a TIFF of several pages has another one.
READERS = {".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tif": "NaturalImage2DIO",
           ".nii.gz": "SimpleITKIO", ".nrrd": "SimpleITKIO", ".mha": "SimpleITKIO"}


@dataclass(frozen=True)
class RawForm:
    """How the cases of a dataset are handed over.

    Attributes:
        ending: of the files that nnU-Net reads and writes.
        linked: whether these are the user's own files.
        values: label value of dataset.json -> nnU-Net's, which has no gaps.
    """

    ending: str
    linked: bool
    values: Mapping[int, int]

    @classmethod
    def of(cls, dataset: DatasetJson, labelled: Sequence[Case], to_predict: Sequence[Case]) -> RawForm:
        """The form that fits every case.

        Args:
            dataset: of all cases.
            labelled: whose images and labels are handed over.
            to_predict: whose images are.
        """
        values = {value: index for index, value in enumerate(sorted(dataset.labels.values()))}
        ending = dataset.file_ending
        same = ending in READERS and all(value == index for value, index in values.items())
        same = same and all(_reads_alike(case.images, case.label, ending, dataset.n_channels) for case in labelled)
        same = same and all(_reads_alike(case.images, None, ending, dataset.n_channels) for case in to_predict)
        return cls(ending if same else CONVERTED, same, values)

    def put_images(self, case: Case, folder: Path, n_channels: int) -> list[Path]:
        """Images of a case as ``case_0000.png``, … in ``folder``."""
        if self.linked:
            targets = [folder / f"{case.identifier}_{i:04d}{self.ending}" for i in range(len(case.images))]
            for file, target in zip(case.images, targets):
                _link(file, target)
            return targets
        volume = read_image(case.images, n_channels)
        targets = [folder / f"{case.identifier}_{i:04d}{self.ending}" for i in range(n_channels)]
        for channel, target in zip(volume.data, targets):
            _write(channel, target, volume)
        return targets

    def put_label(self, case: Case, folder: Path) -> None:
        """Label of a case as ``case.png`` in ``folder``."""
        target = folder / f"{case.identifier}{self.ending}"
        if self.linked:
            _link(case.label, target)
        else:
            label = _renamed(read_label(case.label), self.values)
            _write(label.astype(np.uint16), target, read_image(case.images))

    def read_prediction(self, file: Path) -> np.ndarray:
        """(Z, Y, X) label values of dataset.json from a mask that nnU-Net wrote."""
        return _renamed(read_label(file), {index: value for value, index in self.values.items()})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; see :meth:`from_dict`."""
        return {"ending": self.ending, "linked": self.linked, "values": list(self.values.items())}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RawForm:
        """What :meth:`to_dict` wrote.

        Raises:
            ModelFolderError: it is something else.
        """
        try:
            form = cls(content["ending"], bool(content["linked"]), {int(v): int(n) for v, n in content["values"]})
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFolderError(f"What says how nnU-Net was given its cases is damaged ({error}).") from error
        if form.ending not in READERS:
            raise ModelFolderError(f"nnU-Net was given no cases that end in {form.ending!r}.")
        return form


def write_raw_dataset(folder: Path, dataset: DatasetJson, cases: Sequence[Case], form: RawForm) -> None:
    """``imagesTr``, ``labelsTr`` and ``dataset.json`` of the labelled training cases, and of no other.

    Args:
        folder: ``nnUNet_raw/DatasetXXX_Name`` of nnU-Net.
        dataset: of the user.
        cases: labelled training cases.
        form: of the files.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in cases:
        form.put_images(case, folder / "imagesTr", dataset.n_channels)
        form.put_label(case, folder / "labelsTr")
    write_json(folder / "dataset.json", {
        "channel_names": dataset.channel_names,
        "labels": {name: form.values[value] for name, value in dataset.labels.items()},
        "numTraining": len(cases),
        "file_ending": form.ending,
        "overwrite_image_reader_writer": READERS[form.ending],
    })


def _reads_alike(images: Sequence[Path], label: Path | None, ending: str, n_channels: int) -> bool:
    """Whether nnU-Net reads the same from these files as we do. Volumes are read by its own reader here."""
    if any(ending_of(file) != ending for file in (*images, *([label] if label else []))):
        return False
    if READERS[ending] == "SimpleITKIO":
        return len(read_image(images, n_channels).data) == n_channels
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    ours = [read_image(images, n_channels).data, *([read_label(label)[None]] if label else [])]
    try:
        reader = NaturalImage2DIO()
        theirs = [reader.read_images([str(f) for f in images])[0], *([reader.read_seg(str(label))[0]] if label else [])]
    except Exception:  # its decoder's errors are of many classes, and a TIFF of several pages fails an assertion
        return False
    return all(np.array_equal(own, other) for own, other in zip(ours, theirs))


def _renamed(label: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    renamed = np.zeros_like(label)
    for value, other in values.items():
        renamed[label == value] = other
    return renamed


def _link(file: Path, target: Path) -> None:
    try:
        target.symlink_to(file.resolve())
    except OSError:  # a disk or a user that may make no links
        shutil.copyfile(file, target)


def _write(values: np.ndarray, path: Path, volume: Volume) -> None:
    """(Z, Y, X) as NIfTI where ``volume`` lies."""
    import SimpleITK as sitk  # noqa: N813

    geometry = volume.properties.get("sitk_stuff")
    image = sitk.GetImageFromArray(values[0] if geometry and len(geometry["spacing"]) == 2 else values)
    image.SetSpacing(geometry["spacing"] if geometry else volume.spacing[::-1])
    if geometry:
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
    sitk.WriteImage(image, os.fspath(path))

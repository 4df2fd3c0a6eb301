"""Files between us and nnU-Net: what it is given to read, and what it wrote, which is looked at first.

It is given a raw dataset of the labelled training cases alone, and images to predict. Where nnU-Net's reader sees in a
file what ours sees, the file is linked; else the images of the whole dataset become NIfTI, which holds every intensity
as it was.

What nnU-Net wrote is looked at before nnU-Net reads it again, for its readers unpickle and import what files name. The
results are a folder that may come from elsewhere. So checkpoints are read with ``weights_only``, the pickled properties
of its preprocessed cases may hold arrays and numbers alone, and its plans may name networks and layers of the libraries
it uses, no other class. nnU-Net then reads the same files with readers of its own: what somebody puts in their place
within that second is not looked at.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samdpo.dataset.cases import Case
from samdpo.dataset.dataset_json import DatasetJson
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.volume import Volume
from samdpo.errors import ModelFolderError, TrainingError
from samdpo.files import read_json, write_json
from samdpo.names import ending_of

CONVERTED = ".nii.gz"
# Reader and writer, by nnU-Net's names, of files that can be linked; a TIFF of several pages has another one.
READERS = {".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tif": "NaturalImage2DIO",
           ".nii.gz": "SimpleITKIO", ".nrrd": "SimpleITKIO", ".mha": "SimpleITKIO"}
PLANS = "nnUNetPlans"
RESULT, WEIGHTS = "result.json", "weights.safetensors"
TRAINER = "nnUNetTrainer"  # whom nnU-Net's commands ask for the network
_NEEDED = ("network_weights", "init_args", "trainer_name", "budget")
_NETWORK = re.compile(r"dynamic_network_architectures\.architectures\.\w+\.[A-Z]\w*", re.ASCII)
_LAYER = re.compile(r"torch\.nn\.(modules\.[a-z]+\.)?[A-Z]\w*", re.ASCII)
_NUMPY = {  # numpy 2 has moved them
    (module, name) for package in ("numpy.core", "numpy._core") for module, name in (
        (f"{package}.multiarray", "_reconstruct"), (f"{package}.multiarray", "scalar"),
        (f"{package}.numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")}


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


def model_folder(folder: Path, dataset: str, configuration: str) -> Path:
    """nnU-Net's model folder, for ``nnUNetv2_predict_from_modelfolder -m``."""
    return folder / "results" / dataset / f"nnUNetTrainer__{PLANS}__{configuration}"


def read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net: tensors, numbers and texts alone.

    Raises:
        ModelFolderError: it is missing, damaged, holds anything else, or is of another trainer than ours.
    """
    remedy = "Nothing of it was run. Train the stage again without --c."
    if not file.is_file():
        raise ModelFolderError(f"{file} does not exist. Train the stage again.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers, zip readers and torch each raise their own kinds
        raise ModelFolderError(
            f"{file} is not a whole checkpoint of tensors, numbers and texts ({type(error).__name__}). {remedy}"
        ) from error
    lacking = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if lacking:
        raise ModelFolderError(f"{file} is no checkpoint of this stage: it has no {lacking[0]!r}. {remedy}")
    if content["trainer_name"] != TRAINER:
        raise ModelFolderError(f"{file} is of the trainer {content['trainer_name']!r}; expected {TRAINER}. {remedy}")
    return content


def check_plans(file: Path) -> None:
    """Refuse plans of nnU-Net that name classes of elsewhere, which nnU-Net would import and call.

    Raises:
        ModelFolderError: names the first.
    """
    plans = read_json(file, error=ModelFolderError, remedy="Train the stage again.")
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(configurations, dict):
        raise ModelFolderError(f"{file} is no plan of nnU-Net. Train the stage again.")
    for name, configuration in configurations.items():
        found = configuration.get("architecture", {}) if isinstance(configuration, dict) else None
        if not isinstance(found, dict):
            raise ModelFolderError(f"{file}: 'configurations.{name}' is no configuration of nnU-Net.")
        arguments, imported = found.get("arch_kwargs", {}), found.get("_kw_requires_import", ())
        named = [(_NETWORK, found.get("network_class_name"))]
        if isinstance(arguments, dict) and isinstance(imported, (list, tuple)):
            named += [(_LAYER, arguments.get(key) if isinstance(key, str) else key) for key in imported]
        for pattern, value in named:
            if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
                raise ModelFolderError(
                    f"{file}: 'configurations.{name}.architecture' names {value!r}, which is no network or layer of "
                    "dynamic_network_architectures or torch.nn. It was not run; train the stage again."
                )


def check_preprocessed(folder: Path) -> None:
    """Refuse preprocessed cases whose pickled properties hold anything but arrays, numbers and texts.

    Raises:
        TrainingError: names the first.
    """
    for file in sorted(folder.rglob("*.pkl")):
        try:
            with file.open("rb") as stream:
                _ArraysOnly(stream).load()
        except Exception as error:  # a pickle can break in any way
            raise TrainingError(
                f"{file} holds something else than arrays, numbers and texts ({error}). Nothing of it was run; start "
                "again without --c."
            ) from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _NUMPY:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")

from __future__ import annotations

import builtins
import json
import logging
import sys
import types
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from downloads import acdc_download, files_of, zipped

from samdpo.cli import convert
from samdpo.dataset.converters import acdc as module
from samdpo.dataset.converters.acdc import LABELLED, STRUCTURES, TEST, TRAIN, VAL, acdc
from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.dataset_json import load_dataset_json, modality_of
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.dataset.raw_dataset import RawDataset, load_groups
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.planning.splits import take_splits
from samdpo.prompting.descriptions import is_described


class _Stored:
    """What h5py gives for an array, as far as it is used."""

    is_virtual, external = False, None

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim

    def __getitem__(self, key: tuple) -> np.ndarray:
        return self.values[key]


class _HardLink:
    pass


class _File:
    """h5py.File over NumPy's archive, which is what the stand-in of :func:`hdf5` writes."""

    def __init__(self, path: Path, mode: str) -> None:
        assert mode == "r"
        self.arrays = np.load(path)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.arrays.close()

    def __iter__(self):
        return iter(self.arrays)

    def get(self, key: str, getlink: bool) -> _HardLink | None:
        return _HardLink() if getlink and key in self.arrays else None

    def __getitem__(self, key: str) -> _Stored:
        return _Stored(self.arrays[key])


@pytest.fixture(params=["h5py", "stand-in"])
def hdf5(request, monkeypatch):
    """How a file of SSL4MIS is written; by h5py where it is installed, and for a stand-in of it everywhere."""
    if request.param == "h5py":
        h5py = pytest.importorskip("h5py")

        def write(path: Path, **arrays: np.ndarray) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                for key, values in arrays.items():
                    file.create_dataset(key, data=values, compression="gzip")

        return write
    stand_in = types.SimpleNamespace(File=_File, Dataset=_Stored, HardLink=_HardLink)
    monkeypatch.setitem(sys.modules, "h5py", stand_in)

    def write_archive(path: Path, **arrays: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write_archive


def volume(seed: int, slices: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "image": generator.random((slices, 5, 6), np.float32),
        "label": generator.integers(0, 4, (slices, 5, 6)).astype(np.uint8),
    }


def ssl4mis(folder: Path, write, slices_of: tuple[int, ...] = ()) -> Path:
    """Volumes of four patients; of ``slices_of`` there are slices only, as they may lie beside for all."""
    root = folder / "ACDC"
    for patient in (1, 21, 28, 99):
        for frame in (1, 2):
            name, arrays = f"patient{patient:03d}_frame{frame:02d}", volume(10 * patient + frame)
            for number in range(3):
                one = {key: values[number] for key, values in arrays.items()}
                write(root / "data" / "slices" / f"{name}_slice_{number + 1}.h5", **one)
            if patient not in slices_of:
                write(root / "data" / f"{name}.h5", **arrays)
    (root / "train_slices.list").write_text("patient099_frame01_slice_1\n")
    return root


def test_the_published_lists_are_disjoint_and_complete():
    assert (len(TRAIN), len(VAL), len(TEST)) == (70, 10, 20)
    assert sorted([*TRAIN, *VAL, *TEST]) == list(range(1, 101))
    assert set(LABELLED) == {3, 7, 14, 70}


def test_the_release_is_split_as_ssl4mis_splits_it(roots, tmp_path):
    source = acdc_download(tmp_path)
    folder = run_conversion(acdc(source), 204)
    assert folder.name == "Dataset204_ACDC"
    assert files_of(folder) == [
        "case_groups.json", "conversion.json", "dataset.json",
        *(f"imagesTr/patient{p}_frame{f}_0000.nii.gz" for p in ("021", "028", "099") for f in ("01", "12")),
        "imagesTs/patient001_frame01_0000.nii.gz", "imagesTs/patient001_frame12_0000.nii.gz",
        *(f"labelsTr/patient{p}_frame{f}.nii.gz" for p in ("021", "028", "099") for f in ("01", "12")),
        "labelsTs/patient001_frame01.nii.gz", "labelsTs/patient001_frame12.nii.gz",
    ]
    verify_dataset_integrity(folder)
    copied = (folder / "labelsTs" / "patient001_frame12.nii.gz").read_bytes()
    assert copied == next(source.rglob("patient001_frame12_gt.nii.gz")).read_bytes()
    assert load_groups(folder)["patient099_frame12"] == "patient099"
    assert len(set(load_groups(folder).values())) == 3


def test_the_structures_have_the_releases_ids_and_the_spacing_counts(roots, tmp_path):
    dataset = load_dataset_json(run_conversion(acdc(acdc_download(tmp_path)), 204))
    assert dataset.structures == {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    assert all(is_described(name) for name in STRUCTURES)
    assert modality_of(dataset.channel_names["0"]) == "mr"
    assert dataset.distances == "mm"
    assert dataset.hints["myocardium"].phrase == "myocardium in a short-axis cardiac MR image"


def test_the_official_split_takes_all_patients_of_both_parts(roots, tmp_path):
    folder = run_conversion(acdc(acdc_download(tmp_path), "official"), 204)
    assert folder.name == "Dataset204_ACDC_official"
    assert sorted(f.name[7:10] for f in (folder / "labelsTr").iterdir()) == sorted(2 * ["001", "021", "028", "099"])
    assert [f.name for f in sorted((folder / "labelsTs").iterdir())] == [
        "patient101_frame01.nii.gz", "patient101_frame12.nii.gz"
    ]
    assert not list(folder.glob("splits*"))


def test_a_test_part_without_masks_gives_test_images_alone(roots, tmp_path):
    source = acdc_download(tmp_path)
    for file in source.rglob("patient101*_gt.nii.gz"):
        file.unlink()
    folder = run_conversion(acdc(source, "official"), 204)
    assert len(files_of(folder / "imagesTs")) == 2 and not (folder / "labelsTs").exists()


def test_the_zip_gives_the_same_also_out_of_a_folder(roots, tmp_path):
    acdc_download(tmp_path / "download")
    zipped(tmp_path / "download", tmp_path / "ACDC.zip")
    from_zip = run_conversion(acdc(tmp_path / "ACDC.zip"), 3)
    (tmp_path / "place").mkdir()
    (tmp_path / "ACDC.zip").rename(tmp_path / "place" / "ACDC.zip")
    from_place = run_conversion(acdc(tmp_path / "place"), 4)
    from_folder = run_conversion(acdc(tmp_path / "download"), 5)
    assert files_of(from_zip) == files_of(from_place) == files_of(from_folder)
    for name in files_of(from_zip):
        assert (from_zip / name).read_bytes() == (from_folder / name).read_bytes()


def test_with_every_patient_the_splits_of_the_protocol_are_written_and_taken(roots, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level(logging.INFO, "samdpo")
    folder = run_conversion(acdc(acdc_download(tmp_path, tuple(range(1, 101)), ())), 204)
    assert "of 100" not in caplog.text
    assert "samdpo_plan_and_preprocess -d 204 --verify_dataset_integrity --splits splits_7_of_70.json" in caplog.text
    names = [f"splits_{n}_of_70.json" for n in (14, 3, 7, 70)]
    assert sorted(f.name for f in folder.glob("splits*")) == sorted(names)
    raw = RawDataset.open(folder)
    cases = [case.identifier for case in raw.labelled]
    labelled = {}
    for name in names:
        (fold,) = take_splits(folder / name, tmp_path / name, cases, raw.groups)
        assert (len(fold.train), len(fold.val)) == (140, 20)
        assert sorted([*fold.labelled, *fold.unlabelled]) == fold.train
        labelled[name] = {case[:10] for case in fold.labelled}
    assert labelled["splits_3_of_70.json"] == {"patient038", "patient050", "patient099"}
    assert labelled["splits_7_of_70.json"] - labelled["splits_3_of_70.json"] == {
        "patient021", "patient049", "patient058", "patient100"
    }
    assert len(labelled["splits_14_of_70.json"]) == 14 and len(labelled["splits_70_of_70.json"]) == 70
    mine = folder / names[1]
    mine.write_text("[]")
    run_conversion(acdc(tmp_path), 204)
    assert mine.read_text() == "[]", "a user's edit is kept"


@pytest.mark.shared
def test_the_labelled_patients_are_those_of_the_published_files(real_data):
    published = json.loads((real_data / "Dataset107_CardiacMRACDC" / "ssl4mis_split.json").read_text())
    for key, n in (("labelled_5_percent_first_68_slices", 3), ("labelled_10_percent_first_136_slices", 7)):
        assert {int(name[7:10]) for name in published[key]} == set(TRAIN[:n])
    assert {int(name[7:10]) for name in published["train"]} == set(TRAIN)
    labels = real_data / "Dataset107_CardiacMRACDC" / "labelsTr"
    slices = [nib.load(labels / f"patient{p:03d}_frame{f:02d}.nii.gz").shape[2] for p in TRAIN for f in (1, 2)]
    # SSL4MIS counts slices: its patients_to_slices says how many the first patients of the list have.
    counted = {n: sum(slices[: 2 * n]) for n in (3, 7, 14, 21, 28, 35, 70)}
    assert counted == {3: 68, 7: 136, 14: 256, 21: 396, 28: 512, 35: 664, 70: 1312}


def test_an_incomplete_download_is_converted_with_a_warning_and_without_splits(roots, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    folder = run_conversion(acdc(acdc_download(tmp_path)), 204)
    assert "patients of the training part: 4 of 100" in caplog.text
    assert "lacks 77 patients of SSL4MIS's lists" in caplog.text and "no file of splits is written" in caplog.text
    assert not list(folder.glob("splits*"))


def test_masks_and_images_alone_two_of_one_name_and_another_folder_are_named(tmp_path):
    source = acdc_download(tmp_path)
    next(source.rglob("patient021_frame01_gt.nii.gz")).unlink()
    next(source.rglob("patient099_frame12.nii.gz")).unlink()
    with pytest.raises(DatasetError, match=r"1 image\(s\) without a mask.*patient021_frame01.* 1 mask\(s\) with"):
        acdc(source)
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    (tmp_path / "empty" / "notes" / "patients.txt").write_text("x")
    with pytest.raises(DatasetError, match="does not hold ACDC.*Found: notes"):
        acdc(tmp_path / "empty")
    acdc_download(tmp_path / "twice" / "a")
    acdc_download(tmp_path / "twice" / "b")
    with pytest.raises(DatasetError, match="the same file of ACDC twice"):
        acdc(tmp_path / "twice")
    with pytest.raises(DatasetError, match="no labelled patient of ACDC's training part"):
        acdc(acdc_download(tmp_path / "test", ()))
    with pytest.raises(ConfigurationError, match="ssl4mis, official"):
        acdc(source, "mine")


def test_a_converted_dataset_beside_the_download_is_not_taken_for_it(roots, tmp_path):
    (tmp_path / "all" / "nnUNet_raw").mkdir(parents=True)
    source = acdc_download(tmp_path / "all")
    folder = run_conversion(acdc(source), 204)
    folder.rename(tmp_path / "all" / "nnUNet_raw" / folder.name)
    assert len(acdc(tmp_path / "all").tasks) == len(acdc(source).tasks)
    with pytest.raises(DatasetError, match="does not hold ACDC"):
        acdc(tmp_path / "all" / "nnUNet_raw" / folder.name)


def test_ssl4mis_volumes_keep_their_numbers_and_are_measured_in_voxels(roots, tmp_path, hdf5):
    folder = run_conversion(acdc(ssl4mis(tmp_path, hdf5)), 204)
    assert [f.name[:18] for f in sorted((folder / "labelsTr").iterdir())] == [
        f"patient{p}_frame{f}" for p in ("021", "028", "099") for f in ("01", "02")
    ]
    assert len(files_of(folder / "labelsTs")) == 2
    verify_dataset_integrity(folder)
    written = volume(10 * 21 + 2)
    image = read_image(folder / "imagesTr" / "patient021_frame02_0000.nii.gz")
    np.testing.assert_array_equal(image.data[0], written["image"])
    assert image.spacing == (10.0, 1.0, 1.0)
    label = folder / "labelsTr" / "patient021_frame02.nii.gz"
    np.testing.assert_array_equal(read_label(label), written["label"])
    assert sitk.ReadImage(str(label)).GetPixelID() == sitk.sitkUInt8
    assert load_dataset_json(folder).distances == "voxels"
    assert load_groups(folder)["patient021_frame02"] == "patient021"


def test_slices_make_the_same_volumes(roots, tmp_path, hdf5):
    whole = run_conversion(acdc(ssl4mis(tmp_path / "volumes", hdf5)), 3)
    parts = run_conversion(acdc(ssl4mis(tmp_path / "slices", hdf5, slices_of=(1, 21, 28, 99))), 4)
    assert files_of(whole) == files_of(parts)
    for name in files_of(whole):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_a_missing_slice_is_named(tmp_path, hdf5):
    source = ssl4mis(tmp_path, hdf5, slices_of=(21,))
    (source / "data" / "slices" / "patient021_frame01_slice_2.h5").unlink()
    with pytest.raises(DatasetError, match="patient021_frame01 lacks the slice 2: 2 were found"):
        acdc(source)
    (source / "data" / "slices" / "patient021_frame01_slice_3.h5").unlink()
    acdc(source)  # the last one cannot be missed


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"image": volume(1)["image"]}, "holds no array 'label' of its own, but image"),
        ({**volume(1), "label": np.zeros((5, 6), np.uint8)}, "'label' is 5 x 6 of uint8; expected numbers along 3"),
        ({**volume(1), "label": np.full((3, 5, 6), 7)}, "holds the label 7; expected 0 to 3"),
        ({**volume(1), "label": np.full((3, 5, 6), 0.5)}, "holds the label 0.5; expected 0 to 3"),
        ({**volume(1), "image": np.full((3, 5, 6), np.nan, np.float32)}, "holds intensities that are no number"),
    ],
)
def test_what_is_no_volume_of_ssl4mis_is_named_and_no_dataset_made(roots, tmp_path, hdf5, arrays, sentence):
    source = ssl4mis(tmp_path, hdf5)
    file = source / "data" / "patient099_frame01.h5"
    file.unlink()
    hdf5(file, **arrays)
    (source / "data" / "patient021_frame01.h5").write_bytes(b"no hdf5 at all")
    with pytest.raises(DatasetError) as caught:
        run_conversion(acdc(source), 204)
    assert sentence in str(caught.value) and str(file) in str(caught.value)
    assert "patient021_frame01.h5 cannot be read" in str(caught.value)
    assert not (roots.raw / "Dataset204_ACDC").exists()


def test_slices_of_different_sizes_are_named(roots, tmp_path, hdf5):
    source = ssl4mis(tmp_path, hdf5, slices_of=(21,))
    file = source / "data" / "slices" / "patient021_frame01_slice_2.h5"
    file.unlink()
    hdf5(file, image=np.zeros((5, 7), np.float32), label=np.zeros((5, 7), np.uint8))
    with pytest.raises(DatasetError, match="differ in size \\(5 x 6 and 5 x 7\\)"):
        run_conversion(acdc(source), 204)


def test_links_to_other_files_are_not_followed(roots, tmp_path):
    h5py = pytest.importorskip("h5py")
    source = tmp_path / "ACDC" / "data"
    source.mkdir(parents=True)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        for key, values in volume(1).items():
            file[key] = values
    with h5py.File(source / "patient099_frame01.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "image")
        file["label"] = volume(1)["label"]
    with pytest.raises(DatasetError, match="no array 'image' of its own"):
        run_conversion(acdc(tmp_path), 204)


def test_both_forms_at_once_are_refused(tmp_path, hdf5):
    acdc_download(tmp_path)
    ssl4mis(tmp_path, hdf5)
    with pytest.raises(DatasetError, match="ACDC in two forms"):
        acdc(tmp_path)


def test_without_h5py_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    file = tmp_path / "ACDC" / "data" / "patient099_frame01.h5"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"needs h5py .* pip install samdpo\[hdf5\]"):
        acdc(tmp_path)


def test_the_command_takes_the_source_split_and_id(roots, tmp_path):
    assert convert._SPLITS == module.SPLITS
    convert.main_acdc([str(acdc_download(tmp_path)), "--split", "official", "-d", "7", "-np", "1"])
    assert (roots.raw / "Dataset007_ACDC_official" / "dataset.json").is_file()

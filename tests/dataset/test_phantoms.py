from __future__ import annotations

import sys

import numpy as np
import pytest

from samdpo.cli import make_phantoms
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.dataset.phantoms import KINDS, draw_phantom, make_phantom_dataset
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.errors import ConfigurationError, DatasetError

SMALL = {"xray": (96, 80), "ultrasound": (80, 96), "ct": (16, 48, 48)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_phantom_dataset_verifies_and_has_hints_for_every_structure(tmp_path, kind):
    folder = tmp_path / "Dataset900_Phantom"
    make_phantom_dataset(kind, folder, 2, 1, 1, seed=3, size=SMALL[kind])
    verify_dataset_integrity(folder, 1)
    dataset = load_dataset_json(folder)
    assert set(dataset.hints) == set(dataset.structures)
    for name, count in {"imagesTr": 2, "labelsTr": 2, "imagesUl": 1, "imagesTs": 1, "labelsTs": 1}.items():
        assert len(list((folder / name).iterdir())) == count
    (case, _) = RawDataset.open(folder).labelled
    image, label, spacing = draw_phantom(kind, 3, "Tr", 0, SMALL[kind])
    volume = read_image(case.images, 1)
    np.testing.assert_array_equal(volume.data[0].squeeze(), image)
    np.testing.assert_array_equal(read_label(case.label).squeeze(), label)
    if spacing:
        assert volume.spacing == pytest.approx(spacing, rel=1e-4)


def test_nnunet_accepts_a_phantom_dataset(roots):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as theirs

    folder = roots.raw / "Dataset900_Phantom"
    make_phantom_dataset("xray", folder, 2, 1, size=(64, 64))
    theirs(str(folder), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_and_the_number_alone_decide_a_phantom(kind):
    first, again = (draw_phantom(kind, 5, "Ul", 2, SMALL[kind]) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in (("Ul", 3, 5), ("Tr", 2, 5), ("Ul", 2, 6)):
        part, number, seed = other
        assert not np.array_equal(first[0], draw_phantom(kind, seed, part, number, SMALL[kind])[0])


def test_lungs_are_two_dark_fields_in_every_chest():
    from scipy import ndimage

    for number in range(6):
        image, label, _ = draw_phantom("xray", 0, "Tr", number)
        assert ndimage.label(label)[1] == 2
        assert 0.12 < label.mean() < 0.55
        around = ndimage.binary_dilation(label, iterations=12) & (label == 0)
        assert image[label == 1].mean() < image[around].mean()


def test_every_scan_shows_one_tumour_of_varying_size_darker_than_its_surroundings():
    from scipy import ndimage

    sizes = []
    for number in range(12):
        image, label, _ = draw_phantom("ultrasound", 0, "Tr", number)
        assert ndimage.label(label)[1] == 1
        sizes.append(label.mean())
        around = ndimage.binary_dilation(label, iterations=10) & (label == 0)
        assert image[label == 1].mean() < image[around].mean()
    assert max(sizes) > 3 * min(sizes)


def test_organs_of_a_ct_are_absent_from_many_slices():
    image, label, spacing = draw_phantom("ct", 0, "Tr", 0)
    assert spacing[0] > spacing[1]
    assert -1024 <= image.min() < -900
    for value in range(1, 6):
        present = (label == value).any(axis=(1, 2))
        assert present.any()
        assert not present.all()
    liver = image[label == 2]
    assert 40 < liver.mean() < 130


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DatasetError, match="not empty"):
        make_phantom_dataset("xray", tmp_path, 1)


def test_wrong_kinds_sizes_and_numbers_get_a_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="xray, ultrasound, ct"):
        make_phantom_dataset("mri", tmp_path, 1)
    with pytest.raises(ConfigurationError, match="2 numbers"):
        make_phantom_dataset("xray", tmp_path, 1, size=(4, 96, 96))
    with pytest.raises(ConfigurationError, match="at least 1 labelled"):
        make_phantom_dataset("xray", tmp_path, 0)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["samdpo_make_phantoms", *words])
    make_phantoms.main()


def test_the_command_writes_each_kind_and_names_the_next_command(roots, monkeypatch, capfd):
    command(monkeypatch, "xray", "ultrasound", "-d", "7", "--labelled", "2", "--size", "64", "64")
    assert sorted(f.name for f in roots.raw.iterdir()) == ["Dataset007_PhantomXray", "Dataset008_PhantomUltrasound"]


def test_the_command_refuses_what_is_there_before_drawing_anything(roots, monkeypatch):
    command(monkeypatch, "ultrasound", "-d", "8", "--labelled", "1", "--size", "64", "64")
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "xray", "ultrasound", "-d", "7", "--labelled", "1", "--size", "64", "64")
    assert stopped.value.code == 2
    assert [f.name for f in roots.raw.iterdir()] == ["Dataset008_PhantomUltrasound"]

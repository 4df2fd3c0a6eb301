from __future__ import annotations

import numpy as np
import pytest
from downloads import chest_download, files_of, picture, save, square, zipped

from samdpo.cli import convert
from samdpo.dataset.converters import chest_xray as module
from samdpo.dataset.converters.chest_xray import chest_xray
from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import ConfigurationError, DatasetError


@pytest.fixture(autouse=True)
def small_films(monkeypatch):
    monkeypatch.setattr(module, "JSRT_SIDE", 16)


def test_all_three_hospitals_become_one_dataset_with_the_hospital_in_each_name(roots, tmp_path, caplog):
    folder = run_conversion(chest_xray(chest_download(tmp_path / "downloads")), 206)
    cases = ["jsrt_cln001", "jsrt_cnn002", "montgomery_0001_0", "montgomery_0002_0", "shenzhen_0001_1"]
    assert files_of(folder) == [
        "conversion.json", "dataset.json", *(f"imagesTr/{case}_0000.png" for case in cases),
        *(f"labelsTr/{case}.png" for case in cases),
    ]
    verify_dataset_integrity(folder)
    assert load_dataset_json(folder).structures == {"lung": 1}
    assert "montgomery: 2 of 138; shenzhen: 2 of 662; jsrt: 2 of 247" in caplog.text


def test_both_lungs_are_one_mask_and_values_are_kept(roots, tmp_path):
    folder = run_conversion(chest_xray(chest_download(tmp_path / "downloads")), 206)
    lungs = read_label(folder / "labelsTr" / "montgomery_0001_0.png")[0]
    np.testing.assert_array_equal(lungs, (square(at=12) | square(at=2)) > 0)
    image = read_image(folder / "imagesTr" / "montgomery_0002_0_0000.png").data
    np.testing.assert_array_equal(image[0, 0], picture(2).astype(np.float32) * 16)
    grey = read_image(folder / "imagesTr" / "shenzhen_0001_1_0000.png").data
    np.testing.assert_array_equal(grey[:, 0], picture(11)[None])


def test_a_film_is_turned_to_bright_bones_and_averaged_to_the_size_of_its_mask(roots, tmp_path):
    source = chest_download(tmp_path / "downloads")
    film = np.full((16, 16), 4095, ">u2")
    film[0:2, 2:4] = [[4095, 95], [95, 95]]
    film[15, 15] = 60000  # more than 12 bits hold
    (source / "All247images" / "JPCLN001.IMG").write_bytes(film.tobytes())
    folder = run_conversion(chest_xray(source, ["jsrt"]), 206)
    image = read_image(folder / "imagesTr" / "jsrt_cln001_0000.png").data[0, 0]
    expected = np.zeros((8, 8))
    expected[0, 1] = 3000  # mean of 0, 4000, 4000, 4000
    np.testing.assert_array_equal(image, expected)
    mask = read_label(folder / "labelsTr" / "jsrt_cln001.png")[0]
    assert mask.sum() == 8 and mask[2:4, 2:4].all() and mask[:2, :2].all(), "both lungs, without the heart"


def test_images_without_mask_are_left_out_or_unlabelled(roots, tmp_path):
    source = chest_download(tmp_path / "downloads")
    convert.main_chest_xray([str(source), "--hospitals", "shenzhen", "--unlabelled", "-d", "5", "-np", "1"])
    folder = roots.raw / "Dataset005_ChestXray"
    assert files_of(folder / "imagesUl") == ["shenzhen_0002_1_0000.png"]
    assert files_of(folder / "imagesTr") == ["shenzhen_0001_1_0000.png"]
    verify_dataset_integrity(folder)
    assert convert._HOSPITALS == module.HOSPITALS


def test_zips_in_the_folder_give_the_same(roots, tmp_path):
    source = chest_download(tmp_path / "downloads")
    from_folder = run_conversion(chest_xray(source), 3)
    (tmp_path / "zips").mkdir()
    zipped(source, tmp_path / "zips" / "all.zip")
    from_zip = run_conversion(chest_xray(tmp_path / "zips"), 4)
    assert files_of(from_zip) == files_of(from_folder)
    for name in files_of(from_zip):
        assert (from_zip / name).read_bytes() == (from_folder / name).read_bytes()


def test_the_published_size_of_a_film_is_asked_for(roots, tmp_path, monkeypatch):
    monkeypatch.undo()
    assert module.JSRT_SIDE == 2048
    source = chest_download(tmp_path / "downloads")
    monkeypatch.setenv("nnUNet_raw", str(roots.raw))
    with pytest.raises(DatasetError, match=r"JPCLN001.IMG is 512 bytes large; expected 8,388,608, 2048 x 2048"):
        run_conversion(chest_xray(source, ["jsrt"]), 206)


def test_a_mask_of_an_odd_size_and_a_broken_one_are_named(roots, tmp_path):
    source = chest_download(tmp_path / "downloads")
    save(square(shape=(5, 5), at=1), source / "scratch" / "fold1" / "masks" / "left lung" / "JPCLN001.gif")
    (source / "scratch" / "fold2" / "masks" / "right lung" / "JPCNN002.gif").write_bytes(b"GIF89a nothing")
    with pytest.raises(DatasetError) as caught:
        run_conversion(chest_xray(source, ["jsrt"]), 206)
    told = str(caught.value)
    assert "JPCLN001.gif is 5 pixels high; expected 1024" in told
    assert "JPCNN002.gif cannot be read" in told
    assert not (roots.raw / "Dataset206_ChestXray").exists()


def test_missing_masks_hospitals_and_files_are_named(tmp_path):
    source = chest_download(tmp_path / "downloads")
    with pytest.raises(ConfigurationError, match="montgomery, shenzhen, jsrt"):
        chest_xray(source, ["tokyo"])
    next(source.rglob("rightMask/MCUCXR_0002_0.png")).unlink()
    with pytest.raises(DatasetError, match=r"montgomery: 1 image\(s\) without both masks.*--hospitals shenzhen jsrt"):
        chest_xray(source)
    chest_xray(source, ["shenzhen", "jsrt"])
    next(source.rglob("JPCNN002.IMG")).unlink()
    with pytest.raises(DatasetError, match=r"jsrt: 1 mask\(s\) without an image"):
        chest_xray(source, ["jsrt"])
    next(source.rglob("CHNCXR_0001_1_mask.png")).unlink()
    with pytest.raises(DatasetError, match=r"shenzhen: 2 image\(s\) without masks"):
        chest_xray(source, ["shenzhen"])
    for file in [*source.rglob("*.IMG"), *source.rglob("*.gif")]:
        file.unlink()
    with pytest.raises(DatasetError, match="holds no image of jsrt"):
        chest_xray(source, ["jsrt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="does not hold X-rays of Montgomery"):
        chest_xray(tmp_path / "empty")
    save(picture(), source / "copy" / "CXR_png" / "MCUCXR_0001_0.png")
    with pytest.raises(DatasetError, match="the same picture twice"):
        chest_xray(source)

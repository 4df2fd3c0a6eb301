from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset.images import read_image, read_label, write_label
from samdpo.errors import DatasetError

RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6)  # not square: transposed axes would show


def save(path, pixels, mode=None):
    Image.fromarray(pixels, mode).save(path)
    return path


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".tiff"])
def test_grey_pictures_are_read_as_stored(tmp_path, ending):
    volume = read_image(save(tmp_path / f"a{ending}", RAMP), 1)
    assert volume.data.shape == (1, 1, 4, 6)
    assert volume.data.dtype == np.float32
    assert volume.spacing == (999.0, 1.0, 1.0)
    np.testing.assert_array_equal(volume.data[0, 0], RAMP)
    json.dumps(volume.properties)


def test_sixteen_bit_grey_png_keeps_its_depth(tmp_path):
    deep = RAMP.astype(np.uint16) * 2500
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", deep), 1).data[0, 0], deep)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_png_keeps_its_depth(tmp_path, channels):
    import imagecodecs

    deep = np.stack([RAMP.astype(np.uint16) * 2500 + 100 * c for c in range(channels)], axis=-1)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3).data[:, 0], np.moveaxis(deep, -1, 0)[:3])


def test_alpha_is_dropped_and_grey_rgb_collapses(tmp_path):
    alpha = np.full_like(RAMP, 128)
    for name, layers in (("rgb", [RAMP] * 3), ("rgba", [RAMP] * 3 + [alpha]), ("la", [RAMP, alpha])):
        volume = read_image(save(tmp_path / f"{name}.png", np.stack(layers, axis=-1)), 1)
        np.testing.assert_array_equal(volume.data[:, 0], RAMP[None])


def test_colour_stays_colour_where_three_channels_are_declared(tmp_path):
    colour = np.stack([RAMP, RAMP + 50, RAMP + 100], axis=-1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", colour), 3).data[2, 0], RAMP + 100)


def test_a_grey_picture_among_colour_ones_is_repeated(tmp_path):
    assert read_image(save(tmp_path / "a.png", RAMP), 3).data.shape == (3, 1, 4, 6)


def test_coloured_callipers_on_a_grey_image_are_tolerated(tmp_path):
    pixels = np.stack([np.full((40, 40), 90, np.uint8)] * 3, axis=-1)
    pixels[3, 3:9] = (255, 255, 0)
    assert read_image(save(tmp_path / "a.png", pixels), 1).data.shape == (1, 1, 40, 40)


def test_a_colour_picture_declared_grey_gets_a_sentence(tmp_path):
    colour = np.stack([RAMP, RAMP + 50, RAMP + 100], axis=-1)
    with pytest.raises(DatasetError, match="is a colour image"):
        read_image(save(tmp_path / "a.png", colour), 1)


def test_a_palette_picture_gives_its_colours(tmp_path):
    picture = Image.fromarray(RAMP % 3).convert("P")
    picture.putpalette([0, 0, 0, 10, 20, 30, 200, 200, 200])
    picture.putdata((RAMP % 3).ravel().tolist())
    picture.save(tmp_path / "a.png")
    data = read_image(tmp_path / "a.png", 3).data
    np.testing.assert_array_equal(np.unique(data[1]), [0, 20, 200])


def test_a_one_bit_picture_is_read(tmp_path):
    Image.fromarray(RAMP > 9).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 1).data[0, 0], RAMP > 9)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".nii", ".nii.gz", ".mha", ".nrrd"])
def test_a_truncated_file_is_named(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (1, 64, 64)).astype(np.uint8)
    path = tmp_path / f"a{ending}"
    write_label(noise, path, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_image, read_label):
        with pytest.raises(DatasetError, match=r"a\.\w+.* cannot be read .*damaged or cut off"):
            read(path)


def test_a_whole_nifti_of_several_gzip_members_is_read(tmp_path):
    import gzip

    noise = np.random.default_rng(0).integers(0, 255, (3, 20, 20)).astype(np.uint8)
    write_label(noise, tmp_path / "a.nii", {})
    plain = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(plain[:500]) + gzip.compress(plain[500:]))
    np.testing.assert_array_equal(read_label(tmp_path / "b.nii.gz"), noise)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DatasetError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")


def test_jpeg_is_refused_under_any_name(tmp_path):
    for name in ("a.jpg", "b.png"):
        Image.fromarray(RAMP).save(tmp_path / name, format="JPEG")
        with pytest.raises(DatasetError, match=f"{name} is .*lossy"):
            read_image(tmp_path / name)


def test_unknown_ending_and_missing_file_get_a_sentence(tmp_path):
    with pytest.raises(DatasetError, match="unknown ending"):
        read_image(tmp_path / "a.gif")
    with pytest.raises(DatasetError, match="does not exist"):
        read_image(tmp_path / "a.png")


def test_channels_of_different_size_are_refused(tmp_path):
    files = [save(tmp_path / "a_0000.png", RAMP), save(tmp_path / "a_0001.png", RAMP[:3])]
    with pytest.raises(DatasetError, match="same size"):
        read_image(files, 2)


def test_channels_in_files_are_stacked_in_order(tmp_path):
    files = [save(tmp_path / "a_0000.png", RAMP), save(tmp_path / "a_0001.png", RAMP + 7)]
    np.testing.assert_array_equal(read_image(files, 2).data[1, 0], RAMP + 7)


def test_wrong_number_of_channels_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="declares 2"):
        read_image(save(tmp_path / "a.png", RAMP), 2)


def test_values_that_are_not_finite_are_refused(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.array([[1.0, np.nan]], np.float32))
    with pytest.raises(DatasetError, match="not finite"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_label_pictures_come_back_as_written(tmp_path, ending):
    write_label(RAMP[None], tmp_path / f"a{ending}", {})
    label = read_label(tmp_path / f"a{ending}")
    assert label.dtype == np.int16
    np.testing.assert_array_equal(label, RAMP[None])


def test_label_as_colour_palette_gives_its_indices(tmp_path):
    picture = Image.fromarray(RAMP % 3, "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0], RAMP % 3)


def test_label_as_grey_palette_gives_its_greys(tmp_path):
    picture = Image.fromarray((RAMP > 9).astype(np.uint8), "P")
    picture.putpalette([2, 2, 2, 0, 0, 0])  # renumbered by a program that packs files
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0], np.where(RAMP > 9, 0, 2))


def test_label_as_rgba_one_bit_or_sixteen_bit_keeps_its_values(tmp_path):
    save(tmp_path / "rgba.png", np.stack([RAMP] * 3 + [np.full_like(RAMP, 255)], axis=-1))
    np.testing.assert_array_equal(read_label(tmp_path / "rgba.png")[0], RAMP)
    Image.fromarray(RAMP > 9).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_label(tmp_path / "bit.png")[0], RAMP > 9)
    save(tmp_path / "deep.png", RAMP.astype(np.uint16) * 300)
    np.testing.assert_array_equal(read_label(tmp_path / "deep.png")[0], RAMP.astype(int) * 300)


def test_label_in_colours_gets_a_sentence(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1, 1] = (255, 0, 0)
    with pytest.raises(DatasetError, match=r"colour picture .*\(255, 0, 0\)"):
        read_label(save(tmp_path / "a.png", pixels))


def test_label_with_fractions_gets_a_sentence(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.array([[0.0, 0.5, 1.0]], np.float32))
    with pytest.raises(DatasetError, match=r"fractions such as 0\.5"):
        read_label(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_volumes_keep_their_geometry_through_json(tmp_path, ending):
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 300, (3, 4, 5)).astype(np.int16))
    image.SetSpacing((0.5, 0.7, 3.0))
    image.SetOrigin((-10.0, 20.0, 5.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    volume = read_image(tmp_path / f"a{ending}", 1)
    assert volume.data.shape == (1, 3, 4, 5)
    assert volume.spacing == pytest.approx((3.0, 0.7, 0.5))
    label = (volume.data[0] > 0).astype(np.int16)
    write_label(label, tmp_path / f"seg{ending}", json.loads(json.dumps(volume.properties)))
    np.testing.assert_array_equal(read_label(tmp_path / f"seg{ending}"), label)
    written = sitk.ReadImage(str(tmp_path / f"seg{ending}"))
    assert written.GetOrigin() == pytest.approx(image.GetOrigin())
    assert written.GetDirection() == pytest.approx(image.GetDirection())


def test_a_medical_file_of_one_slice_has_the_spacing_of_a_picture(tmp_path):
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(RAMP)
    image.SetSpacing((0.5, 0.7))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    volume = read_image(tmp_path / "a.mha", 1)
    assert volume.data.shape == (1, 1, 4, 6)
    assert volume.spacing[1:] == pytest.approx((0.7, 0.5))
    write_label(RAMP[None], tmp_path / "seg.mha", volume.properties)
    assert sitk.ReadImage(str(tmp_path / "seg.mha")).GetSize() == (6, 4)


def test_a_stack_of_tiff_pages_is_a_volume_with_the_spacing_of_its_json(tmp_path):
    stack = np.stack([RAMP, RAMP + 1, RAMP + 2])
    write_label(stack, tmp_path / "a_0000.tif", {})
    (tmp_path / "a.json").write_text('{"spacing": [3, 0.5, 0.5]}')
    volume = read_image(tmp_path / "a_0000.tif", 1)
    assert volume.data.shape == (1, 3, 4, 6)
    assert volume.spacing == (3.0, 0.5, 0.5)


@pytest.mark.parametrize("spacing", ["[0, 1, 1]", "[1, 1]", "[1, NaN, 1]", '"1 1 1"', "[-1, 1, 1]"])
def test_a_spacing_beside_a_stack_that_is_none_gets_a_sentence(tmp_path, spacing):
    write_label(np.stack([RAMP, RAMP]), tmp_path / "a_0000.tif", {})
    (tmp_path / "a.json").write_text(f'{{"spacing": {spacing}}}')
    with pytest.raises(DatasetError, match=r"a\.json must hold the spacing of a_0000\.tif"):
        read_image(tmp_path / "a_0000.tif")


def test_a_stack_cannot_be_written_as_one_picture(tmp_path):
    with pytest.raises(DatasetError, match="holds one slice"):
        write_label(np.zeros((2, 4, 6), np.uint8), tmp_path / "a.png", {})
    assert not list(tmp_path.iterdir())

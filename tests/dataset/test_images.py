from __future__ import annotations

import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from samdpo.dataset import decoding
from samdpo.dataset.images import read_image, read_label, read_label_with_properties, write_label
from samdpo.errors import DatasetError

READERS = (read_image, read_label)
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


@pytest.mark.parametrize("reader", [read_image, read_label])
def test_a_tiff_without_any_pixel_is_refused(tmp_path, reader):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 0, 4), np.uint8), photometric="minisblack")
    with pytest.raises(DatasetError, match=r"a\.tif"):
        reader(tmp_path / "a.tif")


@pytest.mark.parametrize("reader", [read_image, read_label])
def test_a_tiff_of_which_a_tag_is_broken_so_that_no_pixel_is_left_is_refused(tmp_path, reader):
    import tifffile

    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.zeros((5, 6, 3), np.uint8), photometric="rgb")
    content = bytearray(file.read_bytes())
    content[187:195] = bytes(8)
    file.write_bytes(content)
    with pytest.raises(DatasetError, match="holds no pixel"):
        reader(file)


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


def png_of(width: int, height: int, depth: int, colour_type: int) -> bytes:
    """57 bytes: the header of a PNG and no pixel."""
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.uint32])
def test_a_tiff_that_calls_0_white_is_turned_whatever_its_numbers(tmp_path, kind):
    """Stored is the negative of a mask of 0 and 1, as scanners and PIL show it."""
    import tifffile

    mask = RAMP > 9
    stored = ~mask if kind is bool else (np.iinfo(kind).max - mask).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif")[0], mask)
    if kind in (bool, np.uint8):
        theirs = np.asarray(Image.open(tmp_path / "a.tif"))
        np.testing.assert_array_equal(theirs, mask)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data[0, 0], mask)


def test_four_bits_a_pixel_are_turned_by_what_four_bits_hold(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", RAMP % 16, photometric="miniswhite", bitspersample=4)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif")[0], 15 - RAMP % 16)


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_a_tiff_that_calls_0_white_in_numbers_without_a_black_is_refused(tmp_path, kind):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(kind), photometric="miniswhite")
    for read in READERS:
        with pytest.raises(DatasetError, match=r"a\.tif .*calls 0 white .*PhotometricInterpretation 1"):
            read(tmp_path / "a.tif")


def test_numbers_that_32_bit_floats_cannot_tell_apart_are_refused_as_an_image(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(np.uint32) + 2**31)
    with pytest.raises(DatasetError, match="from 2147483648 to 2147483671, which 32-bit floats cannot tell apart"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(np.uint32) * 2**24)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data[0, 0], RAMP * 2.0**24)


@pytest.mark.parametrize("colours", [False, True])
def test_a_stack_written_page_by_page_is_the_stack(tmp_path, colours):
    import tifffile

    pages = [np.stack([RAMP + i] * 3, axis=-1) if colours else RAMP + i for i in range(40)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, photometric="rgb" if colours else "minisblack")
    read = read_image(tmp_path / "a.tif").data
    assert read.shape == (3 if colours else 1, 40, 4, 6)
    np.testing.assert_array_equal(read[0], np.stack([RAMP + i for i in range(40)]))
    if not colours:
        np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), np.stack(pages))


def test_pages_of_a_stack_are_turned_one_by_one_where_only_some_call_0_white(tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(RAMP, photometric="minisblack")
        writer.write(255 - RAMP, photometric="miniswhite")
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), np.stack([RAMP, RAMP]))


@pytest.mark.parametrize("other", [RAMP[:3], RAMP[::2, ::2], RAMP.astype(np.uint16), np.stack([RAMP] * 3, axis=-1)])
def test_pages_that_are_no_stack_are_refused_with_what_was_found(tmp_path, other):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in (RAMP, RAMP, other):
            writer.write(page, photometric="rgb" if page.ndim == 3 else "minisblack")
    for read in READERS:
        with pytest.raises(DatasetError, match=r"3 pages that are no stack.*: 2 of 4 x 6 \(YX\) uint8, 1 of"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("inside", [False, True])
def test_thumbnails_and_levels_of_a_pyramid_that_are_marked_are_no_pages(tmp_path, inside):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(RAMP, photometric="minisblack", subifds=1 if inside else None)
        writer.write(RAMP[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif"), RAMP[None])
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(RAMP, photometric="minisblack", subifds=1)
        writer.write(RAMP[::-1], photometric="minisblack")
    with pytest.raises(DatasetError, match="inside a page"):
        read_label(tmp_path / "b.tif")


@pytest.mark.parametrize(("layers", "kind", "text"), [
    (2, "minisblack", "holds 2 channels"), (5, "rgb", "holds 5 channels"), (4, "separated", "colours SEPARATED"),
])
def test_channels_of_a_tiff_that_are_no_colours_are_not_dropped(tmp_path, layers, kind, text):
    import tifffile

    pixels = np.stack([RAMP] * layers, axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=kind, planarconfig="contig")
    with pytest.raises(DatasetError, match=text):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_an_animation_is_refused_with_the_number_of_its_frames(tmp_path, format):
    frames = [Image.fromarray(RAMP + i) for i in range(3)]
    frames[0].save(tmp_path / "a.png", format=format, save_all=True, append_images=frames[1:])
    for read in READERS:
        with pytest.raises(DatasetError, match="holds 3 frames"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize(("name", "format"), [("a.png", "TIFF"), ("a.tif", "PNG"), ("a.png", "BMP")])
def test_a_lossless_picture_under_another_ending_is_read_as_what_it_is(tmp_path, name, format):
    Image.fromarray(RAMP).save(tmp_path / name, format=format)
    np.testing.assert_array_equal(read_label(tmp_path / name)[0], RAMP)


@pytest.mark.parametrize("format", ["JPEG", "JPEG2000", "WEBP"])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_lossy_picture_is_refused_under_any_ending(tmp_path, name, format):
    Image.fromarray(RAMP).save(tmp_path / name, format=format)
    with pytest.raises(DatasetError, match="under another name"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("depth", [1, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_values_are_those_stored_whatever_is_said_of_transparency(tmp_path, depth, transparent):
    values = (RAMP > 9).astype(np.uint8) if depth == 1 else RAMP.astype(np.uint8 if depth == 8 else np.uint16) * 9
    picture = Image.fromarray(values > 0 if depth == 1 else values)
    picture.save(tmp_path / "a.png", **({"transparency": 0} if transparent else {}))
    np.testing.assert_array_equal(read_label(tmp_path / "a.png")[0], values)


@pytest.mark.parametrize(("depth", "colour_type"), [(16, 2), (16, 0), (16, 4), (8, 0), (8, 6), (8, 3), (1, 0)])
def test_57_bytes_that_promise_gigabytes_are_too_large_before_anything_is_allocated(tmp_path, depth, colour_type):
    import tracemalloc

    (tmp_path / "a.png").write_bytes(png_of(60000, 60000, depth, colour_type))
    tracemalloc.start()
    try:
        for read in READERS:
            with pytest.raises(DatasetError, match=r"a\.png is too large: 60000 x 60000 .* out of a file of 57 bytes"):
                read(tmp_path / "a.png")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    (tmp_path / "a.png").write_bytes(png_of(30000, 30000, depth, colour_type))
    with pytest.raises(DatasetError, match="is too large|57 bytes cannot hold 30000 x 30000 pixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".nii", ".nii.gz", ".nrrd", ".mha"])
def test_one_bound_holds_for_every_format(tmp_path, monkeypatch, ending):
    write_label(np.zeros((1, 40, 60), np.uint8), tmp_path / f"a{ending}", {})
    read_image(tmp_path / f"a{ending}")
    monkeypatch.setattr(decoding, "LARGEST", 2000)
    monkeypatch.setattr(decoding, "_A_BYTE", 0)
    for read in READERS:
        with pytest.raises(DatasetError, match="too large: .*2,400 values.* up to 2,000 values are read"):
            read(tmp_path / f"a{ending}")


def test_a_large_file_may_hold_more_than_the_bound(tmp_path, monkeypatch):
    save(tmp_path / "a.bmp", np.zeros((40, 60), np.uint8))
    monkeypatch.setattr(decoding, "LARGEST", 2000)
    assert read_image(tmp_path / "a.bmp").data.shape == (1, 1, 40, 60)


def test_a_picture_beyond_pils_bound_is_read_without_a_warning(tmp_path, monkeypatch, recwarn):
    for ending in (".png", ".bmp"):
        save(tmp_path / f"a{ending}", RAMP)
        for bound in (20, 10):  # PIL warns, and refuses at twice its bound
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
            np.testing.assert_array_equal(read_label(tmp_path / f"a{ending}")[0], RAMP)
    assert not recwarn.list


def test_memory_that_does_not_suffice_is_not_called_damage(tmp_path, monkeypatch):
    import tifffile

    save(tmp_path / "a.tif", RAMP)

    def nothing_left(*_, **__):
        raise MemoryError("Unable to allocate 20 GiB")

    monkeypatch.setattr(tifffile, "TiffFile", nothing_left)
    with pytest.raises(DatasetError, match=r"a\.tif is too large for the memory of this machine \(Unable to allocate"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("error", [struct.error("x"), ValueError("x"), OverflowError("x"), zlib.error("x"),
                                   RecursionError("x"), KeyError("x"), EOFError("x"), OSError("x")])
def test_whatever_a_decoder_raises_becomes_a_sentence(tmp_path, monkeypatch, error):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def fail(*_, **__):
        raise error

    save(tmp_path / "a.tif", RAMP)
    write_label(RAMP[None], tmp_path / "a.mha", {})
    monkeypatch.setattr("tifffile.TiffFile", fail)
    monkeypatch.setattr(SimpleITKIO, "read_images", fail)
    for name in ("a.tif", "a.mha"):
        for read in READERS:
            with pytest.raises(DatasetError, match=rf"{name} cannot be read .*x.*damaged or cut off"):
                read(tmp_path / name)


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".mha"])
def test_a_file_that_may_not_be_read_is_called_that(tmp_path, monkeypatch, ending):
    from pathlib import Path

    path = tmp_path / f"a{ending}"
    write_label(RAMP[None], path, {})
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        really = Path.open

        def refuse(self, *args, **kwargs):
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return really(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse)
    for read in READERS:
        with pytest.raises(DatasetError, match=r"may not be read by you .*chmod u\+r"):
            read(path)


def test_a_broken_link_a_folder_and_a_pipe_are_called_what_they_are(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone" / "a.png")
    (tmp_path / "folder.nii.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")
    for name, text in (
        ("link.png", r"is a link to .*gone/a\.png, which is not there"), ("folder.nii.gz", "is a folder"),
        ("pipe.tif", "is a pipe or a device"),
    ):
        with pytest.raises(DatasetError, match=text):
            read_label(tmp_path / name)


def test_a_json_beside_a_stack_that_is_about_something_else_says_nothing_of_its_spacing(tmp_path, caplog):
    write_label(np.stack([RAMP, RAMP]), tmp_path / "a.tif", {})
    (tmp_path / "a.json").write_text('{"shapes": [], "imagePath": "a.tif"}')  # as annotation programs write it
    assert read_label_with_properties(tmp_path / "a.tif")[1]["spacing"] == [1, 1, 1]
    assert "a.json holds no 'spacing'" in caplog.text
    for content in ("[" * 100_000, "{", '{"spacing": [1, 1, 1e400]}', '{"spacing": {"z": 1}}', '{"spacing": null}'):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DatasetError, match=r"a\.json.*spacing of a\.tif"):
            read_label(tmp_path / "a.tif")


@pytest.mark.parametrize(("name", "header"), [
    ("a.mha", "ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
              "ElementDataFile = {}\n"),
    ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw\ndata file: {}\n\n"),
])
def test_voxels_of_another_file_that_a_header_names_are_not_read(tmp_path, name, header):
    (tmp_path / "secret.txt").write_bytes(b"a" * 24)
    (tmp_path / name).write_text(header.format(tmp_path / "secret.txt"))
    for read in READERS:
        with pytest.raises(DatasetError, match=r"header alone, whose voxels lie in .*secret\.txt"):
            read(tmp_path / name)


def test_a_stack_whose_last_pages_are_cut_off_is_damaged_and_not_shorter(tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(5):
            writer.write(RAMP + i)
    whole = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        places = [page.offset for page in file.pages]
    for place in places[1:]:
        (tmp_path / "a.tif").write_bytes(whole[:place])
        with pytest.raises(DatasetError, match=r"a\.tif cannot be read .*damaged or cut off"):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("there", [True, False])
def test_pages_that_an_ome_tiff_takes_from_another_file_are_neither_read_nor_filled_with_zeros(tmp_path, there):
    import tifffile

    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z + 1}1111111-1111-1111-1111-'
        "111111111111</UUID></TiffData>" for z, name in enumerate(("a.tif", "../secret.tif"))
    )
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:11111111-'
        '1111-1111-1111-111111111111"><Image ID="Image:0"><Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint8" '
        'SizeX="6" SizeY="4" SizeZ="2" SizeC="1" SizeT="1"><Channel ID="C:0" SamplesPerPixel="1"/>'
        f"{planes}</Pixels></Image></OME>"
    )
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", RAMP, photometric="minisblack", description=description, metadata=None)
    if there:
        tifffile.imwrite(tmp_path / "secret.tif", RAMP, photometric="minisblack", metadata=None)
    with pytest.raises(DatasetError, match=r"several files \(OME-TIFF\)|damaged or cut off"):
        read_image(tmp_path / "in" / "a.tif")
    tifffile.imwrite(tmp_path / "b.ome.tif", np.stack([RAMP, RAMP + 1]), photometric="minisblack",
                     metadata={"axes": "ZYX"})
    assert read_image(tmp_path / "b.ome.tif").data.shape == (1, 2, 4, 6)


def test_a_fourth_plane_that_is_no_transparency_is_not_dropped(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    planes = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(1, 4, 5, 6)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", extrasamples=[0])
    with pytest.raises(DatasetError, match="holds 4 channels a pixel"):
        read_image(tmp_path / "a.tif", n_channels=3)
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate", extrasamples=[2])
    assert np.array_equal(read_image(tmp_path / "b.tif", n_channels=3).data[:, 0], planes[0, :3])

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from downloads import files_of, picture, rgb, rgba, save, scan, segmentation, square, zipped
from PIL import Image

from samdpo.dataset.converters.conversion import run_conversion
from samdpo.dataset.converters.folder import own_folder
from samdpo.dataset.dataset_json import load_dataset_json
from samdpo.dataset.images import read_image, read_label
from samdpo.dataset.integrity import verify_dataset_integrity
from samdpo.errors import ConfigurationError, DatasetError

LUNG = ("background", "lung")


@pytest.fixture
def images(tmp_path):
    for number in (1, 2):
        save(picture(number), tmp_path / "images" / f"case {number}.png")
        save(square(), tmp_path / "masks" / f"case {number}_mask.png")
    return tmp_path / "images"


def test_images_and_masks_pair_by_name_and_0_and_255_become_0_and_1(roots, images, tmp_path):
    conversion = own_folder(images, tmp_path / "masks", "Chest", labels=LUNG, channel="X-ray")
    folder = run_conversion(conversion, 5)
    assert folder.name == "Dataset005_Chest"
    assert files_of(folder / "labelsTr") == ["case 1.png", "case 2.png"]
    np.testing.assert_array_equal(read_label(folder / "labelsTr" / "case 2.png")[0], square(1))
    np.testing.assert_array_equal(read_image(folder / "imagesTr" / "case 2_0000.png").data[0, 0], picture(2))
    dataset = load_dataset_json(folder)
    assert dataset.channel_names == {"0": "X-ray"}
    assert dataset.hints["lung"].phrase == "lung"
    verify_dataset_integrity(folder)


@pytest.mark.parametrize("suffix", ["", "_mask", "_label", "_seg"])
def test_the_usual_suffixes_are_known(tmp_path, suffix):
    save(picture(), tmp_path / "images" / "a.png")
    save(square(), tmp_path / "masks" / f"a{suffix}.png")
    conversion = own_folder(tmp_path / "images", tmp_path / "masks", "Mine")
    assert [task.targets for task in conversion.tasks] == [("imagesTr/a_0000.png",), ("labelsTr/a.png",)]


def test_images_and_masks_may_share_a_folder(tmp_path):
    save(picture(), tmp_path / "a.png")
    save(square(), tmp_path / "a_seg.png")
    conversion = own_folder(tmp_path, tmp_path, "Mine")
    assert [task.targets[0] for task in conversion.tasks] == ["imagesTr/a_0000.png", "labelsTr/a.png"]


def test_nnunets_channel_number_is_no_part_of_the_name_where_all_have_it(tmp_path):
    save(picture(), tmp_path / "imagesTr" / "a_0000.png")
    save(square(), tmp_path / "labelsTr" / "a.png")
    conversion = own_folder(tmp_path / "imagesTr", tmp_path / "labelsTr", "Mine")
    assert conversion.tasks[0].targets == ("imagesTr/a_0000.png",)
    save(picture(), tmp_path / "imagesTr" / "a_0001.png")
    save(square(), tmp_path / "labelsTr" / "a_0001.png")
    (tmp_path / "labelsTr" / "a.png").rename(tmp_path / "labelsTr" / "a_0000.png")
    frames = own_folder(tmp_path / "imagesTr", tmp_path / "labelsTr", "Mine")
    assert [task.targets[0] for task in frames.tasks[1::2]] == ["labelsTr/a_0000.png", "labelsTr/a_0001.png"]


def test_label_maps_keep_their_values(roots, tmp_path):
    values = square(1)
    values[15:20, 2:8] = 2
    save(picture(), tmp_path / "images" / "a.png")
    save(rgba(values), tmp_path / "masks" / "a.png")
    conversion = own_folder(tmp_path / "images", tmp_path / "masks", "Mine", labels=("background", "lung", "heart"))
    folder = run_conversion(conversion, 5)
    np.testing.assert_array_equal(read_label(folder / "labelsTr" / "a.png")[0], values)
    verify_dataset_integrity(folder)


@pytest.mark.parametrize("labels", [LUNG, ("background", "lung", "heart")])
def test_a_value_without_a_name_is_told(roots, tmp_path, labels):
    save(picture(), tmp_path / "images" / "a.png")
    save(square(7), tmp_path / "masks" / "a.png")
    with pytest.raises(DatasetError, match=r"a.png holds the values 0, 7; expected 0 = background, 1 = lung"):
        run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine", labels=labels), 5)


def test_unlabelled_and_test_images_go_into_their_folders(roots, images, tmp_path):
    save(picture(3), tmp_path / "more" / "b.png")
    save(picture(4), tmp_path / "test" / "c.png")
    save(square(), tmp_path / "truth" / "c_label.png")
    folder = run_conversion(
        own_folder(
            images, tmp_path / "masks", "Chest", unlabelled=tmp_path / "more", test=tmp_path / "test",
            test_masks=tmp_path / "truth",
        ),
        5,
    )
    assert files_of(folder / "imagesUl") == ["b_0000.png"]
    assert files_of(folder / "imagesTs") == ["c_0000.png"]
    assert files_of(folder / "labelsTs") == ["c.png"]
    assert load_dataset_json(folder).num_training == 2
    verify_dataset_integrity(folder)


def test_test_images_need_no_masks_but_test_masks_need_images(images, tmp_path):
    save(picture(4), tmp_path / "test" / "c.png")
    conversion = own_folder(images, tmp_path / "masks", "Chest", test=tmp_path / "test")
    assert ("imagesTs/c_0000.png",) in [task.targets for task in conversion.tasks]
    with pytest.raises(ConfigurationError, match="--test_masks"):
        own_folder(images, tmp_path / "masks", "Chest", test_masks=tmp_path / "masks")


def test_an_unlabelled_image_with_the_name_of_a_labelled_one_is_refused(images, tmp_path):
    save(picture(3), tmp_path / "more" / "case 1.png")
    with pytest.raises(DatasetError, match=r"more/case 1.png, called unlabelled, has the name of"):
        own_folder(images, tmp_path / "masks", "Chest", unlabelled=tmp_path / "more")


def test_mixed_formats_become_png(roots, tmp_path):
    save(picture(1), tmp_path / "images" / "a.bmp")
    save(picture(2).astype(np.uint16) * 200, tmp_path / "images" / "b.tif")
    for case in "ab":
        save(square(), tmp_path / "masks" / f"{case}.png")
    folder = run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine"), 5)
    assert files_of(folder / "imagesTr") == ["a_0000.png", "b_0000.png"]
    deep = read_image(folder / "imagesTr" / "b_0000.png").data
    np.testing.assert_array_equal(deep[0, 0], picture(2).astype(np.float32) * 200)
    verify_dataset_integrity(folder)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_jpeg_images_become_png_with_a_warning_whatever_their_name(roots, tmp_path, caplog, name):
    (tmp_path / "images").mkdir()
    smooth = np.tile(np.linspace(0, 250, 20).astype(np.uint8), (24, 1))
    Image.fromarray(rgb(smooth)).save(tmp_path / "images" / name, "JPEG", quality=95)
    save(square(), tmp_path / "masks" / "a.png")
    folder = run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine"), 5)
    assert "1 image(s) are JPEG or WebP, which is lossy" in caplog.text
    stored = np.asarray(Image.open(folder / "imagesTr" / "a_0000.png"))
    np.testing.assert_allclose(stored, smooth, atol=6)
    verify_dataset_integrity(folder)


def test_a_jpeg_is_turned_upright_as_screens_show_it(roots, tmp_path):
    (tmp_path / "images").mkdir()
    lying = Image.fromarray(np.tile(np.linspace(0, 250, 24).astype(np.uint8), (20, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    lying.save(tmp_path / "images" / "a.jpg", exif=exif)
    save(square(), tmp_path / "masks" / "a.png")
    verify_dataset_integrity(run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine"), 5))


@pytest.mark.parametrize(("name", "text"), [("a.jpg", "lossy mask"), ("a.png", "JPEG under another name")])
def test_masks_as_jpeg_are_refused_whatever_their_name(roots, tmp_path, name, text):
    save(picture(), tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(square()).save(tmp_path / "masks" / name, "JPEG")
    with pytest.raises(DatasetError, match=text):
        run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine"), 5)


def test_coloured_images_keep_their_colours_unless_one_channel_is_asked_for(roots, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    save(colours, tmp_path / "images" / "a.png")
    save(picture(1), tmp_path / "images" / "b.png")
    for case in "ab":
        save(square(), tmp_path / "masks" / f"{case}.png")
    folder = run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine"), 5)
    assert load_dataset_json(folder).channel_names == {"0": "R", "1": "G", "2": "B"}
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "imagesTr" / "a_0000.png")), colours)
    verify_dataset_integrity(folder)
    with pytest.raises(DatasetError, match="is a colour image"):
        run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Grey", channel="X-ray"), 6)


def test_volumes_of_one_format_are_copied_unchanged(roots, tmp_path):
    image = scan(tmp_path / "images" / "a.nii.gz")
    mask = segmentation(tmp_path / "masks" / "a_seg.nii.gz")
    folder = run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine", labels=LUNG, channel="CT"), 5)
    assert (folder / "imagesTr" / "a_0000.nii.gz").read_bytes() == image.read_bytes()
    assert (folder / "labelsTr" / "a.nii.gz").read_bytes() == mask.read_bytes()
    verify_dataset_integrity(folder)


def test_volumes_of_several_formats_and_masks_of_255_become_nifti_on_the_same_grid(roots, tmp_path):
    image = sitk.ReadImage(str(scan(tmp_path / "scan.nii.gz")))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(image, str(tmp_path / "images" / "a.nrrd"))
    segmentation(tmp_path / "masks" / "a.nii.gz", (0, 255))
    folder = run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine", channel="CT"), 5)
    assert set(np.unique(read_label(folder / "labelsTr" / "a.nii.gz"))) == {0, 1}
    written = sitk.ReadImage(str(folder / "imagesTr" / "a_0000.nii.gz"))
    assert written.GetPixelID() == image.GetPixelID()
    verify_dataset_integrity(folder)


def test_volumes_and_pictures_do_not_mix(tmp_path):
    scan(tmp_path / "images" / "a.nii.gz")
    save(square(), tmp_path / "masks" / "a.png")
    with pytest.raises(DatasetError, match=r"mix volumes and pictures \(.nii.gz, .png\)"):
        own_folder(tmp_path / "images", tmp_path / "masks", "Mine")


def test_the_spacing_of_a_stack_comes_along(roots, tmp_path):
    import tifffile

    for folder, values in (("images", np.stack([picture(i) for i in range(4)])), ("masks", np.stack([square()] * 4))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", values, photometric="minisblack")
    (tmp_path / "images" / "a.json").write_text('{"spacing": [3, 0.5, 0.5]}')
    folder = run_conversion(own_folder(tmp_path / "images", tmp_path / "masks", "Mine"), 5)
    assert read_image(folder / "imagesTr" / "a_0000.tif").spacing == (3, 0.5, 0.5)
    assert load_dataset_json(folder).num_training == 1
    verify_dataset_integrity(folder)


def test_images_and_masks_may_still_be_zipped(roots, images, tmp_path):
    archive = zipped(images, tmp_path / "images.zip")
    conversion = own_folder(archive, zipped(tmp_path / "masks", tmp_path / "masks.zip"), "Chest")
    verify_dataset_integrity(run_conversion(conversion, 5))


def test_missing_masks_and_images_are_told_at_once(images, tmp_path):
    (tmp_path / "masks" / "case 1_mask.png").rename(tmp_path / "masks" / "other.png")
    with pytest.raises(DatasetError) as caught:
        own_folder(images, tmp_path / "masks", "Chest")
    assert "case 1.png has no mask" in str(caught.value)
    assert "other.png has no image" in str(caught.value)
    assert "--unlabelled" in str(caught.value)


def test_two_masks_or_two_images_of_one_name_are_not_guessed_between(images, tmp_path):
    save(square(), tmp_path / "masks" / "case 1.png")
    with pytest.raises(DatasetError, match="has two masks"):
        own_folder(images, tmp_path / "masks", "Chest")
    save(picture(), images / "case 1.bmp")
    with pytest.raises(DatasetError, match="same name but for the ending"):
        own_folder(images, tmp_path / "masks", "Chest")


def test_empty_wrong_and_nested_folders_get_a_sentence(images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no image"):
        own_folder(tmp_path / "empty", tmp_path / "masks", "Chest")
    with pytest.raises(DatasetError, match=r"images in 2 folders: images, masks"):
        own_folder(tmp_path, tmp_path / "masks", "Chest")


def test_labels_and_names_that_are_none_get_a_sentence(roots, images, tmp_path):
    with pytest.raises(ConfigurationError, match="background first"):
        own_folder(images, tmp_path / "masks", "Chest", labels=("lung",))
    with pytest.raises(ConfigurationError, match="cannot be a dataset's"):
        run_conversion(own_folder(images, tmp_path / "masks", "Chest X/ray"), 5)


def test_the_default_name_of_the_structure_is_advised_against(images, tmp_path, caplog):
    own_folder(images, tmp_path / "masks", "Chest")
    assert "--labels background lung" in caplog.text


def smoothed(number: int = 0) -> np.ndarray:
    """A mask of 0 and 255 after resizing."""
    large = np.repeat(np.repeat(square(), 3, axis=0), 3, axis=1)
    small = Image.fromarray(large).resize((20 + number, 24), Image.Resampling.BICUBIC)
    return np.asarray(small.rotate(0.7, Image.Resampling.BILINEAR))


def refusal(*given, **named) -> str:
    with pytest.raises(DatasetError) as caught:
        run_conversion(own_folder(*given, **named), 5)
    return str(caught.value)


@pytest.fixture
def smooth(tmp_path):
    for number in (1, 2, 3):
        mask = square() if number == 3 else smoothed()
        save(np.full(mask.shape, 90 * (number % 2) + 7 * number, np.uint8), tmp_path / "images" / f"{number}.png")
        save(mask, tmp_path / "masks" / f"{number}.png")
    return tmp_path / "images", tmp_path / "masks"


def test_smoothed_masks_are_refused_with_the_threshold_that_fits_and_nothing_is_left(roots, smooth):
    told = refusal(*smooth, "Mine", labels=LUNG)
    assert "1.png holds the values 0, " in told
    assert "2 of 3 masks do not fit, and nothing was written." in told
    assert "--threshold 127" in told and "--labels" not in told
    assert not list(roots.raw.iterdir())


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_a_threshold_makes_two_classes_of_smoothed_masks(roots, smooth, caplog, format):
    images, masks = smooth
    if format == "jpg":
        for file in list(masks.iterdir()):
            Image.fromarray(rgb(np.asarray(Image.open(file)))).save(file.with_suffix(".jpg"), quality=90)
            file.unlink()
        assert "--threshold 127" in refusal(images, masks, "Mine", labels=LUNG)
        assert not list(roots.raw.iterdir())
    folder = run_conversion(own_folder(images, masks, "Mine", labels=LUNG, threshold=127), 5)
    for case in "123":
        label = read_label(folder / "labelsTr" / f"{case}.png")[0]
        drawn = np.asarray(Image.open(masks / f"{case}.{format}").convert("L"))
        np.testing.assert_array_equal(label, drawn > 127)
        assert 0 < label.mean() < 1
    assert ("3 image(s) are lossy masks" in caplog.text) == (format == "jpg")
    assert load_dataset_json(folder).labels == {"background": 0, "lung": 1}


def test_a_threshold_reads_volumes_of_probabilities_on_their_grid(roots, tmp_path):
    image = scan(tmp_path / "images" / "a.nii.gz")
    mask = sitk.Cast(sitk.ReadImage(str(segmentation(tmp_path / "m.nii.gz"))), sitk.sitkFloat32) * 0.9
    (tmp_path / "masks").mkdir()
    sitk.WriteImage(mask, str(tmp_path / "masks" / "a.nii.gz"))
    folder = run_conversion(own_folder(
        tmp_path / "images", tmp_path / "masks", "Mine", labels=LUNG, channel="CT", threshold=0.5), 5)
    written = sitk.ReadImage(str(folder / "labelsTr" / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(mask) > 0.5)
    assert written.GetOrigin() == sitk.ReadImage(str(image)).GetOrigin()
    verify_dataset_integrity(folder)


def test_a_threshold_above_every_value_is_refused_before_anything_is_written(roots, images, tmp_path):
    for file in (tmp_path / "masks").iterdir():
        save(square(1), file)
    assert "--threshold 0" in refusal(images, tmp_path / "masks", "Mine", labels=LUNG, threshold=127)
    assert not list(roots.raw.iterdir())


def test_masks_of_two_other_values_are_told_the_threshold_between_them(roots, images, tmp_path):
    for file in (tmp_path / "masks").iterdir():
        save(square(200), file)
    assert "two values; the higher one becomes foreground with: --threshold 100" in refusal(
        images, tmp_path / "masks", "Mine", labels=LUNG)


RED, GREEN, BLACK = (255, 0, 0), (0, 200, 0), (0, 0, 0)


@pytest.fixture
def drawn(tmp_path):
    mask = np.zeros((24, 20, 3), np.uint8)
    mask[4:12, 4:10], mask[14:20, 6:16] = RED, GREEN
    save(picture(), tmp_path / "images" / "a.png")
    save(mask, tmp_path / "masks" / "a.png")
    save(picture(2), tmp_path / "images" / "b.png")
    Image.fromarray(mask).quantize(4).save(tmp_path / "masks" / "b.png")  # the same as a palette
    return tmp_path / "images", tmp_path / "masks", mask


def test_colours_are_refused_with_the_colours_found_and_converted_by_their_names(roots, drawn):
    images, masks, mask = drawn
    told = refusal(images, masks, "Mine")
    assert "--colours NAME=0,200,0 NAME=255,0,0" in told
    assert not list(roots.raw.iterdir())
    folder = run_conversion(own_folder(images, masks, "Mine", colours=["lung=255,0,0", "heart=0,200,0"]), 5)
    assert load_dataset_json(folder).labels == {"background": 0, "lung": 1, "heart": 2}
    expected = (mask[..., 0] == 255) + 2 * (mask[..., 1] == 200)
    for case in "ab":
        np.testing.assert_array_equal(read_label(folder / "labelsTr" / f"{case}.png")[0], expected)
    verify_dataset_integrity(folder)


def test_a_colour_without_a_name_is_told_with_the_flag_that_names_it(roots, drawn):
    images, masks, _ = drawn
    told = refusal(images, masks, "Mine", colours=["lung=255,0,0"])
    assert "colours that --colours does not name, on 12.50% of its pixels: 0,200,0" in told
    assert "NAME=0,200,0" in told and "lung=255,0,0" in told


def test_greys_and_another_background_have_names_as_colours_do(roots, images, tmp_path):
    mask = np.full((24, 20), 255, np.uint8)
    mask[4:12, 4:10], mask[14:20, 6:16] = 128, 0
    for file in (tmp_path / "masks").iterdir():
        save(mask, file)
    told = refusal(images, tmp_path / "masks", "Mine", labels=("background", "lung", "heart"))
    assert "Their values are 0, 128, 255; give each a name with: --colours NAME=128 NAME=255" in told
    colours = ["background=255", "lung=128", "heart=0"]
    folder = run_conversion(own_folder(images, tmp_path / "masks", "Mine", colours=colours), 5)
    label = read_label(folder / "labelsTr" / "case 1.png")[0]
    np.testing.assert_array_equal(label, (mask == 128) + 2 * (mask == 0))


@pytest.mark.parametrize("colours", [["lung"], ["lung=1,2"], ["lung=a,b,c"], ["=1,2,3"], ["lung=0,0,0"],
                                     ["lung=1,2,3", "heart=1,2,3"], ["background=0,0,0"]])
def test_colours_that_are_none_get_a_sentence(drawn, colours):
    with pytest.raises(ConfigurationError, match=r"--colours|--labels"):
        own_folder(*drawn[:2], "Mine", colours=colours)


def two_files(root) -> tuple[np.ndarray, np.ndarray]:
    lung, heart = np.zeros((24, 20), np.uint8), np.zeros((24, 20), np.uint8)
    lung[2:14, 2:12], heart[10:20, 8:18] = 255, 1
    return lung, heart


@pytest.mark.parametrize("layout", ["folders", "endings", "beside", "elsewhere"])
def test_one_file_a_structure_in_folders_or_by_ending_and_the_later_lies_on_top(roots, tmp_path, caplog, layout):
    lung, heart = two_files(tmp_path)
    images, masks = tmp_path / "images", tmp_path / ("images" if layout == "beside" else "masks")
    for case in ("a", "a2"):
        save(picture(), images / f"{case}.png")
        for name, mask in (("lung", lung), ("heart", heart)):
            inside = masks / f"{case}_{name}.png" if layout in ("endings", "beside") else masks / name / f"{case}.png"
            save(mask, inside)
    if layout in ("folders", "endings"):
        told = refusal(images, masks, "Mine")
        assert ("--structures NAME=heart NAME=lung" if layout == "folders" else "NAME=_heart NAME=_lung") in told
        assert not list(roots.raw.iterdir())
    where = {"folders": "", "elsewhere": f"{masks}/"}.get(layout, "_")
    structures = [f"lung={where}lung", f"heart={where}heart"]
    folder = run_conversion(own_folder(images, images if layout == "elsewhere" else masks, "Mine",
                                       structures=structures), 5)
    assert load_dataset_json(folder).labels == {"background": 0, "lung": 1, "heart": 2}
    for case in ("a", "a2"):
        label = read_label(folder / "labelsTr" / f"{case}.png")[0]
        np.testing.assert_array_equal(label, np.where(heart, 2, lung > 0))
    assert files_of(folder / "imagesTr") == ["a2_0000.png", "a_0000.png"]
    assert "Structures overlap in 2 of 2 masks, on 32 pixels in all." in caplog.text
    verify_dataset_integrity(folder)


def test_a_structure_without_a_file_counts_as_absent_with_a_warning_and_several_files_may_show_one(
    roots, tmp_path, caplog
):
    lung, heart = two_files(tmp_path)
    for case in "ab":
        save(picture(), tmp_path / "images" / f"{case}.png")
        save(lung, tmp_path / "masks" / f"{case}_1.png")
    save(heart, tmp_path / "masks" / "a_2.png")
    folder = run_conversion(own_folder(
        tmp_path / "images", tmp_path / "masks", "Mine", structures=["tumour=_1", "tumour=_2"]), 5)
    np.testing.assert_array_equal(read_label(folder / "labelsTr" / "a.png")[0], (lung > 0) | (heart > 0))
    assert "overlap" not in caplog.text
    own_folder(tmp_path / "images", tmp_path / "masks", "Other", structures=["lung=_1", "heart=_2"])
    assert "1 of 2 images have no mask of heart, for example b" in caplog.text


@pytest.mark.parametrize(("given", "text"), [
    ({"structures": ["lung"]}, "expected NAME=FOLDER"),
    ({"structures": ["lung=_nowhere"]}, "there is no folder _nowhere"),
    ({"structures": ["a=_mask"], "labels": LUNG}, "leave --labels out"),
    ({"structures": ["a=_mask"], "colours": ["a=1,2,3"]}, "neither with --structures"),
    ({"threshold": 127, "colours": ["a=1,2,3"]}, "nor with --threshold"),
    ({"threshold": float("nan")}, "expected a number of 0 or more"),
    ({"threshold": 127, "labels": ("background", "lung", "heart")}, "makes one structure"),
])
def test_flags_that_do_not_go_together_get_a_sentence(roots, images, tmp_path, given, text):
    with pytest.raises((ConfigurationError, DatasetError), match=text):
        own_folder(images, tmp_path / "masks", "Mine", **given)
    assert not list(roots.raw.iterdir())


def test_masks_of_one_case_that_differ_in_size_are_refused(roots, tmp_path):
    lung, heart = two_files(tmp_path)
    save(picture(), tmp_path / "images" / "a.png")
    save(lung, tmp_path / "masks" / "a_1.png")
    save(heart[:-1], tmp_path / "masks" / "a_2.png")
    assert "a_2.png has the size (20, 23), but a_1.png of the same image has (20, 24)" in refusal(
        tmp_path / "images", tmp_path / "masks", "Mine", structures=["lung=_1", "heart=_2"])


def test_what_is_left_out_of_a_folder_is_told(images, tmp_path, caplog):
    save(picture(), images / "site2" / "c.png")
    (images / "d.gif").write_bytes(b"GIF89a")
    (images / "notes.txt").touch()
    own_folder(images, tmp_path / "masks", "Chest")
    assert f"2 files of {images} are left out, since they are no images that are read: .gif (1), .txt" in caplog.text
    assert f"Images in folders inside {images} are left out: site2 (1)" in caplog.text


def test_a_name_that_cannot_be_a_cases_is_refused(images, tmp_path):
    (images / "case 1.png").rename(images / "case\x1b[31m.png")
    (tmp_path / "masks" / "case 1_mask.png").rename(tmp_path / "masks" / "case\x1b[31m.png")
    with pytest.raises(DatasetError, match="written with control characters.*Rename the file"):
        own_folder(images, tmp_path / "masks", "Chest")


@pytest.mark.parametrize("together", [True, False])
def test_several_masks_of_one_structure_are_told_the_flag_that_unites_them(roots, tmp_path, together):
    lung, other = two_files(tmp_path)
    images, masks = tmp_path / "images", tmp_path / ("images" if together else "masks")
    for case in ("a", "b"):
        save(picture(), images / f"{case}.png")
        save(lung, masks / f"{case}_mask.png")
    save(other, masks / "a_mask_1.png")
    assert "--structures NAME=_mask NAME=_mask_1" in refusal(images, masks, "Mine")
    assert not list(roots.raw.iterdir())
    folder = run_conversion(own_folder(images, masks, "Mine", structures=["tumour=mask", "tumour=mask_1"]), 5)
    np.testing.assert_array_equal(read_label(folder / "labelsTr" / "a.png")[0], (lung > 0) | (other > 0))


def test_structures_that_are_not_named_are_left_out_with_a_warning_and_two_files_of_one_are_refused(
    roots, tmp_path, caplog
):
    lung, heart = two_files(tmp_path)
    save(picture(), tmp_path / "images" / "a.png")
    save(lung, tmp_path / "masks" / "a_lung.png")
    save(heart, tmp_path / "masks" / "a_heart.png")
    given = tmp_path / "images", tmp_path / "masks", "Mine"
    folder = run_conversion(own_folder(*given, structures=["lung=_lung"]), 5)
    np.testing.assert_array_equal(read_label(folder / "labelsTr" / "a.png")[0], lung > 0)
    assert "1 files of" in caplog.text and "left out, for example a_heart.png" in caplog.text
    save(lung, tmp_path / "masks" / "b_heart.png")
    with pytest.raises(DatasetError, match=r"b_heart.png belongs to no image"):
        own_folder(*given, structures=["lung=_lung"])
    (tmp_path / "masks" / "b_heart.png").unlink()
    save(lung, tmp_path / "masks" / "a_lung.bmp")
    with pytest.raises(DatasetError, match=r"a_lung\..* are both the mask _lung of a"):
        own_folder(*given, structures=["lung=_lung"])


def test_a_threshold_neither_hides_colours_nor_empties_masks_of_another_range_without_a_word(
    roots, images, tmp_path, caplog
):
    masks = tmp_path / "masks"
    save(square(1), masks / "case 1_mask.png")
    own_folder(images, masks, "Mine", labels=LUNG, threshold=127)
    assert "1 of 2 masks hold something of which nothing lies above --threshold 127" in caplog.text
    assert "case 1_mask.png" in caplog.text
    drawing = rgb(np.zeros((24, 20), np.uint8))
    drawing[:2, :2] = RED  # few pixels, and dark as a grey
    save(drawing, masks / "case 1_mask.png")
    told = refusal(images, masks, "Mine", labels=LUNG, threshold=127)
    assert "is coloured" in told and "--colours NAME=255,0,0" in told


def test_two_values_that_differ_from_mask_to_mask_are_told_a_threshold_below_all(roots, images, tmp_path):
    save(square(60), tmp_path / "masks" / "case 1_mask.png")
    save(square(200), tmp_path / "masks" / "case 2_mask.png")
    assert "--threshold 30" in refusal(images, tmp_path / "masks", "Mine", labels=LUNG)

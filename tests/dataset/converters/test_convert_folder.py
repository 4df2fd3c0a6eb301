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

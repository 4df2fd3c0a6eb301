"""``samdpo_ensemble``: probabilities of several models averaged, cut and written as samdpo_predict writes them."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from predicted_folders import PICTURE, plans_of, write_predictions
from trained_models import second_fold

from samdpo.cli.ensemble import main
from samdpo.dataset.images import read_image, read_label
from samdpo.errors import ConfigurationError, DatasetError
from samdpo.files import read_json, write_json
from samdpo.model.masks import label_map
from samdpo.model.predictor import Predictor
from samdpo.selection.ensemble import ensemble_folders

PLANS = plans_of({"liver": 1, "spleen": 3})


def random(seed: int, shape: tuple[int, ...] = (2, 1, 40, 48)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.fixture
def members(tmp_path):
    """Two folders of predictions of two pictures."""
    return [
        write_predictions(tmp_path / name, {"a": random(seed), "b": random(seed + 1)}, PLANS)
        for name, seed in (("one", 0), ("two", 10))
    ]


def test_the_mask_is_cut_from_the_mean_probability(members, tmp_path):
    masks = ensemble_folders(members, tmp_path / "out", save_probabilities=True)
    assert [m.name for m in masks] == ["a.png", "b.png"]
    mean = (random(0) + random(10)) / 2
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "a.png"), label_map(mean, 0.5, [1, 3]))
    with np.load(tmp_path / "out" / "a.npz") as stored:
        np.testing.assert_allclose(stored["probabilities"][1:], mean, atol=1e-6)
        np.testing.assert_allclose(stored["probabilities"][0], 1 - mean.max(0), atol=1e-6)


def test_three_folders_weigh_the_same(members, tmp_path):
    third = write_predictions(tmp_path / "three", {"a": random(20), "b": random(21)}, PLANS)
    ensemble_folders([*members, third], tmp_path / "out", save_probabilities=True)
    with np.load(tmp_path / "out" / "b.npz") as stored:
        mean = np.mean([random(1), random(11), random(21)], axis=0)
        np.testing.assert_allclose(stored["probabilities"][1:], mean, atol=1e-6)


def test_a_model_averaged_with_itself_says_what_it_said(members, tmp_path):
    ensemble_folders([members[0], members[0]], tmp_path / "out")
    for case in ("a", "b"):
        np.testing.assert_array_equal(read_label(tmp_path / "out" / f"{case}.png"),
                                      read_label(members[0] / f"{case}.png"))
    assert not (tmp_path / "out" / "a.npz").exists(), "only with --npz"


def test_the_cut_is_the_mean_of_the_members_cuts(members, tmp_path):
    other = write_predictions(tmp_path / "bold", {"a": random(10), "b": random(11)}, PLANS, cut=0.3)
    ensemble_folders([members[0], other], tmp_path / "out")
    mean = (random(0) + random(10)) / 2
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "a.png"), label_map(mean, 0.4, [1, 3]))
    assert read_json(tmp_path / "out" / "a.json")["mask_cut"] == pytest.approx(0.4)


def test_the_report_says_who_was_unsure(members, tmp_path):
    unsure = write_predictions(tmp_path / "unsure", {"a": random(10), "b": random(11)}, PLANS,
                               reasons=("spleen: nothing was found",))
    ensemble_folders([members[0], unsure], tmp_path / "out")
    report = read_json(tmp_path / "out" / "a.json")
    assert report["case"] == "a" and report["look_at"]
    assert report["reasons"] == ["unsure: spleen: nothing was found"]
    assert report["structures"]["liver"]["pixels"] == (read_label(tmp_path / "out" / "a.png") == 1).sum()
    assert 0 < report["structures"]["liver"]["confidence"] < 1
    assert read_json(tmp_path / "out" / "ensemble_args.json")["look_at"] == ["a", "b"]


def test_a_volume_keeps_its_geometry(tmp_path):
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.zeros((5, 20, 16), np.float32))
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-12.5, 7.25, 100.0))
    image.SetDirection((-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    properties = read_image(tmp_path / "image.nii.gz").properties
    plans = plans_of({"liver": 1, "spleen": 3}, ".nii.gz")
    folders = [
        write_predictions(tmp_path / name, {"ct": random(seed, (2, 5, 20, 16))}, plans, properties)
        for name, seed in (("one", 0), ("two", 1))
    ]
    ensemble_folders(folders, tmp_path / "out")
    written = sitk.ReadImage(str(tmp_path / "out" / "ct.nii.gz"))
    for of in ("Spacing", "Origin", "Direction", "Size"):
        assert getattr(written, f"Get{of}")() == pytest.approx(getattr(image, f"Get{of}")())
    report = read_json(tmp_path / "out" / "ct.json")["structures"]["liver"]
    assert report["volume_ml"] == pytest.approx(report["pixels"] * 0.7 * 0.8 * 3 / 1000, rel=1e-5)


def test_masks_of_dicom_series_stay_nifti(tmp_path):
    """A model trained on pictures writes CASE.nii.gz for a DICOM series; so does its ensemble."""
    folders = []
    for name, seed in (("one", 0), ("two", 1)):
        as_nifti = plans_of({"liver": 1, "spleen": 3}, ".nii.gz")
        properties = {"spacing": [2.0, 1.0, 1.0], "shape": [3, 20, 16]}
        folder = write_predictions(tmp_path / name, {"series": random(seed, (2, 3, 20, 16))}, as_nifti, {
            **properties, "sitk_stuff": {"spacing": (1.0, 1.0, 2.0), "origin": (0.0, 0.0, 0.0),
                                         "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}})
        shutil.copyfile(write_predictions(tmp_path / "pictures", {}, PLANS) / "plans.json", folder / "plans.json")
        folders.append(folder)
    assert [m.name for m in ensemble_folders(folders, tmp_path / "out")] == ["series.nii.gz"]


def test_the_largest_part_alone_is_kept_where_every_model_keeps_it(tmp_path):
    apart = np.zeros((2, 1, 40, 48), np.float32)
    for row in (0, 1):
        apart[row, 0, 2 + 20 * row : 12 + 20 * row, 2:12] = 0.9
        apart[row, 0, 2 + 20 * row : 5 + 20 * row, 20:23] = 0.9
    structures = {"liver": 1, "spleen": 3}
    folders = [
        write_predictions(tmp_path / name, {"a": apart}, plans_of(structures, largest=largest), PICTURE)
        for name, largest in (("both", ("liver", "spleen")), ("liver", ("liver",)))
    ]
    ensemble_folders(folders, tmp_path / "out")
    mask = read_label(tmp_path / "out" / "a.png")
    assert (mask == 1).sum() == 100 and (mask == 3).sum() == 109


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_folders_of_different_cases_are_refused_and_the_missing_ones_named(members, tmp_path):
    (members[1] / "b.npz").unlink()
    with pytest.raises(DatasetError, match=r"two lacks the probabilities .* 1 of 2 cases: b\..*--save_probabilities"):
        ensemble_folders(members, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_without_probabilities_are_refused(tmp_path):
    folders = [write_predictions(tmp_path / n, {"a": random(0)}, PLANS, npz=False) for n in ("one", "two")]
    with pytest.raises(DatasetError, match="--save_probabilities"):
        ensemble_folders(folders, tmp_path / "out")


def test_probabilities_of_an_earlier_prediction_do_not_stay_beside_a_new_mask(members, tmp_path):
    write_predictions(members[1], {"a": random(30), "b": random(31)}, PLANS, npz=False)
    with pytest.raises(DatasetError, match="two lacks the probabilities .* 2 of 2 cases"):
        ensemble_folders(members, tmp_path / "out")


def test_images_of_different_size_are_refused(members, tmp_path):
    other = write_predictions(tmp_path / "other", {"a": random(0, (2, 1, 30, 48)), "b": random(1)}, PLANS)
    with pytest.raises(DatasetError, match=r"a\.png has the size .* Only predictions of the same images"):
        ensemble_folders([members[0], other], tmp_path / "out")
    (other / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"other/a\.npz holds .*\(3, 1, 30, 48\); expected \(3, 1, 40, 48\)"):
        ensemble_folders([members[0], other], tmp_path / "out")


def test_models_of_different_structures_are_refused(members, tmp_path):
    other = write_predictions(tmp_path / "other", {"a": random(0), "b": random(1)}, plans_of({"spleen": 1, "liver": 3}))
    with pytest.raises(DatasetError, match=r"structures \{'liver': 1, 'spleen': 3\}.*\{'spleen': 1, 'liver': 3\}"):
        ensemble_folders([members[0], other], tmp_path / "out")


def test_a_damaged_file_is_named(members, tmp_path):
    whole = (members[1] / "a.npz").read_bytes()
    (members[1] / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"two/a\.npz cannot be read as probabilities"):
        ensemble_folders(members, tmp_path / "out")


def test_what_is_no_folder_of_predictions_is_a_sentence(members, tmp_path):
    with pytest.raises(ConfigurationError, match="two folders or more"):
        ensemble_folders(members[:1], tmp_path / "out")
    with pytest.raises(ConfigurationError, match="none is not a folder"):
        ensemble_folders([members[0], tmp_path / "none"], tmp_path / "out")
    with pytest.raises(ConfigurationError, match="one of the folders"):
        ensemble_folders(members, members[1])
    (members[0] / "plans.json").unlink()
    with pytest.raises(ConfigurationError, match=r"one/plans\.json is missing"):
        ensemble_folders(members, tmp_path / "out")


# ---- with trained models --------------------------------------------------------------------------------------------


def test_stages_are_predicted_and_averaged_as_typed(aligned, predict, tmp_path, monkeypatch):
    for stage in ("finetune", "align"):
        predict("-i", aligned.raw / "imagesTs", "-o", tmp_path / stage, "-d", 901, "-c", stage,
                "--save_probabilities")
    words = ["samdpo_ensemble", "-i", tmp_path / "finetune", tmp_path / "align", "-o", tmp_path / "out", "--npz"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "-np", "1"])
    main()
    names = {f.name for f in (tmp_path / "finetune").iterdir()} - {"predict_from_raw_data_args.json"}
    assert {f.name for f in (tmp_path / "out").iterdir()} == names | {"ensemble_args.json"}
    stored = [np.load(tmp_path / f / "xray_ts_001.npz")["probabilities"] for f in ("finetune", "align", "out")]
    assert not np.array_equal(stored[0], stored[1])
    np.testing.assert_allclose(stored[2][1:], (stored[0][1:] + stored[1][1:]) / 2, atol=1e-6)


def test_folds_averaged_by_the_predictor_are_the_ensemble_of_the_folds(aligned, predict, tmp_path):
    second_fold(aligned)
    images = aligned.raw / "imagesTs"
    for fold in (0, 1):
        predict("-i", images, "-o", tmp_path / f"{fold}", "-m", aligned.finetuned, "-f", fold, "--save_probabilities")
    ensemble_folders([tmp_path / "0", tmp_path / "1"], tmp_path / "out", save_probabilities=True)
    predictor = Predictor.from_model_folder(aligned.finetuned, [0, 1], device="cpu")
    predictor.set_image(images / "xray_ts_002_0000.png")
    with np.load(tmp_path / "out" / "xray_ts_002.npz") as stored:
        np.testing.assert_allclose(stored["probabilities"][1:], predictor.predict().probabilities, atol=1e-5)


def test_masks_of_other_values_and_members_of_other_images_are_refused(members, tmp_path):
    from samdpo.dataset.images import write_label

    for folder, content in zip(members, ("one", "two")):
        write_json(folder / "a.json", {**read_json(folder / "a.json"), "input_hash": content})
    with pytest.raises(DatasetError, match="images of different content"):
        ensemble_folders(members, tmp_path / "out")
    write_label(np.full((1, 40, 48), 255), members[1] / "a.png", PICTURE)
    with pytest.raises(DatasetError, match=r"two/a\.png holds the value\(s\) 255"):
        ensemble_folders(members, tmp_path / "out")


def test_members_that_lie_elsewhere_in_space_are_refused(tmp_path):
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.zeros((4, 40, 48), np.int16))
    folders = []
    for name, origin in (("one", (0, 0, 0)), ("two", (0, 0, 30))):
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        properties = read_image(tmp_path / f"{name}.nii.gz").properties
        folders.append(write_predictions(tmp_path / name, {"a": random(3, (2, 4, 40, 48))},
                                         plans_of({"liver": 1, "spleen": 3}, ".nii.gz"), properties))
    with pytest.raises(DatasetError, match=r"two/a\.nii\.gz has the origin \(0, 0, 30\)"):
        ensemble_folders(folders, tmp_path / "out")


def test_stacks_of_pictures_keep_their_spacing_through_every_step(tmp_path):
    from samdpo.dataset.images import read_label_with_properties
    from samdpo.selection.postprocessing import Postprocessing, StructureEffect, apply_postprocessing

    stack = {"spacing": [3.0, 0.5, 0.5], "shape": [4, 40, 48]}
    plans = plans_of({"liver": 1, "spleen": 3}, ".tif")
    folders = [write_predictions(tmp_path / name, {"a": random(seed, (2, 4, 40, 48))}, plans, stack)
               for seed, name in enumerate(("one", "two"))]
    report = read_json(folders[0] / "a.json")
    assert report["spacing"] == stack["spacing"] and "look_at" in report, "one file, both meanings"
    ensemble_folders(folders, tmp_path / "both")
    Postprocessing({"liver": StructureEffect(1, 0.8, 0.9)}).save(tmp_path / "postprocessing.json")
    apply_postprocessing(tmp_path / "both", tmp_path / "cleaned", tmp_path / "postprocessing.json")
    for folder in (*folders, tmp_path / "both", tmp_path / "cleaned"):
        assert read_label_with_properties(folder / "a.tif")[1]["spacing"] == stack["spacing"], folder
    assert read_json(tmp_path / "both" / "a.json")["structures"]["liver"]["volume_ml"] > 0

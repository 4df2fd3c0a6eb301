"""``samdpo_predict`` as typed."""

from __future__ import annotations

import os
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from trained_models import VARIABLES

from samdpo.dataset.images import read_label
from samdpo.files import read_json, write_json
from samdpo.model.predictor import Predictor


def test_every_case_gets_a_mask_in_native_size_and_a_report(aligned, predict, tmp_path):
    images, output = aligned.raw / "imagesTs", tmp_path / "out"
    said = predict("-i", images, "-o", output)
    assert "3 cases written" in said
    assert {f.name for f in output.iterdir()} == {
        "plans.json", "dataset.json", "predict_from_raw_data_args.json",
        *(f"xray_ts_00{i}.{ending}" for i in (1, 2, 3) for ending in ("png", "json")),
    }
    assert read_label(output / "xray_ts_001.png").shape == (1, 96, 112)
    report = read_json(output / "xray_ts_001.json")
    assert report["case"] == "xray_ts_001" and "lung" in report["structures"]
    asked = read_json(output / "predict_from_raw_data_args.json")
    assert asked["model"] == aligned.aligned.name and asked["mirror"] is True


def test_the_command_and_the_python_class_give_the_same(aligned, predict, tmp_path):
    predict("-i", aligned.raw / "imagesTs", "-o", tmp_path / "out", "--save_probabilities")
    predictor = Predictor.from_model_folder(aligned.aligned, device="cpu")
    for case in ("xray_ts_001", "xray_ts_003"):
        predictor.set_image(aligned.raw / "imagesTs" / f"{case}_0000.png")
        prediction = predictor.predict()
        np.testing.assert_array_equal(read_label(tmp_path / "out" / f"{case}.png"), prediction.segmentation)
        with np.load(tmp_path / "out" / f"{case}.npz") as stored:
            probabilities = stored["probabilities"]
        assert probabilities.shape == (2, 1, 96, 112), "background first, as nnU-Net's"
        np.testing.assert_array_equal(probabilities[1:], prediction.probabilities)
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)


def test_a_model_folder_alone_is_enough(aligned, predict, tmp_path, monkeypatch):
    model, images = tmp_path / "sent by mail", tmp_path / "images"
    shutil.copytree(aligned.aligned, model)
    shutil.copytree(aligned.raw / "imagesTs", images)
    for name in VARIABLES:
        monkeypatch.delenv(name)
    shutil.rmtree(aligned.root)
    assert "3 cases written" in predict("-i", images, "-o", tmp_path / "out", "-m", model)


def test_continue_prediction_leaves_what_is_there(aligned, predict, tmp_path):
    images, output = aligned.raw / "imagesTs", tmp_path / "out"
    predict("-i", images, "-o", output)
    (output / "xray_ts_002.png").unlink()
    before = (output / "xray_ts_001.png").stat().st_mtime_ns
    said = predict("-i", images, "-o", output, "--continue_prediction")
    assert "1 cases written" in said and "2 were there already" in said
    assert (output / "xray_ts_001.png").stat().st_mtime_ns == before and (output / "xray_ts_002.png").is_file()


@pytest.fixture
def predicted(finetuned, predict, tmp_path):
    """A folder of the three test images and one of their masks, and what is typed to predict them."""
    images, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(finetuned.raw / "imagesTs", images)
    words = ("-i", images, "-o", output, "-m", finetuned.finetuned, "--disable_tta")
    predict(*words)
    return images, output, words


def rewritten(file, **changes):
    content = {**read_json(file), **changes}
    write_json(file, {key: value for key, value in content.items() if value is not None})


def test_masks_that_another_model_made_are_not_continued(finetuned, predicted, fails, predict):
    _, output, words = predicted
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    (output / "xray_ts_002.png").unlink()
    for typed in ((*words[:-1], "--continue_prediction"), (*words, "-f", "0", "--continue_prediction")):
        if "-f" in typed:  # the same folds, named
            assert "2 were there already" in predict(*typed)
            continue
        said = fails(*typed)
        assert "2 masks are made by another model, or by other folds or settings" in said and "xray_ts_001.png" in said
        assert "leave out --continue_prediction" in said
    model = finetuned.finetuned / "fold_0" / "model.json"
    rewritten(model, mask_cut=0.4)
    assert "3 masks are made by another model" in fails(*words, "--continue_prediction")
    assert {f.name: f.read_bytes() for f in output.iterdir() if f.suffix == ".png"} == {
        name: content for name, content in before.items() if name.endswith(".png")}


def test_masks_of_unknown_origin_are_not_continued(predicted, fails):
    _, output, words = predicted
    (output / "xray_ts_001.json").unlink()
    said = fails(*words, "--continue_prediction")
    assert "1 masks are of unknown origin" in said and (output / "xray_ts_001.png").is_file()


def test_masks_of_an_older_version_are_compared_by_what_was_asked(predicted, predict, fails):
    _, output, words = predicted
    for case in ("xray_ts_001", "xray_ts_002", "xray_ts_003"):
        rewritten(output / f"{case}.json", made_by=None, input_hash=None)
    rewritten(output / "predict_from_raw_data_args.json", made_by=None, finished=None)
    assert "3 were there already" in predict(*words, "--continue_prediction")
    rewritten(output / "predict_from_raw_data_args.json", made_by=None, model="AlignTrainer__samdpoPlans__align")
    assert "made by AlignTrainer__samdpoPlans__align" in fails(*words, "--continue_prediction")


def test_an_image_that_was_replaced_is_predicted_again_and_flags_are_kept(predicted, predict):
    images, output, words = predicted
    rewritten(output / "xray_ts_003.json", look_at=True, reasons=["somebody said so"])
    before = {case: (output / f"{case}.png").stat().st_mtime_ns for case in ("xray_ts_001", "xray_ts_002")}
    os.utime(images / "xray_ts_002_0000.png")  # touched, not changed
    iio.imwrite(images / "xray_ts_001_0000.png", np.fliplr(iio.imread(images / "xray_ts_001_0000.png")))
    said = predict(*words, "--continue_prediction")
    assert "1 cases written" in said and "2 were there already" in said and "are predicted again" in said
    assert (output / "xray_ts_001.png").stat().st_mtime_ns != before["xray_ts_001"]
    assert (output / "xray_ts_002.png").stat().st_mtime_ns == before["xray_ts_002"]
    assert "xray_ts_003" in read_json(output / "predict_from_raw_data_args.json")["look_at"]
    assert "3 cases written" in predict(*words, "--continue_prediction", "--save_probabilities"), "they are not there"


def test_a_run_that_was_killed_left_word_and_goes_on_over_masks_that_it_was_to_replace(predicted, predict, monkeypatch):
    _, output, words = predicted
    for case in ("xray_ts_001", "xray_ts_002", "xray_ts_003"):
        rewritten(output / f"{case}.json", made_by="of another model")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("samdpo.inference.predict_folder.write_prediction", killed)
        predict(*words)
    asked = read_json(output / "predict_from_raw_data_args.json")
    assert asked["finished"] is False and asked["made_by"]
    assert "3 cases written" in predict(*words, "--continue_prediction")
    assert read_json(output / "predict_from_raw_data_args.json")["finished"] is True


def test_what_was_left_out_is_named_and_the_command_ends_with_an_error(finetuned, fails, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(finetuned.raw / "imagesTs", images)
    (images / "xray_ts_002_0000.png").rename(images / "dataset_0000.png")
    (images / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (images / "xray_ts_003_0000.png").unlink()
    (images / "xray_ts_003_0000.png").symlink_to("/mnt/gone/x.png")
    (images / "notes.txt").touch()
    said = fails("-i", images, "-o", tmp_path / "out", "-m", finetuned.finetuned)
    assert "3 images of" in said and "were left out" in said and "notes" not in said
    assert "photo.jpg is lossy" in said and "is a link to /mnt/gone/x.png" in said and "called 'dataset'" in said
    assert {f.name for f in (tmp_path / "out").glob("*.png")} == {"xray_ts_001.png"}
    assert "labels" in read_json(tmp_path / "out" / "dataset.json"), "the data set's own"


def test_a_case_that_is_unlike_training_is_flagged_with_the_reason(finetuned, predict, tmp_path):
    (tmp_path / "in").mkdir()
    iio.imwrite(tmp_path / "in" / "black.png", np.zeros((96, 112), np.uint8))
    predict("-i", tmp_path / "in", "-o", tmp_path / "out", "-m", finetuned.finetuned)
    report = read_json(tmp_path / "out" / "black.json")
    assert report["look_at"] and report["reasons"][0] == "the image is of one value, 0: it shows nothing"


def test_what_is_typed_beside_a_model_folder_must_be_true_of_it(finetuned, predict, fails, tmp_path):
    words = ("-i", finetuned.raw / "imagesTs", "-o", tmp_path / "out", "-m", finetuned.finetuned)
    for flag, value in (("-d", "902"), ("-p", "otherPlans"), ("-c", "align")):
        assert f"{flag} {value} is given, but -m" in fails(*words, flag, value)
    predict(*words, "-d", "901", "-p", "samdpoPlans", "-c", "finetune")


def test_results_that_may_only_be_read_are_predicted_with(finetuned, predict, tmp_path, monkeypatch):
    allowed = os.access
    results = str(finetuned.root / "nnUNet_results")
    monkeypatch.setattr(os, "access", lambda path, mode, **options: not (
        mode & os.W_OK and str(path).startswith(results)) and allowed(path, mode, **options))
    assert "3 cases written" in predict("-d", "901", "-i", finetuned.raw / "imagesTs", "-o", tmp_path / "out")


def test_an_unreadable_image_is_named_and_the_others_are_predicted(aligned, fails, tmp_path):
    images, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(aligned.raw / "imagesTs", images)
    whole = (images / "xray_ts_002_0000.png").read_bytes()
    (images / "xray_ts_002_0000.png").write_bytes(whole[: len(whole) // 2])
    said = fails("-i", images, "-o", output)
    assert "1 cases could not be predicted" in said and "xray_ts_002_0000.png" in said
    assert {f.stem for f in output.glob("*.png")} == {"xray_ts_001", "xray_ts_003"}


def test_one_image_may_stand_in_place_of_a_folder_and_needs_no_channel_number(aligned, predict, tmp_path):
    shutil.copyfile(aligned.raw / "imagesTs" / "xray_ts_001_0000.png", tmp_path / "mine.png")
    predict("-i", tmp_path / "mine.png", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "mine.png").is_file()


def test_a_folder_that_is_not_there_or_empty_is_a_sentence(aligned, fails, tmp_path):
    assert "none" in fails("-i", tmp_path / "none", "-o", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in fails("-i", tmp_path / "empty", "-o", tmp_path / "out")
    images = aligned.raw / "imagesTs"
    assert "is the input folder" in fails("-i", images, "-o", images)
    assert not (tmp_path / "out").exists()


def test_without_a_model_the_sentence_says_how_to_name_one(planned, fails, tmp_path):
    assert "-m FOLDER" in fails("-i", planned.raw / "imagesTs", "-o", tmp_path / "out")


def test_a_stage_is_named_with_c(aligned, predict, tmp_path):
    predict("-i", aligned.raw / "imagesTs", "-o", tmp_path / "out", "-d", "901", "-c", "finetune", "-f", "0",
            "--disable_tta")
    asked = read_json(tmp_path / "out" / "predict_from_raw_data_args.json")
    assert asked["model"] == aligned.finetuned.name and asked["folds"] == ["0"] and asked["mirror"] is False

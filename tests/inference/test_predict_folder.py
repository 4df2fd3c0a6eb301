"""``samdpo_predict`` as typed."""

from __future__ import annotations

import shutil

import numpy as np
from trained_models import VARIABLES

from samdpo.dataset.images import read_label
from samdpo.files import read_json
from samdpo.inference.predictor import Predictor


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

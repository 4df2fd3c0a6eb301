"""SAM-Med3D on phantom CTs, with a network of 0.3 million parameters and patches of 32 voxels."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from samdpo.dataset.images import read_label
from samdpo.dataset.phantoms import make_phantom_dataset
from samdpo.errors import ModelFolderError, PlansError, TrainingError
from samdpo.files import read_json, write_json
from samdpo.inference.predict_folder import predict_folder
from samdpo.lab.sam_med3d import trainer as baseline
from samdpo.lab.sam_med3d.network import build_sam_med3d
from samdpo.model.description import MANIFEST
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights, save_weights
from samdpo.paths import preprocessed_folder, raw_folder
from samdpo.planning.plan_and_preprocess import plan_and_preprocess
from samdpo.plans import NetworkPlan, load_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.training.get_trainer import get_trainer

NUMBER, NAME = 902, "Dataset902_PhantomCT"
ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINER = "samdpo.lab.sam_med3d.trainer:SamMed3dTrainer"
STAGE = {
    "trainer": TRAINER, "epochs": 4, "slices_per_epoch": 6, "batch_size": 2, "lr": 3e-3, "encoder_lr": 3e-3,
    "lr_halving_epochs": 100, "save_every": 1, "plan": {
        "network": {"backbone": "sam_med3d_tiny", "pretrained": False, "frozen_stages": 0, "train": "full"},
        "inference": {"smooth_mm": 0.0},
    },
}


def stage(*overrides, **arguments):
    """As ``samdpo_train 902 sam_med3d 0 --set OVERRIDES``, not yet initialised."""
    return get_trainer(NUMBER, "sam_med3d", 0, device="cpu", overrides=overrides, **arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five CTs of 16 slices of 48 x 48 pixels, planned with the stage, and one more to predict; trained once."""
    root = tmp_path_factory.mktemp("sam_med3d")
    with pytest.MonkeyPatch.context() as patch:
        for name in ROOTS:
            patch.setenv(name, str(root / name))
            (root / name).mkdir()
        make_phantom_dataset("ct", root / ROOTS[0] / NAME, 5, 0, 1, 0, size=(16, 48, 48))
        plan_and_preprocess(NUMBER)
        file = root / ROOTS[1] / NAME / "samdpoPlans.json"
        content = read_json(file)
        content["configurations"]["sam_med3d"] = STAGE
        write_json(file, content)
        patch.setattr(baseline, "CLICKS", 3)
        trainer = stage()
        trainer.train()
    return root, trainer.run_log.history


@pytest.fixture
def trained(made, tmp_path, monkeypatch):
    """The test's own copy; the model's folder."""
    shutil.copytree(made[0], tmp_path / "roots", copy_function=os.link)
    for name in ROOTS:
        monkeypatch.setenv(name, str(tmp_path / "roots" / name))
    monkeypatch.setattr(baseline, "CLICKS", 3)
    return tmp_path / "roots" / ROOTS[2] / NAME / "SamMed3dTrainer__samdpoPlans__sam_med3d"


def weights(model, file="checkpoint_final.safetensors"):
    return load_weights(model / "fold_0" / file)


def test_training_writes_a_model_folder_that_describes_itself_and_two_validations(trained):
    fold = trained / "fold_0"
    model = read_json(fold / "model.json")
    structures = list(read_json(trained / "plans.json")["structures"])
    assert list(model["clicks"]) == structures
    assert all(0 < fraction < 1 for place in model["clicks"].values() for fraction in place)
    assert model["trainer"] == TRAINER
    assert len(model["labelled_cases"]) == 4
    assert not (fold / "prompter").exists()
    for folder in ("validation", "validation_truth_click"):
        summary = read_json(fold / folder / "summary.json")
        assert 0 <= summary["foreground_mean"]["Dice"] <= 1
        assert len(summary["metric_per_case"]) == len(list((fold / folder).glob("*.nii.gz"))) == 1


def test_the_loss_falls(made):
    history = made[1]
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert history["first_click_loss"][-1] < history["first_click_loss"][0]


def test_the_truth_clicks_are_in_the_truth_and_the_others_are_the_mean_places_of_training(trained):
    fold = trained / "fold_0"
    case = next((fold / "validation").glob("*.nii.gz")).name.removesuffix(".nii.gz")
    mean, truth = (
        read_json(fold / folder / f"{case}.json")["structures"]
        for folder in ("validation", "validation_truth_click")
    )
    clicks = read_json(fold / "model.json")["clicks"]
    plans = load_plans(trained / "plans.json")
    store = SliceStore(preprocessed_folder(NAME) / plans.preprocessing.data_identifier)
    for name, structure in plans.structures.items():
        (click,) = truth[name]["prompts"]
        (column, row), index = click["points"][0], click["slice"]
        assert store.label(case, index)[int(row), int(column)] == structure.label
        x, y, z = clicks[name]
        assert mean[name]["prompts"] == [{"slice": int(z * 16), "points": [[x * 256, y * 256]]}]


def test_the_raw_file_of_a_case_is_predicted_as_in_validation(trained, tmp_path):
    mask = next((trained / "fold_0" / "validation").glob("*.nii.gz"))
    case = mask.name.removesuffix(".nii.gz")
    image = raw_folder(NAME) / "imagesTr" / f"{case}_0000.nii.gz"
    (tmp_path / "in").mkdir()
    shutil.copyfile(image, tmp_path / "in" / image.name)
    (written,) = predict_folder(tmp_path / "in", tmp_path / "out", trained, device="cpu", save_probabilities=True)
    assert np.array_equal(read_label(written), read_label(mask))
    with np.load(written.with_name(f"{case}.npz")) as file:
        probabilities = file["probabilities"]
    assert probabilities.shape == (6, 16, 48, 48)
    assert 0 <= probabilities.min() < probabilities.max() <= 1


def test_a_structure_that_no_click_names_is_not_looked_for(trained):
    predictor = Predictor.from_model_folder(trained, device="cpu")
    store = SliceStore(preprocessed_folder(NAME) / predictor.plans.preprocessing.data_identifier)
    case = store.cases()[0]
    properties = store.properties(case)

    def predicted(clicks):
        return predictor.predict_prepared(
            store.geometry(case), lambda i: store.image(case, i), None, properties["spacing"], {}, clicks=clicks
        ).probabilities

    one = predicted({"liver": [0.3, 0.5, 0.7]})
    row = list(predictor.plans.structures).index("liver")
    assert one[row].any()
    assert not np.delete(one, row, 0).any()
    assert not predicted({}).any()


def test_a_training_that_was_cut_ends_as_one_that_was_not(trained, monkeypatch):
    whole, log = weights(trained), read_json(trained / "fold_0" / "model.json")
    trainer = stage()
    begin = trainer.on_epoch_start

    def cut(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        begin(epoch)

    trainer.on_epoch_start = cut
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    (trained / "fold_0" / "checkpoint_final.safetensors").unlink()
    monkeypatch.setattr("samdpo.lab.sam_med3d.trainer.SamMed3dTrainer.perform_actual_validation", lambda *_: {})
    stage().train(resume=True)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(trained).items())
    assert read_json(trained / "fold_0" / "model.json")["clicks"] == log["clicks"]


def test_held_back_cases_choose_the_epoch_and_the_cut(trained):
    trainer = stage("held_back=0.25", "epochs=1")
    trainer.initialize()
    assert {case for case, _ in trainer.held_back_keys}.isdisjoint(case for case, _ in trainer.train_keys)
    trainer.run_training()
    assert trainer.run_log.history["held_back_dice"][0] >= 0
    assert (trained / "fold_0" / "checkpoint_best.safetensors").is_file()


def test_only_the_decoder_trains_where_the_plan_says_so(trained):
    trainer = stage("network.train=decoder")
    trainer.initialize()
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.train_step(next(trainer.train_batches(0)))
    changed = {n for n, tensor in trainer.network.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed and all(name.startswith("mask_decoder.") for name in changed)
    with pytest.raises(PlansError, match="'network.train' is 'lora'; SAM-Med3D trains 'full' or 'decoder'"):
        stage("network.train=lora").initialize()


def test_it_starts_from_the_file_that_pretrained_weights_names(trained, tmp_path):
    torch.manual_seed(7)
    state = build_sam_med3d(NetworkPlan(backbone="sam_med3d_tiny"), False).state_dict()
    torch.save({"model_state_dict": state}, tmp_path / "turbo.pth")
    trainer = stage(pretrained_weights=tmp_path / "turbo.pth")
    trainer.initialize()
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.network.state_dict().items())


def test_single_images_are_refused_with_the_command_for_them(trained):
    plans = load_plans(preprocessed_folder(NAME) / "samdpoPlans.json").for_stage("sam_med3d")
    alone = replace(plans.preprocessing, neighbours=0.0)
    plans = replace(plans, ndim=2, preprocessing=alone, prompting=replace(plans.prompting, presence="slice"))
    with pytest.raises(TrainingError, match=r"single images, .* samdpo_train 902 sam_med2d 0"):
        baseline.SamMed3dTrainer.check_prerequisites(plans, "sam_med3d", 0)


def test_a_model_that_does_not_say_where_to_click_is_said(trained):
    file = trained / "fold_0" / "model.json"
    content = read_json(file)
    del content["clicks"]
    write_json(file, content)
    with pytest.raises(ModelFolderError, match="has no 'clicks', where SAM-Med3D is to look"):
        Predictor.from_model_folder(trained, device="cpu")
    write_json(file, {**content, "clicks": {"elsewhere": [0.5, 0.5, 0.5]}})
    with pytest.raises(ModelFolderError, match="'clicks' .* names 'elsewhere', which is not among the structures"):
        Predictor.from_model_folder(trained, device="cpu")


def test_weights_that_do_not_fit_are_said(trained):
    state = weights(trained)
    del state["mask_decoder.iou_token.weight"]
    save_weights(state, trained / "fold_0" / "checkpoint_final.safetensors")
    (trained / "fold_0" / MANIFEST).unlink()  # the word of who put them there
    with pytest.raises(ModelFolderError, match=r"1 missing, first 'mask_decoder\.iou_token\.weight'"):
        Predictor.from_model_folder(trained, device="cpu")

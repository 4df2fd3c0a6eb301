"""Stage 1: what it writes, that it learns, and its settings."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from trained_models import FINETUNED

from samdpo.errors import ConfigurationError, TrainingError
from samdpo.files import read_json
from samdpo.model.views import FLIPPED, IDENTITY, View
from samdpo.networks.weights import load_weights
from samdpo.training import checkpoints

FINAL = checkpoints.FINAL


def test_a_finished_fold_holds_everything_a_reader_looks_for(finetuned):
    fold = finetuned.finetuned / "fold_0"
    there = {str(f.relative_to(finetuned.finetuned)) for f in finetuned.finetuned.rglob("*") if f.is_file()}
    assert {
        "plans.json", "dataset.json", "dataset_fingerprint.json", f"fold_0/{FINAL}", "fold_0/model.json",
        "fold_0/prompter/prompter.json", "fold_0/prompter/towers.safetensors", "fold_0/debug.json",
        "fold_0/progress.png", "fold_0/validation/summary.json",
    } <= there
    assert list(fold.glob("training_log_*.txt")) and list(fold.rglob("events.out.tfevents.*"))
    assert len(list((fold / "validation").glob("*.png"))) == 2, "one mask for each validation case"
    assert not (fold / checkpoints.LATEST).exists()
    assert not [f for f in there if f.endswith((".pt", ".pth", ".pkl")) or "/.tmp" in f]


def test_the_description_of_a_fold_says_what_prediction_needs(finetuned):
    described = read_json(finetuned.finetuned / "fold_0" / "model.json")
    assert described["stage"] == "finetune" and described["epochs"] == FINETUNED
    assert described["trainer"] == "samdpo.training.finetune:FinetuneTrainer" and not described["custom_architecture"]
    assert len(described["labelled_cases"]) == 3
    assert 0 < described["confidence_threshold"]["lung"] < 1
    debug = read_json(finetuned.finetuned / "fold_0" / "debug.json")
    assert debug["settings"]["epochs"] == FINETUNED and debug["versions"]["torch"] == torch.__version__


def test_the_loss_falls(finetuned):
    trainer = finetuned.trainer("finetune", "epochs=8")
    trainer.initialize()
    trainer.run_training()
    loss, dice = trainer.run_log.history["loss"], trainer.run_log.history["train_dice"]
    assert np.mean(loss[-2:]) < 0.8 * np.mean(loss[:2])
    assert len(loss) == len(dice) == 8


def test_every_part_of_the_network_learns(finetuned):
    start = finetuned.trainer("finetune")
    start.initialize()
    before, after = start.network.state_dict(), load_weights(finetuned.finetuned / "fold_0" / FINAL)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"image_encoder", "prompt_encoder", "mask_decoder", "text_projection"}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(planned):
    one, again, other = (
        (planned.train("finetune", "epochs=1", seed).fold_folder / FINAL).read_bytes()
        for seed in ("seed=1", "seed=1", "seed=2")
    )
    assert one == again != other


def test_held_back_cases_choose_the_cut_and_the_best_epoch(planned):
    trainer = planned.train("finetune", "held_back=0.34", "epochs=3")
    assert len(trainer.train_keys) == 2 and len(trainer.held_back_keys) == 1
    described = read_json(trainer.fold_folder / "model.json")
    assert described["mask_cut"] in (0.2, 0.3, 0.4, 0.5, 0.6)
    assert described["held_back_dice"] == pytest.approx(max(trainer.run_log.history["held_back_dice"]))
    assert not {case for case, _ in trainer.held_back_keys} & set(described["labelled_cases"])
    best, final = (load_weights(trainer.fold_folder / name) for name in (checkpoints.BEST, FINAL))
    assert best.keys() == final.keys()


@pytest.mark.parametrize("frozen", [2, -1])
def test_kept_activations_of_frozen_stages_train_and_equal_the_encoder(planned, frozen):
    trainer = planned.trainer("finetune", f"network.frozen_stages={frozen}", "precision=fp32")
    trainer.initialize()
    trainer.run_training()
    batch = trainer.samples.collate(
        [trainer.samples.sample(key, view) for key in trainer.train_keys for view in (IDENTITY, FLIPPED)]
    )
    trainer.network.eval()
    with torch.no_grad():
        whole, kept = trainer.network.encode_image(batch.images), trainer.embeddings(batch)
    assert torch.allclose(whole, kept, atol=2e-2), "kept as float16"
    assert all(np.isfinite(trainer.run_log.history["loss"]))
    start = planned.trainer("finetune")
    start.initialize()
    before, after = start.network.image_encoder.state_dict(), trainer.network.image_encoder.state_dict()
    for name in before:
        frozen_part = frozen == -1 or name.startswith(("patch_embed", "layers.0", "layers.1"))
        if frozen_part:
            assert torch.equal(before[name], after[name]), name
    assert torch.equal(before["neck.0.weight"], after["neck.0.weight"]) == (frozen == -1)


def test_activations_of_frozen_stages_outlive_the_training_of_the_others(planned):
    first = planned.trainer("finetune", "network.frozen_stages=2", "epochs=1")
    first.initialize()
    first.run_training()
    kept = {f.name: f.stat().st_mtime_ns for f in first.feature_cache(2).store.folder.glob("*.npy")}
    assert len(kept) == 6
    assert {f.name: f.stat().st_mtime_ns for f in first.features.store.folder.glob("*.npy")} == kept


def test_a_structure_moved_out_of_the_picture_does_not_end_the_training(planned):
    trainer = planned.trainer("finetune")
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    away, here = View(shift=(1.5, 0.0), seed=0), View(seed=0)
    keys = trainer.train_keys[:2]
    for views in ((away, here), (away, away)):
        batch = trainer.samples.collate([trainer.samples.sample(k, v) for k, v in zip(keys, views)])
        trainer.train_step(batch)
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())
    trainer.run_log.close()


def test_a_fold_that_is_not_there_and_all(planned):
    with pytest.raises(TrainingError, match="folds 0 to 4"):
        planned.trainer("finetune", fold=7)
    trainer = planned.train("finetune", "epochs=1", fold="all")
    assert (trainer.folder / "fold_all" / FINAL).is_file()


def test_what_is_missing_is_told_with_the_command_to_type(planned):
    (planned.preprocessed / "samdpoPlans_2d_256").rename(planned.preprocessed / "elsewhere")
    with pytest.raises(TrainingError, match="samdpo_preprocess -d 901"):
        planned.trainer("finetune")
    (planned.preprocessed / "samdpoPlans.json").unlink()
    with pytest.raises(TrainingError, match="samdpo_plan_and_preprocess -d 901"):
        planned.trainer("finetune")
    with pytest.raises(TrainingError, match=r"mine\.json"):
        planned.trainer("finetune", plans_name="mine")


def test_pretrained_weights_are_where_training_starts(finetuned, tmp_path):
    weights = finetuned.finetuned / "fold_0" / FINAL
    trainer = finetuned.trainer("finetune", pretrained_weights=weights)
    trainer.initialize()
    loaded = load_weights(weights)
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.network.state_dict().items())
    with pytest.raises(ConfigurationError, match="is not a file"):
        finetuned.trainer("finetune", pretrained_weights=tmp_path / "none.safetensors")


def test_validation_predicts_with_the_network_in_memory_as_the_folder_would(planned):
    def written(fold):
        return {f.name: f.read_bytes() for f in (fold / "validation").iterdir() if f.name != "summary.json"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samdpo.model.predictor.Predictor.from_model_folder", None)  # nothing is read back
        trainer = planned.train("finetune", "epochs=1")
    in_memory = written(trainer.fold_folder)
    shutil.rmtree(trainer.fold_folder / "validation")
    planned.trainer("finetune", "epochs=1").train(only_validate=True)
    assert written(trainer.fold_folder) == in_memory and len(in_memory) > 2

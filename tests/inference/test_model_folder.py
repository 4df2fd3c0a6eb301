"""Which model is meant, and what is wrong with one that cannot be used."""

from __future__ import annotations

import shutil

import pytest

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.files import write_json
from samdpo.inference.model_folder import find_model, trained_folds
from samdpo.inference.predictor import Predictor

FILES = ("checkpoint_final.safetensors", "model.json", "prompter/prompter.json", "prompter/towers.safetensors")


def load(model):
    return Predictor.from_model_folder(model, device="cpu")


def test_the_latest_stage_of_the_only_dataset_is_meant(aligned):
    assert find_model(None, None, None, None) == aligned.aligned
    assert find_model(901, None, None, "finetune") == aligned.finetuned
    assert find_model("901", "AlignTrainer", "samdpoPlans", None) == aligned.aligned


def test_a_finetuned_model_is_taken_where_nothing_is_aligned(finetuned):
    assert find_model(None, None, None, None) == finetuned.finetuned


def test_a_stage_that_has_not_ended_does_not_count(aligned):
    (aligned.aligned / "fold_0" / FILES[0]).unlink()
    assert find_model(None, None, None, None) == aligned.finetuned


def test_several_models_are_listed_with_the_flags_that_tell_them_apart(aligned):
    other = aligned.results.parent / "Dataset007_Other"
    shutil.copytree(aligned.results, other)
    with pytest.raises(ConfigurationError, match="Several trained models fit") as error:
        find_model(None, None, None, None)
    for model in ("Dataset007_Other/AlignTrainer__samdpoPlans__align", "Dataset901_PhantomXray/FinetuneTrainer"):
        assert model in str(error.value)
    assert find_model(7, None, None, None).parent == other
    shutil.copytree(aligned.aligned, aligned.results / "MineTrainer__samdpoPlans__align")
    with pytest.raises(ConfigurationError, match=r"(?s)-tr TRAINER.*MineTrainer__samdpoPlans__align"):
        find_model(901, None, None, None)
    assert find_model(901, "MineTrainer", None, None).name.startswith("MineTrainer")


def test_where_no_model_fits_those_there_are_are_listed(planned):
    with pytest.raises(ConfigurationError, match=r"No model is trained yet.*samdpo_train DATASET finetune 0"):
        find_model(None, None, None, None)
    planned.train("finetune", "epochs=1")
    with pytest.raises(ConfigurationError, match=r"(?s)No trained model fits.*Trainer__samdpoPlans__finetune"):
        find_model(None, None, None, "align")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_named(finetuned, name):
    file = finetuned.finetuned / "fold_0" / name
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFolderError, match=name.split("/")[-1].replace(".", r"\.")):
        load(finetuned.finetuned)
    file.unlink()
    with pytest.raises(ModelFolderError, match=name.split("/")[-1].replace(".", r"\.")):
        load(finetuned.finetuned)


def test_a_folder_that_is_no_model_is_told_so(finetuned, tmp_path):
    with pytest.raises(ModelFolderError, match="is not a folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFolderError, match=r"plans\.json is missing"):
        load(tmp_path / "empty")
    (finetuned.finetuned / "plans.json").unlink()
    write_json(finetuned.finetuned / "plans.json", {"plans_name": "x"})
    with pytest.raises(Exception, match=r"plans\.json"):
        load(finetuned.finetuned)


def test_a_key_missing_in_model_json_is_named(finetuned):
    (finetuned.finetuned / "fold_0" / "model.json").unlink()
    write_json(finetuned.finetuned / "fold_0" / "model.json", {"stage": "finetune"})
    with pytest.raises(ModelFolderError, match=r"model\.json has no .*mask_cut"):
        load(finetuned.finetuned)


def test_a_fold_that_is_not_trained_is_told_with_those_that_are(finetuned):
    assert trained_folds(finetuned.finetuned, FILES[0]) == ["0"]
    with pytest.raises(ModelFolderError, match=r"fold_3.*trained folds: 0"):
        Predictor.from_model_folder(finetuned.finetuned, folds=[3])
    with pytest.raises(ModelFolderError, match=r"checkpoint_best\.safetensors"):
        Predictor.from_model_folder(finetuned.finetuned, checkpoint="checkpoint_best")

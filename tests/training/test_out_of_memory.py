"""Memory that runs out, wherever it does, is a sentence with a key to change, and what is advised is taken."""

from __future__ import annotations

import pytest
import torch

from samdpo.errors import DatasetError, OutOfMemoryError
from samdpo.inference.predict_folder import predict_folder
from samdpo.lab.sam_med3d.predictor import VolumePredictor
from samdpo.model.predictor import Predictor
from samdpo.networks.device import memory_that_ran_out
from samdpo.prompting import making
from samdpo.training.kept_features import FeatureCache
from samdpo.training.trainer import Trainer

RAN_OUT = (torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(),
           RuntimeError("DefaultCPUAllocator: can't allocate memory"))
BESIDE = "nothing is trained, with inference_batch_size=4. What is trained is kept: type the command again with "
GO_ON, VALIDATE = (f"{BESIDE}{flag} --set inference_batch_size=2$" for flag in ("--c", "--val"))


def raising(error: BaseException):
    def fails(*arguments, **named):
        raise error

    return fails


@pytest.mark.parametrize("error", RAN_OUT)
def test_in_a_step(planned, monkeypatch, error):
    monkeypatch.setattr(Trainer, "timed_train_step", raising(error))
    with pytest.raises(OutOfMemoryError, match="ran out in a step of batch_size=8.*--set batch_size=4$") as said:
        planned.train("finetune", "batch_size=8")
    advice = str(said.value).partition("--set ")[2].split()
    assert planned.trainer("finetune", *advice).stage.batch_size == 4, "what is advised is taken"


@pytest.mark.parametrize("error", RAN_OUT)
def test_where_features_are_kept_and_where_a_trained_fold_is_validated(finetuned, monkeypatch, error):
    with monkeypatch.context() as patch, pytest.raises(OutOfMemoryError, match=GO_ON):
        patch.setattr(FeatureCache, "compute", raising(error))
        finetuned.train("align_self_training")
    with monkeypatch.context() as patch, pytest.raises(OutOfMemoryError, match=VALIDATE):
        patch.setattr(Predictor, "predict_prepared", raising(error))
        finetuned.trainer("finetune").train(only_validate=True)


@pytest.mark.parametrize("where", ["measure_confidence", "validation_step"])
def test_a_training_goes_on_with_what_is_advised(planned, monkeypatch, where):
    settings = ("epochs=3", "held_back=0.4")
    with monkeypatch.context() as patch, pytest.raises(OutOfMemoryError, match=GO_ON):
        measure, called = getattr(Trainer, where), []

        def fails_later(self, *arguments):
            called.append(where)
            if where == "validation_step" and self.current_epoch == 0:
                return measure(self, *arguments)
            raise MemoryError

        patch.setattr(Trainer, where, fails_later)
        planned.train("finetune", *settings)
    epochs, step = [], Trainer.on_epoch_start
    monkeypatch.setattr(Trainer, "on_epoch_start", lambda self, epoch: (epochs.append(epoch), step(self, epoch)))
    trained = planned.train("finetune", *settings, "inference_batch_size=2", resume=True)
    assert called and epochs == ([2] if where == "measure_confidence" else [1, 2]), "it does not begin anew"
    assert (trained.fold_folder / "checkpoint_final.safetensors").is_file()


def test_where_prompts_are_made(planned, monkeypatch):
    monkeypatch.setattr(making, "locate", raising(MemoryError()))
    with pytest.raises(OutOfMemoryError, match="prompts are made. The smallest.*samdpoPlans.json.*4 in finetune"):
        planned.trainer("finetune")


def test_a_case_too_large_to_predict_does_not_stop_the_others(finetuned, monkeypatch, tmp_path):
    images, set_image = finetuned.raw / "imagesTs", Predictor.set_image
    large = sorted(images.iterdir())[0]

    def set_or_fail(predictor, image):
        if image[0] == large:
            raise MemoryError
        set_image(predictor, image)

    monkeypatch.setattr(Predictor, "set_image", set_or_fail)
    with pytest.raises(DatasetError, match="(?s)1 cases.*machine ran out at .*inference_batch_size=4") as said:
        predict_folder(images, tmp_path, finetuned.finetuned, device="cpu")
    assert str(finetuned.finetuned / "plans.json") in str(said.value), "the key is looked for there"
    assert len(list(tmp_path.glob("*.png"))) == len(list(images.iterdir())) - 1


def test_no_batch_is_to_be_lowered_where_a_network_sees_the_volume_whole(finetuned, monkeypatch, tmp_path):
    assert not VolumePredictor.sees_batches
    monkeypatch.setattr(Predictor, "sees_batches", False)
    monkeypatch.setattr(Predictor, "set_image", raising(MemoryError()))
    with pytest.raises(DatasetError, match="ran out at .*, whose volume lies in memory as a whole. Take") as said:
        predict_folder(finetuned.raw / "imagesTs", tmp_path, finetuned.finetuned, device="cpu")
    assert "inference_batch_size" not in str(said.value)


@pytest.mark.parametrize(("error", "whose"), [
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), "GPU"), (MemoryError(), "machine"),
    (RuntimeError("CUDA error: out of memory"), "GPU"), (RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"), "GPU"),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "GPU"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), "machine"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), None), (ValueError("out of memory"), None),
])
def test_it_is_told_from_other_errors_however_pytorch_says_it(error, whose):
    assert memory_that_ran_out(error) == whose


def test_another_error_stays_what_it_is(planned, monkeypatch):
    monkeypatch.setattr(Trainer, "timed_train_step", raising(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        planned.train("finetune")

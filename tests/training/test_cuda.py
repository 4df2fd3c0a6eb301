"""A step of every trainer on a GPU, in both half precisions: finite losses, moved weights, a model that predicts."""

import numpy as np
import pytest
import torch
from trained_models import UNSEEN

from samdpo.files import read_json
from samdpo.networks.weights import load_weights

DEVICE = "cuda"
STAGES = ("finetune", "align", "align_preferences", "align_self_training", "align_best_candidate", "mean_teacher",
          "fixmatch", "mean_teacher_encoder", "prompt_only", "unet", "self_prompt")
pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_epoch_on_a_gpu_moves_the_weights_and_leaves_a_model(finetuned, stage, precision):
    few = (UNSEEN,) if stage == "align" else ()
    trainer = finetuned.trainer(stage, "epochs=1", f"precision={precision}", *few, device=DEVICE)
    trainer.initialize()
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters() if p.requires_grad}
    with trainer.loader:
        trainer.run_training()
    assert trainer.device.type == DEVICE and trainer.precision == precision
    assert np.isfinite(trainer.run_log.history["loss"]).all()
    moved = [name for name, p in trainer.network.named_parameters() if name in before and not p.equal(before[name])]
    assert len(moved) > len(before) / 2
    weights = load_weights(trainer.fold_folder / "checkpoint_final.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    trainer.perform_actual_validation()
    assert read_json(trainer.fold_folder / "validation" / "summary.json")["foreground_mean"]["Dice"] >= 0


def test_a_gpu_says_of_a_slice_what_the_cpu_says(finetuned):
    from samdpo.model.predictor import Predictor

    image = np.random.default_rng(0).random((96, 112), dtype=np.float32) * 255
    masks = []
    for device in ("cpu", DEVICE):
        predictor = Predictor.from_model_folder(finetuned.finetuned, device=device)
        predictor.set_image(image)
        masks.append(predictor.predict().probabilities)
    assert np.abs(masks[0] - masks[1]).mean() < 0.02

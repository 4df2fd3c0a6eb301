"""The baseline ``self_prompt``: stage 1's network prompted by its own first mask."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from trained_models import interrupt
from without_prompts import SHORT, final_bytes, no_prompts_made

from samdpo.errors import PlansError
from samdpo.files import read_json
from samdpo.lab.baselines.self_prompt import SelfPromptNetwork
from samdpo.model.predictor import Predictor
from samdpo.model.views import FLIPPED, IDENTITY
from samdpo.networks.weights import load_weights
from samdpo.training.checkpoints import FINAL


def test_it_learns_and_predicts_without_any_prompt(finetuned):
    """From stage 1's weights: from none it first learns for as long to leave everything out."""
    shutil.rmtree(finetuned.preprocessed / "samdpoPlans_prompts")
    weights = finetuned.finetuned / "fold_0" / FINAL
    trainer = finetuned.train("self_prompt", "epochs=6", "lr=0.001", "encoder_lr=0.001", pretrained_weights=weights)
    history = trainer.run_log.history
    assert np.mean(history["loss"][-2:]) < 0.8 * np.mean(history["loss"][:2])  # half of it, on any machine
    assert no_prompts_made(finetuned, trainer.fold_folder)
    described = read_json(trainer.fold_folder / "model.json")
    assert described["custom_architecture"] and len(described["labelled_cases"]) == 3
    assert len(list((trainer.fold_folder / "validation").glob("*.png"))) == 2
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    assert isinstance(predictor.folds[0].network, SelfPromptNetwork)
    predictor.set_image(finetuned.raw / "imagesTs" / "xray_ts_001_0000.png")
    assert predictor.predict().segmentation.shape == (1, 96, 112)


def test_everything_learns_but_the_text_which_has_no_part_in_it(planned):
    trainer = planned.trainer("self_prompt", "epochs=1")
    trainer.initialize()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run_training()
    after = trainer.network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"image_encoder", "prompt_encoder", "mask_decoder", "structure_tokens"}


@pytest.mark.parametrize("train", ["full", "decoder"])
def test_the_tokens_train_whatever_part_of_the_network_does(planned, train):
    trainer = planned.trainer("self_prompt", f"network.train={train}")
    trainer.initialize()
    assert trainer.network.structure_tokens.requires_grad
    assert any(p.requires_grad for p in trainer.network.image_encoder.parameters()) == (train == "full")


def test_a_stopped_training_goes_on_to_the_same_weights(planned):
    interrupt(planned, "self_prompt", *SHORT, after=1)
    resumed = final_bytes(planned.train("self_prompt", *SHORT, resume=True))
    assert resumed == final_bytes(planned.train("self_prompt", *SHORT))


def test_the_kept_output_of_frozen_stages_gives_the_masks_of_the_whole_network(planned):
    trainer = planned.trainer("self_prompt", "network.frozen_stages=2", "precision=fp32", "epochs=1")
    trainer.initialize()
    trainer.run_training()
    keys = trainer.train_keys
    batch = trainer.samples.collate([trainer.samples.sample(key, view) for key in keys for view in (IDENTITY, FLIPPED)])
    assert trainer.features.has(batch)
    with torch.no_grad():
        kept, whole = trainer.embeddings(batch), trainer.network.encode_image(batch.images)
    assert torch.allclose(kept, whole, atol=2e-2), "kept as float16"


def test_without_the_number_of_structures_there_is_no_network(planned):
    with pytest.raises(PlansError, match=r"'network\.outputs' is 0"):
        planned.trainer("self_prompt", "network.outputs=0").initialize()


def test_weights_of_a_prompted_network_are_where_training_may_start(finetuned):
    file = finetuned.finetuned / "fold_0" / FINAL
    trainer = finetuned.trainer("self_prompt", pretrained_weights=file)
    trainer.initialize()
    own, given = trainer.network.state_dict(), load_weights(file)
    assert all(torch.equal(own[name], value) for name, value in given.items())
    assert set(own) - set(given) == {"structure_tokens"} and not own["structure_tokens"].any()

"""Preferences about places: the image-text model is refitted to what was ranked best, and no slice sees its own."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
import trained_models
from trained_models import ONE_LUNG, PLACE_ROUNDS

from samdpo.align import rounds
from samdpo.align.proposer import EncodedBatch
from samdpo.dataset.images import read_label
from samdpo.files import read_json
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights
from samdpo.preferences.annotators import iou
from samdpo.prompting.prompt_store import PromptStore


def begun(phantoms, stage: str = "align_preferences", *overrides: str):
    """A trainer just before its first epoch."""
    return trained_models.begun(phantoms, stage, *PLACE_ROUNDS, *overrides)


def test_the_refitted_prompts_are_other_prompts_of_the_same_cases(placed):
    before = placed.trainer("align_preferences", ONE_LUNG).data
    after = begun(placed).data
    every = sorted({*before.split.labelled, *before.split.unlabelled, *before.split.val})
    judged = [case for case in every if after.slices.has_label(case)]
    assert set(judged) <= set(after.prompts.cases())
    changed = [c for c in judged
               if not np.array_equal(before.prompts.get(c, 0)[0].saliency, after.prompts.get(c, 0)[0].saliency)]
    assert changed == judged


def test_a_picture_shows_where_the_prompts_pointed_and_where_they_point_now(placed):
    from PIL import Image

    trainer = begun(placed)
    with Image.open(trainer.fold_folder / "places.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 500 and pixels.shape[1] > 900 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500


def test_the_best_ranked_place_is_learned_from(placed):
    trainer = begun(placed)
    masks = trainer.place_rounds().preferred_masks(trainer.samples, 1)
    assert set(masks) <= set(trainer.unlabelled_keys)
    for key, mask in masks.items():
        batch = trainer.samples.collate([trainer.samples.sample(key)])
        places = trainer.proposer.places(EncodedBatch(batch, trainer.embeddings(batch), trainer.reference))
        each = iou(places.masks, batch.truth)[0]
        taken = iou(torch.from_numpy(mask == 1)[None, None], batch.truth)[0, 0]
        assert taken == each.max() and (each < taken).any()


def test_self_training_takes_the_models_own_choice_and_needs_no_truth(placed):
    trainer = begun(placed, "align_self_training")
    assert {"xray_ul_001", "xray_ul_002"} <= {case for case, _ in trainer.unlabelled_keys}
    masks = trainer.place_rounds().preferred_masks(trainer.samples, 1)
    assert any(case.startswith("xray_ul") for case, _ in masks)


def test_validation_and_prediction_use_the_refitted_prompts(placed):
    trainer = placed.train("align_preferences", *PLACE_ROUNDS)
    fold = trainer.fold_folder
    own, fitted = load_weights(fold / "prompter" / "towers.safetensors"), load_weights(
        fold / "prompts" / "prompter" / "towers.safetensors")
    assert all(torch.equal(own[name], fitted[name]) for name in fitted)
    base = load_weights(placed.finetuned / "fold_0" / "prompter" / "towers.safetensors")
    assert any(not torch.equal(own[name], base[name]) for name in base)
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    masks = sorted((fold / "validation").glob("*.png"))
    for file in masks:
        predictor.set_image(placed.raw / "imagesTr" / f"{file.stem}_0000.png")
        np.testing.assert_array_equal(predictor.predict().segmentation, read_label(file))
    before = [file.read_bytes() for file in masks]
    placed.trainer("align_preferences", *PLACE_ROUNDS).train(only_validate=True)
    assert [file.read_bytes() for file in masks] == before


def test_a_training_begun_again_finds_its_prompts(placed, monkeypatch):
    def again(*_, **__):
        raise AssertionError("the prompts were made a second time")

    monkeypatch.setattr(rounds, "fit_prompter", again)
    prompts = begun(placed).data.prompts
    written = placed.folder("align_preferences") / "fold_0" / "prompts"
    assert prompts.key == read_json(next(written.glob("xray_*.json")))["key"]
    with pytest.raises(AssertionError, match="second time"):
        begun(placed, "align_preferences", "annotator.noise=0.3")


def test_prompts_are_of_the_patients_by_whom_their_towers_were_cross_fitted(placed):
    of_places = begun(placed).place_rounds()
    of_places = dataclasses.replace(of_places, data=dataclasses.replace(of_places.data, groups={}))
    labelled, unlabelled = of_places.data.split.labelled, sorted({case for case, _ in of_places.unlabelled})

    def key(groups: dict[str, str]) -> str:
        return dataclasses.replace(of_places, data=dataclasses.replace(of_places.data, groups=groups)).key()

    assert key({unlabelled[0]: unlabelled[0], of_places.data.split.val[0]: "tested"}) == of_places.key()
    keys = [of_places.key(), key({unlabelled[0]: labelled[0]}), key({unlabelled[0]: unlabelled[1]})]
    assert len({*keys}) == 3


def test_without_rounds_the_prompts_are_those_of_the_plan(placed):
    fold = placed.folder("align_preferences") / "fold_0"
    assert PromptStore(fold / "prompts").cases()
    trainer = begun(placed, "align_preferences", "prompt_rounds=0")
    assert not (fold / "prompts").exists()
    assert trainer.data.prompts.folder.is_relative_to(placed.preprocessed)


def test_two_lungs_are_not_somewhere_else(finetuned):
    trainer = finetuned.trainer("align_preferences", "prompt_rounds=2", "epochs=1")
    trainer.initialize()
    trainer.on_train_start()
    trainer.run_log.close()
    assert trainer.data.prompts.folder.is_relative_to(finetuned.preprocessed)


def test_where_nothing_is_preferred_the_prompts_stay(placed, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    monkeypatch.setattr(rounds.PlaceRounds, "preferred_masks", lambda *_: {})
    trainer = begun(placed, "align_preferences", "seed=7")  # whose prompts are not made
    assert "nothing is preferred" in caplog.text
    assert trainer.data.prompts.folder.is_relative_to(placed.preprocessed)
    trainer.run_training()
    assert read_json(trainer.fold_folder / "model.json")["epochs"] == 1

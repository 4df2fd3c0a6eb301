"""The stage ``prompt_only``: stage 1 as if no label had been left out."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from trained_models import _as_current, copied, interrupt
from without_prompts import final_bytes

from samdpo.dataset.images import read_label
from samdpo.files import read_json
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights
from samdpo.prompting import making
from samdpo.prompting.prompt_store import PromptStore


@pytest.fixture(scope="module")
def _trained(_planned, tmp_path_factory):
    """Trained without the fold's prompts being there; the prompters that were fitted."""
    fits, fit = [], making.fit_prompter
    with _as_current(copied(_planned, tmp_path_factory.mktemp("prompt_only") / "roots")) as made:
        shutil.rmtree(made.preprocessed / "samdpoPlans_prompts")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(making, "fit_prompter", lambda *args, **named: fits.append(fit(*args, **named)) or fits[-1])
            made.train("prompt_only")
    return made, fits


@pytest.fixture
def trained(_trained, tmp_path):
    with _as_current(copied(_trained[0], tmp_path / "trained")) as own:
        yield own


@pytest.fixture
def trainer(trained):
    """Of the training that has ended."""
    trainer = trained.trainer("prompt_only")
    trainer.initialize()
    return trainer


def test_every_labelled_training_case_is_learned_from(trained, trainer):
    fewer = trained.trainer("sam_med2d").data.split
    assert len(fewer.labelled) == 3 and len(fewer.train) == 8
    described = read_json(trainer.fold_folder / "model.json")
    assert described["labelled_cases"] == fewer.train
    split = trainer.data.split
    assert (split.train, split.val) == (fewer.train, fewer.val), "the folds are the same for all"
    assert split.unlabelled == ["xray_ul_001", "xray_ul_002"]
    assert not (trained.preprocessed / "samdpoPlans_prompts").exists(), "the fold's prompts are not needed"


def test_its_prompts_are_fitted_to_all_of_them(trainer, planned):
    before = planned.trainer("finetune").data
    store = PromptStore(trainer.fold_folder / "prompts")
    assert store.cases() == sorted({*before.split.train, *before.split.val})
    case = before.split.val[0]
    assert not np.array_equal(store.get(case, 0)[0].saliency, before.prompts.get(case, 0)[0].saliency)
    ours, theirs = (load_weights(s.prompter_folder / "towers.safetensors") for s in (store, before.prompts))
    assert any(not np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert trainer.data.prompts.folder == store.folder and trainer.samples.prompts is trainer.data.prompts


def test_a_case_is_prompted_by_towers_that_have_not_seen_it(trainer, _trained):
    (fitted,) = _trained[1]
    assert sorted(fitted.held_out) == trainer.data.split.train
    assert all(prompter is not fitted.full for prompter in fitted.held_out.values())
    image = trainer.data.slices.image(trainer.data.split.train[0], 0)
    kept = trainer.data.prompts.get(trainer.data.split.train[0], 0)[0]
    held_out = fitted.held_out[trainer.data.split.train[0]].locate(image)[0]
    np.testing.assert_allclose(kept.saliency, held_out.saliency, atol=0.05)
    assert np.abs(kept.saliency - fitted.full.locate(image)[0].saliency).max() > 0.05


def test_validation_and_prediction_use_these_prompts(trained, trainer):
    masks = sorted((trainer.fold_folder / "validation").glob("*.png"))
    assert len(masks) == len(trainer.data.split.val)
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    for file in masks:
        predictor.set_image(trained.raw / "imagesTr" / f"{file.stem}_0000.png")
        np.testing.assert_array_equal(predictor.predict().segmentation, read_label(file))
    before = [file.read_bytes() for file in masks]
    shutil.rmtree(trainer.fold_folder / "prompts")  # to save space
    trained.trainer("prompt_only").train(only_validate=True)
    assert [file.read_bytes() for file in masks] == before


def test_prompts_that_are_there_are_kept_and_a_stopped_training_goes_on(planned, monkeypatch):
    interrupt(planned, "prompt_only", "epochs=3", after=1)

    def again(*_, **__):
        raise AssertionError("the prompts were made a second time")

    monkeypatch.setattr(making, "fit_prompter", again)
    resumed = final_bytes(planned.train("prompt_only", "epochs=3", resume=True))
    assert resumed == final_bytes(planned.train("prompt_only", "epochs=3"))
    with pytest.raises(AssertionError, match="second time"):
        planned.trainer("prompt_only", "prompting.tower_steps=11").initialize()

"""A cache knows all that it was made from: with replaced images everything ends as in a run from nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trained_models import NUMBER, ONE_LUNG, Phantoms, copied

from samdpo.files import hash_of
from samdpo.model.views import IDENTITY
from samdpo.planning.splits import load_splits
from samdpo.plans import load_plans
from samdpo.preprocessing.preprocess import preprocess_dataset
from samdpo.preprocessing.store import SliceStore
from samdpo.training.kept_features import FeatureCache

KEPT = ("prompt_rounds=1", "epochs=1", ONE_LUNG, "network.train=decoder")  # every kept thing is used
PLACES = ("epochs=1", ONE_LUNG, "network.train=decoder")
STAGES = {"finetune": PLACES[1:], "align": PLACES, "align_preferences": KEPT, "fixmatch": KEPT,
          "unet": ("epochs=1",)}


def replace(phantoms: Phantoms, case: str) -> None:
    """Mirror image and label of a case in the raw dataset, as new files."""
    for file in (*phantoms.raw.glob(f"images*/{case}_0000.png"), *phantoms.raw.glob(f"labels*/{case}.png")):
        picture = np.asarray(Image.open(file))[:, ::-1]
        file.unlink()
        Image.fromarray(np.ascontiguousarray(picture)).save(file)


def preprocess(phantoms: Phantoms) -> SliceStore:
    return preprocess_dataset(NUMBER, load_plans(phantoms.preprocessed / "samdpoPlans.json"))


def what_is_left(phantoms: Phantoms) -> dict[str, str]:
    """A hash of every file of weights, settings and masks, and of the stored prompts."""
    files = [*phantoms.results.rglob("*.safetensors"), *phantoms.results.rglob("model.json"),
             *phantoms.results.rglob("validation/*.png"), *phantoms.root.rglob("*prompts/**/*.npz")]
    return {str(f.relative_to(phantoms.root)): hash_of(f.read_bytes().hex()) for f in files}


def every_stage(phantoms: Phantoms, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in phantoms.environment().items():
        monkeypatch.setenv(name, value)
    preprocess(phantoms)
    for stage, settings in STAGES.items():
        phantoms.train(stage, *settings)
    return what_is_left(phantoms)


@pytest.mark.slow
def test_with_replaced_images_every_stage_ends_as_a_run_from_nothing(planned, tmp_path, monkeypatch):
    first = load_splits(planned.preprocessed)[0]
    chosen = [first.labelled[0], first.unlabelled[0], first.val[0]]
    clean = copied(planned, tmp_path / "clean")
    before = every_stage(planned, monkeypatch)
    for case in chosen:
        replace(planned, case)
        replace(clean, case)
    for kept in clean.preprocessed.iterdir():  # but for plan and splits
        if kept.is_dir():
            shutil.rmtree(kept)
    after, wanted = every_stage(planned, monkeypatch), every_stage(clean, monkeypatch)
    assert after == wanted
    assert {name for name in after if name.endswith("final.safetensors") and after[name] == before[name]} == set()


def test_features_of_a_replaced_image_are_made_again_and_the_others_are_kept(planned):
    first = load_splits(planned.preprocessed)[0]
    replaced, other = (first.unlabelled[0], 0), (first.unlabelled[1], 0)

    def filled() -> FeatureCache:
        trainer = planned.trainer("finetune", "network.train=decoder")
        trainer.initialize()
        cache = trainer.feature_cache(-1)
        cache.fill([replaced, other], (IDENTITY,))
        return cache

    cache = filled()
    old = {key: np.array(cache.store.find(cache.name(key, IDENTITY))) for key in (replaced, other)}
    kept = cache.store.folder / next(f.name for f in cache.store.folder.iterdir() if f.name.startswith(other[0]))
    before = kept.stat().st_ino
    replace(planned, replaced[0])
    preprocess(planned)
    cache = filled()
    assert not np.array_equal(cache.store.find(cache.name(replaced, IDENTITY)), old[replaced])
    assert np.array_equal(cache.store.find(cache.name(other, IDENTITY)), old[other]) and kept.stat().st_ino == before
    assert len(list(cache.store.folder.glob("*.npy"))) == 2, "the old one is gone"


def test_a_damaged_feature_is_made_again(planned, caplog):
    trainer = planned.trainer("finetune", "network.train=decoder")
    trainer.initialize()
    cache = trainer.feature_cache(-1)
    keys = trainer.train_keys[:2]
    cache.fill(keys, (IDENTITY,))
    batch = trainer.samples.collate([trainer.samples.sample(key) for key in keys])
    wanted = cache.get(batch)
    flip_a_bit(cache.store._file(cache.name(keys[0], IDENTITY)))
    cache = trainer.feature_cache(-1)
    torch.testing.assert_close(cache.get(batch), wanted, atol=1e-2, rtol=1e-2)
    assert "damaged" in caplog.text
    assert cache.store.find(cache.name(keys[0], IDENTITY)) is not None


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    os.unlink(file)
    file.write_bytes(content)

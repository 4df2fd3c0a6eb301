import numpy as np
import pytest

from samdpo.model.masks import confidence_of


def test_a_mask_without_doubt_is_certain_and_an_empty_one_is_not():
    certain = np.zeros((4, 4))
    certain[:2] = 1
    assert confidence_of(certain, 0.5) == 1
    assert confidence_of(np.full((4, 4), 0.4), 0.5) == 0
    assert confidence_of(np.where(certain > 0, 0.6, 0.4), 0.5) == pytest.approx(2 * 0.6 * 8 / (0.6 * 8 + 0.4 * 8 + 8))


def test_nine_of_ten_training_slices_exceed_the_threshold(finetuned):
    weights = finetuned.finetuned / "fold_0" / "checkpoint_final.safetensors"
    trainer = finetuned.trainer("finetune", pretrained_weights=weights)
    trainer.initialize()
    each = [trainer.measure_confidence([key])["lung"] for key in trainer.train_keys]
    together = trainer.measure_confidence()["lung"]
    assert together == pytest.approx(np.percentile(each, 10), abs=1e-3)
    assert trainer.measure_confidence(trainer.train_keys * 40)["lung"] == pytest.approx(min(each), abs=2e-2)

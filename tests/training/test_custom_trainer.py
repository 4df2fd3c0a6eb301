"""A trainer from outside of the package: ten lines, trained and predicted with."""

from __future__ import annotations

import sys

import pytest
import torch

from samdpo.errors import ConfigurationError, PlansError, TrainingError
from samdpo.files import read_json, write_json
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights
from samdpo.preferences.losses import segmentation_loss
from samdpo.schema import merge
from samdpo.training.checkpoints import FINAL

SOURCE = '''
import torch
from samdpo.align.trainer import AlignTrainer
from samdpo.training.finetune import FinetuneTrainer

class BrightTrainer(FinetuneTrainer):
    """One hook: every image twice as bright."""

    def train_step(self, batch):
        batch.images = (2 * batch.images).clamp(0, 1)
        return {**super().train_step(batch), "brightness": batch.images.mean().item()}

def dice_of_all_pixels(logits, truth, counted):
    """Knows nothing of pixels that do not count."""
    found = logits.sigmoid()
    return 1 - 2 * (found * truth).sum((1, 2)) / (found.sum((1, 2)) + truth.sum((1, 2)) + 1)

class DiceTrainer(FinetuneTrainer):
    """The loss is another one."""

    def build_loss(self):
        return dice_of_all_pixels

class DiceAlignTrainer(AlignTrainer):
    def build_loss(self):
        return dice_of_all_pixels

class MeanTrainer(FinetuneTrainer):
    """A loss of the whole batch, which would be another one in parts."""

    def build_loss(self):
        return lambda *masks: dice_of_all_pixels(*masks).mean()

class DeeperTrainer(FinetuneTrainer):
    """Another architecture: one more linear layer of the text."""

    @staticmethod
    def build_network_architecture(plan):
        network = FinetuneTrainer.build_network_architecture(plan)
        width = network.text_projection.out_features
        network.text_projection = torch.nn.Sequential(network.text_projection, torch.nn.Linear(width, width))
        return network
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A user's own module in the current folder."""
    (tmp_path / "my_variants.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_variants", raising=False)
    return tmp_path


def test_a_variant_overrides_one_hook_and_logs_what_it_likes(planned, outside):
    trainer = planned.train("finetune", trainer="my_variants:BrightTrainer")
    assert trainer.folder.name == "BrightTrainer__samdpoPlans__finetune"
    assert len(trainer.run_log.history["brightness"]) == 2


def test_a_variant_with_another_architecture_predicts_with_it(planned, outside, monkeypatch):
    trainer = planned.train("finetune", trainer="my_variants:DeeperTrainer")
    assert "text_projection.1.weight" in load_weights(trainer.fold_folder / FINAL)
    assert read_json(trainer.fold_folder / "model.json")["custom_architecture"]
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    assert isinstance(predictor.folds[0].network.text_projection, torch.nn.Sequential)
    predictor.set_image(planned.raw / "imagesTs" / "xray_ts_001_0000.png")
    assert predictor.predict().segmentation.shape == (1, 96, 112)
    assert trainer.prediction_command().endswith(" -f 0 -tr my_variants:DeeperTrainer")
    monkeypatch.delitem(sys.modules, "my_variants")  # as in another process
    with pytest.raises(ConfigurationError, match="type -tr my_variants:DeeperTrainer"):
        Predictor.from_model_folder(trainer.folder, device="cpu")
    again = Predictor.from_model_folder(trainer.folder, device="cpu", trainer="my_variants:DeeperTrainer")
    assert isinstance(again.folds[0].network.text_projection, torch.nn.Sequential)


def test_a_class_from_a_folder_of_variants_is_found_again_when_predicting(planned, outside, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(outside))
    trainer = planned.train("finetune", trainer="DeeperTrainer")
    monkeypatch.delitem(sys.modules, "samdpo_ext_my_variants")  # as in another process
    assert Predictor.from_model_folder(trainer.folder, device="cpu").plans.plans_name == "samdpoPlans"
    monkeypatch.delitem(sys.modules, "samdpo_ext_my_variants")
    monkeypatch.delenv("nnUNet_extTrainer")
    with pytest.raises(ConfigurationError, match="let nnUNet_extTrainer name the folder of its file"):
        Predictor.from_model_folder(trainer.folder, device="cpu")


def test_a_plan_is_data_too_and_its_trainer_is_typed(planned, outside):
    file = planned.preprocessed / "samdpoPlans.json"
    write_json(file, merge(read_json(file), {"configurations": {"finetune": {"trainer": "my_variants:BrightTrainer"}}}))
    with pytest.raises(ConfigurationError, match=r"samdpoPlans\.json names the trainer.*type -tr my_variants:Bright"):
        planned.trainer("finetune")
    assert "my_variants" not in sys.modules
    trainer = planned.trainer("finetune", "trainer=my_variants:DeeperTrainer")
    assert type(trainer).__name__ == "DeeperTrainer"
    assert type(planned.trainer("finetune")).__name__ == "BrightTrainer", "whose module is loaded now"


def test_an_objective_that_the_trainer_does_not_read_is_refused(planned):
    with pytest.raises(PlansError, match="'preferences', which FinetuneTrainer does not read: it learns by 'superv"):
        planned.trainer("finetune", "objective=preferences")
    planned.train("finetune", "epochs=1")
    with pytest.raises(PlansError, match="'supervised', which AlignTrainer does not read"):
        planned.trainer("align", "objective=supervised")
    assert planned.trainer("align_preferences", "objective=self_training").stage.objective == "self_training"


def test_align_finds_the_only_finetuned_model_of_another_trainer(planned, outside):
    planned.train("finetune", "epochs=1", trainer="my_variants:BrightTrainer")
    trainer = planned.trainer("align", "epochs=1")
    trainer.initialize()
    assert "BrightTrainer" in str(trainer.reference_file)


def test_a_loss_is_swapped_in_two_lines_and_reaches_every_step(planned, outside):
    def total(logits, truth):
        return sys.modules["my_variants"].dice_of_all_pixels(logits, truth, None).mean().item()

    trainer = planned.train("finetune", "epochs=1", trainer="my_variants:DiceTrainer")
    assert 0 < trainer.run_log.history["loss"][0] <= 1 and trainer.stage.segmentation_loss.focal_weight == 20
    batch = trainer.samples.collate([trainer.samples.sample(key) for key in trainer.train_keys])
    parts = sum(trainer.part_loss(part, len(batch.prompts))[0] for part in trainer.parts(batch))
    logits = trainer.network.decode(trainer.embeddings(batch), batch.prompts)[0]
    assert parts.item() == pytest.approx(total(logits, batch.truth), abs=1e-4), "slice by slice it is the same"
    for objective in ("self_training", "best_candidate"):
        aligned = planned.trainer(f"align_{objective}", trainer="my_variants:DiceAlignTrainer")
        aligned.initialize()
        aligned.on_train_start()
        aligned.run_log.close()
        loss, measured = aligned.step_loss(next(iter(aligned.train_batches(0))))
        assert 0 < loss.item() < 2 and 0 < measured["loss/anchor"].item() <= 1, "of both parts of a step"


def test_no_swapped_loss_learns_from_pixels_that_do_not_count(planned, outside):
    trainer = planned.trainer("finetune", trainer="my_variants:DiceTrainer")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 8, generator=generator, requires_grad=True)
    truth, counted = torch.rand(2, 8, 8, generator=generator) > 0.5, torch.ones(2, 8, 8, dtype=torch.bool)
    counted[0, :4] = False
    losses = trainer.loss(logits, truth, counted)
    losses.sum().backward()
    assert (logits.grad[~counted] == 0).all() and (logits.grad[counted] != 0).all()
    other = torch.where(counted, logits.detach(), torch.full_like(logits, 7.0))  # nor does their value matter
    torch.testing.assert_close(trainer.loss(other, truth ^ ~counted, counted), losses)
    plain = planned.trainer("finetune")
    expected = segmentation_loss(logits, truth, plain.stage.segmentation_loss, counted)
    assert torch.equal(plain.loss(logits, truth, counted), expected)


def test_a_loss_that_is_averaged_over_the_batch_is_refused(planned, outside):
    with pytest.raises(TrainingError, match=r"MeanTrainer.build_loss gives a loss of the shape \(\) for"):
        planned.train("finetune", trainer="my_variants:MeanTrainer")

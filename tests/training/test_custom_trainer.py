"""A trainer from outside of the package: ten lines, trained and predicted with."""

from __future__ import annotations

import sys

import pytest
import torch

from samdpo.files import read_json
from samdpo.inference.predictor import Predictor
from samdpo.networks.weights import load_weights
from samdpo.training.checkpoints import FINAL

SOURCE = '''
import torch
from samdpo.training.finetune import FinetuneTrainer

class BrightTrainer(FinetuneTrainer):
    """One hook: every image twice as bright."""

    def train_step(self, batch):
        batch.images = (2 * batch.images).clamp(0, 1)
        return {**super().train_step(batch), "brightness": batch.images.mean().item()}

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


def test_a_variant_with_another_architecture_predicts_with_it(planned, outside):
    trainer = planned.train("finetune", trainer="my_variants:DeeperTrainer")
    assert "text_projection.1.weight" in load_weights(trainer.fold_folder / FINAL)
    assert read_json(trainer.fold_folder / "model.json")["custom_architecture"]
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    assert isinstance(predictor.folds[0].network.text_projection, torch.nn.Sequential)
    predictor.set_image(planned.raw / "imagesTs" / "xray_ts_001_0000.png")
    assert predictor.predict().segmentation.shape == (1, 96, 112)


def test_a_class_from_a_folder_of_variants_is_found_again_when_predicting(planned, outside, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(outside))
    trainer = planned.train("finetune", trainer="DeeperTrainer")
    assert Predictor.from_model_folder(trainer.folder, device="cpu").plans.plans_name == "samdpoPlans"


def test_align_finds_the_only_finetuned_model_of_another_trainer(planned, outside):
    planned.train("finetune", "epochs=1", trainer="my_variants:BrightTrainer")
    trainer = planned.trainer("align", "epochs=1")
    trainer.initialize()
    assert "BrightTrainer" in str(trainer.reference_file)

"""What each process of ``test_distributed.py`` does: ``torchrun several_processes.py TASK FOLDER``.

Every process writes what it saw to ``FOLDER/RANK.json``.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

from samdpo.align import rounds
from samdpo.errors import TrainingError
from samdpo.files import write_json
from samdpo.prompting import making
from samdpo.prompting.fitting import fit_prompter
from samdpo.training.distributed import ending_together, join
from samdpo.training.finetune import FinetuneTrainer
from samdpo.training.get_trainer import get_trainer

COUNTS = ("consistency.ramp_up=0", "consistency.weight=5000")  # so that a first step shows what two views differ by
EQUAL = {  # stage -> settings under which a step draws nothing but its slices and views
    "finetune": ("batch_size=2",),
    "align_self_training": ("batch_size=2", "labelled_per_step=2"),
    "align_best_candidate": ("batch_size=2", "labelled_per_step=2", "candidates.kind=thresholds"),
    "align_preferences": ("batch_size=2", "labelled_per_step=2", "candidates.kind=thresholds"),
    "mean_teacher": ("batch_size=2", "labelled_per_step=2", *COUNTS),
    "mean_teacher_encoder": ("batch_size=2", "labelled_per_step=2", *COUNTS),
    "unet": ("batch_size=2", "slices_per_epoch=4"),
    "self_prompt": ("batch_size=2",),
}
ROUNDS = ("structures.lung.components=1", "prompt_rounds=1")
UNSEEN = "places.held_back=0"  # so that the network learns from few answers


class OwnStepTrainer(FinetuneTrainer):
    """A user's: a step written anew, as for one process."""

    def train_step(self, batch):
        logits = self.network.decode(self.embeddings(batch), batch.prompts.to(self.device))[0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.truth.to(logits))
        self.optimizer_step(loss)
        return {"loss": loss.item(), "mine": 1.0}


class StrayingTrainer(FinetuneTrainer):
    """A user's that steps with the gradients of its own process."""

    def train_step(self, batch):
        logits = self.network.decode(self.embeddings(batch), batch.prompts)[0]
        loss = logits.square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}


def trainer_of(stage: str, *settings: str, **more):
    return get_trainer(901, stage, 0, device="cpu", overrides=settings, **more)


def gradients(stage: str, *settings: str) -> dict:
    """Loss and gradients of the first step of a stage, averaged over processes, and what this process saw in it."""
    trainer = trainer_of(stage, "grad_clip=1e9", "precision=fp32", *settings)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start(0)
    trainer.optimizer.step = lambda: None
    batch = next(iter(trainer.train_batches(0)))
    loss = trainer.fetched([trainer.train_step(batch)])[0]["loss"]
    trainer.run_log.close()
    losses = trainer.processes.gather([loss])
    learned = getattr(batch, "unlabelled", batch)
    samples = getattr(learned, "weak", learned).samples  # mean teacher's slices have two views
    return {
        "loss": sum(losses) / len(losses), "seen": [list(sample.key) for sample in samples],
        "gradients": {n: p.grad.double().abs().sum().item() for n, p in trainer.network.named_parameters()
                      if p.grad is not None},
        "signed": {n: p.grad.double().sum().item() for n, p in trainer.network.named_parameters()
                   if p.grad is not None},
    }


def outcome(trainer) -> dict:
    """What every process must have alike at the end of a training."""
    weights = b"".join(p.detach().numpy().tobytes() for p in trainer.network.parameters())
    return {"weights": hashlib.sha256(weights).hexdigest(), "mask_cut": trainer.mask_cut, "best": trainer.best_metric,
            "history": trainer.run_log.history.get("loss"), "epochs": trainer.current_epoch}


def trained(stage: str, *settings: str, **more) -> dict:
    trainer = trainer_of(stage, *settings, **more)
    trainer.train()
    return outcome(trainer)


def equal(folder: Path) -> dict:
    return {**{stage: gradients(stage, *settings) for stage, settings in EQUAL.items()}, "straying": straying()}


def whole(folder: Path) -> dict:
    fits = []

    def counted(*arguments, **named):
        fits.append(1)
        return fit_prompter(*arguments, **named)

    making.fit_prompter = rounds.fit_prompter = counted
    said = {"finetune": trained("finetune", "held_back=0.4"),
            "align": trained("align", ROUNDS[0], UNSEEN, "places.refit=0.1"),
            "align_preferences": trained("align_preferences", *ROUNDS)}
    own = trainer_of("finetune", "epochs=1", ROUNDS[0], trainer="several_processes:OwnStepTrainer")
    own.initialize()
    own.run_training()
    return {**said, "own": outcome(own), "fits": len(fits)}


def straying() -> str:
    """The sentence with which a training ends whose step leaves the processes apart."""
    try:
        trained("finetune", "epochs=1", trainer="several_processes:StrayingTrainer")
    except TrainingError as error:
        return str(error)
    return ""


def one_batch(folder: Path) -> dict:
    """Three labelled slices on three processes, and five unlabelled ones of which the last step has too few."""
    return {"finetune": trained("finetune", "batch_size=4", "epochs=1"),
            "align": trained("align", "batch_size=1", UNSEEN)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, target = sys.argv[1], Path(sys.argv[2])
    with ending_together():
        join("cpu")
        write_json(target / f"{os.environ['RANK']}.json", globals()[task](target))

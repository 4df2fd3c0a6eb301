"""Trainers of ``test_distributed.py`` in which one process of two fails in its third epoch."""

from __future__ import annotations

import os
import signal
import time

from samdpo.errors import TrainingError
from samdpo.training.checkpoints import LATEST
from samdpo.training.finetune import FinetuneTrainer


class RaisingTrainer(FinetuneTrainer):
    def train_step(self, batch):
        if self.current_epoch == 2 and self.processes.rank == 1:
            raise TrainingError("The second process has had enough.")
        return super().train_step(batch)


class DyingTrainer(FinetuneTrainer):
    def train_step(self, batch):
        if self.current_epoch == 2 and self.processes.rank == 1:
            written, until = self.fold_folder / LATEST / "epoch_0002", time.monotonic() + 60
            while not written.is_dir() and time.monotonic() < until:  # by the main process, which may be slow
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(batch)


class FailingPrompts(FinetuneTrainer):
    """Its main process fails in work that the others wait for."""

    def on_train_start(self):
        super().on_train_start()

        def work():
            time.sleep(1)
            raise TrainingError("The main process could not do it.")

        self.processes.once(work)

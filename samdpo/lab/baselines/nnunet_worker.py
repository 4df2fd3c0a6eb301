"""The process in which nnU-Net runs, and its trainer with a budget.

Started by :func:`samdpo.lab.baselines.nnunet.run_nnunet`, which sets nnU-Net's folders and reads what is printed. No
other module imports it, since nnU-Net takes seconds to import. Nor is it a ``__main__``: every process of nnU-Net's
pools would import it once more.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from samdpo.files import atomic_path, read_json, write_json
from samdpo.lab.baselines.nnunet_files import PLANS, RESULT, WEIGHTS, read_checkpoint
from samdpo.networks.weights import save_weights
from samdpo.paths import number_of
from samdpo.training.budget import Budget
from samdpo.training.run_log import peak_memory_gib

ITERATIONS_PER_EPOCH = 250  # nnU-Net's
EXPONENT = 0.9  # of nnU-Net's learning rate
POINTS = 100  # of the curves that are kept


def prepare(settings: dict[str, Any]) -> str:
    """Fingerprint, plan and preprocess as ``nnUNetv2_plan_and_preprocess`` does; returns the configuration used."""
    number, processes = number_of(settings["dataset"]), settings["processes"]
    extract_fingerprints([number], num_processes=processes)
    plan_experiments([number])
    configuration = _configuration(settings)
    preprocess([number], PLANS, (configuration,), [processes])
    return configuration


def train(settings: dict[str, Any]) -> None:
    """Train fold 0 of the only split; writes ``result.json`` and the weights as safetensors."""
    latest, folder = Path(settings["latest"]), Path(settings["folder"])
    configuration = _configuration(settings) if settings["resume"] else prepare(settings)
    if settings["device"] != "cuda":
        # Augmentation in this process: what it computes counts for the budget. Not before, for planning needs one.
        os.environ["nnUNet_n_proc_DA"] = "0"
    preprocessed = folder / "preprocessed" / settings["dataset"]
    plans = {**read_json(preprocessed / f"{PLANS}.json"), "continue_training": settings["resume"]}
    if settings["device"] == "cuda":
        torch.backends.cudnn.benchmark = True  # as nnUNetv2_train
    torch.manual_seed(settings["seed"])
    np.random.seed(settings["seed"])  # nnU-Net draws from the global generators
    random.seed(settings["seed"])
    trainer = BudgetTrainer(plans, configuration, 0, read_json(preprocessed / "dataset.json"),
                            torch.device(settings["device"]))
    trainer.limit(settings["epochs"], settings["minutes"], latest, settings["save_seconds"])
    trainer.initialize()
    if settings["resume"]:
        trainer.load_checkpoint(os.fspath(latest))
        np.random.seed(settings["seed"] + trainer.iterations)  # not the same cases and views once more
    trainer.run_training()
    trainer.write_result(folder / RESULT)
    state = getattr(trainer.network, "_orig_mod", trainer.network).state_dict()  # compiled on a GPU
    # The decoder has the encoder's tensors once more under names of its own, which safetensors refuses.
    first_names = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}.values()
    save_weights({name: state[name] for name in first_names}, folder / WEIGHTS)


def predict(settings: dict[str, Any]) -> None:
    """Predict ``cases`` (name -> files) into ``output``; sliding window and mirroring are nnU-Net's defaults."""
    predictor = nnUNetPredictor(device=torch.device(settings["device"]), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(settings["model"], (0,), "checkpoint_final.pth")
    names, files = list(settings["cases"]), list(settings["cases"].values())
    predictor.predict_from_files_sequential(
        files, [os.path.join(settings["output"], name) for name in names], settings["save_probabilities"]
    )


def _configuration(settings: dict[str, Any]) -> str:
    """The configuration wanted, or 2d where nnU-Net planned no other."""
    planned = read_json(Path(settings["folder"]) / "preprocessed" / settings["dataset"] / f"{PLANS}.json")
    wanted = settings["configuration"]
    return wanted if wanted in planned["configurations"] else "2d"


def _end_with_parent() -> None:
    """Standard input ends when the process that started this one does, be it killed."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Run ``COMMAND SETTINGS`` of the command line; ends with the process that started this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"train": train, "predict": predict}[sys.argv[1]](read_json(sys.argv[2]))


class BudgetTrainer(nnUNetTrainer):
    """Trains until its epochs or its minutes are over, whichever comes first.

    The learning rate follows nnU-Net's polynomial over the share of the budget that is spent, iteration by iteration.
    nnU-Net's validation while it trains is left out: it chooses nothing here, since the final weights are used.
    :meth:`limit` is called before :meth:`initialize`.
    """

    def limit(self, epochs: int, minutes: float, latest: Path, save_seconds: float) -> None:
        """Set the budget.

        Args:
            epochs: of 250 iterations.
            minutes: as in :class:`samdpo.training.budget.Budget`; 0 is no limit.
            latest: file of the resumable checkpoint.
            save_seconds: on the clock between two of them.
        """
        self.num_epochs, self.iterations, self.total = epochs, 0, epochs * ITERATIONS_PER_EPOCH
        self.budget, self.latest, self.save_seconds = Budget(minutes, self.device), latest, save_seconds
        self.history: dict[str, list[float]] = {"loss": [], "lr": [], "seconds_an_iteration": []}

    @property
    def share(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        time_share = self.budget.seconds / (60 * self.budget.minutes) if self.budget.minutes else 0.0
        return min(1.0, max(self.iterations / self.total, time_share))

    def run_training(self) -> None:
        """The loop; ends with ``checkpoint_final.pth``."""
        self.on_train_start()
        self.network.train()
        losses, seconds, saved = [], [], time.monotonic()
        while self.share < 1:
            rate = self.initial_lr * (1 - self.share) ** EXPONENT
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            before = self.budget.seconds
            with self.budget:
                losses.append(float(self.train_step(next(self.dataloader_train))["loss"]))
            seconds.append(self.budget.seconds - before)
            self.iterations += 1
            if self.share * POINTS >= len(self.history["loss"]):
                self._note(losses, rate, seconds)
                losses, seconds = [], []
            if self.share < 1 and time.monotonic() - saved >= self.save_seconds:
                self.save_checkpoint(os.fspath(self.latest))
                saved = time.monotonic()
        self.current_epoch = max(1, self.iterations // ITERATIONS_PER_EPOCH)
        self.on_train_end()

    def _note(self, losses: list[float], rate: float, seconds: list[float]) -> None:
        numbers = {"loss": _mean(losses), "lr": rate, "seconds_an_iteration": _mean(seconds)}
        for name, value in numbers.items():
            self.history[name].append(value)
        said = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self.print_to_log_file(f"iteration {self.iterations}, {self.share:.0%} of the budget: {said}")

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with the state of the budget; the final one is without the optimiser's."""
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(filename) as temporary:
            super().save_checkpoint(os.fspath(temporary))
            content = torch.load(temporary, map_location="cpu", weights_only=True)
            if filename != os.fspath(self.latest):
                content["optimizer_state"] = content["grad_scaler_state"] = None
            torch.save({**content, "budget": self.state()}, temporary)

    def state(self) -> dict[str, Any]:
        """JSON-able: how far the training is."""
        return {"iterations": self.iterations, "seconds": self.budget.seconds, "history": self.history}

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Go on from a resumable checkpoint. What is drawn from then on differs from a run without a stop."""
        told = read_checkpoint(Path(filename_or_checkpoint))["budget"]  # before nnU-Net's own reader unpickles it
        super().load_checkpoint(filename_or_checkpoint)
        self.iterations, self.budget.seconds, self.history = (told[k] for k in ("iterations", "seconds", "history"))

    def plot_network_architecture(self) -> None:
        """Left out: it needs a package that is not there."""

    def write_result(self, file: Path) -> None:
        """What the training came to."""
        write_json(file, {
            **self.state(), "epochs": self.iterations // ITERATIONS_PER_EPOCH,
            "configuration": self.configuration_name, "batch_size": self.batch_size,
            "patch_size": list(self.configuration_manager.patch_size),
            "peak_memory_gib": round(peak_memory_gib(), 3),
        })


# nnU-Net names folders and checkpoints after the class. The network is its own, so its commands shall find it.
BudgetTrainer.__name__ = "nnUNetTrainer"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

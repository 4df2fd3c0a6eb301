"""The process in which nnU-Net runs: ``python -m samdpo.lab.baselines.nnunet_worker COMMAND SETTINGS``.

Started by :mod:`samdpo.lab.baselines.nnunet_process`, which sets nnU-Net's folders and reads what is printed.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

from samdpo.files import read_json
from samdpo.paths import number_of

PLANS = "nnUNetPlans"
RESULT, WEIGHTS = "result.json", "weights.safetensors"


def model_folder(folder: Path, dataset: str, configuration: str) -> Path:
    """nnU-Net's model folder, for ``nnUNetv2_predict_from_modelfolder -m``."""
    return folder / "results" / dataset / f"nnUNetTrainer__{PLANS}__{configuration}"


def prepare(settings: dict[str, Any]) -> str:
    """Fingerprint, plan and preprocess as ``nnUNetv2_plan_and_preprocess`` does; returns the configuration used."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    number, processes = number_of(settings["dataset"]), settings["processes"]
    extract_fingerprints([number], num_processes=processes)
    plan_experiments([number])
    configuration = _configuration(settings)
    preprocess([number], PLANS, (configuration,), [processes])
    return configuration


def train(settings: dict[str, Any]) -> None:
    """Train fold 0 of the only split; writes ``result.json`` and the weights as safetensors."""
    import numpy as np
    import torch

    from samdpo.lab.baselines.nnunet_budget import BudgetTrainer
    from samdpo.networks.weights import save_weights

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
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

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


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"train": train, "predict": predict}[sys.argv[1]](read_json(sys.argv[2]))

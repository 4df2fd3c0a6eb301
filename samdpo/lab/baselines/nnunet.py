"""Baseline: the real nnU-Net (Isensee et al. 2021), with its own planning, preprocessing, training and prediction.

It runs in a process of its own: its three folders are environment variables, which are read when it is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samdpo.dataset.images import write_label
from samdpo.dataset.raw_dataset import RawDataset
from samdpo.errors import ConfigurationError, ModelFolderError, TrainingError
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import hash_of, read_json, write_json
from samdpo.lab.baselines.nnunet_files import (
    PLANS,
    RESULT,
    WEIGHTS,
    RawForm,
    check_plans,
    check_preprocessed,
    model_folder,
    read_checkpoint,
    write_raw_dataset,
)
from samdpo.model import description
from samdpo.names import check_name
from samdpo.paths import preprocessed_folder
from samdpo.plans import NetworkPlan, Plans
from samdpo.schema import to_dict
from samdpo.training import checkpoints, manifest
from samdpo.training.run_log import RunLog, write_debug
from samdpo.training.trainer import Trainer

log = logging.getLogger(__name__)

LATEST_FILE = "checkpoint_latest.pth"  # nnU-Net's name
SETTINGS, FORM = "settings.json", "form.json"
WORKER = "samdpo.lab.baselines.nnunet_worker"
LOG = "nnunet_log.txt"


class NnUNetTrainer(Trainer):
    """Calls nnunetv2 on the raw files of exactly our labelled cases; of the stage it heeds ``epochs`` (of nnU-Net's
    250 iterations), ``minutes``, ``seed`` and ``held_back``.

    All that nnU-Net writes lies in ``fold_X/nnunet``; its raw folder there holds the labelled training cases and no
    other. On a CPU its augmentation runs in the process that trains, so that ``minutes`` counts it; on a GPU the
    minutes are those of the clock.
    """

    uses_prompts = False
    save_seconds = 120.0  # on the clock, between resumable checkpoints

    @classmethod
    def check_prerequisites(cls, plans: Plans, stage: str, fold: int | str) -> None:
        """nnU-Net must be installed."""
        if importlib.util.find_spec("nnunetv2") is None:
            raise ConfigurationError(f"The stage {stage!r} runs nnU-Net, which is not installed. Type: "
                                     "pip install nnunetv2")

    @staticmethod
    def build_network_architecture(plan: NetworkPlan) -> nn.Module:
        """Not built here: nnU-Net predicts with its own network."""
        raise ModelFolderError(
            "This is a model of nnU-Net, which its own command predicts with: nnUNetv2_predict_from_modelfolder "
            "-i IMAGES -o MASKS -f 0 -m fold_X/nnunet/results/DATASET/nnUNetTrainer__nnUNetPlans__CONFIGURATION"
        )

    @property
    def nnunet(self) -> Path:
        """Folder of nnU-Net's three."""
        return self.fold_folder / "nnunet"

    @property
    def latest(self) -> Path:
        """nnU-Net's resumable checkpoint, where those of other trainers are."""
        return self.fold_folder / checkpoints.LATEST / LATEST_FILE

    def initialize(self) -> None:
        """Choose the cases to train on."""
        if self.pretrained_weights:
            raise ConfigurationError("nnU-Net starts from random weights here; leave out -pretrained_weights.")
        if self.processes.world > 1:
            raise ConfigurationError("nnU-Net is trained by one process here; type samdpo_train without torchrun.")
        train, _ = self.do_split()
        self.train_keys = [(case, i) for case in train for i in range(self.data.slices.n_slices(case))]
        self.resuming = False

    def load_checkpoint(self) -> bool:
        """Whether there is something to go on from.

        Raises:
            TrainingError: it was made with other settings.
            ModelFolderError: it holds more than tensors and numbers, or the plan beside it names strange classes.
        """
        if not self.latest.is_file():
            return False
        self.check_settings(read_json(self.nnunet / SETTINGS, error=TrainingError, remedy="Start again without --c."))
        read_checkpoint(self.latest)
        check_plans(self.nnunet / "preprocessed" / self.plans.dataset_name / f"{PLANS}.json")
        check_preprocessed(self.nnunet / "preprocessed")
        self.resuming = True
        return True

    def settings(self) -> dict[str, Any]:
        """What a continued run must share with the one it continues."""
        heeded = {name: getattr(self.stage, name) for name in ("epochs", "minutes", "seed", "held_back")}
        return {**heeded, "cases": hash_of(sorted(self.do_split()[0]))}

    def run_training(self) -> None:
        """Hand the cases over, let nnU-Net plan, preprocess and train, take over its weights."""
        self.run_log = RunLog(self.fold_folder)
        if not (self.folder / description.PLANS).is_file():
            self.data.write_description(self.folder, self.stage_name)
        if not self.resuming:
            self.hand_over()
        write_json(self.nnunet / SETTINGS, self.settings())
        write_debug(self.fold_folder / "debug.json", {
            "trainer": type(self).__qualname__, "stage": self.stage_name, "settings": to_dict(self.stage),
            "device": str(self.device), "train_slices": self.train_keys,
            "nnunetv2": importlib.metadata.version("nnunetv2"),
        })
        log.info("nnU-Net trains on %d labelled cases of %s, fold %s. What it says is written to %s.",
                 len({case for case, _ in self.train_keys}), self.plans.dataset_name, self.data.fold,
                 self.nnunet / LOG)
        run_nnunet("train", self.nnunet, {
            "folder": self.nnunet, "dataset": self.plans.dataset_name,
            "configuration": "2d" if self.plans.ndim == 2 else "3d_fullres", "epochs": self.num_epochs,
            "minutes": self.stage.minutes, "seed": self.stage.seed, "latest": self.latest, "resume": self.resuming,
            "save_seconds": self.save_seconds,
        }, self.device, self.data.processes)
        self.take_over()

    def hand_over(self) -> None:
        """Make nnU-Net's raw dataset and its split afresh; nnU-Net needs cases to validate, which choose nothing."""
        shutil.rmtree(self.nnunet, ignore_errors=True)
        source, names = RawDataset.open(self.plans.dataset_name), sorted({case for case, _ in self.train_keys})
        every = {case.identifier: case for case in source.labelled}
        gone = [case for case in (*names, *self.data.split.val) if case not in every]
        if gone:
            raise TrainingError(f"{source.folder} has no case {gone[0]!r} any more, which fold {self.data.fold} uses. "
                                f"Put its files back, or type: samdpo_plan_and_preprocess -d {source.number}")
        cases = [every[case] for case in names]
        form = RawForm.of(source.meta, cases, [every[case] for case in self.data.split.val])
        write_raw_dataset(self.nnunet / "raw" / source.name, source.meta, cases, form)
        write_json(self.nnunet / "preprocessed" / source.name / "splits_final.json", [{"train": names, "val": names}])
        write_json(self.nnunet / FORM, form.to_dict())

    def take_over(self) -> None:
        """Write the fold's own description, then the weights."""
        result = read_json(self.nnunet / RESULT, error=TrainingError)
        self.budget.seconds, self.current_epoch = result["seconds"], result["epochs"]
        self.run_log.history = result["history"]
        self.run_log.draw()
        self.stopwatch.add("train", result["seconds"], result["iterations"] * result["batch_size"])
        with manifest.trained(self.fold_folder, self.made_of()) as folder:
            write_json(folder / "model.json", self.describe())
            write_json(folder / "cost.json", {**self.cost(), "peak_memory_gib": result["peak_memory_gib"]})
            os.replace(self.nnunet / WEIGHTS, folder / checkpoints.FINAL)
            self.describe_data(folder)
        log.info("nnU-Net did %d iterations in %.1f minutes.", result["iterations"], self.budget.seconds / 60)
        self.run_log.close()

    def describe(self) -> dict[str, Any]:
        """As of every fold, with what nnU-Net planned and how far it came."""
        result = read_json(self.nnunet / RESULT, error=ModelFolderError)
        own = {key: result[key] for key in ("iterations", "configuration", "batch_size", "patch_size")}
        return {**super().describe(), **own,
                "nnunetv2": importlib.metadata.version("nnunetv2")}

    def prediction_command(self) -> str:
        """nnU-Net's own command."""
        trained = read_json(self.nnunet / RESULT, error=ModelFolderError)
        model = self.nnunets_model(trained)
        return f"nnUNetv2_predict_from_modelfolder -i IMAGES -o MASKS -f 0 -m {model}"

    def nnunets_model(self, trained: dict[str, Any]) -> Path:
        """nnU-Net's model folder, of which ``result.json`` says the configuration."""
        configuration = check_name(
            trained.get("configuration") if isinstance(trained, dict) else None,
            f"{self.nnunet / RESULT}: 'configuration'", ModelFolderError,
        )
        return model_folder(self.nnunet, self.plans.dataset_name, configuration)

    def measure_confidence(self) -> dict[str, float]:
        """None: nnU-Net's masks come without the confidence of ours."""
        return {}

    def perform_actual_validation(self, save_probabilities: bool = False) -> dict[str, Any]:
        """nnU-Net predicts the fold's validation cases from the raw images; we evaluate as for every stage."""
        source, output = RawDataset.open(self.plans.dataset_name), self.nnunet / "predicted"
        remedy = "Train it again without --val."
        form = RawForm.from_dict(read_json(self.nnunet / FORM, error=ModelFolderError, remedy=remedy))
        trained = read_json(self.nnunet / RESULT, error=ModelFolderError, remedy=remedy)
        images = self.nnunet / "to_predict"
        for folder in (output, images):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        cases = [c for c in source.labelled if c.identifier in set(self.data.split.val)]
        files = {case.identifier: form.put_images(case, images, source.meta.n_channels) for case in cases}
        log.info("nnU-Net predicts %d validation cases.", len(cases))
        model = self.nnunets_model(trained)
        read_checkpoint(model / "fold_0" / "checkpoint_final.pth")
        check_plans(model / "plans.json")
        run_nnunet("predict", self.nnunet, {
            "model": model, "cases": files, "output": output,
            "save_probabilities": save_probabilities,
        }, self.device, self.data.processes)
        return self.evaluate(form, output, [case.identifier for case in cases])

    def evaluate(self, form: RawForm, predicted: Path, cases: list[str]) -> dict[str, Any]:
        """Bring nnU-Net's masks into ``validation/`` in our values and geometry, and compare with the truth."""
        target = self.fold_folder / "validation"
        for case in cases:
            mask = form.read_prediction(predicted / f"{case}{form.ending}")
            write_label(mask, target / f"{case}{self.plans.file_ending}",
                        self.data.slices.properties(case)["image_properties"])
            if (probabilities := predicted / f"{case}.npz").is_file():
                os.replace(probabilities, target / f"{case}.npz")
        truth = preprocessed_folder(self.plans.dataset_name) / "gt_segmentations"
        summary = evaluate_folder(truth, target, self.folder / "dataset.json", cases=cases,
                                  processes=self.data.processes)
        log.info("Validation of fold %s on %d cases: Dice %.4f. Written: %s", self.data.fold, len(cases),
                 summary["foreground_mean"]["Dice"], target / "summary.json")
        return summary


def run_nnunet(command: str, folder: Path, settings: Mapping[str, Any], device: torch.device, processes: int) -> None:
    """Run one command of :mod:`samdpo.lab.baselines.nnunet_worker` to its end.

    Args:
        command: ``train`` or ``predict``.
        folder: that holds nnU-Net's three folders, the settings and the log.
        settings: JSON-able, for the command.
        device: that computes.
        processes: for fingerprint and preprocessing.

    Raises:
        TrainingError: nnU-Net failed; names its last words and its log.
    """
    file, log = folder / f"{command}.json", folder / LOG
    write_json(file, {**settings, "device": device.type, "processes": processes})
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {WORKER} import main; main()", command, str(file)], stdin=subprocess.PIPE,
            stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **_environment(folder, device, processes)},
        )
        try:
            code = process.wait()  # its standard input stays open for as long as this process lives
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code:
        memory = " Code -9 often means that the memory was full." if code == -9 else ""
        raise TrainingError(f"nnU-Net's {command} ended with code {code}: {_last_words(log)}. Its whole output is in "
                            f"{log}.{memory}")


def _last_words(log: Path) -> str:
    """The last line that is not indented: where an error goes on over several lines, its first."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip() and not line.startswith(" ")), "it said nothing")


def _environment(folder: Path, device: torch.device, processes: int) -> dict[str, str]:
    variables = {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_def_n_proc": str(processes),
        "PYTHONUNBUFFERED": "1",
    }
    if device.type != "cuda":
        variables |= {"nnUNet_compile": "f"}
    elif device.index:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # nnU-Net takes the first one it sees
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index] if visible else str(device.index)
    return variables

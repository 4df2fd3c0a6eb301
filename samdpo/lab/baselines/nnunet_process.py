"""nnU-Net in a process of its own: its three folders are environment variables, which are read when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from samdpo.errors import TrainingError
from samdpo.files import write_json

WORKER = "samdpo.lab.baselines.nnunet_worker"
LOG = "nnunet_log.txt"


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
            [sys.executable, "-m", WORKER, command, str(file)], stdin=subprocess.PIPE, stdout=output,
            stderr=subprocess.STDOUT, env={**os.environ, **_environment(folder, device, processes)},
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

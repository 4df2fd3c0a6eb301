"""How much memory there is, and which device training will use; without importing torch where there is no GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_GIB = 1024**3
# Limits of a container: version 2 of control groups, then version 1.
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Machine:
    """What a plan is made for.

    Attributes:
        device: ``cpu`` or ``cuda``.
        memory_gib: of the GPU, or the working memory where there is none.
    """

    device: str
    memory_gib: float


def detect_machine() -> Machine:
    """The machine this runs on: its first NVIDIA GPU that torch can use, else its CPU, as ``-device auto`` has it."""
    gpu = gpu_memory_gib()
    if gpu is None:
        return Machine("cpu", ram_gib())
    import torch

    return Machine("cuda", gpu) if torch.cuda.is_available() else Machine("cpu", ram_gib())


def ram_gib() -> float:
    """Working memory in GiB that this process may use: the machine's, or its container's limit."""
    import psutil

    total = psutil.virtual_memory().total
    for name in _CGROUP_LIMITS:
        try:
            total = min(total, int(Path(name).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total / _GIB


def gpu_memory_gib() -> float | None:
    """Memory of the first visible NVIDIA GPU in GiB by ``nvidia-smi``; None where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None or visible in ("", "-1"):
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        sizes = [float(line) / 1024 for line in answer.splitlines() if line.strip()]  # nvidia-smi says MiB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    first = visible.split(",")[0] if visible else "0"
    index = int(first) if first.isdecimal() else 0
    return sizes[index] if index < len(sizes) else None

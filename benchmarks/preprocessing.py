"""Planning and preprocessing, side by side with nnU-Net's on the same raw folder.

    python benchmarks/preprocessing.py                       # phantoms drawn on the fly
    python benchmarks/preprocessing.py --raw DATASET_FOLDER  # a raw dataset of your own

Each tool starts in a fresh process, as its command would, and writes to a folder that is thrown away. nnU-Net runs
through its Python API, configuration 2d.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STEPS = ("fingerprint", "plan", "preprocess")


def main() -> None:
    """Run both tools and print seconds and ratios."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--raw", type=Path, default=None, help="raw dataset folder DatasetXXX_Name")
    arguments.add_argument("--cases", type=int, default=100, help="phantoms to draw without --raw")
    arguments.add_argument("-np", type=int, default=os.cpu_count(), help="processes of either tool")
    arguments.add_argument("--repeats", type=int, default=1, help="runs of each tool; the fastest counts")
    arguments.add_argument("--tool", choices=("nnunet", "samdpo"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.tool:
        print(json.dumps(run_tool(args.tool, args.raw.name, args.np)))
        return
    with tempfile.TemporaryDirectory() as folder:
        raw = args.raw.resolve() if args.raw else draw(Path(folder) / "nnUNet_raw", args.cases)
        seconds = {tool: fastest(tool, raw, Path(folder), args.np, args.repeats) for tool in ("nnunet", "samdpo")}
    report(raw.name, args.np, seconds)


def draw(root: Path, cases: int) -> Path:
    """Chest-X-ray-like phantoms."""
    from samdpo.dataset.phantoms import make_phantom_dataset

    folder = root / "Dataset901_Phantoms"
    make_phantom_dataset("xray", folder, n_labelled=cases, n_unlabelled=0, n_test=0, seed=0, size=(512, 448))
    return folder


def fastest(tool: str, raw: Path, folder: Path, processes: int, repeats: int) -> dict[str, float]:
    """Seconds a step of the fastest run; ``command`` is the whole process, its imports included."""
    runs = []
    for repeat in range(repeats):
        roots = {v: folder / tool / str(repeat) / v for v in ("nnUNet_preprocessed", "nnUNet_results")}
        for root in roots.values():
            root.mkdir(parents=True)
        environment = {**os.environ, "nnUNet_raw": str(raw.parent), **{k: str(v) for k, v in roots.items()}}
        command = [sys.executable, __file__, "--tool", tool, "--raw", str(raw), "-np", str(processes)]
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{tool} failed:\n{done.stderr[-2000:]}")
        runs.append({**json.loads(done.stdout.splitlines()[-1]), "command": time.perf_counter() - start})
    return min(runs, key=lambda run: run["command"])


def run_tool(tool: str, dataset: str, processes: int) -> dict[str, float]:
    """Seconds a step, imports of the first one included."""
    start = time.perf_counter()
    steps = (nnunet_steps if tool == "nnunet" else samdpo_steps)(dataset, processes)
    seconds = {}
    for name, step in zip(STEPS, steps):
        step()
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
    return seconds


def nnunet_steps(dataset: str, processes: int) -> list[Callable[[], object]]:
    """nnUNetv2_plan_and_preprocess -c 2d, in its three parts."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    from samdpo.paths import number_of

    number = number_of(dataset)
    return [
        lambda: api.extract_fingerprints([number], num_processes=processes),
        lambda: api.plan_experiments([number]),
        lambda: api.preprocess([number], configurations=["2d"], num_processes=[processes]),
    ]


def samdpo_steps(dataset: str, processes: int) -> list[Callable[[], object]]:
    """samdpo_plan_and_preprocess, in its three parts."""

    from samdpo.planning import plan_and_preprocess as verbs

    return [
        lambda: verbs.extract(dataset, processes),
        lambda: verbs.plan_experiment(dataset),
        lambda: verbs.preprocess_planned(dataset, processes=processes),
    ]


def report(dataset: str, processes: int, seconds: dict[str, dict[str, float]]) -> None:
    """A table with the ratios."""
    print(f"{dataset}, {processes} processes, seconds")
    print(f"{'step':<14}{'nnU-Net':>10}{'samdpo':>10}{'ratio':>10}")
    for step in (*STEPS, "command"):
        theirs, ours = seconds["nnunet"][step], seconds["samdpo"][step]
        print(f"{step:<14}{theirs:>10.2f}{ours:>10.2f}{theirs / ours:>9.1f}x")


if __name__ == "__main__":
    main()

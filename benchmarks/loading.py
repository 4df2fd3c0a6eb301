"""Training samples a second: in the process that trains, and made by one and two workers.

    python benchmarks/loading.py [--seconds 4] [--augmenter]

On slices and prompts that are generated, of 1 and of 15 structures; nothing else is needed. ``a core`` is samples a
second of processor time of this process and its workers. ``--augmenter`` adds batchgenerators' MultiThreadedAugmenter,
which was not chosen; see samdpo/training/loading.py. Views are those of ``finetune``, batches are of 2 slices.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from samdpo.model.batches import Batch, Recipe, SliceSamples
from samdpo.model.views import draw_view
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StagePlan, StructurePlan
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.regions import boxes_of, points_in
from samdpo.training.loading import Loader

SIDE, CASES, BATCH = 256, 40, 2
CPU = torch.device("cpu")


def plans_of(structures: int) -> Plans:
    """A plan with defaults and so many structures."""
    named = {f"structure_{i}": StructurePlan(label=i, phrase=f"structure {i}") for i in range(1, structures + 1)}
    return Plans(
        "Dataset900_Loading", "samdpoPlans", "none", ".png", named, [1.0, 1.0], [256.0, 256.0], 2, PreprocessingPlan(),
        PromptingPlan(), NetworkPlan(), {"finetune": StagePlan()},
    )


def make_samples(folder: Path, structures: int) -> SliceSamples:
    """Grey pictures of ellipses, stored as preprocessing and ``samdpo_prompt`` store them."""
    rng, plans = np.random.default_rng(0), plans_of(structures)
    slices, prompts = SliceStore(folder / "slices"), PromptStore(folder / "prompts", "generated")
    slices.folder.mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(CASES):
        case, label = f"case_{number:03d}", np.zeros((1, SIDE, SIDE), np.int16)
        coarse = rng.random((SIDE // 8, SIDE // 8)).repeat(8, 0).repeat(8, 1)
        image = (0.7 * coarse + 0.3 * rng.random((SIDE, SIDE)))[None, None]
        for plan in plans.structures.values():
            radii = rng.uniform(30, 70, 2) if structures == 1 else rng.uniform(8, 30, 2)
            centre = rng.uniform(80, 176, 2) if structures == 1 else rng.uniform(40, 216, 2)
            label[0][((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1] = plan.label
        geometry = SliceGeometry(0, (1, SIDE, SIDE), SIDE).to_dict()
        slices.put(case, image, label, {"geometry": geometry, "labelled": True, "channels": [0, 0, 0]})
        made = [prompt_of(name, p.label, label[0] == p.label, rng) for name, p in plans.structures.items()]
        prompts.put(case, [made])
    return SliceSamples(plans, slices, prompts, plans.stage("finetune").augmentation)


def prompt_of(name: str, label: int, mask: np.ndarray, rng: np.random.Generator) -> StructurePrompt:
    """A prompt as the towers make them: a little beside the truth."""
    regions = np.roll(mask, (3, -2), (0, 1)).astype(np.uint8)
    boxes = boxes_of(regions)
    return StructurePrompt(
        name, label, bool(regions.any()), 1.0, rng.normal(size=(64, 64)).astype(np.float16), regions, boxes,
        points_in(regions, 5, rng), boxes, np.ones(len(boxes), np.float32), "It is an ellipse.", "",
        rng.normal(size=384).astype(np.float32),
    )


def recipes(samples: SliceSamples) -> Iterator[Recipe]:
    """Without end."""
    keys = samples.keys([f"case_{number:03d}" for number in range(CASES)])
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(keys), generator=generator).tolist()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield [(keys[i], draw_view(samples.augmentation, generator)) for i in chosen]


class Dealt:
    """What MultiThreadedAugmenter takes: each of its processes makes every n-th recipe."""

    def __init__(self, samples: SliceSamples, workers: int) -> None:
        self.samples, self.workers, self.rank = samples, workers, 0
        self.number_of_threads_in_multithreaded = workers

    def set_thread_id(self, rank: int) -> None:
        """Called in the process of that number."""
        torch.set_num_threads(1)
        self.rank = rank

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        return self.made()

    def __next__(self) -> dict[str, Batch]:
        self._running = getattr(self, "_running", None) or self.made()
        return next(self._running)

    def made(self) -> Iterator[dict[str, Batch]]:
        """Every n-th batch."""
        for number, recipe in enumerate(recipes(self.samples)):
            if number % self.workers == self.rank:
                yield {"data": self.samples.batch(recipe)}


def cpu_seconds() -> float:
    """Processor time of this process and of all that descend from it, living or waited for."""
    times = os.times()
    total, ticks = times.user + times.system, os.sysconf("SC_CLK_TCK")
    parents: dict[int, tuple[int, float]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(file.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks
    family = {os.getpid()}
    while grown := {p for p, (parent, _) in parents.items() if parent in family} - family:
        family |= grown
    return total + sum(parents[p][1] for p in family if p != os.getpid() and p in parents)


def line(name: str, structures: int, batches: Iterable[object], seconds: float, plain: float | None) -> float:
    """Measure and print one way; returns samples a second of processor time."""
    running = iter(batches)
    for _ in range(CASES // BATCH):  # as many as there are cases: workers run, prompts are read
        next(running)
    count, busy, started = 0, cpu_seconds(), time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(running)
        count += BATCH
    wall, busy = time.perf_counter() - started, cpu_seconds() - busy
    ratio = f"{count / wall / plain:10.2f}" if plain else f"{1:10.2f}"
    print(f"{structures:10d}  {name:12s}{count / wall:14.1f}{count / busy:14.1f}{ratio}", flush=True)
    return count / wall


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring each line")
    parser.add_argument("--augmenter", action="store_true", help="batchgenerators' MultiThreadedAugmenter too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'structures':>10s}  {'made by':12s}{'samples/s':>14s}{'a core':>14s}{'of plain':>10s}")
    with tempfile.TemporaryDirectory() as folder:
        for structures in (1, 15):
            samples = make_samples(Path(folder) / str(structures), structures)
            plain = line("this process", structures, map(samples.batch, recipes(samples)), args.seconds, None)
            for workers in (1, 2):
                with Loader(workers, CPU) as loader:
                    made = loader.batches(recipes(samples), samples.batch)
                    line(f"{workers} worker{'s'[: workers - 1]}", structures, made, args.seconds, plain)
                if args.augmenter:
                    from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

                    augmenter = MultiThreadedAugmenter(Dealt(samples, workers), None, workers, num_cached_per_queue=2)
                    line(f"{workers} augmenter{'s'[: workers - 1]}", structures, augmenter, args.seconds, plain)
                    augmenter._finish()


if __name__ == "__main__":
    main()

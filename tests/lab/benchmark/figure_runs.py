"""A benchmark's folder with runs that nobody trained: enough of each for the figures to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from samdpo.dataset.images import write_label
from samdpo.evaluation.metrics import overlap_metrics
from samdpo.files import write_json
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.methods import METHODS
from samdpo.lab.benchmark.records import Record
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StagePlan, StructurePlan, save_plans
from samdpo.preprocessing.slicing import SliceGeometry
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore

LabelMaps = Mapping[str, np.ndarray]  # case -> (Z, Y, X)
PICTURES, VOLUMES = "Dataset901_TinyXray", "Dataset902_TinyCT"
SIZE = 32  # of slices
PICTURE = {"spacing": [999.0, 1.0, 1.0]}
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def run(method: str, dice: float, *, dataset: str = PICTURES, labelled: float = 0.1, seed: int = 1, **fields) -> Record:
    """A run that is done, without files."""
    stage = METHODS[method].stage if method in METHODS else method
    given = {"status": "done", "folder": Path("nowhere"), "metrics": {"Dice": dice}, **fields}
    return Record(dataset=dataset, method=method, stage=stage, plans_name="samdpoPlans", labelled=labelled, seed=seed,
                  fold="0", **given)


def ball(shape: tuple[int, int, int], radius: float, centre: Sequence[float] | None = None) -> np.ndarray:
    """(Z, Y, X) bool."""
    middle = np.asarray(shape) / 2 - 0.5 if centre is None else np.asarray(centre)
    return sum((axis - at) ** 2 for axis, at in zip(np.ogrid[tuple(map(slice, shape))], middle)) < radius**2


def prompt(shape: tuple[int, int] = (SIZE, SIZE)) -> StructurePrompt:
    """One box, one point."""
    regions = np.zeros(shape, np.uint8)
    regions[8:24, 4:16] = 1
    nothing = np.zeros((0, 4), np.float32)
    return StructurePrompt(
        "lung", 1, True, 0.9, np.linspace(-4, 4, 64 * 64).reshape(64, 64).astype(np.float16), regions,
        np.array([[4, 8, 16, 24]], np.float32), np.array([[10, 16]], np.float32), nothing, np.zeros(0, np.float32),
        "", "", np.zeros(384, np.float32),
    )


class Bench:
    """Cells of one dataset, written case by case."""

    def __init__(self, root: Path, dataset: str, structures: dict[str, int], ending: str) -> None:
        self.cell, self.dataset, self.ending = Cell(root, 0.1, 1), dataset, ending
        self.folder = self.cell.preprocessed / dataset
        self.structures = structures
        write_json(self.folder / "dataset.json", {
            "channel_names": {"0": "CT" if ending == ".nii.gz" else "X-ray"}, "numTraining": 2,
            "labels": {"background": 0, **structures}, "file_ending": ending,
        })
        save_plans(
            Plans(dataset, "samdpoPlans", "LitePlanner", ending,
                  {name: StructurePlan(label, name) for name, label in structures.items()}, [1.0] * 3, [1.0] * 3, 2,
                  PreprocessingPlan(image_size=SIZE), PromptingPlan(), NetworkPlan(), {"align": StagePlan()}),
            self.folder / "samdpoPlans.json",
        )

    def add_case(self, case: str, truth: np.ndarray, properties: dict, prompts: bool = True) -> None:
        """Truth (Z, Y, X) of a case, its slices and prompts."""
        write_label(truth, self.folder / "gt_segmentations" / f"{case}{self.ending}", properties)
        geometry = SliceGeometry(0, truth.shape, SIZE)
        slices = geometry.to_slices(truth[None].astype(np.float32) / max(1, truth.max()))
        SliceStore(self.folder / "samdpoPlans_2d_256").put(
            case, slices, geometry.label_to_slices(truth),
            {"geometry": geometry.to_dict(), "flipped_axes": [], "channels": [0, 0, 0], "labelled": True},
        )
        if prompts:
            store = PromptStore(self.folder / "samdpoPlans_prompts" / "fold_0", "key")
            store.put(case, [[prompt()] for _ in range(len(truth))])

    def add_run(self, method: str, masks: LabelMaps, truths: LabelMaps, properties: dict) -> Record:
        """A method's masks of all cases."""
        fold = self.cell.model_folder(self.dataset, "Any", "samdpoPlans", METHODS[method].stage) / "fold_0"
        for case, mask in masks.items():
            write_label(mask, fold / "validation" / f"{case}{self.ending}", properties)
        write_json(fold / "validation" / "summary.json", {})
        labels = self.structures.values()
        dice = {
            case: float(np.mean([overlap_metrics(mask == label, truths[case] == label)["Dice"] for label in labels]))
            for case, mask in masks.items()
        }
        return run(method, float(np.mean(list(dice.values()))), dataset=self.dataset, folder=fold,
                   summary=fold / "validation" / "summary.json", per_case=dice, n_labelled=1)


def pictures(
    root: Path, methods: Sequence[str] = ("finetune", "align"), prompts: bool = True
) -> tuple[Bench, list[Record]]:
    """Eleven pictures of 40 x 60 pixels; ``align`` is the better the higher a case's number, 00 to 10."""
    bench = Bench(root, PICTURES, {"lung": 1}, ".png")
    truths = {f"case_{number:02}": ball((1, 40, 60), 12).astype(np.uint8) for number in range(11)}
    for case, truth in truths.items():
        bench.add_case(case, truth, PICTURE, prompts)
    records = []
    for shift, method in enumerate(methods):
        masks = {
            case: np.roll(truth, 2 * (10 - number) + 25 * (method != "align") + shift, axis=2)
            for number, (case, truth) in enumerate(truths.items())
        }
        records.append(bench.add_run(method, masks, truths, PICTURE))
    return bench, records


def volumes(
    root: Path, slices: int = 20, structures: Sequence[str] = ("liver", "spleen")
) -> tuple[Bench, list[Record]]:
    """Three volumes of a large and a small ball; ``align`` is the larger the higher a case's number."""
    bench = Bench(root, VOLUMES, {name: label for label, name in enumerate(structures, start=1)}, ".nii.gz")
    shape = (slices, 36, 36)
    properties = {"spacing": [2.0, 1.0, 1.0], "sitk_stuff": {
        "spacing": (1.0, 1.0, 2.0), "origin": (0.0, 0.0, 0.0), "direction": LPS}}

    def labels(larger: float) -> np.ndarray:
        found = ball(shape, 8 + larger, (slices / 2, 12, 12)).astype(np.uint8)
        found[ball(shape, 5 + larger, (slices / 2, 27, 27))] = 2
        return found

    truths = {f"case_{number}": labels(0) for number in range(3)}
    for case, truth in truths.items():
        bench.add_case(case, truth, properties, prompts=False)
    masks = {case: labels(0.5 + number) for number, case in enumerate(truths)}
    return bench, [bench.add_run("align", masks, truths, properties)]

"""Run folders as trainings leave them, written in a moment: what the benchmark reads, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from samdpo.files import hash_of, write_json
from samdpo.lab.benchmark.cells import Cell
from samdpo.lab.benchmark.effort import Asked
from samdpo.lab.benchmark.methods import METHODS, Method
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StagePlan, StructurePlan, save_plans

DATASET = "Dataset901_Fake"
LABELLED, TESTED = ["a", "b"], ["x", "y", "z"]
_TRAINERS = {"finetune": "FinetuneTrainer"}


def fold_folder(cell: Cell, method: str | Method, plans: str = "samdpoPlans", fold: str = "0") -> Path:
    row = METHODS[method] if isinstance(method, str) else method
    trainer = _TRAINERS.get(row.stage, "AlignTrainer")
    return cell.model_folder(DATASET, trainer, f"{plans}{row.plans_suffix}", row.stage) / f"fold_{fold}"


def fake_run(
    cell: Cell,
    method: str | Method,
    dice: Sequence[float] = (0.5, 0.6, 0.7),
    labelled: Sequence[str] = LABELLED,
    tested: Sequence[str] = TESTED,
    data: Mapping[str, str] | None = None,
    minutes: float = 6.0,
    asked: Asked | None = None,
) -> Path:
    """Write a finished run; returns its fold folder.

    ``data`` are the hashes of model.json; None writes none, as older versions did. ``asked`` is what a stage about
    places asked.
    """
    row = METHODS[method] if isinstance(method, str) else method
    folder = fold_folder(cell, row)
    (folder / row.validation).mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_final.safetensors").write_bytes(b"weights")
    said = {} if asked is None else {
        "kept": {"name": asked.kept, "agreement": {}, "held_back": 0},
        "answers": {"seconds": 60 * asked.minutes, "counts": {"accepted": asked.answers}, "items": asked.items},
    }
    write_json(folder / "model.json", {"labelled_cases": list(labelled), "epochs": 3, "seed": cell.seed, **said,
                                       **({} if data is None else {"data": dict(data)})})
    write_json(folder / "cost.json", {"train_minutes": 1.5, "minutes_allowed": minutes})
    over_pixels = asked is None and row.learns_from == "judgements"
    objective = "preferences" if over_pixels else "supervised" if asked is None else "chosen"
    places = {} if asked is None else {"places": {"asks": asked.asks or "mixture", "minutes": asked.minutes_allowed}}
    write_json(folder / "debug.json", {"settings": {
        "objective": objective, "minutes": minutes, "prompt_rounds": 0, "candidates": {"count": 4}, **places,
        "annotator": {"kind": "virtual" if asked is None or asked.asks else "judge", "scoring": "ranking",
                      "rating_bins": [0.4, 0.55, 0.7]},
    }})
    write_json(folder.parent / "plans.json", {
        "structures": {"lung": {"components": 2}}, "prompting": {"n_hypotheses": 5},
        "preprocessing": {"data_identifier": "samdpoPlans_2d_256"},
    })
    per_case = [
        {"reference_file": f"gt/{case}.png", "metrics": {"1": {"Dice": one, "IoU": one / 2, "SurfaceDice": one / 3}}}
        for case, one in zip(tested, dice)
    ]
    of_label = [entry["metrics"]["1"] for entry in per_case]
    mean = {name: sum(one[name] for one in of_label) / len(of_label) for name in ("Dice", "IoU", "SurfaceDice")}
    write_json(folder / row.validation / "summary.json", {"foreground_mean": mean, "metric_per_case": per_case})
    return folder


def hashes(**parts: Sequence[str]) -> dict[str, str]:
    """As ``data`` of model.json."""
    return {name: hash_of(sorted(cases)) for name, cases in parts.items()}


def plan_cell(cell: Cell, stages: Sequence[str] = ("finetune", "align")) -> Path:
    """A planned cell, as far as the benchmark looks; returns ``preprocessed/DATASET``."""
    folder = cell.preprocessed / DATASET
    (folder / "samdpoPlans_2d_256").mkdir(parents=True, exist_ok=True)
    fold = {"train": ["a", "b", "c", "d"], "val": TESTED, "labelled": LABELLED, "unlabelled": ["c", "d"]}
    write_json(folder / "splits_final.json", [fold])
    save_plans(Plans(
        DATASET, "samdpoPlans", "LitePlanner", ".png", {"lung": StructurePlan(1, "lung")}, [999.0, 1.0, 1.0],
        [1.0, 96.0, 112.0], 2, PreprocessingPlan(), PromptingPlan(), NetworkPlan(),
        {stage: StagePlan() for stage in stages},
    ), folder / "samdpoPlans.json")
    return folder

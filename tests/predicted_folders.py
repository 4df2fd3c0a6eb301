"""Folders as ``samdpo_predict --save_probabilities`` and trained folds leave them, made without any network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samdpo.dataset.images import write_label
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import write_json
from samdpo.model.export import write_prediction
from samdpo.model.masks import label_map
from samdpo.model.predictor import Prediction
from samdpo.plans import (
    InferencePlan,
    NetworkPlan,
    Plans,
    PreprocessingPlan,
    PromptingPlan,
    StagePlan,
    StructurePlan,
    save_plans,
)

DATASET, NUMBER = "Dataset905_Organs", 905
PICTURE = {"spacing": [999.0, 1.0, 1.0], "shape": [1, 40, 48]}
TRAINERS = {"finetune": "FinetuneTrainer", "align": "AlignTrainer", "sam_med2d": "SamTrainer", "unet": "UNetTrainer",
            "nnunet": "NnUNetTrainer"}


def plans_of(
    structures: Mapping[str, int], ending: str = ".png", name: str = "samdpoPlans", largest: tuple[str, ...] = ()
) -> Plans:
    """A plan with these structures and the usual stages."""
    return Plans(
        DATASET, name, "LitePlanner", ending, {n: StructurePlan(label, n) for n, label in structures.items()},
        [999.0, 1.0, 1.0], [1.0, 40.0, 48.0], 2, PreprocessingPlan(), PromptingPlan(), NetworkPlan(),
        {stage: StagePlan(trainer=trainer) for stage, trainer in TRAINERS.items()},
        InferencePlan(largest_component=largest),
    )


def write_predictions(
    folder: Path, probabilities: Mapping[str, np.ndarray], plans: Plans, properties: dict[str, Any] = PICTURE,
    cut: float = 0.5, reasons: tuple[str, ...] = (), npz: bool = True,
) -> Path:
    """What ``samdpo_predict`` writes for cases of which a network says these (L, Z, Y, X) probabilities."""
    labels = [structure.label for structure in plans.structures.values()]
    for case, of in probabilities.items():
        report = {"structures": {}, "look_at": bool(reasons), "reasons": list(reasons), "mask_cut": cut}
        of = of.astype(np.float32)
        write_prediction(Prediction(label_map(of, cut, labels), of, report, properties), folder, case, plans, npz)
    save_plans(plans, folder / "plans.json")
    return folder


@dataclass
class Organs:
    """A dataset with a truth for 6 pictures in 3 folds, and models that were validated on them.

    A picture shows a liver (a square of 16 x 16 pixels) and, in every other one, a spleen.
    """

    preprocessed: Path
    results: Path

    def __post_init__(self) -> None:
        write_json(self.preprocessed / "dataset.json", self.dataset_json)
        for case in self.cases:
            write_label(label_map(self.truth(case), 0.5, [1, 3]), self.preprocessed / "gt_segmentations" /
                        f"{case}.png", PICTURE)

    @property
    def dataset_json(self) -> dict[str, Any]:
        return {"channel_names": {"0": "ultrasound"}, "labels": {"background": 0, "liver": 1, "spleen": 3},
                "numTraining": 6, "file_ending": ".png"}

    @property
    def cases(self) -> list[str]:
        return [f"case_{i}" for i in range(6)]

    def cases_of(self, fold: int) -> list[str]:
        return self.cases[2 * fold : 2 * fold + 2]

    def truth(self, case: str) -> np.ndarray:
        """(2, 1, 40, 48) of 0 and 1."""
        masks = np.zeros((2, 1, 40, 48), np.float32)
        masks[0, 0, 4:20, 4:20] = 1
        masks[1, 0, 24:36, 30:42] = int(case[-1]) % 2
        return masks

    def shifted(self, case: str, by: int) -> np.ndarray:
        """The truth some columns to the right, blurred so that the average of two shifts lies between them."""
        moved = np.stack([np.roll(self.truth(case), by + step, axis=-1) for step in range(-6, 7)])
        return 0.9 * moved.mean(0)

    def model(
        self, stage: str, shift: int, folds: tuple[int, ...] = (0, 1, 2), plans_name: str = "samdpoPlans",
        npz: bool = True, folder: str = "validation", specks: bool = False, **settings: Any,
    ) -> Path:
        """A model whose masks are ``shift`` columns off, as ``samdpo_train`` leaves it."""
        plans = plans_of({"liver": 1, "spleen": 3}, name=plans_name)
        model = self.results / f"{TRAINERS[stage]}__{plans_name}__{stage}"
        for fold in folds:
            at = model / f"fold_{fold}"
            probabilities = {case: self.shifted(case, shift) for case in self.cases_of(fold)}
            if specks:
                for of in probabilities.values():
                    of[0, 0, 30:33, 8:11] = 0.9
            write_predictions(at / folder, probabilities, plans, npz=npz)
            (at / folder / "plans.json").unlink()
            evaluate_folder(self.preprocessed / "gt_segmentations", at / folder, self.preprocessed / "dataset.json",
                            cases=self.cases_of(fold))
            (at / "checkpoint_final.safetensors").touch()
            write_json(at / "model.json", {
                "trainer": f"samdpo.training:{TRAINERS[stage]}", "stage": stage, "mask_cut": 0.5,
                "labelled_cases": ["case_x", "case_y"], **settings,
            })
        save_plans(plans, model / "plans.json")
        write_json(model / "dataset.json", self.dataset_json)
        return model

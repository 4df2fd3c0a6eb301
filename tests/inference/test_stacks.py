"""A dataset of TIFF stacks, whose spacing stands in CASE.json: planned, trained, validated, predicted, evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from samdpo.dataset.images import read_label_with_properties
from samdpo.evaluation.summary import evaluate_folder
from samdpo.files import read_json, write_json

SPACING = [3.0, 0.5, 0.5]


@pytest.mark.slow
def test_stacks_are_validated_and_predictions_are_measured_in_mm(roots) -> None:
    from samdpo.inference.predict_folder import predict_folder
    from samdpo.planning.plan_and_preprocess import plan_and_preprocess
    from samdpo.training.get_trainer import get_trainer

    raw = roots.raw / "Dataset907_Stacks"
    rng = np.random.default_rng(0)
    for case in range(5):
        label = np.zeros((4, 24, 24), np.uint8)
        label[1:, 4:16, 4 + case : 16 + case] = 1
        image = (rng.integers(0, 60, label.shape) + 120 * label).astype(np.uint8)
        for folder, name, values in (("imagesTr", f"st_{case}_0000", image), ("labelsTr", f"st_{case}", label)):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(raw / folder / f"{name}.tif", values, photometric="minisblack")
            write_json(raw / folder / f"st_{case}.json", {"spacing": SPACING})
    write_json(raw / "dataset.json", {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1},
                                      "numTraining": 5, "file_ending": ".tif"})
    plan_and_preprocess(907)
    file = roots.preprocessed / raw.name / "samdpoPlans.json"
    plans = read_json(file)
    plans["network"] |= {"backbone": "tiny_sam", "frozen_stages": 0}
    plans["prompting"] |= {"tower_steps": 10, "cross_fit_folds": 2}
    plans["configurations"]["finetune"] |= {"epochs": 1, "lr": 3e-3, "encoder_lr": 3e-3}
    write_json(file, plans)
    trainer = get_trainer(907, "finetune", 0, device="cpu")
    trainer.train()
    validation = trainer.fold_folder / "validation"
    assert read_json(validation / "summary.json")["samdpo"]["surface"] == [{"unit": "mm", "tolerance": 1.0}]
    output = roots.results / "predicted"
    masks = predict_folder(raw / "imagesTr", output, trainer.folder, device="cpu")
    for mask in (*masks, *validation.glob("*.tif")):
        assert read_label_with_properties(mask)[1]["spacing"] == SPACING
        assert "look_at" in read_json(mask.with_suffix(".json"))
    assert len(evaluate_folder(raw / "labelsTr", output, raw)["metric_per_case"]) == 5
    assert predict_folder(raw / "imagesTr", output, trainer.folder, device="cpu", continue_prediction=True) == []

"""Features of the frozen encoder."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from test_prompter import plans

from samdpo.plans import StagePlan
from samdpo.prompting.frozen_features import slice_features


def test_the_encoder_takes_as_many_slices_at_once_as_the_most_careful_stage_says(roots, monkeypatch):
    store = SimpleNamespace(seen_image=lambda *_: np.zeros((3, 8, 8), np.float32), hash_of_case=lambda case: "h")
    (roots.raw / "Dataset900_Discs").mkdir(parents=True)
    stages = {"finetune": StagePlan(inference_batch_size=4), "align": StagePlan(inference_batch_size=2)}
    features, seen = slice_features(replace(plans(), configurations=stages), store, "cpu"), []

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.zeros(len(images), 1, 2, 2)

    monkeypatch.setattr(features.extractor, "_encoder", encode)
    features.prepare([("a", index, False) for index in range(5)])
    assert seen == [2, 2, 1]

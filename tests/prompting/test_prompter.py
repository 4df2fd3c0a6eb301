from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from samdpo.errors import ModelFolderError, TrainingError
from samdpo.plans import NetworkPlan, Plans, PreprocessingPlan, PromptingPlan, StructurePlan
from samdpo.prompting.fitting import FittedPrompters, fit_prompter
from samdpo.prompting.image_text import ImageView
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompter import Prompter

SIZE = 96


class ShownDiscs:
    """A slice store of discs; features are the pooled image with noise. Cases named ``empty…`` show nothing."""

    def __init__(self, cases: list[str]) -> None:
        self.names = cases

    def slices(self, case: str) -> int:
        return 1

    def place(self, case: str) -> tuple[int, int]:
        generator = np.random.default_rng(sum(case.encode()))
        return tuple(generator.integers(25, SIZE - 25, 2))

    def label(self, case: str, index: int) -> np.ndarray:
        y, x = np.mgrid[:SIZE, :SIZE]
        cy, cx = self.place(case)
        shown = not case.startswith("empty")
        return (((y - cy) ** 2 + (x - cx) ** 2 < 15**2) & shown).astype(np.uint8)

    def image(self, case: str, index: int) -> np.ndarray:
        noise = np.random.default_rng(1).random((SIZE, SIZE)) * 0.1
        return np.repeat((0.2 + 0.6 * self.label(case, 0) + noise)[None], 3, 0).astype(np.float32)

    def features(self, case: str, index: int, mirrored: bool = False) -> torch.Tensor:
        generator = torch.Generator().manual_seed(sum(case.encode()))
        features = torch.randn(8, 32, 32, generator=generator)
        image = torch.from_numpy(self.image(case, 0))[None, :1]
        image = image.flip(-1) if mirrored else image
        features[0] += 6 * torch.nn.functional.interpolate(image, (32, 32), mode="bilinear", antialias=True)[0, 0]
        return features.half()


def plans(**prompting) -> Plans:
    structure = StructurePlan(3, "bright disc", may_be_absent=True, description="A disc.")
    settings = PromptingPlan(tower_steps=40, tower_dim=16, cross_fit_folds=2, **prompting)
    return Plans("Dataset900_Discs", "samdpoPlans", "LitePlanner", ".png", {"disc": replace(structure, label=1)},
                 [1.0, 1.0], [SIZE, SIZE], 2, PreprocessingPlan(image_size=SIZE), settings, NetworkPlan(), {})


CASES = ["disc_1", "disc_2", "disc_3", "disc_4", "empty_1", "empty_2"]


def fitted(cases: list[str] = CASES, **prompting) -> tuple[FittedPrompters, ShownDiscs]:
    store = ShownDiscs(cases)
    return fit_prompter(plans(**prompting), store, cases, store.features), store


@pytest.fixture(scope="module")
def discs() -> tuple[FittedPrompters, ShownDiscs]:
    return fitted()


def test_a_new_slice_gets_box_points_sentence_and_saliency(discs):
    prompters, store = discs
    (prompt,) = prompters.full.prompt(store.image("disc_9", 0), store.features("disc_9", 0))
    truth = store.label("disc_9", 0) > 0
    assert prompt.present and prompt.label == 1 and prompt.structure == "disc"
    assert 2 * (prompt.coarse_mask & truth).sum() / (prompt.coarse_mask.sum() + truth.sum()) > 0.8
    rows, columns = np.nonzero(truth)
    np.testing.assert_allclose(
        prompt.boxes[0], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=5
    )
    assert prompt.points.shape == (5, 2)
    assert all(prompt.coarse_mask[int(y), int(x)] for x, y in prompt.points)
    assert "bright disc is round" in prompt.answer and prompt.description == "A disc."
    assert abs(np.linalg.norm(prompt.text_embedding) - 1) < 1e-3
    probability = expit(prompt.saliency.astype(np.float32))
    assert prompt.saliency.shape == (64, 64) and probability.max() > 0.5 and probability.min() < 0.1
    assert 1 <= len(prompt.hypotheses) == len(prompt.hypothesis_scores) <= 5


def test_a_slice_without_the_structure_gets_no_prompt(discs):
    prompters, store = discs
    (prompt,) = prompters.full.prompt(store.image("empty_9", 0), store.features("empty_9", 0))
    assert not prompt.present and not prompt.regions.any() and prompt.answer == ""
    assert len(prompt.boxes) == len(prompt.points) == len(prompt.hypotheses) == 0


def test_labelled_cases_are_prompted_by_towers_that_have_not_seen_them(discs):
    prompters, _ = discs
    assert set(prompters.held_out) == set(CASES)
    assert all(prompter is not prompters.full for prompter in prompters.held_out.values())
    assert prompters.for_case("another") is prompters.full
    groups = dict.fromkeys(CASES[:5], "one patient")
    store = ShownDiscs(CASES)
    grouped = fit_prompter(plans(), store, CASES, store.features, groups)
    assert len({id(grouped.held_out[case]) for case in CASES[:5]}) == 1


def test_one_labelled_case_works_and_says_what_it_costs(caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    prompters, _ = fitted(["disc_1"])
    assert prompters.held_out["disc_1"].model is prompters.full.model
    assert "Only one group" in caplog.text


def test_nothing_labelled_is_a_sentence():
    with pytest.raises(TrainingError, match="no labelled case"):
        fitted([])
    with pytest.raises(TrainingError, match="Check labelsTr"):
        fitted(["empty_1"])


def test_the_same_seed_gives_the_same_prompt(discs):
    prompters, store = discs
    image, features = store.image("disc_9", 0), store.features("disc_9", 0)
    one, other = (prompters.full.prompt(image, features, seed=4)[0] for _ in range(2))
    assert (one.points == other.points).all()
    assert (fitted()[0].full.prompt(image, features, seed=4)[0].saliency == one.saliency).all()


def test_ablations_leave_out_answer_and_description():
    prompters, store = fitted(CASES[:2], use_answers=False, use_descriptions=False)
    (prompt,) = prompters.full.prompt(store.image("disc_9", 0), store.features("disc_9", 0))
    assert prompt.present and prompt.text == "" and not prompt.text_embedding.any()


def test_a_saved_prompter_prompts_alike_and_damage_is_named(discs, tmp_path):
    prompters, store = discs
    assert_read_as_written(prompters.full, store, tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelFolderError, match=weights.name):
        Prompter.load(tmp_path)
    (tmp_path / "prompter.json").unlink()
    with pytest.raises(ModelFolderError, match=r"prompter\.json is missing"):
        Prompter.load(tmp_path)


def test_towers_work_on_a_finer_grid_than_the_features_where_the_plan_says_so(tmp_path):
    prompters, store = fitted(tower_grid=48)
    view = ImageView(torch.from_numpy(store.image("disc_9", 0)), store.features("disc_9", 0))
    assert prompters.full.model.similarity(view).shape == (1, 48, 48)
    prompt = assert_read_as_written(prompters.full, store, tmp_path)
    truth = store.label("disc_9", 0) > 0
    assert (prompt.regions[truth] > 0).mean() > 0.8 and (prompt.regions[~truth] > 0).mean() < 0.05


def assert_read_as_written(prompter: Prompter, store: ShownDiscs, folder: Path) -> StructurePrompt:
    prompter.save(folder)
    image, features = store.image("disc_9", 0), store.features("disc_9", 0)
    one, other = prompter.prompt(image, features)[0], Prompter.load(folder).prompt(image, features)[0]
    assert (one.saliency == other.saliency).all() and (one.boxes == other.boxes).all()
    return other

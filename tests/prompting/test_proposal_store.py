"""Proposals on disk, and prompts at the place that a judge likes best."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ellipses import SIZE, EllipseNetwork, ellipse, of_three_channels, picture

from samdpo.plans import CrfPlan, NetworkPlan, PromptingPlan, StructurePlan
from samdpo.prompting.assemble import assemble_prompt
from samdpo.prompting.calibration import StructureCalibration
from samdpo.prompting.judge import JudgeSettings, PlaceJudge, measure, n_measures
from samdpo.prompting.prompter import Prompter, PrompterSettings
from samdpo.prompting.proposal_store import ProposalStore
from samdpo.prompting.proposals import PlaceProposer, PlaceShape
from samdpo.prompting.regions import mask_iou

CHANNELS = 20
FEATURES = torch.zeros(CHANNELS, 16, 16)
SHAPE = PlaceShape(radii=(20.0, 30.0))
PLAN, PROMPTING = StructurePlan(1, "mass"), PromptingPlan(crf=CrfPlan(enabled=False))
THERE, ELSEWHERE = ellipse(170, 90, 30, 30), ellipse(60, 180, 30, 30)


def prompt_of(mask: np.ndarray, plan: StructurePlan = PLAN, structure: str = "mass"):
    """The prompt of a saliency that lights up at a mask."""
    logits = np.where(mask, 4.0, -4.0)[::4, ::4]
    return assemble_prompt(structure, plan, PROMPTING, StructureCalibration(), np.zeros((3, SIZE, SIZE), np.float32),
                           logits, np.random.default_rng(0))


class Slices:
    """Two cases of a slice each; ``hashes`` tell their images apart."""

    def __init__(self) -> None:
        self.hashes = {"a": "first", "b": "first"}

    def slices(self, case: str) -> int:
        return 1

    def image(self, case: str, index: int) -> np.ndarray:
        return of_three_channels(picture(THERE if self.hashes[case] == "first" else ELSEWHERE))

    def hash_of_case(self, case: str) -> str:
        return self.hashes[case]


class Prompts:
    key = "prompts"

    def get(self, case: str, index: int):
        return [prompt_of(ELSEWHERE), prompt_of(ELSEWHERE, structure="two lungs")]


class Features:
    def __init__(self) -> None:
        self.extractor = SimpleNamespace(network=EllipseNetwork(), key="network")

    def prepare(self, slices) -> None:
        pass

    def __call__(self, case: str, index: int) -> torch.Tensor:
        return FEATURES


def store_in(
    folder, slices: Slices, shape: PlaceShape = SHAPE, blobs: int = 8, kept: int = 12, grid: int = 0
) -> ProposalStore:
    return ProposalStore(folder, slices, Prompts(), Features(), {"mass": shape}, blobs, kept, grid=grid)


def decoded(store: ProposalStore) -> int:
    """How often its network was asked."""
    return len(store.features.extractor.network.seen)


def test_proposals_are_made_once_and_come_back_as_they_were(tmp_path):
    slices = Slices()
    first, again = store_in(tmp_path, slices), store_in(tmp_path, slices)
    first.prepare(["a", "b"])
    made, kept = first.get("a", 0)["mass"], again.get("a", 0)["mass"]
    assert decoded(again) == 0 < decoded(first)
    for name in ("masks", "saliency", "measured", "boxes"):
        np.testing.assert_array_equal(getattr(made, name), getattr(kept, name))
    assert made.makers == kept.makers and len(kept) == len(kept.masks) > 1
    direct = PlaceProposer(EllipseNetwork(), 8, 12).propose(
        slices.image("a", 0), FEATURES, prompt_of(ELSEWHERE).hypotheses, SHAPE)
    np.testing.assert_array_equal(direct.masks.numpy(), kept.masks)
    assert kept.small.shape == (len(kept), 128, 128)


def test_only_structures_that_can_be_elsewhere_have_proposals(tmp_path):
    assert set(store_in(tmp_path, Slices()).get("a", 0)) == {"mass"}
    assert store_in(tmp_path, Slices()).get("a", 3) == {}


def test_a_replaced_image_and_a_damaged_file_are_proposed_for_anew(tmp_path):
    slices = Slices()
    before = store_in(tmp_path, slices).get("a", 0)["mass"]
    slices.hashes["a"] = "replaced"
    store = store_in(tmp_path, slices)
    after = store.get("a", 0)["mass"]
    assert decoded(store) and not np.array_equal(before.measured, after.measured)
    file = store._file("a")
    file.write_bytes(file.read_bytes()[:200])
    store = store_in(tmp_path, slices)
    np.testing.assert_array_equal(store.get("a", 0)["mass"].masks, after.masks)
    assert decoded(store)


@pytest.mark.parametrize("other", [{"blobs": 4}, {"kept": 5}, {"shape": PlaceShape(radii=(10.0,))}, {"grid": 32}])
def test_other_settings_lie_beside_each_other(tmp_path, other):
    one, two = store_in(tmp_path, Slices()), store_in(tmp_path, Slices(), **other)
    one.get("a", 0), two.get("a", 0)
    assert one.folder != two.folder and one._file("a").is_file() and two._file("a").is_file()


def test_an_image_without_a_proposal_is_kept_as_one(tmp_path):
    store = store_in(tmp_path, Slices())
    store.features.extractor.network.grown = 0.0
    assert len(store.get("a", 0)["mass"]) == 0
    asked = decoded(store)
    assert len(store.get("a", 0)["mass"]) == 0 and decoded(store) == asked
    assert store.get("a", 0)["mass"].small.shape[0] == 0


# ---- prompts at the judge's place -----------------------------------------------------------------------------------


class Contrast(PlaceJudge):
    """Likes what is darker than what is around it."""

    def forward(self, measured: torch.Tensor) -> torch.Tensor:
        from samdpo.prompting.judge import MEASURES

        return 20 * measured[:, MEASURES.index("contrast")]


def judged_prompter(network: EllipseNetwork) -> Prompter:
    settings = PrompterSettings({"mass": PLAN}, PROMPTING, NetworkPlan(backbone="tiny_sam"),
                                judges={"mass": JudgeSettings(SHAPE, 8, 12, n_measures(CHANNELS))})
    prompter = Prompter(settings, SimpleNamespace(), "cpu", {"mass": Contrast(n_measures(CHANNELS))})
    prompter.__dict__["extractor"] = SimpleNamespace(network=network)
    return prompter


def test_the_prompt_goes_where_the_judge_likes_it_best():
    image, before = of_three_channels(picture(THERE)), prompt_of(ELSEWHERE)
    after = judged_prompter(EllipseNetwork()).judged(before, image, FEATURES, np.random.default_rng(0))
    mask = torch.from_numpy(after.coarse_mask)[None]
    assert mask_iou(mask, torch.from_numpy(THERE)[None]) > 0.6 > mask_iou(mask, torch.from_numpy(ELSEWHERE)[None])
    x0, y0, x1, y1 = after.boxes[0]
    assert x0 < 170 < x1 and y0 < 90 < y1 and len(after.boxes) == 1
    assert all(THERE[int(y), int(x)] for x, y in after.points[:1]) and len(after.points) == PROMPTING.n_points
    assert len(after.hypotheses) == 0 and 0 < after.place_confidence <= 1
    assert "upper right" in after.answer or after.answer != before.answer
    assert (after.saliency > 0).mean() == pytest.approx(after.coarse_mask.mean(), abs=0.02)
    assert (after.present, after.score, after.description) == (before.present, before.score, before.description)


def test_where_nothing_is_proposed_the_prompt_stays_as_it_was():
    image, before = of_three_channels(picture(THERE)), prompt_of(ELSEWHERE)
    prompter = judged_prompter(EllipseNetwork(grown=0.0))
    assert prompter.judged(before, image, FEATURES, np.random.default_rng(0)) is before


def test_the_judge_of_prediction_sees_what_training_kept(tmp_path):
    slices = Slices()
    several = store_in(tmp_path, slices).get("a", 0)["mass"]
    image, prompt = slices.image("a", 0), prompt_of(ELSEWHERE)
    made = PlaceProposer(EllipseNetwork(), 8, 12).propose(image, FEATURES, prompt.hypotheses, SHAPE)
    direct = measure(image, FEATURES, prompt.saliency, prompt.coarse_mask, made)
    np.testing.assert_array_equal(direct, several.measured)
    judge = Contrast(n_measures(CHANNELS))
    kept = judge.judge(several.measured, several.small)
    prompter = judged_prompter(EllipseNetwork())
    now = prompter.judged(prompt, image, FEATURES, np.random.default_rng(0))
    assert now.place_confidence == kept.confidence
    np.testing.assert_array_equal(now.saliency, several.saliency[kept.first])

"""The judge of places: learnt from overlaps with outlines, then by Eq. 5 from what is preferred."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from trained_models import short_fits

from samdpo.errors import ModelFolderError
from samdpo.prompting.judge import (
    MEASURES,
    RELATIVE,
    SAME_PLACE,
    JudgeSettings,
    Outlined,
    PlaceJudge,
    Preferred,
    _Pairs,
    _preference,
    _ring,
    cross_fitted,
    diverse_first,
    doubtful_below,
    fit_to_outlines,
    learn_from_answers,
    load_judges,
    measure,
    n_measures,
    save_judges,
)
from samdpo.prompting.proposals import Proposals, boxes_of_masks

CHANNELS = 20
COLUMNS = n_measures(CHANNELS)
TELLING = [MEASURES.index(name) for name in ("quality", "contrast", "edge", "votes", "saliency_contrast")]
LIKED = MEASURES.index("texture")


def images(count: int, seed: int, proposals: int = 6) -> list[Outlined]:
    """Images of which the right proposal stands out in what is TELLING; everything else is noise."""
    generator, found = np.random.default_rng(seed), []
    for number in range(count):
        measured = generator.normal(0, 1, (proposals, COLUMNS)).astype(np.float32)
        right = generator.integers(proposals)
        measured[right, TELLING] += 2.5
        overlap = generator.uniform(0, 0.3, proposals).astype(np.float32)
        overlap[right] = 0.85
        found.append(Outlined(measured, overlap, f"patient {number // 2}"))
    return found


def prefers(one: Outlined, worth: np.ndarray) -> Preferred:
    """Every pair of an order by ``worth``."""
    better, worse = np.nonzero(worth[:, None] > worth[None])
    return Preferred(one.measured, better, worse, np.full(len(better), 1 / max(len(better), 1)), one.group)


def apart(count: int) -> torch.Tensor:
    """(count, 8, 8) masks of which no two are at one place."""
    return torch.eye(64, dtype=torch.bool)[:count].reshape(count, 8, 8)


def scores(judge: PlaceJudge, one) -> np.ndarray:
    return judge.judge(one.measured, apart(len(one.measured))).score


def right_choices(judge: PlaceJudge, of: list[Outlined]) -> float:
    return float(np.mean([scores(judge, one).argmax() == one.overlap.argmax() for one in of]))


OUTLINED, NEW = images(40, 0), images(60, 1)


@pytest.fixture(scope="module")
def judge() -> PlaceJudge:
    return fit_to_outlines(OUTLINED, 0)


# ---- outlines -------------------------------------------------------------------------------------------------------


def test_it_finds_the_right_one_of_images_it_has_not_seen(judge):
    chance = 1 / 6
    assert right_choices(judge, NEW) > 0.8 > 3 * chance
    assert right_choices(PlaceJudge(COLUMNS).eval(), NEW) < 0.4, "an unfitted one does not"


def test_the_same_outlines_give_the_same_judge_and_leave_the_random_numbers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (fit_to_outlines(OUTLINED, seed, steps=5).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("useless", [
    [], [Outlined(np.zeros((1, COLUMNS), np.float32), np.array([0.7]), "a")],
    [Outlined(np.zeros((4, COLUMNS), np.float32), np.zeros(4), "a")],
], ids=["no outline", "one proposal", "none overlaps"])
def test_outlines_that_tell_no_proposals_apart_give_no_judge(useless):
    assert fit_to_outlines(useless, 0) is None
    assert fit_to_outlines([*useless, OUTLINED[0]], 0, steps=1) is not None


def test_one_image_with_two_proposals_is_enough_to_fit(judge):
    one = Outlined(OUTLINED[0].measured[:2], np.array([0.1, 0.8], np.float32), "a")
    fitted = fit_to_outlines([one], 0, steps=20)
    assert np.isfinite(scores(fitted, one)).all() and scores(fitted, one).argmax() == 1


def test_inputs_far_outside_what_was_seen_give_finite_scores(judge):
    wild = np.full((3, COLUMNS), 1e8, np.float32)
    wild[1] *= -1
    assert np.isfinite(judge.judge(wild, apart(3)).score).all()


def test_an_outline_is_judged_by_a_judge_that_has_not_seen_its_patient(monkeypatch):
    short_fits(monkeypatch)
    measured = np.concatenate([one.measured for one in OUTLINED])
    before = cross_fitted(OUTLINED, 0, measured, n_folds=2)
    assert before.keys() == {one.group for one in OUTLINED} and len({id(one) for one in before.values()}) == 2
    held = OUTLINED[0].group
    lied = [Outlined(one.measured, one.overlap[::-1].copy(), one.group) if one.group == held else one
            for one in OUTLINED]
    after = cross_fitted(lied, 0, measured, n_folds=2)
    assert np.array_equal(scores(before[held], NEW[0]), scores(after[held], NEW[0]))
    changed = [group for group in before if not np.array_equal(scores(before[group], NEW[0]),
                                                               scores(after[group], NEW[0]))]
    assert set(changed) == {group for group in before if before[group] is not before[held]}


def test_one_patient_cannot_be_held_out():
    assert cross_fitted([Outlined(one.measured, one.overlap, "a") for one in OUTLINED], 0, None) == {}


# ---- answers --------------------------------------------------------------------------------------------------------


def test_the_loss_of_every_order_is_ln_2_before_anything_is_learned(judge):
    for one in NEW[:5]:
        with torch.no_grad():
            loss = _preference(judge, _Pairs.of(judge, [prefers(one, one.measured[:, LIKED])]))
        assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


def test_it_moves_towards_an_order_and_the_reference_stays(judge):
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    said = [prefers(one, one.measured[:, LIKED]) for one in images(40, 2)]
    after = learn_from_answers(judge, said, [], 0)

    def follows(by: PlaceJudge) -> float:
        return float(np.mean([np.corrcoef(scores(by, one), one.measured[:, LIKED])[0, 1] for one in NEW]))

    assert follows(after) > 0.4 > abs(follows(judge)) + 0.2
    assert all(torch.equal(before[name], value) for name, value in judge.state_dict().items())


def test_the_outlines_hold_it_where_answers_say_nothing_of_them(judge):
    said = [prefers(one, one.measured[:, LIKED]) for one in images(20, 2)]
    free, held = (learn_from_answers(judge, said, outlined, 0) for outlined in ([], OUTLINED))
    assert right_choices(held, NEW) > right_choices(free, NEW)


@pytest.mark.parametrize("said", [[], [Preferred(NEW[0].measured, *np.zeros((2, 0), int), np.zeros(0), "a")]])
def test_where_nothing_is_preferred_the_judge_is_the_one_of_the_outlines(judge, said):
    assert learn_from_answers(judge, said, OUTLINED, 0) is judge


def test_an_order_as_the_judge_itself_would_give_changes_no_choice(judge):
    said = [prefers(one, scores(judge, one)) for one in images(20, 3)]
    after = learn_from_answers(judge, said, OUTLINED, 0)
    same = np.mean([scores(judge, one).argmax() == scores(after, one).argmax() for one in NEW])
    assert same > 0.9
    assert right_choices(after, NEW) >= right_choices(judge, NEW) - 0.05


def test_opposite_orders_move_it_in_opposite_directions(judge):
    some = images(20, 4)
    up, down = (learn_from_answers(judge, [prefers(one, sign * one.measured[:, LIKED]) for one in some], [], 0)
                for sign in (1, -1))
    moved = [[np.polyfit(one.measured[:, LIKED], scores(by, one) - scores(judge, one), 1)[0] for one in NEW]
             for by in (up, down)]
    assert np.mean(moved[0]) > 0.1 and np.mean(moved[1]) < -0.1


def test_one_answer_is_learned_from(judge):
    (one,) = images(1, 5)
    wanted = int(scores(judge, one).argmin())
    worth = np.zeros(6)
    worth[wanted] = 1
    after = learn_from_answers(judge, [prefers(one, worth)], OUTLINED, 0)
    margin = [scores(by, one)[wanted] - np.delete(scores(by, one), wanted).mean() for by in (judge, after)]
    assert margin[1] > margin[0]
    assert right_choices(after, NEW) > 0.7


# ---- confidence -----------------------------------------------------------------------------------------------------


def indifferent() -> PlaceJudge:
    judge = PlaceJudge(COLUMNS)
    torch.nn.init.zeros_(judge.layers[-1].weight)
    return judge.eval()


def test_confidence_is_the_belief_at_the_place_that_is_chosen():
    same = torch.zeros(4, 8, 8, dtype=torch.bool)
    same[:3, :4], same[3, 6:] = True, True
    measured = NEW[0].measured[:4]
    assert indifferent().judge(measured, same).confidence == pytest.approx(3 / 4)
    assert indifferent().judge(measured, apart(4)).confidence == pytest.approx(1 / 4)
    assert indifferent().judge(measured[:1], apart(1)).confidence == 1
    assert indifferent().judge(measured, same).first == 0, "the first of equals"


def test_confidence_is_what_the_scores_say(judge):
    said = judge.judge(NEW[0].measured, apart(6))
    expected = np.exp(said.score) / np.exp(said.score).sum()
    assert said.confidence == pytest.approx(expected[said.first], rel=1e-4)
    assert said.first == said.score.argmax()


def test_one_right_choice_of_ten_is_doubtful(judge):
    judges = {one.group: judge for one in NEW}
    smalls = [apart(6)] * len(NEW)
    said = [(judge.judge(one.measured, apart(6)), one.overlap) for one in NEW]
    right = [one.confidence for one, overlap in said if overlap[one.first] >= SAME_PLACE]
    below = doubtful_below(judges, NEW, smalls)
    assert np.mean(np.array(right) < below) == pytest.approx(0.1, abs=0.03)
    assert doubtful_below({}, NEW, smalls) == 0, "no patient is unseen"


# ---- what is measured -----------------------------------------------------------------------------------------------


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:256, :256]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def proposals_of(*masks: np.ndarray) -> Proposals:
    logits = torch.from_numpy(np.stack(masks)).float() * 12 - 6
    return Proposals(logits, torch.linspace(0.9, 0.4, len(masks)), boxes_of_masks(logits > 0), [""] * len(masks))


def test_what_is_seen_of_a_mask_tells_the_right_place_from_others():
    there = disc(90, 120, 25)
    image = np.repeat(np.where(there, 0.2, 0.7)[None], 3, 0).astype(np.float32)
    features = torch.randn(CHANNELS, 32, 32, generator=torch.Generator().manual_seed(0))
    saliency = np.where(there, 3.0, -3.0)[::4, ::4]
    masks = proposals_of(there, disc(180, 60, 25), disc(0, 240, 25))
    found = measure(image, features, saliency, there, masks)
    assert found.shape == (3, COLUMNS) and found.dtype == np.float32 and np.isfinite(found).all()
    by = {name: found[:, number] for number, name in enumerate(MEASURES)}
    for name in ("contrast", "edge", "saliency_contrast", "coarse_overlap", "saliency_inside"):
        assert by[name][0] > by[name][1:].max() + 0.1, name
    assert by["coarse_overlap"][0] == pytest.approx(1, abs=0.05)
    assert by["at_border"].tolist() == [0, 0, 1]
    assert by["x"][0] == pytest.approx(90 / 256, abs=0.01) and by["y"][0] == pytest.approx(120 / 256, abs=0.01)
    assert np.exp(by["log_area"][0]) == pytest.approx(there.mean(), rel=0.05)
    assert by["quality"].tolist() == pytest.approx([0.9, 0.65, 0.4])
    relative = found[:, len(MEASURES) : len(MEASURES) + len(RELATIVE)]
    assert (relative <= 0).all() and (relative.max(0) == 0).all()


@pytest.mark.parametrize("width", [1, 5, 31])
def test_the_ring_round_a_mask_is_a_square_s_width(width):
    mask = np.random.default_rng(width).random((64, 64)) > 0.98
    grown = ndimage.binary_dilation(mask, np.ones((2 * width + 1,) * 2))
    np.testing.assert_array_equal(_ring(torch.from_numpy(mask), width).numpy(), grown & ~mask)


def test_a_mask_as_large_as_the_slice_or_of_a_pixel_is_measured_too():
    masks = proposals_of(np.ones((256, 256), bool), disc(128, 128, 3))
    found = measure(np.zeros((3, 256, 256), np.float32), torch.zeros(CHANNELS, 32, 32), np.zeros((64, 64)),
                    np.zeros((256, 256), bool), masks)
    assert np.isfinite(found).all()


def test_nothing_proposed_is_an_empty_table():
    none = Proposals(torch.zeros(0, 256, 256), torch.zeros(0), np.zeros((0, 4)), [])
    found = measure(np.zeros((3, 256, 256)), torch.zeros(CHANNELS, 32, 32), np.zeros((64, 64)), np.zeros((256, 256)),
                    none)
    assert found.shape == (0, COLUMNS)


def test_the_best_is_shown_first_and_then_what_is_unlike_it():
    small = torch.zeros(4, 8, 8, dtype=torch.bool)
    small[0, :4], small[1, :5], small[2, 6:], small[3, :, 7:] = True, True, True, True
    score = np.array([2.0, 1.9, 1.0, -3.0], np.float32)
    assert diverse_first(score, small, 2) == [0, 2], "the second best is nearly the first"
    assert sorted(diverse_first(score, small, 9)) == [0, 1, 2, 3]
    assert diverse_first(score[:0], small[:0], 3) == []


# ---- files ----------------------------------------------------------------------------------------------------------


def test_judges_come_back_from_their_file(judge, tmp_path):
    other = fit_to_outlines(OUTLINED, 7, steps=3)
    settings = {"left lung": JudgeSettings(columns=COLUMNS), "mass": JudgeSettings(columns=COLUMNS)}
    save_judges({"left lung": judge, "mass": other}, tmp_path / "judges.safetensors")
    loaded = load_judges(settings, tmp_path / "judges.safetensors")
    for name, one in (("left lung", judge), ("mass", other)):
        assert np.array_equal(scores(loaded[name], NEW[0]), scores(one, NEW[0]))
    assert not loaded["mass"].training


@pytest.mark.parametrize("damage", ["missing", "truncated", "other columns", "another structure", "no safetensors"])
def test_a_damaged_file_of_judges_is_a_sentence(judge, tmp_path, damage):
    file = tmp_path / "judges.safetensors"
    settings = {"mass": JudgeSettings(columns=COLUMNS)}
    if damage != "missing":
        save_judges({"mass": judge}, file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    if damage == "no safetensors":
        file.write_bytes(b"hello")
    if damage == "other columns":
        settings = {"mass": JudgeSettings(columns=COLUMNS + 2)}
    if damage == "another structure":
        settings["lung"] = JudgeSettings(columns=COLUMNS)
    with pytest.raises(ModelFolderError, match=r"judges\.safetensors is missing, truncated or of other judges.*Train"):
        load_judges(settings, file)


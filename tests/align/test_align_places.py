"""Stage ``align`` of pictures: what an answer means, what is learned from it, and which model is kept."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from ranking_people import judgement, keep
from trained_models import NUMBER, ONE_LUNG, REFIT, UNSEEN, begun, interrupt, short_fits

from samdpo.align import places as module
from samdpo.align.candidate_set import make_candidate_set
from samdpo.align.places import Answered, Chosen, PlaceLearning, agreed, agreement, in_order_of_work
from samdpo.annotate.database.locate import VARIABLE
from samdpo.dataset.images import read_label
from samdpo.errors import TrainingError
from samdpo.files import read_json, write_json
from samdpo.model.description import MANIFEST
from samdpo.model.predictor import Predictor
from samdpo.networks.weights import load_weights, save_weights
from samdpo.plans import StagePlan
from samdpo.preferences.records import item_id
from samdpo.prompting.judge import SAME_PLACE
from samdpo.prompting.outline_judges import OutlineJudges, best_there
from samdpo.prompting.proposals import PlaceProposer, Proposals, boxes_of_masks
from samdpo.prompting.regions import mask_iou
from samdpo.training.checkpoints import FINAL
from samdpo.training.distributed import Processes

RECORDED = "annotator.kind=recorded"
ANSWERED_ALL = "places.minutes=0"
FEW = ("prompting.blobs=4", "prompting.proposals=8")  # where proposals are made anew
DRAW = module.draw_places


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch):
    """What a judge learns is tested beside it."""
    short_fits(monkeypatch)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """No ``places.png`` of every training; ``DRAW`` draws it."""
    monkeypatch.setattr(module, "draw_places", lambda *_: None)


def square(at: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    mask[at : at + side, at : at + side] = True
    return mask


def heard(caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level("INFO", "samdpo")


# ---- several people, several models ---------------------------------------------------------------------------------


def test_what_one_person_meant_is_the_label():
    one = Chosen(square(2), 0.5, 3.0)
    found = agreed([one])
    assert np.array_equal(found.mask, one.mask) and (found.weight, found.seconds) == (0.5, 3.0)


def test_people_who_agree_give_the_pixels_that_most_of_them_took():
    masks = [square(2), square(2), square(3)]
    found = agreed([Chosen(mask, weight, 2.0) for mask, weight in zip(masks, (1.0, 0.5, 1.0))])
    assert np.array_equal(found.mask, square(2)) and found.seconds == 6
    pairs = [1, 49 / 79, 49 / 79]
    assert found.weight == pytest.approx(np.mean(pairs))


def test_people_who_contradict_each_other_give_no_label():
    found = agreed([Chosen(square(2), 1.0, 2.0), Chosen(square(20), 1.0, 3.0)])
    assert found.mask is None and found.weight == 0 and found.seconds == 5
    assert agreed([Chosen(None, 0.0, 1.0)]).mask is None


def test_a_model_agrees_as_far_as_its_masks_overlap_what_was_meant_and_right_is_right():
    place, other = ("a", 0, "mass"), ("b", 0, "mass")
    held = {place: Chosen(square(2), 1.0, 1.0), other: Chosen(square(10), 1.0, 1.0)}
    assert agreement({place: square(2), other: square(20)}, held, 0.8) == pytest.approx(0.4)
    assert agreement({place: square(2), other: square(10, 9)}, held, 0.8) == pytest.approx((0.8 + 64 / 81) / 2)
    assert agreement({place: square(2, 0), other: square(2, 0)}, held, 0.8) == 0
    assert np.isnan(agreement({}, {}, 0.8))


def test_what_the_judge_is_unsure_of_is_asked_first_and_then_what_is_unlike_it():
    seen = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.1, 1.0]])
    assert in_order_of_work([0.9, 0.89, 0.5, 0.1], seen)[:2] == [0, 2], "the second is nearly the first"
    assert in_order_of_work([0.2, 0.9, 0.3, 0.1], seen)[0] == 1
    assert sorted(in_order_of_work([0.5] * 4, np.ones((4, 2)))) == [0, 1, 2, 3]
    assert sorted(in_order_of_work([0.5] * 3, np.zeros((3, 2)))) == [0, 1, 2]
    assert in_order_of_work([], np.zeros((0, 2))) == []


# ---- what is shown --------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(asked, monkeypatch):
    """What is shown of the phantoms' fold 0, whose structure counts as one that can be elsewhere."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return make_candidate_set(NUMBER, 0, device="cpu", overrides=[ONE_LUNG])


def learning(phantoms, *overrides: str) -> PlaceLearning:
    """As ``align`` has it before it asks, its judges fitted."""
    trainer = phantoms.trainer("align", ONE_LUNG, *overrides)
    trainer.initialize()
    trainer.places.prepare(trainer.unlabelled_keys)
    return trainer.places


def test_every_unlabelled_image_is_shown_at_different_places_the_model_s_own_first(asked, stored):
    trainer = asked.trainer("align", ONE_LUNG)
    trainer.initialize()
    unlabelled = {*trainer.data.split.unlabelled}
    assert {item.case for item in stored.items} <= unlabelled and len(stored.items) >= 5
    assert stored.description["proposer"] == "places"
    assert [item.position for item in stored.items] == sorted((item.position for item in stored.items), reverse=True)
    for item in stored.items:
        masks = torch.from_numpy(stored.masks(item))
        assert 2 <= len(masks) <= trainer.stage.places.shown
        assert mask_iou(masks[1:], masks[:1]).max() < module.SHOWN_DUPLICATE, "none is the model's own again"
    masks = trainer.places.masks_of(
        trainer.network, trainer.data, [(item.case, item.slice_index, item.structure) for item in stored.items],
        trainer.mask_cut, trainer.precision)
    assert np.mean([float(mask_iou(torch.from_numpy(stored.masks(item)[:1]), torch.from_numpy(
        masks[item.case, item.slice_index, item.structure])[None])) for item in stored.items]) > 0.5


def test_the_same_set_is_made_again_and_another_of_other_settings(asked, stored):
    again = make_candidate_set(NUMBER, 0, device="cpu", overrides=[ONE_LUNG, "lr=0.1", "annotator.noise=0.3"])
    assert again.candidate_set.id == stored.candidate_set.id and again.items == stored.items
    other = make_candidate_set(NUMBER, 0, device="cpu", overrides=[ONE_LUNG, "places.shown=3"])
    assert other.folder != stored.folder and max(item.candidates for item in other.items) == 3
    for item in other.items:
        (same,) = [one for one in stored.items if one.case == item.case]
        assert np.array_equal(other.masks(item)[0], stored.masks(same)[0])


def test_no_more_slices_are_asked_about_than_the_plan_says_and_new_images_displace_few(asked):
    places = learning(asked, "places.slices=3")
    keys = [(f"case_{number:02}", 0) for number in range(20)]
    some = places.drawn(keys)
    assert len(some) == 3 and some == [key for key in keys if key in some] and places.drawn(keys[:2]) == keys[:2]
    more = places.drawn([*keys, *((f"new_{number}", 0) for number in range(20))])
    assert len(more) == 3 and {key for key in more if key in keys} <= {*some}
    assert places.drawn(list(reversed(keys))) == list(reversed(some))


# ---- what is meant --------------------------------------------------------------------------------------------------


def test_an_accepted_mask_is_the_label_and_its_likeness_is_preferred(asked, stored):
    places, item = learning(asked), stored.items[0]
    said = judgement(item, verdict="accepted", best=1)
    answered = places.read(stored, [said], [])
    (chosen,) = answered.chosen.values()
    assert np.array_equal(chosen.mask, stored.masks(item)[1]) and chosen.weight == 1
    (preferred,) = answered.preferred["lung"]
    several = places.outlines.proposals.get(item.case, item.slice_index)["lung"]
    worth = mask_iou(torch.from_numpy(several.masks), torch.from_numpy(chosen.mask)[None])[:, 0].numpy()
    assert (worth[preferred.better] > worth[preferred.worse] + module.GAP).all()
    assert preferred.weight.sum() == pytest.approx(1) and worth.argmax() in preferred.better
    assert answered.counts["accepted"] == 1 and answered.seconds == said.seconds


def test_an_order_is_learned_pair_by_pair_and_its_first_is_half_a_label(asked, stored):
    places, item = learning(asked), stored.items[0]
    ranks = tuple(range(item.candidates, 0, -1))  # the last one shown is the best
    answered = places.read(stored, [judgement(item, ranks=ranks)], [])
    (chosen,) = answered.chosen.values()
    assert np.array_equal(chosen.mask, stored.masks(item)[-1]) and chosen.weight == 0.5
    (preferred,) = answered.preferred["lung"]
    several = torch.from_numpy(places.outlines.proposals.get(item.case, item.slice_index)["lung"].masks)
    same = mask_iou(several, torch.from_numpy(stored.masks(item)))
    row = {number: int(of.argmax()) for number, of in enumerate(same) if of.max() > 0.99}
    shown = item.candidates - 1  # the model's own is no proposal
    assert len(preferred.better) >= shown * (shown - 1) // 2
    assert all(row[better] > row[worse] for better, worse in zip(preferred.better, preferred.worse))


def test_a_box_means_what_the_published_network_makes_of_it(asked, stored):
    places, item = learning(asked), stored.items[0]
    box = (40.0, 50.0, 150.0, 170.0)
    answered = places.read(stored, [judgement(item, verdict="none_acceptable", box=box)], [])
    features = places.outlines.features
    decoded = PlaceProposer(features.extractor.network).decode(
        features(item.case, item.slice_index), (256, 256), np.array([box]))
    (chosen,) = answered.chosen.values()
    assert np.array_equal(chosen.mask, decoded.masks[0].numpy()) and chosen.weight == 1
    assert answered.counts["boxed"] == 1 and decoded.masks.any()


def test_a_point_means_a_mask_too(asked, stored):
    item = stored.items[0]
    answered = learning(asked).read(stored, [judgement(item, verdict="none_acceptable", point=(120.0, 130.0))], [])
    assert answered.counts["boxed"] == 1 and all(one.weight == 1 for one in answered.chosen.values())


@pytest.mark.parametrize("where", [
    {"box": (0.0, 0.0, 256.0, 256.0)}, {"box": (255.0, 255.0, 256.0, 256.0)}, {"box": (10.0, 10.0, 10.5, 10.5)},
    {"point": (0.0, 255.9)},
], ids=["the whole slice", "a corner", "half a pixel", "at the border"])
def test_a_box_or_a_point_at_the_limit_is_read(asked, stored, where):
    answered = learning(asked).read(stored, [judgement(stored.items[0], verdict="none_acceptable", **where)], [])
    assert answered.counts["boxed"] == 1 and all(one.mask.any() for one in answered.chosen.values())


@pytest.mark.parametrize(("box", "sentence"), [
    ((10.0, 10.0, 10.0, 20.0), "x0 < x1"), ((30.0, 10.0, 20.0, 20.0), "x0 < x1"), ((10.0, 10.0, 300.0, 20.0), "256"),
], ids=["no area", "turned round", "outside"])
def test_a_box_of_no_area_or_outside_never_reaches_the_training(stored, box, sentence):
    with pytest.raises(ValueError, match=sentence):
        judgement(stored.items[0], verdict="none_acceptable", box=box).check_where(256, 256)


def test_none_and_skipped_say_nothing(asked, stored):
    one, two = stored.items[:2]
    said = [judgement(one, verdict="none_acceptable"), judgement(two, verdict="skipped")]
    answered = learning(asked).read(stored, said, [])
    assert not answered.chosen and not answered.slices and not answered.preferred["lung"]
    assert answered.counts == {"accepted": 0, "ordered": 0, "boxed": 0, "none": 1, "skipped": 1}


def test_two_people_who_accept_other_places_give_no_label_and_both_are_heard(asked, stored):
    places = learning(asked)
    item, one, other = next((item, *apart) for item in stored.items if (apart := far_apart(stored.masks(item))))
    said = [judgement(item, name, verdict="accepted", best=best) for name, best in (("ann", one), ("bob", other))]
    answered = places.read(stored, said, [])
    (chosen,) = answered.chosen.values()
    assert chosen.mask is None and chosen.weight == 0 and not answered.slices
    assert len(answered.preferred["lung"]) == 2 and answered.counts["accepted"] == 2


def far_apart(masks: np.ndarray) -> tuple[int, int] | None:
    """Two of some masks that are not at one place."""
    same = mask_iou(torch.from_numpy(masks), torch.from_numpy(masks))
    rows, columns = np.nonzero((same[1:, 1:] < 0.3).numpy())  # the first is the model's own and no proposal
    return (int(rows[0]) + 1, int(columns[0]) + 1) if len(rows) else None


def test_answers_about_another_set_are_passed_over(asked, stored):
    foreign = dataclasses.replace(stored.items[0], id=item_id("another", "case", 0, "lung"))
    answered = learning(asked).read(stored, [judgement(foreign, verdict="accepted", best=0)], [])
    assert not answered.chosen and sum(answered.counts.values()) == 0 and answered.seconds == 0


def test_answers_are_held_back_by_patient_and_nothing_is_learned_from_them(asked, stored):
    places = learning(asked, "places.held_back=0.7")
    cases = sorted({item.case for item in stored.items})
    assert len(cases) >= 6
    places.data = dataclasses.replace(places.data, groups={**places.data.groups, cases[0]: "twins", cases[1]: "twins"})
    answered = places.read(stored, [judgement(item, verdict="accepted", best=0) for item in stored.items], [])
    held, learned = ({place[0] for place in of} for of in (answered.held_back, answered.chosen))
    groups = {places.data.groups.get(case, case) for case in held}
    assert len(groups) == round(0.7 * (len(cases) - 1)) and not held & learned and held | learned == {*cases}
    assert len({*cases[:2]} & held) != 1, "one patient is on one side"
    assert {place[0] for place in answered.chosen if answered.chosen[place].mask is not None} == learned
    assert len(answered.preferred["lung"]) <= len(answered.chosen)


def test_what_is_said_of_a_patient_is_kept_from_the_judges_that_have_not_seen_the_patient_s_outline(
    asked, stored, monkeypatch
):
    calls = []

    def begin(groups: dict[str, str]) -> tuple:
        trainer = asked.trainer("align", ONE_LUNG)
        trainer.data = dataclasses.replace(trainer.data, groups=groups)
        trainer.initialize()
        said = [judgement(item, verdict="accepted", best=0) for item in stored.items if item.case in cases]
        return trainer.places, trainer.places.read(stored, said, trainer.unlabelled_keys), trainer.unlabelled_keys

    data = asked.trainer("align", ONE_LUNG).data
    cases = sorted(item.case for item in stored.items if data.slices.has_label(item.case))
    outlined = sorted(data.split.labelled)[0]
    places, answered, unlabelled = begin({cases[0]: outlined, cases[1]: "one", cases[2]: "one"})
    learn = module.learn_from_answers

    def spied(judge, preferred, told, seed):
        calls.append((judge, {one.group for one in preferred}, {one.group for one in told}))
        return learn(judge, preferred, told, seed)

    monkeypatch.setattr(module, "learn_from_answers", spied)
    monkeypatch.setattr(PlaceLearning, "cross_validated", lambda *_: None)
    places.learn(answered, unlabelled)
    unseen, full = places.outlines.unseen["lung"], places.judges["lung"]
    told_of = {outlined, "one", *cases[3:]}
    for judge_of, preferred, told in calls:
        without = {group for group, one in unseen.items() if one is judge_of}
        assert without or judge_of is full
        assert preferred <= told == (told_of - without if without else told_of | unseen.keys())
    assert len(calls) == 1 + len({id(one) for one in unseen.values()})
    assert any(outlined not in told for _, _, told in calls)
    keys = [begun.key(read, cases) for begun, read, _ in (begin({}), begin({cases[1]: "one", cases[2]: "one"}))]
    assert keys[0] == keys[1] != places.key(answered, cases)


# ---- towers that see what was meant -------------------------------------------------------------------------------


def spied_fits(monkeypatch) -> list[tuple]:
    """What every refit was given: labelled cases, their groups, and the labels of a slice."""
    fits, fit = [], module.fit_towers_of

    def spied(plans, store, labelled, groups, others, features, device, labels):
        fits.append((list(labelled), groups, labels))
        return fit(plans, store, labelled, groups, others, features, device, labels)

    monkeypatch.setattr(module, "fit_towers_of", spied)
    return fits


def test_towers_are_fitted_to_what_was_meant_too_and_to_nothing_that_is_held_back(asked, stored, monkeypatch):
    fits = spied_fits(monkeypatch)
    held = sorted({item.case for item in stored.items})[:2]
    monkeypatch.setattr(PlaceLearning, "_held_back", lambda self, of: {*held} & of)
    settings = (ONE_LUNG, ANSWERED_ALL, "places.asks=boxes")
    trainer = begun(asked, "align", *settings, REFIT)
    ((cases, groups, labels),) = fits
    right, labelled = trainer.answered.right, {*trainer.data.split.labelled}
    assert {*cases} == labelled | {case for case, *_ in right} and not {*held} & {*cases} and len(cases) > len(labelled)
    assert groups == trainer.data.groups
    label = trainer.data.plans.structures["lung"].label
    for (case, index, _), mask in right.items():
        np.testing.assert_array_equal(labels(case, index) == label, mask)
    assert labels(held[0], 0) is None
    # What they propose and where they point is the fold's own, and prediction has them.
    own = trainer.fold_folder / "prompts"
    assert trainer.data.prompts.located.folder == own / "located" and any((own / "proposals").glob("*/*.npz"))
    case = trainer.data.split.val[0]
    before, after = (data.prompts.located.get(case, 0)[0] for data in (trainer.original, trainer.data))
    assert not np.array_equal(before.saliency, after.saliency)
    image = np.asarray(trainer.data.slices.image(case, 0), np.float32)
    new, own_prompt = trainer.data.prompter.prompt(image)[0], trainer.data.prompts.get(case, 0)[0]
    np.testing.assert_array_equal(new.boxes, own_prompt.boxes)
    begun(asked, "align", *settings, REFIT, "lr=1e-5")
    assert len(fits) == 1, "the same answers: what is there is kept"
    begun(asked, "align", *settings)
    assert len(fits) == 1 and {*own.iterdir()} & {own / "located", own / "proposals"} == set()


def test_where_masks_are_few_beside_the_outlines_the_towers_stay_and_the_log_says_so(
    asked, stored, monkeypatch, caplog
):
    heard(caplog, monkeypatch)
    fits = spied_fits(monkeypatch)
    trainer = begun(asked, "align", ONE_LUNG, ANSWERED_ALL, "places.asks=boxes", "places.refit=3")
    outlines, masks = len(trainer.places.outlines.outlines), len(trainer.answered.right)
    assert 0 < masks < 3 * outlines and not fits
    assert f"or boxed on {3 * outlines} others; these are {masks} (places.refit)" in caplog.text
    begun(asked, "align", ONE_LUNG, ANSWERED_ALL, "places.asks=boxes", f"places.refit={masks / outlines}")
    assert len(fits) == 1


def test_where_masks_are_only_compared_the_towers_stay(asked, stored, monkeypatch):
    fits = spied_fits(monkeypatch)
    trainer = begun(asked, "align", ONE_LUNG, ANSWERED_ALL, "places.asks=orders", "places.none_below=0", REFIT)
    assert trainer.answered.counts["ordered"] and not trainer.answered.right and not fits
    assert trainer.data.prompts.located is trainer.original.prompts.located


def test_towers_that_have_seen_no_image_of_a_patient_prompt_what_was_meant_of_the_patient(asked, stored, monkeypatch):
    seen, write = [], module.write_prompts

    def spied(store, fitted, *rest):
        seen.append(fitted)
        return write(store, fitted, *rest)

    monkeypatch.setattr(module, "write_prompts", spied)
    trainer = asked.trainer("align", ONE_LUNG, ANSWERED_ALL, "places.asks=boxes", REFIT)
    cases = sorted(item.case for item in stored.items if trainer.data.slices.has_label(item.case))
    outlined = sorted(trainer.data.split.labelled)[0]
    groups = {cases[0]: "twins", cases[1]: "twins", cases[2]: outlined}
    trainer.data = dataclasses.replace(trainer.data, groups=groups)
    trainer.initialize()
    trainer.on_train_start()
    trainer.run_log.close()
    (fitted,), right = seen, {case for case, *_ in trainer.answered.right}
    assert {*cases[:3]} <= right <= fitted.held_out.keys()
    assert fitted.held_out[cases[0]] is fitted.held_out[cases[1]] is not fitted.full
    assert fitted.held_out[cases[2]] is fitted.held_out[outlined] is not fitted.full
    located, image = trainer.data.prompts.located, np.asarray(trainer.data.slices.image(cases[0], 0), np.float32)
    features = trainer.places.outlines.features(cases[0], 0)
    raw = {name: fitted_to.raw_saliency(image, features) for name, fitted_to in (
        ("full", fitted.full), ("held out", fitted.held_out[cases[0]]))}
    calibration = fitted.full.settings.calibrations["lung"]
    kept = located.get(cases[0], 0)[0].saliency
    np.testing.assert_allclose(calibration.apply(raw["held out"][0]), kept, atol=0.02)
    assert not np.allclose(calibration.apply(raw["full"][0]), kept, atol=0.02)


def test_answers_on_images_that_are_no_longer_asked_about_still_count(asked, stored):
    trainer = begun(asked, "align", ONE_LUNG, ANSWERED_ALL, "places.asks=boxes", "places.slices=2", REFIT)
    told = {one.place[0] for one in trainer.answered.said}
    assert 1 <= len(trainer.unlabelled_keys) <= 2 < len(told)
    assert {*trainer.data.prompts.located.cases()} >= told


def test_an_image_that_was_exchanged_is_prompted_anew_by_refitted_towers(asked, stored, monkeypatch):
    fits = spied_fits(monkeypatch)
    settings = (ONE_LUNG, ANSWERED_ALL, "places.asks=boxes", REFIT)
    trainer = begun(asked, "align", *settings)
    case, hashed = trainer.data.split.val[0], type(trainer.data.slices).hash_of_case
    before = trainer.data.prompts.located.summaries()[case].case_key
    monkeypatch.setattr(type(trainer.data.slices), "hash_of_case",
                        lambda self, one: "another" if one == case else hashed(self, one))
    trainer = begun(asked, "align", *settings)
    assert len(fits) == 2 and trainer.data.prompts.located.summaries()[case].case_key == "another" != before


def test_what_a_training_proposed_anew_is_gone_at_its_end(asked):
    trainer = asked.train("align", ONE_LUNG, "epochs=1", UNSEEN, REFIT)
    own = trainer.fold_folder / "prompts"
    assert (own / "located" / "prompter").is_dir() and not (own / "proposals").exists()


def test_towers_see_slices_on_which_every_structure_was_meant_and_not_so_many_that_outlines_are_crowded_out(asked):
    places = learning(asked, REFIT)
    lung = places.data.plans.structures["lung"]
    both = {"lung": dataclasses.replace(lung, label=1), "heart": dataclasses.replace(lung, label=2)}
    places.data = dataclasses.replace(places.data, plans=dataclasses.replace(places.data.plans, structures=both))
    chosen = {("a", 0, "lung"): square(2), ("b", 0, "lung"): square(2), ("b", 0, "heart"): square(20)}
    answered = Answered({place: Chosen(mask, 1.0, 1.0) for place, mask in chosen.items()}, {}, {}, {}, 0.0, 3)
    ((key, label),) = places._known_labels(answered).items()
    assert key == ("b", 0) and (label[square(2)] == 1).all() and (label[square(20)] == 2).all()
    assert (label[~square(2) & ~square(20)] == 0).all()
    many = {(f"case{i:03}", 0, name): square(2) for i in range(200) for name in both}
    answered = dataclasses.replace(answered, chosen={place: Chosen(mask, 1.0, 1.0) for place, mask in many.items()})
    assert len(places._known_labels(answered)) == 128 - len(places.outlines.outlines)
    places.outlines.outlines = [("x", i) for i in range(100)]
    assert len(places._known_labels(answered)) == 64


def test_an_image_that_is_no_longer_unlabelled_teaches_nothing(asked, stored):
    file = asked.preprocessed / "splits_final.json"
    splits, gone = read_json(file), sorted({item.case for item in stored.items})[:2]
    splits[0]["unlabelled"] = [case for case in splits[0]["unlabelled"] if case not in gone]
    write_json(file, splits)
    trainer = begun(asked, "align", ONE_LUNG, ANSWERED_ALL, "places.held_back=0")
    assert [folder.name for folder in stored.folder.parent.iterdir()] == [stored.candidate_set.id], "the same set"
    left = {item.case for item in stored.items} - {*gone}
    judged = {case for case in left if trainer.data.slices.has_label(case)}
    assert {case for case, *_ in trainer.answered.chosen} == judged and trainer.data.slices.has_label(gone[0])
    assert trainer.answered.items == len(left) and sum(trainer.answered.counts.values()) == len(judged)
    assert {one.group for one in trainer.answered.preferred["lung"]} <= judged, "each is a patient"


def test_of_few_answers_none_is_held_back(asked, stored):
    places = learning(asked)  # a fifth of seven is one
    answered = places.read(stored, [judgement(item, verdict="accepted", best=0) for item in stored.items], [])
    assert not answered.held_back and len(answered.chosen) == len(stored.items)


# ---- trained --------------------------------------------------------------------------------------------------------


def test_the_judge_is_in_the_model_and_prediction_is_what_was_validated(asked):
    trainer = asked.train("align", ONE_LUNG, UNSEEN, REFIT)
    fold = trainer.fold_folder
    assert set(read_json(fold / "prompter" / "prompter.json")["judges"]) == {"lung"}
    assert (fold / "prompter" / "judges.safetensors").is_file()
    predictor = Predictor.from_model_folder(trainer.folder, device="cpu")
    masks = sorted((fold / "validation").glob("*.png"))
    assert masks
    for file in masks:
        predictor.set_image(asked.raw / "imagesTr" / f"{file.stem}_0000.png")
        predicted = predictor.predict()
        np.testing.assert_array_equal(predicted.segmentation, read_label(file))
        (prompt,) = predicted.report["structures"]["lung"]["prompts"]
        own = trainer.data.prompts.get(file.stem, 0)[0]
        assert prompt["boxes"] == own.boxes.tolist() and prompt["points"] == own.points.tolist()
        assert prompt.get("place_confidence", 1) == pytest.approx(own.place_confidence, abs=1e-3)
    before = [file.read_bytes() for file in masks]
    asked.trainer("align", ONE_LUNG, UNSEEN, REFIT).train(only_validate=True)
    assert [file.read_bytes() for file in masks] == before


def test_only_the_decoder_moves_and_the_history_says_what_was_learned(asked, monkeypatch):
    monkeypatch.setattr(module, "draw_places", DRAW)
    trainer = asked.train("align", ONE_LUNG, "epochs=1", UNSEEN)
    before, after = (load_weights(file) for file in (asked.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL))
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"mask_decoder"}
    assert {"loss", "loss/chosen", "loss/anchor"} <= set(trainer.run_log.history)
    assert not any(name.startswith("rewards/") for name in trainer.run_log.history)
    assert (trainer.fold_folder / module.FIGURE).is_file()


def test_a_judge_alone_moves_the_prompts_and_no_weight(asked):
    trainer = asked.train("align", ONE_LUNG, "objective=judge_only", UNSEEN)
    assert trainer.kept == module.Kept("judge alone", {}, 0)
    before, after = (load_weights(file) for file in (asked.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL))
    assert all(torch.equal(before[name], after[name]) for name in before)
    described = read_json(trainer.fold_folder / "model.json")
    assert described["epochs"] == 0
    for case in trainer.data.split.val:
        before, after = (data.prompts.get(case, 0)[0] for data in (trainer.original, trainer.data))
        assert not np.array_equal(before.saliency, after.saliency) and not len(after.hypotheses)
    assert trainer.data.prompts.folder == trainer.fold_folder / "prompts"
    asked.train("align", ONE_LUNG, "objective=judge_only", UNSEEN, resume=True)  # is finished


def test_prompts_of_an_outline_are_at_its_place_and_come_from_a_judge_that_has_not_seen_it(asked, monkeypatch):
    write, held = OutlineJudges.write, {}

    def spied(self, store, cases, prompter, unseen, meant):
        held.update(unseen["lung"])
        write(self, store, cases, prompter, unseen, meant)

    monkeypatch.setattr(OutlineJudges, "write", spied)
    trainer = begun(asked, "align", ONE_LUNG, "seed=7")
    places, labelled = trainer.places, sorted(trainer.data.split.labelled)
    assert {places.data.groups.get(case, case) for case in labelled} == held.keys() and len(held) > 1
    for case in labelled:
        several = places.outlines.proposals.get(case, 0)["lung"]
        said = held[places.data.groups.get(case, case)].judge(several.measured, several.small)
        first = best_there(said.score, several.masks, trainer.data.slices.label(case, 0) == 1)
        if first is not None:
            np.testing.assert_array_equal(trainer.data.prompts.get(case, 0)[0].saliency, several.saliency[first])


def test_a_stopped_training_goes_on_to_the_same_model(asked, tmp_path, monkeypatch):
    settings = (ONE_LUNG, "epochs=3", "places.held_back=0.8", ANSWERED_ALL)
    uninterrupted = asked.train("align", *settings)
    names = (FINAL, "model.json", "prompter/judges.safetensors")  # the last where a judge was kept

    def made(fold):
        return {name: (fold / name).read_bytes() for name in names if (fold / name).is_file()}

    expected = made(uninterrupted.fold_folder)
    assert {FINAL, "model.json"} <= expected.keys()
    fold = interrupt(asked, "align", *settings, after=1).fold_folder
    asked.train("align", *settings, resume=True)
    assert made(fold) == expected


def test_the_prompts_of_an_earlier_training_are_not_those_of_one_without_a_judge(asked):
    first = asked.train("align", ONE_LUNG, "epochs=1", UNSEEN)
    assert (first.fold_folder / "prompts").is_dir()
    second = asked.train("align", "epochs=1")  # two lungs, which no judge looks for elsewhere
    assert not (second.fold_folder / "prompts").exists()
    assert not (second.fold_folder / "prompter" / "judges.safetensors").exists()


# ---- which model is kept --------------------------------------------------------------------------------------------


def corners(stored, items) -> list:
    """Somebody who says of every image that the structure is in its corner."""
    return [judgement(item, verdict="none_acceptable", box=(2.0, 2.0, 30.0, 30.0), seconds=9.0) for item in items]


def guarded(asked, stored, monkeypatch, held: list, learned: list, *settings: str):
    """A training on some answers, of which the first are held back."""
    cases = {item.case for item in stored.items if item.id in {one.item for one in held}}
    monkeypatch.setattr(PlaceLearning, "_held_back", lambda self, of: cases)
    keep(stored, [*held, *learned])
    return asked.train("align", ONE_LUNG, RECORDED, "epochs=6", "lr=0.01", "labelled_per_step=0", *settings)


def test_where_the_new_model_agrees_less_with_people_the_old_one_is_kept_and_said_to_be(
    asked, stored, monkeypatch, caplog
):
    heard(caplog, monkeypatch)
    right = [judgement(item, verdict="accepted", best=0) for item in stored.items[:4]]
    trainer = guarded(asked, stored, monkeypatch, right, corners(stored, stored.items[4:]))
    kept = read_json(trainer.fold_folder / "model.json")["kept"]
    assert kept["name"] == "before" and kept["held_back"] == 4
    assert kept["agreement"]["before"] > kept["agreement"]["new"]
    assert "this stage changes nothing" in caplog.text and "4 answers that were held back" in caplog.text
    before, after = (load_weights(file) for file in (asked.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (trainer.fold_folder / "prompts").exists()
    assert not (trainer.fold_folder / "prompter" / "judges.safetensors").exists()
    assert trainer.data is trainer.original and trainer.samples.prompts is trainer.original.prompts
    assert (trainer.fold_folder / "validation" / "summary.json").is_file()


def test_a_model_that_agrees_with_nobody_is_not_kept(asked, stored, monkeypatch, caplog):
    heard(caplog, monkeypatch)
    monkeypatch.setattr(PlaceLearning, "outlined", lambda self: {})  # which would not agree with these people
    trainer = guarded(asked, stored, monkeypatch, corners(stored, stored.items[:4]), corners(stored, stored.items[4:]))
    kept = read_json(trainer.fold_folder / "model.json")["kept"]
    assert kept["name"] != "before" and kept["agreement"][kept["name"]] == max(kept["agreement"].values())
    assert "changes nothing" not in caplog.text and (trainer.fold_folder / "prompts").is_dir()
    assert (trainer.fold_folder / "prompter" / "judges.safetensors").is_file()


@pytest.mark.parametrize(("right", "kept"), [
    (("new",), "new"), (("judge alone",), "judge alone"), (("before",), "before"), (("new", "before"), "new"),
    (("judge alone", "before"), "judge alone"), ((), "new"),
])
def test_the_model_that_agrees_most_is_kept_and_of_equals_the_newest(tmp_path, monkeypatch, right, kept):
    place = ("a", 0, "lung")
    monkeypatch.setattr(PlaceLearning, "masks_of", lambda self, network, *_: {
        place: square(2) if network in right else square(20)})
    monkeypatch.setattr(PlaceLearning, "outlined", lambda self: {})
    learning = PlaceLearning(None, StagePlan(), tmp_path, torch.device("cpu"), None,
                             Processes(torch.device("cpu")))
    models = {name: (name, None) for name in (module.NEW, module.JUDGE_ALONE, module.BEFORE)}
    found = learning.best_of(models, {place: Chosen(square(2), 1.0, 2.0)}, 0.5, "fp32")
    assert found.name == kept and found.held_back == 1
    assert {name for name, value in found.agreement.items() if value > 0} == {*right}


def test_models_are_compared_on_outlines_too_each_prompted_as_if_it_were_new(asked, stored, monkeypatch):
    prompted, predict = {}, module.predict_slices

    def spied(network, image, prompts, *rest, **more):
        prompted.setdefault(id(network), []).append(prompts[0][0])
        return predict(network, image, prompts, *rest, **more)

    monkeypatch.setattr(module, "predict_slices", spied)
    right = [judgement(item, verdict="accepted", best=0) for item in stored.items]
    trainer = guarded(asked, stored, monkeypatch, right[:2], right[2:])
    outlined = trainer.places.outlined()
    assert trainer.kept.held_back == 2 and trainer.kept.outlines == len(outlined) == len(trainer.data.split.labelled)
    for (case, index, name), one in outlined.items():
        label = trainer.data.plans.structures[name].label
        np.testing.assert_array_equal(one.mask, trainer.data.slices.label(case, index) == label)
    as_new = [trainer.original.prompts.as_new.get(case, index)[0] for case, index, _ in sorted(outlined)]
    shown = [one.boxes.tolist() for of_network in prompted.values() for one in of_network]
    assert len(shown) == 3 * 2 + 2 * len(outlined), "on outlines the new model counts as the one before does"
    assert all(prompt.boxes.tolist() in shown for prompt in as_new)


def test_with_answers_at_random_it_ends_no_worse_by_what_was_held_back(asked, monkeypatch, caplog):
    heard(caplog, monkeypatch)
    trainer = asked.train("align", ONE_LUNG, "annotator.noise=1", "places.held_back=0.8", ANSWERED_ALL, "lr=0.01",
                          "seed=1")
    kept = trainer.kept
    assert kept.held_back >= 3 and kept.agreement[kept.name] == max(kept.agreement.values())
    assert f"Agreement with {kept.held_back} answers that were held back" in caplog.text
    assert (trainer.fold_folder / "validation" / "summary.json").is_file()


def test_an_annotator_who_errs_is_learned_from(asked):
    trainer = begun(asked, "align", ONE_LUNG, "annotator.noise=0.5", "epochs=1", UNSEEN)
    trainer.run_training()
    assert np.isfinite(trainer.run_log.history["loss"]).all()


def test_with_few_answers_the_network_stays_and_the_judge_learns(asked, monkeypatch, caplog):
    heard(caplog, monkeypatch)
    monkeypatch.setattr(PlaceLearning, "outlined", lambda self: {})  # nothing that could be said against the judge
    monkeypatch.setattr(PlaceLearning, "cross_validated", lambda *_: [[True] * 5, [True] * 5])
    trainer = asked.train("align", ONE_LUNG, "epochs=1", "lr=0.1")
    assert "Too few answers to hold any back" in caplog.text and "expected 18 or more" in caplog.text
    kept = read_json(trainer.fold_folder / "model.json")["kept"]
    assert kept == {"name": "judge alone", "agreement": {}, "held_back": 0, "outlines": 0,
                    "cross_validated": {"before": 1, "judge alone": 1}}
    before, after = (load_weights(file) for file in (asked.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (trainer.fold_folder / "prompter" / "judges.safetensors").is_file() and trainer.data is not trainer.original


def test_with_few_answers_a_judge_that_falls_on_the_outlines_is_not_kept(asked, monkeypatch, caplog):
    heard(caplog, monkeypatch)
    monkeypatch.setattr(PlaceLearning, "masks_of", lambda self, network, data, places, *_: {
        place: square(2 if data is self.data else 20) for place in places})
    monkeypatch.setattr(PlaceLearning, "outlined", lambda self: {("a", 0, "lung"): Chosen(square(2), 1.0, 0.0)})
    monkeypatch.setattr(PlaceLearning, "cross_validated", lambda *_: None)
    trainer = asked.train("align", ONE_LUNG, "epochs=1")
    assert (trainer.kept.name, trainer.kept.held_back, trainer.kept.outlines) == ("before", 0, 1)
    assert "this stage changes nothing" in caplog.text and trainer.data is trainer.original


@pytest.mark.parametrize(("fallen", "kept"), [(0, "judge alone"), (1, "judge alone"), (6, "before")])
def test_one_outline_of_six_is_not_enough_to_say_that_the_judge_has_fallen(tmp_path, monkeypatch, fallen, kept):
    places = [(f"case{i}", 0, "lung") for i in range(6)]
    judged = {place: square(20 if i < fallen else 2) for i, place in enumerate(places)}
    monkeypatch.setattr(PlaceLearning, "masks_of", lambda self, network, *_: (
        judged if network == "judge alone" else dict.fromkeys(places, square(2))))
    monkeypatch.setattr(PlaceLearning, "outlined", lambda self: dict.fromkeys(places, Chosen(square(2), 1.0, 0.0)))
    learning = PlaceLearning(None, StagePlan(), tmp_path, torch.device("cpu"), None, Processes(torch.device("cpu")))
    found = learning.best_of({name: (name, None) for name in ("judge alone", "before")}, {}, 0.5, "fp32")
    assert found.name == kept and (found.held_back, found.outlines) == (0, 6)
    assert found.agreement == {"judge alone": round(0.8 * (1 - fallen / 6), 4), "before": 0.8}


@pytest.mark.parametrize(("after", "kept"), [(3, "judge alone"), (2, "judge alone"), (1, "before")])
def test_with_few_answers_a_judge_that_others_answers_mislead_is_not_kept(tmp_path, monkeypatch, caplog, after, kept):
    heard(caplog, monkeypatch)
    monkeypatch.setattr(PlaceLearning, "outlined", lambda self: {})
    learning = PlaceLearning(None, StagePlan(), tmp_path, torch.device("cpu"), None, Processes(torch.device("cpu")))
    learning.choices = [[number < count for number in range(4)] for count in (2, after)]
    found = learning.best_of({name: (name, None) for name in ("judge alone", "before")}, {}, 0.5, "fp32")
    assert found.name == kept and found.cross_validated == {"before": 0.5, "judge alone": after / 4}
    assert "on this share of 4 answers, by judges that have learned those on other patients" in caplog.text
    assert ("find the place less often than the one before" in caplog.text) == (kept == "before")


def test_what_a_judge_chooses_is_measured_on_patients_whose_answers_it_was_not_told(asked, stored, monkeypatch):
    judges, learn = [], module.learn_from_answers

    def spied(judge, said, told, seed):
        judges.append((learn(judge, said, told, seed), {one.group for one in said}, {one.group for one in told}))
        return judges[-1][0]

    trainer = asked.trainer("align", ONE_LUNG, ANSWERED_ALL)
    cases = sorted(item.case for item in stored.items if trainer.data.slices.has_label(item.case))
    outlined = sorted(trainer.data.split.labelled)
    groups = {cases[0]: "twins", cases[1]: "twins", cases[2]: outlined[0]}
    trainer.data = dataclasses.replace(trainer.data, groups=groups)
    trainer.initialize()
    places = trainer.places
    monkeypatch.setattr(module, "LEAST_HELD_BACK", 3)
    said = [judgement(item, verdict="accepted", best=0) for item in stored.items if item.case in cases]
    answered = places.read(stored, said, trainer.unlabelled_keys)
    monkeypatch.setattr(module, "learn_from_answers", spied)
    found = places.cross_validated(answered, places.outlines)
    group = {place: places.data.groups.get(place[0], place[0]) for place in answered.chosen}
    patients = {*group.values()} - {outlined[0]}
    assert len(judges) == min(module.ANSWER_FOLDS, len(patients))
    expected = [[], []]
    for judge, preferred, told in judges:
        unseen = patients - told
        assert unseen and {*outlined} <= told and not preferred & unseen, "it was told of all others"
        for place in (one for one in answered.chosen if group[one] in unseen):
            several, meant = places.outlines.proposals.get(*place[:2])["lung"], answered.chosen[place].mask[None]
            for row, one in enumerate((places.judges["lung"], judge)):
                chosen = several.masks[one.judge(several.measured, several.small).first]
                overlap = mask_iou(torch.from_numpy(chosen)[None], torch.from_numpy(meant))
                expected[row].append(float(overlap) >= SAME_PLACE)
    assert len(expected[0]) == len(answered.chosen) - 1, "each once, and not the patient who has an outline"
    assert sorted(zip(*expected)) == sorted(zip(*found))


def test_of_few_patients_answers_nothing_is_cross_validated(asked):
    trainer = begun(asked, "align", ONE_LUNG)
    few = dict(sorted(trainer.answered.chosen.items())[: module.LEAST_HELD_BACK - 1])
    alone = dataclasses.replace(trainer.answered, chosen=few)
    assert trainer.places.cross_validated(alone, trainer.places.outlines) is None


@pytest.mark.parametrize("stays", [True, False])
def test_where_no_judge_chooses_the_saliency_does(asked, stays):
    trainer = begun(asked, "align", ONE_LUNG)
    place = min(trainer.answered.chosen)
    coarse = trainer.places.outlines.located.get(*place[:2])[0].coarse_mask
    meant = coarse if stays else ~coarse
    assert module._finds(None, trainer.places.outlines, place, meant) == stays


@pytest.mark.parametrize("setting", [UNSEEN, "places.asks=outlines"])
def test_a_network_is_trained_unseen_where_that_is_asked_for_or_outlines_were_drawn(asked, setting):
    trainer = asked.train("align", ONE_LUNG, ANSWERED_ALL, "epochs=1", setting)
    assert trainer.kept == module.Kept("new", {}, 0) and len(trainer.run_log.history["loss"]) == 1


def test_minutes_end_the_virtual_annotator_s_work(asked):
    every, some = (begun(asked, "align", ONE_LUNG, f"places.minutes={minutes}").answered for minutes in (0, 0.3))
    assert 0 < sum(some.counts.values()) < sum(every.counts.values())
    assert some.seconds <= 0.3 * 60 < every.seconds


# ---- people ---------------------------------------------------------------------------------------------------------


def test_one_answer_is_enough_to_train(asked, stored):
    keep(stored, [judgement(stored.items[0], verdict="accepted", best=1)])
    trainer = asked.train("align", ONE_LUNG, RECORDED, UNSEEN)
    assert trainer.unlabelled_keys == [(stored.items[0].case, stored.items[0].slice_index)]
    assert len(trainer.run_log.history["loss"]) == 2 and (trainer.fold_folder / FINAL).is_file()


def test_a_box_is_enough_to_train(asked, stored):
    keep(stored, corners(stored, stored.items[:1]))
    assert begun(asked, "align", ONE_LUNG, RECORDED).unlabelled_keys == [
        (stored.items[0].case, stored.items[0].slice_index)]


def test_answers_none_of_which_says_where_are_refused(asked, stored):
    keep(stored, [judgement(item, verdict="none_acceptable") for item in stored.items])
    trainer = asked.trainer("align", ONE_LUNG, RECORDED)
    trainer.initialize()
    with pytest.raises(TrainingError, match=rf"{len(stored.items)} with none acceptable.*samdpo_annotate 901 0"):
        trainer.run_training()


def test_a_virtual_annotator_who_accepts_nothing_leaves_the_network_as_it_is(asked, monkeypatch, caplog):
    heard(caplog, monkeypatch)
    trainer = asked.train("align", ONE_LUNG, "places.asks=orders", "places.none_below=1.0")
    assert "No answer says which mask is right" in caplog.text
    before, after = (load_weights(file) for file in (asked.finetuned / "fold_0" / FINAL, trainer.fold_folder / FINAL))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_people_who_contradict_each_other_everywhere_leave_nothing_to_train_on(asked, stored):
    item, *apart = next((item, *apart) for item in stored.items if (apart := far_apart(stored.masks(item))))
    keep(stored, [judgement(item, name, verdict="accepted", best=best) for name, best in zip(("ann", "bob"), apart)])
    trainer = asked.train("align", ONE_LUNG, RECORDED)
    assert not trainer.unlabelled_keys and (trainer.fold_folder / FINAL).is_file()


def test_mixed_answers_are_people_s_where_there_are_any(asked, stored):
    keep(stored, corners(stored, stored.items[:1]))
    trainer = begun(asked, "align", ONE_LUNG, "annotator.kind=mixed", ANSWERED_ALL)
    place = (stored.items[0].case, stored.items[0].slice_index, "lung")
    x0, y0, x1, y1 = boxes_of_masks(torch.from_numpy(trainer.answered.chosen[place].mask)[None])[0]
    assert sum(trainer.answered.counts.values()) > 1
    alone = trainer.places.read(stored, corners(stored, stored.items[:1]), []).chosen[place]
    assert np.array_equal(trainer.answered.chosen[place].mask, alone.mask) and x0 < x1 and y0 < y1


@pytest.mark.parametrize("change", ["places.shown=5", "prompting.blobs=6", "prompting.proposals=12", "seed=7"])
def test_judgements_of_other_proposals_are_refused(asked, stored, change):
    keep(stored, corners(stored, stored.items))
    trainer = asked.trainer("align", ONE_LUNG, RECORDED, change)
    trainer.initialize()
    with pytest.raises(TrainingError, match="this model made with another plan.*samdpo_annotate 901 0"):
        trainer.run_training()
    assert not (trainer.fold_folder / "debug.json").exists()


def test_judgements_about_another_model_are_refused(asked, stored):
    keep(stored, corners(stored, stored.items))
    file = asked.finetuned / "fold_0" / FINAL
    weights = load_weights(file)
    name = next(iter(weights))
    save_weights({**weights, name: weights[name] + 1}, file)
    file.with_name(MANIFEST).unlink()  # the word of who put them there
    trainer = asked.trainer("align", ONE_LUNG, RECORDED)
    trainer.initialize()
    with pytest.raises(TrainingError, match=r"another model.*samdpo_annotate 901 0"):
        trainer.run_training()


# ---- images and structures of every kind ----------------------------------------------------------------------------


def without_proposals(monkeypatch, which) -> None:
    """No maker proposes anything on some images: those of which ``which`` is true."""
    propose = PlaceProposer.propose

    def none(self, image, features, hypotheses, shape):
        if not which(image):
            return propose(self, image, features, hypotheses, shape)
        return Proposals(torch.zeros(0, *image.shape[-2:]), torch.zeros(0), np.zeros((0, 4), np.float32), [])

    monkeypatch.setattr(PlaceProposer, "propose", none)


def test_an_image_on_which_nothing_is_proposed_keeps_its_prompt(asked, monkeypatch):
    chosen = asked.trainer("align", ONE_LUNG).data
    case = sorted(chosen.split.val)[0]
    (kept,) = asked.preprocessed.glob(f"samdpoPlans_proposals/*/{case}.npz")
    kept.unlink()
    image = np.asarray(chosen.slices.image(case, 0), np.float32)
    without_proposals(monkeypatch, lambda one: np.array_equal(one, image))
    trainer = asked.train("align", ONE_LUNG, "epochs=1", UNSEEN)
    before, after = (prompts.get(case, 0)[0] for prompts in (trainer.data.prompts.located, trainer.data.prompts))
    assert trainer.data is not trainer.original and after.place_confidence == 1
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.saliency, after.saliency)
    prompt = trainer.data.prompter.prompt(image)[0]
    np.testing.assert_array_equal(prompt.boxes, after.boxes)


def test_where_nothing_is_ever_proposed_no_judge_chooses_and_the_log_says_so(finetuned, monkeypatch, caplog):
    heard(caplog, monkeypatch)
    without_proposals(monkeypatch, lambda _: True)
    trainer = finetuned.train("align", ONE_LUNG, "epochs=1")
    assert "no judge chooses its place" in caplog.text
    assert trainer.data is trainer.original and (trainer.fold_folder / FINAL).is_file()


def test_a_structure_of_two_components_is_asked_about_without_a_judge(finetuned):
    trainer = finetuned.train("align", ANSWERED_ALL)
    assert not trainer.places.judges and trainer.data is trainer.original
    assert sum(trainer.answered.counts.values()) >= 1 and trainer.answered.counts["boxed"] == 0
    assert (trainer.fold_folder / FINAL).is_file()


def test_a_structure_that_may_be_absent_is_judged_where_it_is(finetuned):
    trainer = finetuned.train("align", ONE_LUNG, *FEW, "structures.lung.may_be_absent=true",
                              "structures.lung.presence_threshold=0.0", "epochs=1")
    assert trainer.places.judges and (trainer.fold_folder / FINAL).is_file()


def test_a_structure_that_is_nowhere_seen_on_an_image_has_no_proposals(asked):
    trainer = asked.trainer("align", ONE_LUNG)
    trainer.initialize()
    case = sorted(trainer.data.split.val)[0]
    absent = dataclasses.replace(trainer.data.prompts.get(case, 0)[0], present=False)
    store, key = trainer.places.outlines.proposals, (case, 0)
    get = store.prompts.get
    store.prompts.get = lambda *place: [absent] if place == key else get(*place)
    store._file(case).unlink(missing_ok=True)
    assert store.get(*key) == {}

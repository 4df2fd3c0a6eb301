"""``prompting.place``: a judge of the outlines chooses where prompts point, from stage 1 on."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_once import made_once
from trained_models import ONE_LUNG, Phantoms, _as_current, begun, copied, short_fits

from samdpo.errors import ConfigurationError, PlansError
from samdpo.files import hash_of
from samdpo.model.batches import SliceSamples
from samdpo.model.predictor import Predictor
from samdpo.parallel import Executor, Processes
from samdpo.paths import preprocessed_folder
from samdpo.prompting import making, outline_judges
from samdpo.prompting.judge import PlaceJudge, learn_from_answers
from samdpo.prompting.outline_judges import OutlineJudges, best_there
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter
from samdpo.prompting.proposals import PlaceProposer, boxes_of_masks
from samdpo.training import fold_data

JUDGED = (ONE_LUNG, "prompting.place=judge", "prompting.blobs=4", "prompting.proposals=8", "epochs=1")


@pytest.fixture(scope="module", autouse=True)
def _short_fits():
    with pytest.MonkeyPatch.context() as patch:
        short_fits(patch)
        yield


@pytest.fixture(scope="module")
def _judged(_planned, _short_fits, tmp_path_factory) -> Phantoms:
    """Prompted once, so that proposals are kept."""
    def make(folder: Path) -> None:
        with _as_current(copied(_planned, folder / "roots")) as made:
            shutil.rmtree(made.preprocessed / "samdpoPlans_prompts")
            made.trainer("finetune", *JUDGED)

    return Phantoms(made_once(tmp_path_factory, "judged", make) / "roots")


@pytest.fixture
def judged(_judged, tmp_path):
    with _as_current(copied(_judged, tmp_path / "roots")) as own:
        yield own


def fold(phantoms: Phantoms, stage: str = "finetune", *overrides: str):
    return phantoms.trainer(stage, *JUDGED, *overrides).data


def judges_of(data) -> OutlineJudges:
    return OutlineJudges(data.plans, data.slices, data.prompts.located, data.split.labelled, data.split.unlabelled,
                         data.groups, "cpu")


def looks(prompt: StructurePrompt) -> tuple:
    return (prompt.boxes.tolist(), prompt.points.tolist(), prompt.answer, prompt.saliency.tobytes(),
            prompt.place_confidence)


def content(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hash_of(f.read_bytes().hex()) for f in sorted(folder.rglob("*"))
            if f.is_file() and not f.name.startswith(".")}


def test_labelled_and_validation_cases_are_judged_and_unlabelled_ones_wait_for_a_stage_that_learns_from_them(judged):
    data = fold(judged)
    split, there = data.split, set(data.prompts.cases())
    assert there == {*split.labelled, *split.val} and split.unlabelled
    assert set(data.prompts.located.cases()) == {*split.labelled, *split.val, *split.unlabelled}
    assert data.prompter.judges.keys() == {"lung"}
    assert any(looks(data.prompts.get(case, 0)[0]) != looks(data.prompts.located.get(case, 0)[0]) for case in there)
    one = split.unlabelled[:1]
    data.judge(one, "cpu")
    assert set(data.prompts.cases()) == there | set(one)


def test_where_the_structure_is_known_the_prompt_is_there_and_a_judge_who_has_not_seen_it_chooses(judged):
    data = fold(judged)
    outlines = judges_of(data)
    for case in (*data.split.labelled, *data.split.val):
        several = outlines.proposals.get(case, 0)["lung"]
        found = data.prompts.get(case, 0)[0]
        if case in data.split.labelled:
            said = outlines.unseen["lung"][data.groups.get(case, case)].judge(several.measured, several.small)
            first = best_there(said.score, several.masks, data.slices.label(case, 0) == 1)
        else:
            said = outlines.judges["lung"].judge(several.measured, several.small)
            first = said.first
        assert found.place_confidence == pytest.approx(said.confidence)
        if first is not None:
            np.testing.assert_array_equal(found.saliency, several.saliency[first])
        assert len(found.hypotheses) == 0, "nobody is to look elsewhere"


def test_processes_of_an_executor_make_the_proposals_that_are_made_here_and_only_those_that_are_missing(judged):
    data = fold(judged)
    store, wanted = judges_of(data).proposals, sorted({*data.split.labelled, *data.split.val})
    there = sorted(store.folder.glob("*.npz"))
    here = {file.name: arrays_of(file) for file in there}
    kept, *missing = there
    for file in missing:
        file.unlink()
    before = kept.stat().st_mtime_ns
    judges_of(data).prepare(wanted, Processes(2))
    assert kept.stat().st_mtime_ns == before
    assert {f"{case}.npz" for case in wanted} <= {file.name for file in there}
    for file in (file for file in missing if file.stem in wanted):
        for name, array in arrays_of(file).items():
            np.testing.assert_array_equal(array, here[file.name][name])
    assert store.lacks(wanted) == []


def test_a_worker_of_an_earlier_command_sees_an_image_that_was_replaced_since(judged, tmp_path):
    class Here(Executor):  # a worker that lives on
        def map(self, function, items, description, per_process=1):
            return map(function, items)

    data = fold(judged)
    case = data.split.val[0]
    judges_of(data).prepare([case], Here())
    file = judges_of(data).proposals.folder / f"{case}.npz"
    file.unlink()
    judges_of(data).prepare([case], Here())
    first = arrays_of(file)
    other = next(one for one in data.split.unlabelled)
    image = np.asarray(data.slices.image(other, 0), np.float32)[None, :1]
    properties = {**data.slices.properties(case), "hash": "of another image"}
    data.slices.put(case, image, data.slices.label(case, 0)[None], properties)
    again = fold(judged)
    judges_of(again).prepare([case], Here())
    second = arrays_of(file)
    assert str(second["made_of"]) == judges_of(again).made_of(case) != str(first["made_of"])
    here = judges_of(again).proposals
    file.unlink()
    here.prepare([case])
    for name, array in arrays_of(file).items():
        np.testing.assert_array_equal(array, second[name])


def arrays_of(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def test_what_is_measured_on_labelled_cases_is_prompted_where_a_judge_who_has_not_seen_them_chooses(judged):
    data = fold(judged)
    outlines, as_new, moved = judges_of(data), data.prompts.as_new, []
    for case in data.split.labelled:
        several = outlines.proposals.get(case, 0)["lung"]
        said = outlines.unseen["lung"][data.groups.get(case, case)].judge(several.measured, several.small)
        found = as_new.get(case, 0)[0]
        np.testing.assert_array_equal(found.saliency, several.saliency[said.first])
        assert found.place_confidence == pytest.approx(said.confidence) and found.text_embedding.size
        moved.append(looks(found) != looks(data.prompts.get(case, 0)[0]))
    assert any(moved), "else this shows nothing"
    for case in data.split.val:
        assert looks(as_new.get(case, 0)[0]) == looks(data.prompts.get(case, 0)[0])
    trainer = judged.trainer("finetune", *JUDGED, "held_back=0.5")
    trainer.initialize()
    samples = [sample for batch in trainer.validation_batches() for sample in batch.samples]
    assert [sample.key for sample in samples] == trainer.held_back_keys and samples
    for sample in samples:
        assert looks(sample.prompts[0]) == looks(as_new.get(*sample.key)[0])
    for key in trainer.held_back_keys:  # what is learned from stays where it is known to be
        assert looks(trainer.samples.sample(key).prompts[0]) == looks(data.prompts.get(*key)[0])


@pytest.mark.parametrize("lost", ["folder", "arrays", "other key"])
def test_without_its_prompts_as_new_a_case_is_not_whole_and_the_known_place_never_stands_in_for_them(judged, lost):
    data = fold(judged)
    case, folder = data.split.labelled[0], data.prompts.folder / "as_new"
    before = looks(data.prompts.as_new.get(case, 0)[0])
    if lost == "folder":
        shutil.rmtree(folder)
    elif lost == "arrays":
        (folder / f"{case}.npz").unlink()  # a link to that of other tests
        (folder / f"{case}.npz").write_bytes(b"PK")
    else:
        PromptStore(folder, "another").put(case, [data.prompts.get(case, 0)])
    for key in (None, data.prompts.key):
        store = PromptStore(data.prompts.folder, key)
        assert lost == "arrays" or case not in store.cases()
        with pytest.raises(ConfigurationError):
            store.as_new.get(case, 0)
    assert looks(fold(judged).prompts.as_new.get(case, 0)[0]) == before


def test_a_case_that_only_one_patient_s_judge_could_judge_is_measured_where_the_saliency_is(judged, monkeypatch):
    data = fold(judged)
    outlines = judges_of(data)
    case = data.split.labelled[0]
    known, as_new = outlines._judged(case, data.prompter, {}, {})
    assert looks(as_new[0][0]) == looks(data.prompts.located.get(case, 0)[0]) and known is not None


def test_confidence_and_the_validation_of_labelled_cases_see_them_as_new(judged, monkeypatch):
    seen, sample = [], SliceSamples.sample
    monkeypatch.setattr(SliceSamples, "sample", lambda *args, **kwargs: seen.append(kwargs) or sample(*args, **kwargs))
    trainer = judged.trainer("finetune", *JUDGED)
    trainer.initialize()
    trainer.measure_confidence()
    assert seen and all(said["as_new"] for said in seen)
    split = dataclasses.replace(trainer.data.split, val=trainer.data.split.labelled[:1])
    shown, predict = [], Predictor.predict_prepared
    case = split.val[0]

    def prepared(predictor, geometry, image, prompts, *rest):
        shown.append(prompts(None, 0, None)[0])
        return predict(predictor, geometry, image, prompts, *rest)

    monkeypatch.setattr(Predictor, "predict_prepared", prepared)
    trainer = judged.train("finetune", *JUDGED)
    trainer.data = dataclasses.replace(trainer.data, split=split)
    trainer.perform_actual_validation()
    assert looks(shown[-1]) == looks(trainer.data.prompts.as_new.get(case, 0)[0])


def test_of_the_proposals_at_the_place_the_best_liked_is_taken_and_else_the_nearest():
    known = square(10, 10)
    masks = np.stack([square(0, 6), square(11, 10), square(10, 9), square(30, 6)])
    assert best_there(np.array([9.0, 1.0, 2.0, 8.0]), masks, known) == 2
    assert best_there(np.array([9.0, 3.0, 2.0, 8.0]), masks, known) == 1
    far = np.stack([square(0, 6), square(14, 14), square(30, 6)])
    assert best_there(np.array([9.0, 0.0, 8.0]), far, known) is None
    assert best_there(np.array([1.0, 2.0, 3.0, 0.0]), masks, np.zeros((64, 64), bool)) == 2


def test_where_no_proposal_is_at_the_place_the_prompt_is_made_of_the_outline_s_box(judged, monkeypatch):
    monkeypatch.setattr(outline_judges, "best_there", lambda *_: None)
    data = fold(judged, "finetune", "prompting.proposals=9")
    outlines = judges_of(data)
    proposer = PlaceProposer(outlines.features.extractor.network)
    for case in data.split.labelled:
        drawn = torch.from_numpy(data.slices.label(case, 0) == 1)[None]
        decoded = proposer.decode(outlines.features(case, 0), drawn.shape[-2:], boxes_of_masks(drawn))
        np.testing.assert_array_equal(data.prompts.get(case, 0)[0].saliency, decoded.saliency[0])


def square(at: int, side: int) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[at : at + side, at : at + side] = True
    return mask


def test_new_images_are_prompted_as_validation_cases_were(judged):
    data = fold(judged)
    prompter = Prompter.load(data.prompts.prompter_folder)
    for case in data.split.val:
        told = prompter.prompt(np.asarray(data.slices.image(case, 0), np.float32))[0]
        kept = data.prompts.get(case, 0)[0]
        np.testing.assert_allclose(told.boxes, kept.boxes)
        np.testing.assert_array_equal(told.points, kept.points)


def test_a_second_call_does_nothing_and_one_that_was_stopped_goes_on_to_the_same(judged, monkeypatch):
    folder = fold(judged).prompts.folder
    whole = content(folder)

    def never(*_, **__):
        raise AssertionError("made a second time")

    with monkeypatch.context() as patch:
        for name in ("fit_to_outlines", "cross_fitted"):
            patch.setattr(outline_judges, name, never)
        patch.setattr(PlaceProposer, "propose", never)
        fold(judged)
    shutil.rmtree(folder)
    put, count = PromptStore.put, []

    def stop(store, case, *rest):
        if store.folder == folder and len(count) == 2:
            raise KeyboardInterrupt
        count.append(case) if store.folder == folder else None
        put(store, case, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(PromptStore, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            fold(judged)
    assert not PromptStore(folder).has_prompter, "the prompter comes last"
    fold(judged)
    assert content(folder) == whole


def test_images_that_are_added_change_no_judge_and_other_outlines_do(judged):
    data = fold(judged)
    key = data.prompts.key
    more = OutlineJudges(data.plans, data.slices, data.prompts.located, data.split.labelled, (), data.groups, "cpu")
    assert more.key() == key
    fewer = OutlineJudges(data.plans, data.slices, data.prompts.located, data.split.labelled[1:],
                          data.split.unlabelled, data.groups, "cpu")
    assert fewer.key() != key
    assert fold(judged, "finetune", "prompting.proposals=9").prompts.key != key


def test_places_of_the_saliency_stay_where_nothing_can_be_told_apart_or_nothing_can_move(judged, monkeypatch):
    data = fold(judged, "finetune", "structures.lung.components=2", "prompting.tower_steps=1")
    assert not data.prompter.judges
    case = data.split.val[0]
    assert looks(data.prompts.get(case, 0)[0]) == looks(data.prompts.located.get(case, 0)[0])
    monkeypatch.setattr(outline_judges, "fit_to_outlines", lambda *_, **__: None)
    data = fold(judged, "finetune", "prompting.proposals=9")
    assert not data.prompter.judges
    assert looks(data.prompts.get(case, 0)[0]) == looks(data.prompts.located.get(case, 0)[0])


def test_an_unlabelled_image_of_a_patient_with_an_outline_is_judged_as_the_outline_is(
    judged, monkeypatch, tmp_path
):
    data = fold(judged)
    labelled, one, another = data.split.labelled[0], *data.split.unlabelled[:2]
    data.judge([one, another], "cpu")
    before = {case: looks(data.prompts.get(case, 0)[0]) for case in data.prompts.cases()}
    for module in (making, fold_data):
        monkeypatch.setattr(module, "load_case_groups", lambda _: {one: labelled})
    data = fold(judged)
    data.judge([one, another], "cpu")
    outlines = judges_of(data)
    several, unseen = outlines.proposals.get(one, 0)["lung"], outlines.unseen["lung"]
    said = unseen[labelled].judge(several.measured, several.small)
    np.testing.assert_array_equal(data.prompts.get(one, 0)[0].saliency, several.saliency[said.first])
    asked, judge_of = [], PlaceJudge.judge
    monkeypatch.setattr(PlaceJudge, "judge", lambda self, *args: asked.append(self) or judge_of(self, *args))
    outlines.write(PromptStore(tmp_path / "again"), [one, another, labelled], data.prompter, outlines.unseen)
    assert asked == [unseen[labelled], data.prompter.judges["lung"], unseen[labelled]]
    assert {case for case in before if looks(data.prompts.get(case, 0)[0]) != before[case]} == {one}


def test_prompts_of_the_saliency_are_those_they_were_before_there_were_judges(judged):
    plans = judged.trainer("finetune", *JUDGED).plans
    alone = judged.trainer("finetune", ONE_LUNG, "epochs=1").data.prompts
    located = making.make_prompts(plans, 0, "cpu", judged=()).located
    assert located.key == alone.key and alone.located is alone
    assert located.folder == preprocessed_folder(plans.dataset_name) / "samdpoPlans_prompts" / "fold_0" / "located"


def test_both_stages_are_trained_under_the_judge_and_align_goes_on_from_it(judged):
    finetuned = judged.train("finetune", *JUDGED)
    before = finetuned.data.prompter.judges["lung"].state_dict()
    trainer = judged.trainer("align", *JUDGED, "places.minutes=0", "places.held_back=0")
    trainer.initialize()
    assert {case for case, _ in trainer.unlabelled_keys} <= set(trainer.data.prompts.cases())
    for name, tensor in trainer.places.judges["lung"].state_dict().items():
        assert bool((tensor == before[name]).all()), "the very judge that chose the prompts"
    trainer = judged.train("align", *JUDGED, "places.minutes=0", "places.held_back=0")
    after = trainer.data.prompter.judges["lung"].state_dict()
    assert any(bool((after[name] != before[name]).any()) for name in before)
    assert trainer.original.prompts.folder == finetuned.data.prompts.folder


def test_what_was_meant_on_an_unlabelled_slice_is_known_as_an_outline_is(judged):
    judged.train("finetune", *JUDGED)
    trainer = judged.train("align", *JUDGED, "places.minutes=0", "places.held_back=0")
    told = {place: one.mask for place, one in trainer.answered.chosen.items() if one.mask is not None}
    assert told
    for (case, index, name), mask in told.items():
        several = trainer.places.outlines.proposals.get(case, index)[name]
        judge = trainer.data.prompter.judges[name]
        first = best_there(judge.judge(several.measured, several.small).score, several.masks, mask)
        if first is not None:
            np.testing.assert_array_equal(trainer.data.prompts.get(case, index)[0].saliency, several.saliency[first])
    outlines, right = trainer.places.outlines, trainer.answered.right
    assert right.keys() <= told.keys()
    anchors = [*outlines.outlined("lung"), *outlines.told("lung", right)]
    assert len(anchors) == len(outlines.outlined("lung")) + len(right)
    preferred, seed = trainer.answered.preferred["lung"], trainer.stage.seed
    learned = learn_from_answers(outlines.judges["lung"], preferred, anchors, seed)
    for name, tensor in trainer.data.prompter.judges["lung"].state_dict().items():
        assert bool((tensor == learned.state_dict()[name]).all())


def test_an_outline_that_is_told_is_an_outline(judged):
    data = fold(judged)
    outlines = judges_of(data)
    drawn = {(*key, "lung"): data.slices.label(*key) == 1 for key in outlines.outlines}
    for one, other in zip(outlines.told("lung", drawn), outlines.outlined("lung"), strict=True):
        np.testing.assert_array_equal(one.overlap, other.overlap)
        assert one.group == other.group
    assert outlines.told("other", drawn) == []


def test_candidates_of_other_places_are_refused_where_a_judge_has_chosen(judged):
    judged.train("finetune", *JUDGED)
    trainer = judged.trainer("align_preferences", *JUDGED, "candidates.kind=hypotheses")
    with pytest.raises(PlansError, match="prompting.place.*judge"):
        trainer.initialize()


def test_rounds_about_places_are_left_out_where_a_judge_chooses(judged, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("samdpo"), "propagate", True)
    caplog.set_level("INFO", "samdpo")
    judged.train("finetune", *JUDGED)
    trainer = begun(judged, "align_preferences", *JUDGED, "prompt_rounds=2")
    assert trainer.data.prompts.folder.name == "fold_0"
    assert "2 rounds about places (prompt_rounds) are left out: a judge of the outlines" in caplog.text

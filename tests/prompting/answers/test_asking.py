"""Who is asked what: structures that are there, once for every image and question, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from samdpo.errors import PlansError
from samdpo.plans import PromptingPlan, StructurePlan
from samdpo.prompting.answers import asking
from samdpo.prompting.answers.answerer import Answerer, answerer_of
from samdpo.prompting.answers.asking import edited_cases, question_about, with_model_answers
from samdpo.prompting.answers.cache import AnswerCache
from samdpo.prompting.prompt import StructurePrompt

STRUCTURES = {
    "lung": StructurePlan(1, "lungs in an X-ray"),
    "heart": StructurePlan(2, "heart", question="See {phrase}?"),
}
PLAN = PromptingPlan(answers="vlm", vlm="owner/model")


class FakeModel:
    """Says how bright the picture is; remembers its batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.stop_after = stop_after

    def answer(self, images, questions):
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(list(questions))
        return [f"{question} {np.asarray(image).mean():.0f}" for image, question in zip(images, questions)]


def prompts(present: list[tuple[bool, bool]]) -> list[list[StructurePrompt]]:
    none = np.zeros((0, 4), np.float32)
    return [
        [
            StructurePrompt(name, plan.label, there, 0.5, *[none] * 6, "", "A description.", none)
            for (name, plan), there in zip(STRUCTURES.items(), of_slice)
        ]
        for of_slice in present
    ]


def images(count: int) -> list[np.ndarray]:
    return [np.full((3, 8, 8), number / 255, np.float32) for number in range(count)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answerer]:
    def install(model: FakeModel, batch_size: int = 8) -> Answerer:
        answerer = Answerer("model", lambda device: model, batch_size)
        monkeypatch.setattr(asking, "answerer_of", lambda prompting: answerer)
        return answerer

    return install


def test_structures_that_are_there_are_asked_about_and_absent_ones_are_not(asked):
    model = FakeModel()
    asked(model)
    first, second = with_model_answers(prompts([(True, False), (True, True)]), images(2), STRUCTURES, PLAN)
    assert [prompt.answer for prompt in (*first, *second)] == [
        "What is the shape of the lung and where is it located? 0", "",
        "What is the shape of the lung and where is it located? 1", "See heart? 1",
    ]
    assert first[0].text.endswith("0 A description.") and len(model.batches) == 1


def test_questions_go_in_batches_and_no_answer_is_asked_for_twice(asked):
    model = FakeModel()
    asked(model, batch_size=3)
    pictures = [*images(3), images(3)[1]]  # one image comes twice
    there = prompts([(True, False)] * 4)
    with_model_answers(there, pictures, STRUCTURES, PLAN)
    assert [len(batch) for batch in model.batches] == [3]
    told = with_model_answers(there, pictures, STRUCTURES, PLAN)
    assert len(model.batches) == 1 and told[1][0].answer == told[3][0].answer


def test_a_stopped_run_goes_on_where_it_was(asked, tmp_path):
    there, pictures = prompts([(True, True)] * 20), images(20)
    stopped = asked(FakeModel(stop_after=3))
    stopped.keep_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        with_model_answers(there, pictures, STRUCTURES, PLAN)
    model = FakeModel()
    asked(model).keep_in(tmp_path)  # nothing was flushed at the end: as after a kill
    told = with_model_answers(there, pictures, STRUCTURES, PLAN)
    assert 16 <= sum(map(len, model.batches)) <= 24  # of 40
    assert all(prompt.answer for of_slice in told for prompt in of_slice)


@pytest.mark.parametrize("plan", [PromptingPlan(), PromptingPlan(answers="none"),
                                  dataclasses.replace(PLAN, use_answers=False)])
def test_no_model_is_asked_where_the_plan_does_not_say_so(asked, plan):
    model = FakeModel()
    asked(model)
    told = with_model_answers(prompts([(True, True)]), images(1), STRUCTURES, plan)
    assert not model.batches and [prompt.answer for prompt in told[0]] == ["", ""]


def test_the_model_is_not_loaded_where_every_answer_is_known(tmp_path):
    def fail(device):
        raise AssertionError("loaded")

    first = Answerer("model", lambda device: FakeModel(), 8)
    first.keep_in(tmp_path)
    first.answers(images(1), ["Where?"], [("case_1", 0)])
    first.flush()
    second = Answerer("model", fail, 8)
    second.keep_in(tmp_path)
    assert second.answers(images(1), ["Where?"]) == ["Where? 0"]
    with pytest.raises(AssertionError, match="loaded"):
        second.answers(images(1), ["Another?"])


def test_a_released_model_is_loaded_again_when_it_is_needed(tmp_path):
    loads = []
    answerer = Answerer("model", lambda device: loads.append(device) or FakeModel(), 8)
    answerer.keep_in(tmp_path)
    answerer.answers(images(1), ["Where?"], device="cpu")
    answerer.release()
    assert len(AnswerCache("model", answerer.cache.file)) == 1
    answerer.answers(images(1), ["Where?"], device="cpu")
    assert loads == ["cpu"]
    answerer.answers(images(1), ["Else?"], device="cpu")
    assert loads == ["cpu", "cpu"]


def test_cases_whose_answers_were_edited_are_found():
    answerer = Answerer("model", lambda device: FakeModel(), 8)
    question = question_about("lung", STRUCTURES["lung"])
    answerer.cache.put("a", question, "Edited.", ("case_1", 0))
    answerer.cache.put("b", question, "As it was.", ("case_2", 0))
    entry = {"slice": 0, "structure": "lung", "present": True, "answer": "As it was."}
    kept = {"case_1": [entry], "case_2": [entry], "case_3": [entry], "case_4": [{**entry, "present": False}]}
    assert edited_cases(answerer, kept, STRUCTURES) == {"case_1"}


def test_one_answerer_serves_every_fold_and_is_named_after_its_model(tmp_path):
    (tmp_path / "my_model").mkdir()
    of_folder = PromptingPlan(answers="medvint", vlm=str(tmp_path / "my_model"))
    assert answerer_of(of_folder) is answerer_of(dataclasses.replace(of_folder, n_points=3))
    assert answerer_of(of_folder).name == "medvint my_model" and answerer_of(PLAN).name == "owner/model"


def test_a_question_with_an_unknown_placeholder_is_named():
    with pytest.raises(PlansError, match=r"'structures.lung.question' is 'Where is \{organ\}\?'"):
        question_about("lung", StructurePlan(1, "lung", question="Where is {organ}?"))

"""A whole dataset whose questions a model answers: prompts of every fold, edits by hand, prediction."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from samdpo.errors import ConfigurationError
from samdpo.files import read_json, write_json
from samdpo.plans import Plans, load_plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.answers import answerer, vlm
from samdpo.prompting.answers.asking import keep_answers
from samdpo.prompting.answers.vlm import ImageTextToText
from samdpo.prompting.making import make_prompts
from samdpo.prompting.prompt_store import PromptStore
from samdpo.prompting.prompter import Prompter

QUESTION = "What is the shape of the lungs and where are they located?"  # of the phantoms' dataset.json


class CountingModel:
    """Numbers its answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, images, questions):
        assert all(image.size == (256, 256) and image.mode == "RGB" for image in images)
        self.asked += questions
        return [f"Answer {len(self.asked) - len(questions) + i + 1}." for i in range(len(questions))]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CountingModel:
    """Takes the place of the weights behind 'owner/model'; what the process has asked before is forgotten."""
    model = CountingModel()
    answerer._answerer.cache_clear()
    monkeypatch.setattr(vlm, "ImageTextToText", lambda *_: model)
    return model


@pytest.fixture
def plans(planned) -> Plans:
    file = planned.preprocessed / "vlmPlans.json"
    write_json(file, {"inherits_from": "samdpoPlans", "plans_name": "vlmPlans",
                      "prompting": {"answers": "vlm", "vlm": "owner/model", "tower_steps": 1, "n_hypotheses": 1,
                                    "crf": {"enabled": False}}})
    return load_plans(file)


def answers(store: PromptStore) -> dict[str, str]:
    return {case: store.get(case, 0)[0].answer for case in store.cases()}


def kept(planned) -> Path:
    return planned.preprocessed / "answers_owner_model.json"


def test_every_slice_is_asked_about_once_for_all_folds(plans, planned, model):
    store = make_prompts(plans, 0, "cpu")
    said = answers(store)
    assert len(model.asked) == len(set(said.values())) == len(store.cases()) and set(model.asked) == {QUESTION}
    content = read_json(kept(planned))
    assert content["model"] == "owner/model"
    assert {(e["case"], e["answers"][QUESTION]) for e in content["images"].values()} == set(said.items())
    text = store.get(store.cases()[0], 0)[0]
    assert text.text.startswith(text.answer) and text.description in text.text and text.text_embedding.any()
    before = len(model.asked)
    other = answers(make_prompts(plans, 1, "cpu"))
    assert len(model.asked) - before == len(other.keys() - said.keys())
    assert all(other[case] == said[case] for case in other.keys() & said.keys())


def test_an_edited_answer_makes_the_prompts_of_its_case_again(plans, planned, model):
    store = make_prompts(plans, 0, "cpu")
    before, count = answers(store), len(model.asked)
    case = store.cases()[1]
    embedding = store.get(case, 0)[0].text_embedding
    content = read_json(kept(planned))
    entry = next(e for e in content["images"].values() if e["case"] == case)
    entry["answers"][QUESTION] = "The lung is shaped like a pear."
    kept(planned).write_text(json.dumps(content))
    again = make_prompts(plans, 0, "cpu")
    assert answers(again) == before | {case: "The lung is shaped like a pear."}
    assert len(model.asked) == count and not np.array_equal(again.get(case, 0)[0].text_embedding, embedding)


def test_prompting_a_new_slice_asks_the_same_model(plans, planned, model):
    store = make_prompts(plans, 0, "cpu")
    count = len(model.asked)
    image = np.random.default_rng(0).random((3, 256, 256)).astype(np.float32)
    prompter = Prompter.load(store.prompter_folder)
    (prompt,) = prompter.prompt(image)
    assert prompt.answer == f"Answer {count + 1}."
    assert prompter.prompt(image)[0].answer == prompt.answer and len(model.asked) == count + 1


def test_without_the_model_only_what_it_has_answered_can_be_prompted(plans, planned, model, monkeypatch):
    store = make_prompts(plans, 0, "cpu")
    case, slices = store.cases()[0], SliceStore(planned.preprocessed / plans.preprocessing.data_identifier)
    answerer._answerer.cache_clear()
    monkeypatch.setattr(vlm, "ImageTextToText", ImageTextToText)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    keep_answers(plans)  # as loading a model folder does
    prompter = Prompter.load(store.prompter_folder)
    assert prompter.prompt(slices.image(case, 0))[0].answer == store.get(case, 0)[0].answer
    with pytest.raises(ConfigurationError, match="hf download owner/model"):
        prompter.prompt(np.random.default_rng(0).random((3, 256, 256)).astype(np.float32))


def test_a_model_that_is_not_there_is_a_sentence_before_anything_is_written(plans, planned, monkeypatch):
    answerer._answerer.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="hf download owner/model"):
        make_prompts(plans, 0, "cpu")
    assert not kept(planned).exists()


def test_the_command_with_descriptions_of_a_file(planned, model, monkeypatch):
    from samdpo.cli.prompt import main

    write_json(planned.preprocessed / "descriptions.json", {"descriptions": {"lungs": "Two dark fields."}})
    plan = read_json(planned.preprocessed / "samdpoPlans.json")
    plan["structures"]["lung"]["description"] = ""
    write_json(planned.preprocessed / "samdpoPlans.json", plan)
    monkeypatch.setattr(sys, "argv", ["samdpo_prompt", "901", "0"])
    main()
    store = PromptStore(planned.preprocessed / "samdpoPlans_prompts" / "fold_0")
    assert {store.get(case, 0)[0].description for case in store.cases()} == {"Two dark fields."}
    assert Prompter.load(store.prompter_folder).settings.structures["lung"].description == "Two dark fields."
    assert not model.asked

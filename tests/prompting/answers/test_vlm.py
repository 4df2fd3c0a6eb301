"""Vision-language models of transformers, loaded from a folder and asked as a real one is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import save_llava, save_qwen

from samdpo.errors import ConfigurationError
from samdpo.prompting.answers.vlm import ImageTextToText
from samdpo.prompting.wording import one_line

QUESTIONS = ["What is the shape of the lung and where is it located?", "Where is the liver?"]
SAVED = {"llava": save_llava, "llava without a chat": lambda folder: save_llava(folder, None), "qwen": save_qwen}


@pytest.fixture(scope="module", params=list(SAVED))
def vlm(request, tmp_path_factory) -> ImageTextToText:
    return ImageTextToText(str(SAVED[request.param](tmp_path_factory.mktemp("vlm"))), "cpu", max_new_tokens=8)


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    return [Image.fromarray(noise), Image.new("RGB", (256, 256), (255, 255, 255))]


def test_a_batch_answers_as_one_by_one(vlm):
    together = vlm.answer(pictures(), QUESTIONS)
    assert together == [vlm.answer([image], [text])[0] for image, text in zip(pictures(), QUESTIONS)]
    assert all(together) and not any(text in answer for answer in together for text in ("<", "assistant :"))


def test_the_answer_depends_on_image_and_question(vlm):
    first = vlm.answer(pictures(), QUESTIONS[:1] * 2)
    assert first[0] != first[1]
    assert vlm.answer(pictures()[:1], QUESTIONS[1:]) != first[:1]


def test_answers_are_no_longer_than_the_plan_says(vlm):
    tokens = [len(vlm.tokenizer(answer, add_special_tokens=False)["input_ids"])
              for answer in vlm.answer(pictures(), QUESTIONS)]
    assert max(tokens) <= 8


def test_the_precision_of_the_file_is_kept_on_a_cpu(tmp_path):
    from transformers import AutoModelForImageTextToText

    save_llava(tmp_path)
    AutoModelForImageTextToText.from_pretrained(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    vlm = ImageTextToText(str(tmp_path), "cpu", 4)
    assert vlm.model.dtype == torch.bfloat16 and vlm.answer(pictures()[:1], QUESTIONS[:1])[0]


def test_a_published_name_without_network_says_where_and_how(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError) as error:
        ImageTextToText("google/not-on-this-machine", "cpu")
    assert "hf download google/not-on-this-machine --local-dir" in str(error.value)
    assert "'prompting.vlm'" in str(error.value)


def test_what_is_neither_folder_nor_name_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="is not a folder"):
        ImageTextToText("/no/such/folder", "cpu")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        ImageTextToText("medgemma", "cpu")


def test_a_folder_that_holds_no_such_model_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"It has no config\.json"):
        ImageTextToText(str(tmp_path), "cpu")
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be loaded as an image-text-to-text model"):
        ImageTextToText(str(tmp_path), "cpu")


def test_pickled_weights_are_not_loaded(tmp_path):
    folder = Path(shutil.copytree(save_llava(tmp_path / "made"), tmp_path / "copy"))
    weights = folder / "model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ConfigurationError, match="safetensors"):
        ImageTextToText(str(folder), "cpu")


def test_an_answer_that_was_cut_ends_with_its_last_sentence():
    assert one_line(" The lung\n is oval. ") == "The lung is oval."
    assert one_line("It is oval. It lies in the", was_cut=True) == "It is oval."
    assert one_line("It is oval. It lies low.", was_cut=True) == "It is oval. It lies low."
    assert one_line("An oval mass in the", was_cut=True) == "An oval mass in the"

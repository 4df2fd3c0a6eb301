"""A language model behind an OpenAI-compatible endpoint, and the descriptions that it writes: the paper's GPT-4 step.

The endpoint is a cloud's, or one on this machine; only a structure's name and the modality are sent there. The key is
taken from the environment and given to the client. It is written to no file and no message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tqdm import tqdm

from samdpo.dataset.dataset_json import DatasetJson, StructureHints, modality_of
from samdpo.errors import ConfigurationError
from samdpo.prompting.descriptions import read_descriptions, write_descriptions
from samdpo.prompting.wording import one_line, whole_sentences

DEFAULT_URL = "https://api.openai.com/v1"
_TIMEOUT, _RETRIES = 60.0, 4  # seconds a request; the client waits longer after every failed try
_LONGEST = 200  # tokens
# Where a server refuses the first form: newer models count their thinking too and choose their own temperature.
_LIMITS: tuple[dict[str, Any], ...] = ({"max_tokens": _LONGEST, "temperature": 0}, {"max_completion_tokens": 2000})
SYSTEM = (
    "You describe anatomical structures and lesions as they appear in medical images. Answer with plain text: no "
    "lists, no headings, no advice, no address to the reader."
)
QUESTION = (
    "Describe in one or two short sentences what the {name} generally looks like in {modality} images: its shape, "
    "its location in the body and its appearance."
)
MOST_CHARACTERS = 400  # what MiniLM's 256 tokens hold beside an answer
_MODALITIES = {"ct": "CT", "xray": "X-ray", "ultrasound": "ultrasound", "mr": "MR"}
_THOUGHTS = re.compile(r"<think>.*?(</think>|$)", re.S)  # of models that think aloud
_MARKUP = re.compile(r"[*#`_]{1,3}|^\s*(?:[-•]|\d+\.)\s+", re.M)


class LanguageModelError(ConfigurationError):
    """The model answered, but with nothing to use: the next question may fare better."""


class LanguageModel:
    """Answers one prompt at a time.

    Args:
        model: its name at the endpoint; None for the variable ``samdpo_llm_model``.
        base_url: of the endpoint, like ``http://127.0.0.1:8000/v1``; None for ``OPENAI_BASE_URL``, else OpenAI's.
        timeout: seconds a request.
        retries: of a request that failed.

    Raises:
        ConfigurationError: no model is named, or the endpoint needs a key and ``OPENAI_API_KEY`` is not set.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        timeout: float = _TIMEOUT,
        retries: int = _RETRIES,
    ) -> None:
        self.model = model or os.environ.get("samdpo_llm_model", "")
        url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        self.url = _without_credentials(url)
        self._key = os.environ.get("OPENAI_API_KEY", "")
        if not self.model:
            raise ConfigurationError(
                f"No language model is named. Type --model NAME, or: export samdpo_llm_model=NAME, with a name that "
                f"{self.url} knows."
            )
        if not self._key and url == DEFAULT_URL:
            raise ConfigurationError(
                f"{self.url} needs a key. Type: export OPENAI_API_KEY=…, or name another endpoint with --base_url URL "
                "or OPENAI_BASE_URL, for example one on this machine."
            )
        from openai import OpenAI

        # A server on this machine asks for no key; the client insists on one.
        self._client = OpenAI(api_key=self._key or "none", base_url=url, timeout=timeout, max_retries=retries)

    def ask(self, system: str, question: str) -> str:
        """The model's answer.

        Raises:
            LanguageModelError: the model refused, or said nothing.
            ConfigurationError: the endpoint cannot be reached, does not know the model or rejects the key.
        """
        import openai

        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        try:
            try:
                answer = self._client.chat.completions.create(model=self.model, messages=messages, **_LIMITS[0])
            except openai.BadRequestError:
                answer = self._client.chat.completions.create(model=self.model, messages=messages, **_LIMITS[1])
        except openai.APIConnectionError as error:
            reason = "no answer in time" if isinstance(error, openai.APITimeoutError) else error.__cause__ or error
            raise ConfigurationError(
                f"{self.url} cannot be reached ({self._cleaned(reason)}). Check that the server runs and that "
                "--base_url or OPENAI_BASE_URL names it, then type the same command again: what is written is kept."
            ) from None
        except openai.AuthenticationError:
            raise ConfigurationError(f"{self.url} rejects the key. Check the variable OPENAI_API_KEY.") from None
        except openai.NotFoundError as error:
            raise ConfigurationError(
                f"{self.url} does not know the model {self.model!r} ({self._cleaned(error)}). Name another with "
                "--model."
            ) from None
        except openai.OpenAIError as error:
            raise ConfigurationError(
                f"{self.url} answered with an error ({self._cleaned(error)}). Type the same command again later: what "
                "is written is kept."
            ) from None
        return self._text(answer)

    def _text(self, answer: Any) -> str:
        choices = getattr(answer, "choices", None)
        if not choices:
            raise ConfigurationError(
                f"{self.url} does not answer as an OpenAI-compatible endpoint does. Check the URL; most end in /v1."
            )
        message = choices[0].message
        if getattr(message, "refusal", None) or choices[0].finish_reason == "content_filter":
            raise LanguageModelError(f"{self.model} refused: {self._cleaned(message.refusal or 'content filter')}")
        if not (message.content or "").strip():
            raise LanguageModelError(f"{self.model} gave an empty answer.")
        return whole_sentences(message.content) if choices[0].finish_reason == "length" else message.content

    def _cleaned(self, reason: object) -> str:
        """One line of a server's words, without the key that some servers quote."""
        text = " ".join(str(reason).split())
        return (text.replace(self._key, "***") if self._key else text)[:300]


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")).rstrip("/")


def write_missing(
    dataset: DatasetJson, files: Sequence[Path], model: LanguageModel, overwrite: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Describe the structures that no file describes; each description is written as soon as it is there.

    A structure with a description in dataset.json is left out: that one wins anyway.

    Args:
        dataset: the structures and their modality.
        files: where the dataset's ``descriptions.json`` may lie; the first is written, and what else it says stays.
        model: who writes.
        overwrite: describe those again that are described.

    Returns:
        the structures that were described; structure -> reason of those that were not.

    Raises:
        ConfigurationError: the model cannot be used; what is written is kept.
    """
    wanted = structures_to_describe(dataset)
    there = {name for file in files for name in read_descriptions(file)}
    missing = [name for name in wanted if overwrite or name not in there]
    modality, written, failed = modality_name(dataset), [], {}
    for name in tqdm(missing, desc="Descriptions", disable=not missing):
        question = QUESTION.format(name=wanted[name], modality=modality)
        try:
            text = short_text(model.ask(SYSTEM, question))
        except LanguageModelError as error:
            failed[name] = str(error)
            continue
        # Read again: somebody may be editing the file meanwhile.
        entry = {"text": text, "source": f"{model.model}, not checked by a person"}
        write_descriptions(files[0], {**read_descriptions(files[0]), name: entry})
        written.append(name)
    return written, failed


def structures_to_describe(dataset: DatasetJson) -> dict[str, str]:
    """Structure -> what it is called: its phrase where dataset.json has one, since a label may say little."""
    hints = {name: dataset.hints.get(name, StructureHints()) for name in dataset.structures}
    return {name: hint.phrase or name for name, hint in hints.items() if not (hint.description or "").strip()}


def modality_name(dataset: DatasetJson) -> str:
    """What the images are called, from the first channel's name."""
    channel = next(iter(dataset.channel_names.values()))
    return _MODALITIES.get(modality_of(channel), channel)


def short_text(answer: str, most: int = MOST_CHARACTERS) -> str:
    """One line of plain text of at most ``most`` characters, cut at a sentence's end where there is one.

    Raises:
        LanguageModelError: nothing but markup.
    """
    text = one_line(_MARKUP.sub("", _THOUGHTS.sub("", answer))).strip("\"' ")
    if not text:
        raise LanguageModelError("The answer holds no text.")
    return text if len(text) <= most else whole_sentences(text[:most])

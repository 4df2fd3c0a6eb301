"""A language model behind an OpenAI-compatible endpoint: a cloud's, or one on this machine.

The key is taken from the environment and given to the client. It is written to no file and no message.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from samdpo.errors import ConfigurationError
from samdpo.prompting.wording import whole_sentences

DEFAULT_URL = "https://api.openai.com/v1"
_TIMEOUT, _RETRIES = 60.0, 4  # seconds a request; the client waits longer after every failed try
_LONGEST = 200  # tokens
# Where a server refuses the first form: newer models count their thinking too and choose their own temperature.
_LIMITS: tuple[dict[str, Any], ...] = ({"max_tokens": _LONGEST, "temperature": 0}, {"max_completion_tokens": 2000})


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

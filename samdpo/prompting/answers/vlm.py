"""Any image-text-to-text model of transformers: MedGemma, HuatuoGPT-Vision, Qwen2.5-VL, LLaVA …"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from samdpo.errors import ConfigurationError
from samdpo.networks.device import resolve_device, saying_what_to_make_smaller
from samdpo.networks.precision import has_bf16
from samdpo.prompting.wording import one_line

log = logging.getLogger(__name__)

_REACHABLE = 10.0  # seconds in which the hub has to answer


class ImageTextToText:
    """A vision-language model, resident; greedy answers.

    Args:
        name: folder with config, weights (safetensors) and processor, or the name under which they are published.
        device: ``auto`` is a GPU where there is one.
        max_new_tokens: longest answer.
        may_download: whether a published one that is not on this machine is fetched.

    Raises:
        ConfigurationError: it is neither a folder nor to be had from where it is published, or is no such model.
    """

    def __init__(
        self, name: str, device: torch.device | str = "auto", max_new_tokens: int = 50, may_download: bool = True
    ) -> None:
        self.name, self.device, self.max_new_tokens = name, resolve_device(device), max_new_tokens
        self.processor, self.model = _load(name, self.device, may_download)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        self.tokenizer.padding_side = "left"  # answers of a batch begin at the same token
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One answer for each pair of RGB image and question, in one batch.

        Raises:
            ConfigurationError: the processor takes no such input.
            OutOfMemoryError: the batch does not fit into the device's memory.
        """
        inputs = self._inputs(images, questions).to(self.device, self.model.dtype)
        with saying_what_to_make_smaller(
            f"with {len(images)} questions to {self.name} at once",
            "Lower 'prompting.vlm_batch_size' of the plan where it is above 1, or take a smaller model.",
        ):
            made = self.model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        if not self.model.config.is_encoder_decoder:
            made = made[:, inputs["input_ids"].shape[1] :]
        cut = [len(ids) >= self.max_new_tokens and not self._ended(ids) for ids in made]
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [one_line(text, was_cut) for text, was_cut in zip(texts, cut)]

    def _inputs(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
        if getattr(self.processor, "chat_template", None):
            talks = [
                [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
                for image, question in zip(images, questions)
            ]
            return self.processor.apply_chat_template(
                talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        # A model that was never taught to chat: the image's token, where it has one, and the question.
        token = getattr(self.processor, "image_token", None)
        texts = [f"{token}\n{question}" if token else question for question in questions]
        return self.processor(images=list(images), text=texts, return_tensors="pt", padding=True)

    def _ended(self, ids: torch.Tensor) -> bool:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return any(token in ends for token in ids.tolist())


def _load(name: str, device: torch.device, may_download: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(name).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1):
        raise ConfigurationError(
            f"'prompting.vlm' is {name!r}, which is not a folder. Name the folder of an image-text-to-text model, or "
            "the name under which one is published, like google/medgemma-4b-it."
        )
    source = str(folder) if folder.is_dir() else name

    def load(local: bool) -> tuple[Any, Any]:
        options = {"local_files_only": local, "trust_remote_code": False}
        processor = AutoProcessor.from_pretrained(source, **options)
        return processor, AutoModelForImageTextToText.from_pretrained(
            source, dtype=_precision(device), use_safetensors=True, **options
        )

    try:
        try:
            processor, model = load(local=True)
        except OSError:
            if folder.is_dir():
                raise
            if not may_download:
                raise ConfigurationError(
                    f"The model folder has its questions answered by {name} ('prompting.vlm'), which is not on this "
                    "machine. Prediction downloads nothing that only a model folder names. If you trust that model, "
                    f"fetch it first: hf download {shlex.quote(name)}"
                ) from None
            _check_reachable(name)  # fails at once where the download would try for minutes
            processor, model = load(local=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigurationError(_why_not(name, folder, error)) from error
    log.info("%s answers the structures' questions, %s on %s.", name, str(model.dtype).removeprefix("torch."), device)
    return processor, model.to(device).eval().requires_grad_(False)


def _check_reachable(name: str) -> None:
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=_REACHABLE)
    except Exception as error:  # of the hub's own kinds, and of the HTTP library that it happens to use
        raise OSError(f"{type(error).__name__}: {error}") from error


def _precision(device: torch.device) -> torch.dtype | str:
    """bfloat16 on a GPU that has it, float16 on another GPU; on a CPU the precision of the file."""
    if device.type == "cpu":
        return "auto"
    return torch.bfloat16 if has_bf16(device) else torch.float16


def _why_not(name: str, folder: Path, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if folder.is_dir():
        lacking = "" if (folder / "config.json").is_file() else " It has no config.json."
        return (
            f"{folder} of 'prompting.vlm' cannot be loaded as an image-text-to-text model of transformers.{lacking} "
            f"({reason}) Expected config.json, weights as safetensors and the processor's files."
        )
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return (
        f"The model {name!r} of 'prompting.vlm' is not on this machine and cannot be downloaded{offline}: {reason}. It "
        f"is published on the Hugging Face hub as {name}. On a machine with network type: hf download {name} "
        "--local-dir FOLDER, copy the folder here, and write its path as 'prompting.vlm' into the plan."
    )

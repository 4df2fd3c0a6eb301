"""Texts of a pretrained CLIP: its tokenizer, the configuration of its text tower, and sentences that fit into it."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from samdpo.errors import ConfigurationError
from samdpo.files import read_json
from samdpo.prompting.open_clip_files import (
    CONFIG,
    LAYOUT,
    TEXT_CONFIG,
    TOKENIZER,
    OpenClipFiles,
    cached_file,
    download,
    not_fetched,
    not_here,
)

log = logging.getLogger(__name__)

# BiomedCLIP's text tower: its repository does not hold the tower's configuration, which is BERT-base's.
_BERT_BASE = (
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Tokenizer:
    """Texts to token ids of one length; a longer text is cut at the end of a sentence.

    Args:
        tokenizer: of open_clip.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.context: int = tokenizer.context_length

    def __call__(self, texts: list[str]) -> torch.Tensor:
        """(N, context) ids."""
        return self._tokenizer([self.cut(text) for text in texts])

    def count(self, text: str) -> int:
        """Tokens of a text, start and end included."""
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:  # CLIP's own byte pairs
            return len(self._tokenizer.encode(text)) + 2
        return len(inner(text, verbose=False)["input_ids"])

    def cut(self, text: str) -> str:
        """The leading sentences of ``text`` that fit; a first sentence that is too long is cut by the tokenizer."""
        if self.count(text) <= self.context:
            return text
        sentences = _SENTENCE_END.split(text)
        kept = 1
        while kept < len(sentences) and self.count(" ".join(sentences[: kept + 1])) <= self.context:
            kept += 1
        log.debug(
            "A text of %d tokens is cut to the first %d of its %d sentences, since the text tower takes %d tokens: %s",
            self.count(text), kept, len(sentences), self.context, text,
        )
        return " ".join(sentences[:kept])


def read_tokenizer(files: OpenClipFiles) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        ConfigurationError: its files are neither in the model's folder nor in the hub's cache, nor can be downloaded.
    """
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    text_cfg = files.config["model_cfg"]["text_cfg"]
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        return Tokenizer(open_clip.get_tokenizer(f"local-dir:{files.folder}"))
    source = files.folder
    if not any((source / file).is_file() for file in TOKENIZER):
        source = _folder_of(name, files) or _from_hub(name, TOKENIZER, files)
    try:
        return Tokenizer(
            HFTokenizer(
                str(source), context_length=text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                **{**text_cfg.get("tokenizer_kwargs", {}), "trust_remote_code": False},  # nothing of a model is run
            )
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ConfigurationError(
            f"The tokenizer of {files.name} cannot be read from {source} ({first}). Expected a folder of {LAYOUT}."
        ) from error


@contextmanager
def text_tower_folder(files: OpenClipFiles) -> Iterator[Path | None]:
    """A folder whose ``config.json`` describes the model's text tower of transformers; None for one of open_clip.

    Raises:
        ConfigurationError: it is neither in the model's folder nor in the hub's cache, nor can be downloaded; or it is
            none that open_clip builds. Code that it brings along is not run, nor is anybody asked whether it may.
    """
    name = files.config["model_cfg"]["text_cfg"].get("hf_model_name")
    if not name:
        yield None
    elif (named := _folder_of(name, files)) is not None:
        yield _checked_tower(named)
    elif _describes_tower(files.folder / TEXT_CONFIG):
        yield files.folder
    elif name in _BERT_BASE:
        from transformers import BertConfig

        with tempfile.TemporaryDirectory() as folder:
            BertConfig().save_pretrained(folder)
            yield Path(folder)
    else:
        yield _checked_tower(_from_hub(name, (TEXT_CONFIG,), files))


def _describes_tower(path: Path) -> bool:
    """Whether a ``config.json`` is that of a text tower, and not of a whole CLIP."""
    from open_clip.hf_configs import arch_dict

    content = read_json(path) if path.is_file() else None
    kind = content.get("model_type") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind in arch_dict


def _checked_tower(folder: Path) -> Path:
    if not _describes_tower(folder / TEXT_CONFIG):
        raise ConfigurationError(
            f"{folder / TEXT_CONFIG} does not describe a text tower that open_clip knows: 'model_type' must name one, "
            "like bert or roberta."
        )
    return folder


def _folder_of(name: str, files: OpenClipFiles) -> Path | None:
    """The folder that a name in the configuration points to, absolute or beside it."""
    folder = (files.folder / Path(name).expanduser()).resolve()
    return folder if folder.is_dir() else None


def _from_hub(repository: str, wanted: tuple[str, ...], files: OpenClipFiles) -> Path:
    """The folder of a hub's repository in its cache, with those of the wanted files that it has."""
    known = [cached_file(repository, file) for file in wanted if cached_file(repository, file)]
    if known:
        return known[0].parent
    if not files.may_download:
        raise not_fetched(repository, str(files.folder / CONFIG))
    try:
        found = [path for path in (download(repository, file) for file in wanted) if path is not None]
    except Exception as error:  # the hub's client, its HTTP library and sockets each raise their own kinds
        remedy = f"Without a network, put its {' and '.join(wanted[:2])} into {files.folder}."
        raise not_here(repository, error, remedy) from error
    if not found:
        raise ConfigurationError(
            f"https://huggingface.co/{repository}, which {files.folder / CONFIG} names, has none of "
            f"{', '.join(wanted)}. Expected a folder of {LAYOUT}."
        )
    return found[0].parent

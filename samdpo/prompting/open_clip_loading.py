"""A CLIP built by open_clip from its configuration, with its published weights; nothing is unpickled."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from samdpo.errors import ConfigurationError, ModelFolderError
from samdpo.networks.published.reading import read_checkpoint
from samdpo.networks.weights import load_into
from samdpo.prompting.open_clip_files import (
    CONFIG,
    LAYOUT,
    OpenClipFiles,
    find_open_clip,
    text_tower_folder,
    tokenizer_folder,
)

log = logging.getLogger(__name__)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_POSITION_IDS = "text.transformer.embeddings.position_ids"  # a buffer of transformers before 4.31


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


@dataclass(frozen=True)
class OpenClip:
    """A pretrained model, frozen and in eval mode.

    Attributes:
        module: open_clip's CLIP or CustomTextCLIP.
        tokenizer: of its text tower.
        size: (h, w) of the image tower's input.
        mean: of each channel.
        std: of each channel.
        interpolation: by which images are resized, ``bicubic`` or ``bilinear``.
        embed_dim: D of the common space.
        checksum: SHA-256 of the weights' file.
    """

    module: nn.Module
    tokenizer: Tokenizer
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    embed_dim: int
    checksum: str = ""


@functools.lru_cache(maxsize=2)
def shared_open_clip(name: str, device: str, checksum: str = "", may_download: bool = True) -> OpenClip:
    """The process's one copy of a model: the folds of a predictor and the text encoder share it.

    Args:
        name: of the plan.
        device: where it runs.
        checksum: of the weights that are expected; empty takes any.
        may_download: as for :func:`~samdpo.prompting.open_clip_files.find_open_clip`.

    Raises:
        ConfigurationError: files are missing or unreadable.
        ModelFolderError: the weights are others than expected, or do not fit the configuration.
    """
    files = find_open_clip(name, may_download)
    if checksum and files.checksum != checksum:
        raise ModelFolderError(
            f"{files.weights} is not the file that this model's prompts were made with: its SHA-256 begins with "
            f"{files.checksum[:12]}, expected {checksum[:12]}. Put the file of then there, or train the model again."
        )
    return load_open_clip(files, device)


@torch.inference_mode(False)  # weights that are loaded in the midst of a pass must take part in gradients too
def load_open_clip(files: OpenClipFiles, device: torch.device | str = "cpu") -> OpenClip:
    """Build a model and load its weights; every name and shape must fit.

    Raises:
        ConfigurationError: the tokenizer or the text tower's configuration is missing.
        ModelFolderError: the weights cannot be read, or do not fit; names the first that is missing, unexpected or of
            another shape.
    """
    import open_clip

    tokenizer = read_tokenizer(files)
    model_cfg = files.config["model_cfg"]
    towers: dict[str, Any] = {"vision_cfg": dict(model_cfg["vision_cfg"]), "text_cfg": dict(model_cfg["text_cfg"])}
    if "timm_model_name" in towers["vision_cfg"]:
        _refuse_address(towers["vision_cfg"]["timm_model_name"], files)
        towers["vision_cfg"]["timm_model_pretrained"] = False
    with text_tower_folder(files) as folder, _quiet_root_logger():
        if folder is not None:
            towers["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
        try:
            module = open_clip.create_model(
                f"local-dir:{files.folder}", load_weights=False, pretrained_hf=False, **towers
            )
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise ConfigurationError(
                f"open_clip cannot build the model that {files.folder} describes ({error}). Copy its "
                "open_clip_config.json anew from where the model is published, or install a newer open_clip_torch."
            ) from error
    load_into(
        module, fitting(read_checkpoint(files.weights), module), str(files.weights),
        "Copy open_clip_config.json and the weights anew from where the model is published; they belong together.",
    )
    module = module.to(device).eval().requires_grad_(False)
    preprocess = module.visual.preprocess_cfg
    size = preprocess["size"]
    log.info("%s: %.0f million parameters.", files.name, sum(p.numel() for p in module.parameters()) / 1e6)
    return OpenClip(
        module, tokenizer, (size, size) if isinstance(size, int) else (size[0], size[1]), tuple(preprocess["mean"]),
        tuple(preprocess["std"]), "bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
        files.embed_dim, files.checksum,
    )


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
    source = tokenizer_folder(files, name)
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


def _refuse_address(timm_model_name: Any, files: OpenClipFiles) -> None:
    """An architecture of timm has a plain name; with a prefix timm would read one from the hub or another folder."""
    if not isinstance(timm_model_name, str) or not timm_model_name.replace(".", "_").isidentifier():
        raise ConfigurationError(
            f"{files.folder / CONFIG}: 'timm_model_name' is {timm_model_name!r}; expected the name of an architecture "
            "of timm, like vit_base_patch16_224."
        )


def fitting(state: Mapping[str, torch.Tensor], module: nn.Module) -> dict[str, torch.Tensor]:
    """Published weights under the names that open_clip's modules have today; what does not fit is left for
    :func:`~samdpo.networks.weights.load_into` to name."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    own = module.state_dict()
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}  # of training on several GPUs
    state = dict(convert_state_dict(module, state))
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = dict(convert_to_custom_text_state_dict(state))
    if _POSITION_IDS not in own:
        state.pop(_POSITION_IDS, None)
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in state and scalar in own and state[scalar].numel() == 1:
            state[scalar] = state[scalar].reshape(own[scalar].shape)
    return state


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """open_clip speaks through the root logger: it sets it up where it has no handler, and warns of missing weights."""
    root = logging.getLogger()
    silent, level = logging.NullHandler(), root.level
    root.addHandler(silent)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)

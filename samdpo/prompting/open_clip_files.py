"""Where a pretrained image-text model's files are: a folder of one's own, the weights folder, or the hub's cache.

So are its tokenizer and the configuration of its text tower, to which its own configuration may point.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError
from samdpo.files import content_hash, read_json
from samdpo.networks.published.catalogue import BIOMEDCLIP_REPOSITORY
from samdpo.networks.published.folder import weights_folder
from samdpo.plans import BIOMEDCLIP

HUB, LOCAL = "hf-hub:", "local-dir:"
BIOMEDCLIP_HOME = f"{HUB}{BIOMEDCLIP_REPOSITORY}"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
TEXT_CONFIG = "config.json"
LAYOUT = (
    f"{CONFIG}, the weights ({WEIGHTS[0]} or {WEIGHTS[-1]}) and, for a text tower of transformers, the tokenizer's "
    f"files ({TOKENIZER[0]}, {TOKENIZER[1]}) and the tower's {TEXT_CONFIG}, to which 'hf_model_name' in {CONFIG} points"
)
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)  # on the hub
# BiomedCLIP's text tower: its repository does not hold the tower's configuration, which is BERT-base's.
_BERT_BASE = (
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
)


@dataclass(frozen=True)
class OpenClipFiles:
    """A pretrained model on this machine.

    Attributes:
        name: as in the plan, aliases resolved.
        folder: that holds all its files.
        weights: in it.
        config: content of ``open_clip_config.json``.
        may_download: whether what its configuration names, like a tokenizer, may be fetched from the hub.
    """

    name: str
    folder: Path
    weights: Path
    config: dict[str, Any] = field(repr=False, hash=False)
    may_download: bool = True

    @property
    def embed_dim(self) -> int:
        """D of image and text embeddings."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def checksum(self) -> str:
        """SHA-256 of the weights' file, in hex."""
        return content_hash(self.weights)


def find_open_clip(name: str, may_download: bool = True) -> OpenClipFiles:
    """The files of an image-text model, downloaded where they are nowhere on this machine.

    They are data: configurations, tokenizers and tensors, of which nothing is run.

    Args:
        name: ``local-dir:FOLDER``; or ``hf-hub:OWNER/NAME``, which is a folder NAME in the weights folder, else a
            repository of the hub, in its cache or downloaded; or ``biomedclip``, which is one of the latter.
        may_download: whether the network may be used because of ``name``. Where only a model folder names it, that is
            no reason; ``biomedclip``, which is known here, is fetched all the same.

    Raises:
        ConfigurationError: it would have to be downloaded and may not; a folder is missing or incomplete, or the
            download failed; the message says where the model is published and what folder to make of it.
    """
    name = BIOMEDCLIP_HOME if name == BIOMEDCLIP else name
    may_download = may_download or name == BIOMEDCLIP_HOME
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL)).expanduser().absolute()
        return _in_folder(f"{LOCAL}{folder}", folder, may_download)
    repository = name.removeprefix(HUB)
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigurationError(f"'prompting.image_text_model' is {name!r}; expected {HUB}OWNER/NAME.")
    by_hand = weights_folder() / repository.rpartition("/")[2]
    return _in_folder(name, by_hand if by_hand.is_dir() else _from_hub(repository, by_hand, may_download), may_download)


def _in_folder(name: str, folder: Path, may_download: bool) -> OpenClipFiles:
    remedy = f"Expected a folder of {LAYOUT}."
    if not folder.is_dir():
        raise ConfigurationError(f"'prompting.image_text_model' is {name}, but that folder does not exist. {remedy}")
    config = read_json(folder / CONFIG, remedy=remedy)
    model_cfg = config.get("model_cfg") if isinstance(config, dict) else None
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    if not isinstance(model_cfg, dict) or not all(isinstance(model_cfg.get(k), kind) for k, kind in kinds.items()):
        raise ConfigurationError(
            f"{folder / CONFIG} does not describe an open_clip model: it needs 'model_cfg' with 'embed_dim', "
            f"'vision_cfg' and 'text_cfg'. {remedy}"
        )
    named = {key: model_cfg["text_cfg"].get(key) for key in ("hf_model_name", "hf_tokenizer_name")}
    if wrong := [key for key, value in named.items() if not isinstance(value, (str, type(None)))]:
        raise ConfigurationError(f"{folder / CONFIG}: 'model_cfg.text_cfg.{wrong[0]}' must be a text. {remedy}")
    weights = [folder / known for known in WEIGHTS if (folder / known).is_file()]
    if not weights:
        raise ConfigurationError(f"{folder} has no weights: none of {', '.join(WEIGHTS)} is there. {remedy}")
    return OpenClipFiles(name, folder, weights[0], config, may_download)


def tokenizer_folder(files: OpenClipFiles, name: str) -> Path:
    """Where the tokenizer of a model lies that its configuration calls ``name``: in its folder, or where that points.

    Raises:
        ConfigurationError: it is not in the hub's cache either, nor can be downloaded.
    """
    if any((files.folder / file).is_file() for file in TOKENIZER):
        return files.folder
    return _folder_of(name, files) or _named_by(files, name, TOKENIZER)


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
        yield _checked_tower(_named_by(files, name, (TEXT_CONFIG,)))


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


def _from_hub(repository: str, by_hand: Path, may_download: bool) -> Path:
    """The folder of a model's repository in the hub's cache, downloaded where it is not there.

    ``by_hand`` is the folder that a person may fill instead.
    """
    known = [path for path in (_cached(repository, file) for file in WEIGHTS) if path]
    if known and _cached(repository, CONFIG):
        return known[0].parent
    remedy = (
        f"Without a network, fill the folder {by_hand}, or another that 'prompting.image_text_model' of the plan "
        f"names as {LOCAL}FOLDER, with {LAYOUT}."
    )
    # The weights come last: where they are, all is there.
    wanted = [(CONFIG,), *((file,) for file in (*TOKENIZER, TEXT_CONFIG)), WEIGHTS]
    named_by = "'prompting.image_text_model' of the model folder"
    config, *_, weights = _download(repository, wanted, named_by, remedy, may_download)
    if config is None or weights is None:
        raise ConfigurationError(
            f"https://huggingface.co/{repository} holds no open_clip model: "
            f"{CONFIG if config is None else ' or '.join(WEIGHTS)} is missing. Correct 'prompting.image_text_model'."
        )
    return config.parent


def _named_by(files: OpenClipFiles, repository: str, wanted: tuple[str, ...]) -> Path:
    """The folder of a repository that a model's configuration names, with those of the wanted files that it has."""
    known = [path for path in (_cached(repository, file) for file in wanted) if path]
    if known:
        return known[0].parent
    config = files.folder / CONFIG
    remedy = f"Without a network, put its {' and '.join(wanted[:2])} into {files.folder}."
    downloaded = _download(repository, [(file,) for file in wanted], str(config), remedy, files.may_download)
    found = [path for path in downloaded if path]
    if not found:
        raise ConfigurationError(
            f"https://huggingface.co/{repository}, which {config} names, has none of {', '.join(wanted)}. Expected a "
            f"folder of {LAYOUT}."
        )
    return found[0].parent


def _cached(repository: str, file: str) -> Path | None:
    """A file of a hub's repository from the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, file)
    return Path(cached) if isinstance(cached, str) else None


def _download(
    repository: str, wanted: Sequence[Sequence[str]], named_by: str, remedy: str, may_download: bool
) -> list[Path | None]:
    """Files of a hub's repository, by way of its cache; None for those that it does not have.

    Args:
        repository: ``OWNER/NAME``.
        wanted: for each file its possible names, of which the first that is there is taken.
        named_by: what names the repository, for the sentence that it may not be asked.
        remedy: ends the sentence that it cannot be.
        may_download: whether the network may be used.

    Raises:
        ConfigurationError: it may not, or the hub does not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not may_download:
        raise ConfigurationError(
            f"{named_by} names {repository}, which is not on this machine. Prediction downloads nothing that only a "
            f"model folder names. If you trust it, fetch it first: hf download {repository}"
        )

    def one(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError:  # a kind of the next: it means that the hub could not be asked
            raise
        except EntryNotFoundError:
            return None

    try:
        return [next((path for path in map(one, names) if path), None) for names in wanted]
    except Exception as error:  # the hub's client, its HTTP library and sockets each raise their own kinds
        reason = (str(error).splitlines() or ["no answer"])[0]
        raise ConfigurationError(
            f"{repository} is not on this machine and cannot be downloaded ({type(error).__name__}: {reason}). It is "
            f"published at https://huggingface.co/{repository}. {remedy}"
        ) from error

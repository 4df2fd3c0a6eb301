"""Generic descriptions of structures (the paper's GPT-4 text): bundled ones, and a dataset's own ``descriptions.json``.

The bundled ones are our own words, each with its source. People edit and share the file, or a language model wrote it;
it may lie in the dataset's preprocessed or raw folder, and what the first says wins. A description in the plan, which
is that of dataset.json, wins over both; both win over the bundled ones.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from samdpo.errors import ConfigurationError
from samdpo.files import read_json, write_json
from samdpo.paths import preprocessed_root, raw_root
from samdpo.plans import Plans

log = logging.getLogger(__name__)

FILE_NAME = "descriptions.json"
_NOTE = "Edit the texts as you like; they are part of the prompts. Delete one to have it written again."
_REMEDY = 'Write it like this: {"descriptions": {"lung": {"text": "The lungs are …", "source": "…"}}}'


def describe(structure: str, own: str = "") -> str:
    """Description of a structure.

    Args:
        structure: name in dataset.json, or its phrase; case, plural and punctuation do not matter.
        own: the description of the plan, of dataset.json or of the dataset's descriptions.json; wins if not empty.

    Returns:
        The description; the bare name, with a warning, where nothing is bundled.
    """
    if own.strip():
        return own.strip()
    key = normal_name(structure)
    texts = _bundled()
    if key in texts:
        return texts[key]
    _warn_once(structure)
    return f"{structure}."


def is_described(structure: str) -> bool:
    """Whether a description of ``structure`` is bundled."""
    return normal_name(structure) in _bundled()


@functools.lru_cache(maxsize=1)
def _bundled() -> dict[str, str]:
    text = resources.files("samdpo.prompting").joinpath("descriptions.json").read_text(encoding="utf-8")
    return {
        normal_name(name): entry["text"] for entry in json.loads(text)["structures"] for name in entry["names"]
    }


@functools.lru_cache(maxsize=256)
def _warn_once(structure: str) -> None:
    log.warning(
        "No description of %r is bundled, so its prompts say only the name. Write one under 'samdpo' in "
        "dataset.json or as structures.%s.description in the plan, or have it written with: samdpo_describe DATASET",
        structure,
        structure,
    )


def normal_name(name: str) -> str:
    """A structure's name as it is compared: case, plural, spelling of tumour and punctuation do not matter."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower().replace("tumour", "tumor")).split()
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("us") else word
                    for word in words)


def read_descriptions(file: Path) -> dict[str, dict[str, str]]:
    """Structure -> ``text`` and ``source`` as the file has them; a text alone counts too. Empty without a file.

    Raises:
        ConfigurationError: not JSON of this form.
    """
    if not file.is_file():
        return {}
    content = read_json(file, remedy=_REMEDY)
    entries = content.get("descriptions") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ConfigurationError(f"{file} must hold an object under 'descriptions'. {_REMEDY}")
    return {name: _entry(name, value, file) for name, value in entries.items()}


def write_descriptions(file: Path, entries: Mapping[str, Mapping[str, str]]) -> None:
    """Write what :func:`read_descriptions` reads, atomically."""
    write_json(file, {"note": _NOTE, "descriptions": entries})


def with_descriptions(plans: Plans) -> Plans:
    """The plan, its structures without a description of their own given that of the dataset's files."""
    texts: dict[str, str] = {}
    for file in description_files(plans.dataset_name):
        texts = {normal_name(name): entry["text"] for name, entry in read_descriptions(file).items()} | texts
    structures = {
        name: dataclasses.replace(
            plan, description=plan.description.strip() or texts.get(normal_name(name), "")
        )
        for name, plan in plans.structures.items()
    }
    return plans if structures == plans.structures else dataclasses.replace(plans, structures=structures)


def description_files(dataset: str) -> list[Path]:
    """Where a dataset's file may lie, the one that wins first; folders whose variable is not set are left out."""
    files = []
    for root in (preprocessed_root, raw_root):
        with suppress(ConfigurationError):
            files.append(root() / dataset / FILE_NAME)
    return files


def _entry(name: str, value: Any, file: Path) -> dict[str, str]:
    entry = {"text": value, "source": ""} if isinstance(value, str) else value
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise ConfigurationError(f"{file}: the description of {name!r} must be a text, found {value!r}. {_REMEDY}")
    return {"text": entry["text"].strip(), "source": str(entry.get("source", ""))}

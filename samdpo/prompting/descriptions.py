"""Generic descriptions of structures (the paper's GPT-4 text): bundled, our own words, each with its source."""

from __future__ import annotations

import functools
import json
import logging
import re
from importlib import resources

log = logging.getLogger(__name__)


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

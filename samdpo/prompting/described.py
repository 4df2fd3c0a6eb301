"""Have a language model describe a dataset's structures: the paper's GPT-4 step (Sec. 3.1).

Only a structure's name and the modality leave the machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from samdpo.dataset.dataset_json import DatasetJson, StructureHints, modality_of
from samdpo.prompting.description_file import read_descriptions, write_descriptions
from samdpo.prompting.language_model import LanguageModel, LanguageModelError
from samdpo.prompting.wording import one_line, whole_sentences

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

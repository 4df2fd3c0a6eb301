"""Ask a model about slices: only about structures that are there, and only what is not known yet.

The model sees what the network sees, the slice as RGB, and the structure's question (paper Sec. 3.1).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from samdpo.errors import PlansError
from samdpo.paths import folder_of, preprocessed_root
from samdpo.plans import Plans, PromptingPlan, StructurePlan
from samdpo.preprocessing.store import SliceKey
from samdpo.prompting.answers.answerer import Answerer, answerer_of, asks_a_model
from samdpo.prompting.prompt import StructurePrompt

if TYPE_CHECKING:
    import torch


def with_model_answers(
    prompts: Sequence[Sequence[StructurePrompt]],
    images: Sequence[np.ndarray],
    structures: Mapping[str, StructurePlan],
    prompting: PromptingPlan,
    seen_in: Sequence[SliceKey | None] | None = None,
    device: torch.device | str = "auto",
) -> list[list[StructurePrompt]]:
    """Prompts of some slices with a model's answers; as they were where the plan asks no model.

    Args:
        prompts: for each slice the prompts of its structures; absent ones are not asked about.
        images: the slices, (3, H, W) in [0, 1].
        structures: by name, with their questions.
        prompting: who answers.
        seen_in: case and number of each slice.
        device: of the model.

    Raises:
        ConfigurationError: the model is needed and cannot be loaded.
        PlansError: a question has a placeholder that is not known.
    """
    answered = [list(of_slice) for of_slice in prompts]
    if not asks_a_model(prompting):
        return answered
    questions = _questions(structures)
    places = [(i, j) for i, of_slice in enumerate(answered) for j, prompt in enumerate(of_slice) if prompt.present]
    answers = answerer_of(prompting).answers(
        [images[i] for i, _ in places],
        [questions[answered[i][j].structure] for i, j in places],
        [seen_in[i] for i, _ in places] if seen_in else None,
        device,
    )
    for (i, j), answer in zip(places, answers):
        answered[i][j] = replace(answered[i][j], answer=answer)
    return answered


def keep_answers(plans: Plans, may_download: bool = True) -> Answerer | None:
    """Read the answers kept in the dataset's preprocessed folder, and keep new ones there, where one can be written to.

    Args:
        plans: says whom to ask.
        may_download: whether the model may be fetched, as for a plan that the user works with; not for a plan that
            came with a model folder.

    Returns:
        The answerer; None where the plan asks no model.
    """
    if not asks_a_model(plans.prompting):
        return None
    answerer = answerer_of(plans.prompting)
    answerer.may_download = may_download
    if folder_of("nnUNet_preprocessed") is not None:
        folder = preprocessed_root() / plans.dataset_name
        if os.access(folder, os.W_OK):
            answerer.keep_in(folder)
    return answerer


def edited_cases(
    answerer: Answerer, kept: Mapping[str, Sequence[Mapping[str, Any]]], structures: Mapping[str, StructurePlan]
) -> set[str]:
    """Cases whose kept prompts say something else than what the answers now are: somebody has edited them.

    Args:
        answerer: of :func:`keep_answers`.
        kept: case -> its prompts, with ``slice``, ``structure``, ``present`` and ``answer``.
        structures: by name, with their questions.
    """
    known, questions = dict(answerer.cache.of_slices()), _questions(structures)

    def differs(case: str, prompt: Mapping[str, Any]) -> bool:
        now = known.get((case, prompt["slice"]), {}).get(questions[prompt["structure"]])
        return bool(prompt["present"]) and now not in (None, prompt["answer"])

    return {case for case, prompts in kept.items() if any(differs(case, prompt) for prompt in prompts)}


def _questions(structures: Mapping[str, StructurePlan]) -> dict[str, str]:
    return {name: question_about(name, plan) for name, plan in structures.items()}


def question_about(structure: str, plan: StructurePlan) -> str:
    """The question of the plan with ``{name}`` (the label's name) and ``{phrase}`` filled in.

    Raises:
        PlansError: another placeholder, or a brace that is not closed.
    """
    try:
        return plan.question.format(name=structure, phrase=plan.phrase or structure).strip()
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise PlansError(
            f"'structures.{structure}.question' is {plan.question!r}; it may hold {{name}} and {{phrase}} and no other "
            "braces. Correct it in the plan, or as 'question' under 'samdpo' in dataset.json and plan again."
        ) from error

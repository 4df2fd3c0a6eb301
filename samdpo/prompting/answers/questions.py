"""The question about a structure; by default the paper's (Sec. 3.1)."""

from __future__ import annotations

from samdpo.errors import PlansError
from samdpo.plans import StructurePlan


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

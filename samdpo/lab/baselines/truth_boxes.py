"""Prompts from the truth: what a person who knows the answer would draw."""

from __future__ import annotations

from samdpo.errors import TrainingError
from samdpo.plans import Plans
from samdpo.preprocessing.store import SliceStore
from samdpo.prompting.box_prompt import box_prompt
from samdpo.prompting.prompt import StructurePrompt
from samdpo.prompting.regions import largest_components


class TruthBoxes:
    """The prompts of labelled slices, read off their labels; stands where a prompt store does.

    Args:
        plans: structures with their number of components, and the share of the largest one below which a component
            gets no box.
        slices: with the labels.
    """

    def __init__(self, plans: Plans, slices: SliceStore) -> None:
        self.plans, self.slices = plans, slices

    def get(self, case: str, index: int) -> list[StructurePrompt]:
        """Prompts of one slice, one a structure: a box round each of its components; absent where it has none.

        Raises:
            TrainingError: the case has no label.
        """
        label = self.slices.label(case, index)
        if label is None:
            raise TrainingError(f"{case} has no label from which boxes could be taken. Only labelled cases have them.")
        least = self.plans.prompting.min_component_share
        return [
            box_prompt(name, plan.label, largest_components(label == plan.label, plan.components, least))
            for name, plan in self.plans.structures.items()
        ]

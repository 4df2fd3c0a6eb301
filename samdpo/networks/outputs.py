"""How many structures a network without prompts tells apart."""

from __future__ import annotations

from samdpo.errors import PlansError
from samdpo.plans import NetworkPlan


def structures_of(plan: NetworkPlan) -> int:
    """``network.outputs``, which must be 1 or more for a network without prompts.

    Raises:
        PlansError: it is not.
    """
    if plan.outputs < 1:
        raise PlansError(
            f"'network.outputs' is {plan.outputs}; a network without prompts needs the number of structures. The "
            "stages unet and self_prompt have it; plan them with: samdpo_plan_experiment -d DATASET"
        )
    return plan.outputs

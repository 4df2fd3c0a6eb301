"""The side of an encoder's input, from the plan's ``network.input_size``."""

from __future__ import annotations

from samdpo.errors import PlansError
from samdpo.plans import NetworkPlan


def input_size(plan: NetworkPlan, default: int, multiple: int) -> int:
    """Side of the encoder's input in pixels: the plan's, or the backbone's own.

    Raises:
        PlansError: not a multiple of what the encoder needs.
    """
    size = plan.input_size or default
    if size < multiple or size % multiple:
        raise PlansError(
            f"'network.input_size' is {plan.input_size}; {plan.backbone} needs a multiple of {multiple}, or 0 for its "
            f"own {default}."
        )
    return size


def check_fixed_size(plan: NetworkPlan, size: int) -> None:
    """Refuse another input size than the only one a backbone has.

    Raises:
        PlansError: the plan asks for another one.
    """
    if plan.input_size not in (0, size):
        raise PlansError(f"'network.input_size' is {plan.input_size}; {plan.backbone} works at {size} pixels alone.")

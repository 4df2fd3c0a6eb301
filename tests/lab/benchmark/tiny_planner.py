"""A planner whose networks train in a second; found by the benchmark's commands as ``tiny_planner:TinyPlanner``."""

from __future__ import annotations

from dataclasses import replace

from samdpo.planning.lite_planner import LitePlanner
from samdpo.plans import NetworkPlan, PromptingPlan, StagePlan


class TinyPlanner(LitePlanner):
    sam_backbone = "tiny_sam"

    def plan_network(self) -> NetworkPlan:
        return NetworkPlan(backbone="tiny_sam")

    def plan_prompting(self) -> PromptingPlan:
        return replace(super().plan_prompting(), tower_steps=10, cross_fit_folds=2)

    def plan_stages(self) -> dict[str, StagePlan]:
        return {name: replace(stage, lr=3e-3, encoder_lr=3e-3, prompt_rounds=0)
                for name, stage in super().plan_stages().items()}

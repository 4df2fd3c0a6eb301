"""A planner whose two stages train in a second; commands find it as ``campaign_planner:CampaignPlanner``."""

from __future__ import annotations

from dataclasses import replace

from samdpo.planning.lite_planner import LitePlanner
from samdpo.plans import NetworkPlan, PromptingPlan, StagePlan


class CampaignPlanner(LitePlanner):
    sam_backbone = "tiny_sam"

    def plan_network(self) -> NetworkPlan:
        return NetworkPlan(backbone="tiny_sam")

    def plan_prompting(self) -> PromptingPlan:
        return replace(super().plan_prompting(), tower_steps=3, cross_fit_folds=2)

    def plan_stages(self) -> dict[str, StagePlan]:
        stages = super().plan_stages()
        return {name: replace(stages[name], lr=3e-3, encoder_lr=3e-3, epochs=2, batch_size=2)
                for name in ("finetune", "align")}

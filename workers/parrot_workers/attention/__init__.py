"""Attention over the paged cache, shared prefixes read once. Importing this package imports no torch."""

from parrot_workers.attention.base import AttentionBackend
from parrot_workers.attention.cost_model import ALWAYS, CPU, H200, NEVER, CostModel
from parrot_workers.attention.level import Level
from parrot_workers.attention.plan import AttentionPlan, PlanStatistics, SequenceSpan, build_plan

__all__ = [
    "ALWAYS",
    "CPU",
    "H200",
    "NEVER",
    "AttentionBackend",
    "AttentionPlan",
    "CostModel",
    "Level",
    "PlanStatistics",
    "SequenceSpan",
    "build_plan",
]

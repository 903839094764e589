"""The coordinator: facts become ready tasks, ready tasks become prefix-grouped batches."""

from parrot_mq.coordinator.config import CoordinatorConfig, Mechanisms
from parrot_mq.coordinator.coordinator import Coordinator, open_coordinator
from parrot_mq.coordinator.dispatch.dispatch_state import DispatchState
from parrot_mq.coordinator.leadership.leader import Candidate, LeaderConfig, open_candidate
from parrot_mq.coordinator.sessions.planning import plan_task
from parrot_mq.coordinator.sessions.ready import ReadyGeneration
from parrot_mq.coordinator.sessions.steps import PlannedGeneration
from parrot_mq.coordinator.statistics import CoordinatorStatistics, DispatcherStatistics, LeaderStatistics
from parrot_mq.coordinator.tenants import Quotas, TenantPolicy, Tenants, load_tenants

__all__ = [
    "Candidate",
    "Coordinator",
    "CoordinatorConfig",
    "CoordinatorStatistics",
    "DispatchState",
    "DispatcherStatistics",
    "LeaderConfig",
    "LeaderStatistics",
    "Mechanisms",
    "PlannedGeneration",
    "Quotas",
    "ReadyGeneration",
    "TenantPolicy",
    "Tenants",
    "load_tenants",
    "open_candidate",
    "open_coordinator",
    "plan_task",
]

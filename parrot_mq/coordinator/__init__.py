"""The coordinator: facts become ready tasks, ready tasks become prefix-grouped batches."""

from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.coordinator import Coordinator, open_coordinator
from parrot_mq.coordinator.placement import FairQueue, PrefixQueue
from parrot_mq.coordinator.ready import PlannedGeneration, ReadyGeneration, plan_task
from parrot_mq.coordinator.statistics import CoordinatorStatistics, DispatcherStatistics

__all__ = [
    "Coordinator",
    "CoordinatorConfig",
    "CoordinatorStatistics",
    "DispatcherStatistics",
    "FairQueue",
    "PlannedGeneration",
    "PrefixQueue",
    "ReadyGeneration",
    "open_coordinator",
    "plan_task",
]

"""The coordinator: facts become ready tasks, ready tasks become prefix-grouped batches."""

from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.coordinator import open_coordinator
from parrot_mq.coordinator.placement import FairQueue, PrefixQueue
from parrot_mq.coordinator.ready import PlannedGeneration, ReadyGeneration, plan_task

__all__ = [
    "CoordinatorConfig",
    "FairQueue",
    "PlannedGeneration",
    "PrefixQueue",
    "ReadyGeneration",
    "open_coordinator",
    "plan_task",
]

"""How many workers there should be: the policy, which is pure, and its simulator."""

from parrot_mq.autoscale.config import PolicyConfig
from parrot_mq.autoscale.observation import Decision, DecisionKind, Learned, Observation, Rate
from parrot_mq.autoscale.policy import PolicyState, decide

__all__ = [
    "Decision",
    "DecisionKind",
    "Learned",
    "Observation",
    "PolicyConfig",
    "PolicyState",
    "Rate",
    "decide",
]

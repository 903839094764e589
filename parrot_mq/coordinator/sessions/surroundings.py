"""What the coordinator gives a session: the actor and everything that works for it need the same."""

from __future__ import annotations

from dataclasses import dataclass

from parrot_mq.actors import ActorRef
from parrot_mq.coordinator.facts import Facts
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import SessionKey
from parrot_mq.coordinator.stories.events import Events
from parrot_mq.coordinator.tenants import Quotas

__all__ = ["Surroundings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Of one session.

    Attributes:
        key: Which session.
        facts: What is stored, and how to add to it.
        models: Which models are served, and by which dispatcher.
        caller: Makes the calls of native functions.
        events: Where to tell what happens.
        quotas: How much its tenant may have.
        salt: Generations with different salts share no cache.
    """

    key: SessionKey
    facts: Facts
    models: Models
    caller: ActorRef
    events: Events
    quotas: Quotas
    salt: str

"""How actors and systems stand: frozen records, all that tools read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from parrot_mq.actors.mailbox import MailboxStatistics

__all__ = ["ActorState", "ActorStatistics", "SystemStatistics"]


class ActorState(Enum):
    """How an actor is."""

    STARTING = "starting"
    """`on_start` runs; messages wait in the mailbox."""

    RUNNING = "running"
    """It handles messages."""

    RESTARTING = "restarting"
    """It has ended and will be started again; messages wait in the mailbox."""

    STOPPED = "stopped"
    """It has ended for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatistics:
    """How an actor stands.

    Attributes:
        address: `node/name`.
        state: How it is.
        num_handled: Messages that it began to handle, in all its lives.
        num_restarts: How often it was restarted.
        mailbox: How its mailbox stands.
    """

    address: str
    state: ActorState
    num_handled: int
    num_restarts: int
    mailbox: MailboxStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatistics:
    """How a system stands.

    Attributes:
        node: Its name.
        actors: Its actors, in the order in which they were spawned.
    """

    node: str
    actors: tuple[ActorStatistics, ...]

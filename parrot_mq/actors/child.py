"""What a child is and how it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parrot_mq.actors.supervision import RestartPolicy
from parrot_mq.types import check_name

if TYPE_CHECKING:
    from parrot_mq.actors.actor import Actor

__all__ = ["DEFAULT_MAILBOX_CAPACITY", "DEFAULT_STOP_TIMEOUT_S", "ChildSpec"]

DEFAULT_MAILBOX_CAPACITY = 1024
DEFAULT_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What a child is and how it is kept.

    Attributes:
        factory: Makes the actor, at the first start and at every restart; its class, or a function without arguments.
        name: Unique in the system, one token of a subject.
        restart: When it is started again after it ended.
        mailbox_capacity: Most messages that wait for it.
        stop_timeout_s: Seconds that the message being handled may take at a stop, and then `on_stop`.
        accepts: A message type, or a union of them, that it takes from other processes; None: it is not on the bus.
    """

    factory: Callable[[], Actor]
    name: str
    restart: RestartPolicy = RestartPolicy.PERMANENT
    mailbox_capacity: int = DEFAULT_MAILBOX_CAPACITY
    stop_timeout_s: float = DEFAULT_STOP_TIMEOUT_S
    accepts: Any = None

    def __post_init__(self) -> None:
        check_name("actor", self.name)

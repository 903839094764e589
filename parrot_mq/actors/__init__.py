"""Actors: state that only its own messages change, supervised, addressable from other processes."""

from parrot_mq.actors.actor import Actor, ActorContext
from parrot_mq.actors.child import ChildSpec
from parrot_mq.actors.mailbox import Mailbox, MailboxStatistics
from parrot_mq.actors.ref import ActorRef, Ref
from parrot_mq.actors.remote import RemoteRef
from parrot_mq.actors.statistics import ActorState, ActorStatistics, SystemStatistics
from parrot_mq.actors.supervision import RestartPolicy, Strategy, Supervision
from parrot_mq.actors.supervisor import Supervisor
from parrot_mq.actors.system import ActorSystem

__all__ = [
    "Actor",
    "ActorContext",
    "ActorRef",
    "ActorState",
    "ActorStatistics",
    "ActorSystem",
    "ChildSpec",
    "Mailbox",
    "MailboxStatistics",
    "Ref",
    "RemoteRef",
    "RestartPolicy",
    "Strategy",
    "Supervision",
    "Supervisor",
    "SystemStatistics",
]

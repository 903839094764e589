"""The client: connect, open a session, call semantic functions, set, get and stream variables."""

from parrot_mq.client.client import Client
from parrot_mq.client.session import Session

__all__ = ["Client", "Session"]

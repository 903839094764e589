"""For tests of programs and of services: a real nats-server of their own."""

from parrot_mq.testing.nats_server import running_nats_server

__all__ = ["running_nats_server"]

"""A server with the gateways and the users that `schemas/README.md` shows."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from parrot_mq.testing.nats_server import running_nats_server
from tests.interop.agent import ClientKind
from tests.interop.node import EXAMPLES

__all__ = ["Gateways", "running_gateways", "shown_config"]

_PAGE = EXAMPLES.parents[1] / "README.md"
_LISTEN = re.compile(r'(websocket|mqtt) \{ listen: "127\.0\.0\.1:\d+"')


def shown_config(name: str) -> str:
    """The server's configuration that the page shows under this name."""
    found = re.search(rf"<!-- server: {re.escape(name)} -->\n```\n(.*?)```\n", _PAGE.read_text(), re.DOTALL)
    assert found, name
    return found[1]


class Gateways:
    """The gateways of the page on free ports.

    Attributes:
        config: Lines for the server's configuration.
        urls: Where it listens for each kind of client, but for `tcp`.
    """

    def __init__(self) -> None:
        ports = dict(zip(("websocket", "mqtt"), _free_ports(2), strict=True))
        self.config = (_LISTEN.sub(lambda match: f'{match[1]} {{ listen: "127.0.0.1:{ports[match[1]]}"', _SHOWN),)
        self.urls: dict[ClientKind, str] = {
            "websocket": f"ws://127.0.0.1:{ports['websocket']}",
            "mqtt": f"mqtt://127.0.0.1:{ports['mqtt']}",
        }


_SHOWN = shown_config("gateways")


@contextmanager
def running_gateways() -> Iterator[dict[ClientKind, str]]:
    """A server with both; gives where it listens for each kind of client."""
    gateways = Gateways()
    with running_nats_server(gateways.config) as server:
        yield {"tcp": server.url, **gateways.urls}


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

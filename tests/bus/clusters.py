"""Three servers that know each other."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from parrot_mq.bus import NatsServer

__all__ = ["running_cluster"]


@asynccontextmanager
async def running_cluster() -> AsyncIterator[list[NatsServer]]:
    """A cluster on free ports; server `i` is named `n<i>`."""
    ports = _free_ports(3)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    async with AsyncExitStack() as stack:
        servers = []
        for index, port in enumerate(ports):
            lines = [
                f"server_name: n{index}",
                f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
            ]
            servers.append(await stack.enter_async_context(NatsServer(extra_config=lines)))
        yield servers


def _free_ports(num_ports: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_ports)]
    ports = [int(taken.getsockname()[1]) for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports

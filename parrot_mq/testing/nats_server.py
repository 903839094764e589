"""A nats-server for tests, without an event loop of the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from parrot_mq.bus import BusConfig, NatsServer, open_bus

__all__ = ["running_nats_server"]


@contextmanager
def running_nats_server(extra_config: Sequence[str] = ()) -> Iterator[NatsServer]:
    """A private server on a free port, with the streams of this project, until the end of the block.

    It can be entered with and without a running event loop, so it fits a fixture of any scope:

        @pytest.fixture(scope="session")
        def nats_url():
            with running_nats_server() as server:
                yield server.url

    Args:
        extra_config: Further lines of the server's configuration file.

    Raises:
        ServerStartFailed: There is no nats-server on this machine (`pip install 'parrot-mq[server]'`), or it ended.
    """
    server = NatsServer(extra_config=extra_config)
    try:
        _run(_start(server))
        yield server
    finally:
        _run(server.stop())


def _run(work: Coroutine[Any, Any, None]) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _start(server: NatsServer) -> None:
    await server.start()
    async with open_bus(BusConfig(servers=(server.url,))) as bus:
        await bus.ensure_streams()

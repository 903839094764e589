"""A process with one actor on the bus; says `ready` and ends when its standard input does."""

from __future__ import annotations

import asyncio
import sys

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import BusConfig, open_bus
from tests.actors.protocol import Parrot, Request


async def main(url: str, node: str) -> None:
    async with open_bus(BusConfig(servers=(url,))) as bus, ActorSystem(node, bus=bus) as system:
        await system.spawn(Parrot, name="parrot", accepts=Request)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

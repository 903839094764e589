"""The permissions that the page shows for who serves native functions are enough for a host."""

from __future__ import annotations

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.client import Client
from parrot_mq.coordinator import open_coordinator
from parrot_mq.errors import FunctionTimedOut
from parrot_mq.native import NativeHost
from tests.coordinator.service import FAST, eventually
from tests.interop.gateways import shown_config
from tests.native.functions import greet, nap

LARGE = "ä" * 200_000


async def test_a_host_works_with_the_permissions_of_the_page() -> None:
    """Claim checks both ways, beats, an attempt that is given up, a call that nobody wants any more."""
    async with NatsServer(extra_config=[shown_config("tenants")]) as server:
        service = BusConfig(servers=(server.url,), user="service", password="of-the-service")
        shop = BusConfig(servers=(server.url,), user="shop", password="of-the-shop", inbox_prefix="_INBOX_shop")
        functions = BusConfig(
            servers=(server.url,),
            user="shop-functions",
            password="of-the-functions",
            inbox_prefix="_INBOX_shop-functions",
        )
        async with (
            open_bus(service) as service_bus,
            open_coordinator(service_bus, FAST),
            open_bus(functions) as host_bus,
            NativeHost(host_bus, [greet, nap], tenant="shop") as host,
            open_bus(shop) as bus,
            Client(bus, tenant="shop").session(),
        ):
            assert await greet(LARGE) == f"Hello {LARGE}"
            with pytest.raises(FunctionTimedOut):
                await nap.using(attempt_timeout_s=0.2, max_attempts=1)("60")
            unwanted = nap("60")
            await eventually(lambda: host.statistics().functions["nap"].num_running == 1)
            await unwanted.cancel()
            await eventually(lambda: host.statistics().functions["nap"].num_ended.get("cancelled") == 1)
            assert await nap("1.5") == "slept 1.5"

"""The permissions that the page shows are enough for a program, and let it see nothing of others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import BusConfig, NatsServer, open_bus, set_variable
from parrot_mq.bus.base import Bus
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import (
    STREAM_VARS,
    VariableAddress,
    call_subject,
    control_subject,
    dead_subject,
    event_subject,
    replay_subject,
    session_subjects,
    set_subject,
    stream_subject,
    task_subject,
    variable_subject,
)
from parrot_mq.types import SessionId, TenantId, VariableId
from tests.interop.agent import Agent, AgentRefused, ClientKind, open_agent
from tests.interop.conftest import answer
from tests.interop.gateways import Gateways, shown_config
from tests.interop.rows import all_clients, nats_clients, store_large

pytestmark = pytest.mark.node

SHOP = {"CLIENT_USER": "shop", "CLIENT_PASSWORD": "of-the-shop", "INBOX_PREFIX": "_INBOX_shop"}
FUNCTIONS = {
    "CLIENT_USER": "shop-functions",
    "CLIENT_PASSWORD": "of-the-functions",
    "INBOX_PREFIX": "_INBOX_shop-functions",
}
SESSION = "orders"


def _config(url: str) -> BusConfig:
    return BusConfig(servers=(url,), user="service", password="of-the-service")


@pytest.fixture
def gateways() -> Gateways:
    """Where the server of this test listens."""
    return Gateways()


@pytest.fixture
async def service(gateways: Gateways) -> AsyncIterator[NatsServer]:
    """Server, coordinator and worker, as users who may do everything."""
    async with NatsServer(extra_config=(*gateways.config, shown_config("tenants"))) as server:
        config = _config(server.url)
        async with (
            open_bus(config) as coordinator_bus,
            open_bus(config) as worker_bus,
            open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)),
            scripted_worker(worker_bus, answer),
        ):
            yield server


@pytest.fixture
async def bus(service: NatsServer) -> AsyncIterator[Bus]:
    """What somebody who may do everything sees."""
    async with open_bus(_config(service.url)) as bus:
        yield bus


@pytest.fixture
async def shop(scripts: Path, kind: ClientKind, service: NatsServer, gateways: Gateways) -> AsyncIterator[Agent]:
    """A program of the tenant `shop`."""
    urls: dict[ClientKind, str] = {"tcp": service.url, **gateways.urls}
    async with open_agent(scripts, kind, urls[kind], SHOP) as agent:
        yield agent


def _task(template: str) -> dict[str, object]:
    return {"template": template, "outputs": {"reply": {"variable": "reply"}}}


@all_clients
async def test_a_tenant_has_its_texts_made(shop: Agent) -> None:
    for subject in (set_subject, stream_subject):
        await shop.subscribe(subject("shop", SESSION, "reply"))
    await shop.subscribe(event_subject("shop", SESSION, "*"))
    await shop.publish(task_subject("shop", SESSION, "task-1"), json=_task("Hello{{reply}}"))
    subjects: set[str] = set()
    while set_subject("shop", SESSION, "reply") not in subjects or len(subjects) < 3:
        subjects.add((await shop.hear()).subject)
    assert stream_subject("shop", SESSION, "reply") in subjects


@nats_clients
async def test_a_tenant_is_answered(shop: Agent) -> None:
    assert "error" not in (await shop.request(variable_subject("shop", SESSION, "topic"), text="parrots")).json
    read = f"$JS.API.DIRECT.GET.{STREAM_VARS}.{variable_subject('shop', SESSION, 'topic')}"
    assert (await shop.request(read)).text == "parrots"
    for verb in ("open", "explain", "cancel", "close"):
        answered = await shop.request(control_subject("shop", SESSION, verb), json={})
        assert "Pmq-Status" not in answered.headers
    await shop.subscribe(dead_subject("shop", "task-1"))
    await shop.publish(task_subject("shop", SESSION, "task-1"), json={"template": 5})
    assert (await shop.hear()).subject == dead_subject("shop", "task-1")


@nats_clients
async def test_a_tenant_asks_for_its_own_texts_only(shop: Agent) -> None:
    """Of its own none is generated now, so no worker answers; what is another's is refused."""
    for tenant, reason in (("shop", "timeout"), ("default", "permission")):
        with pytest.raises(AgentRefused, match=f"(?i){reason}"):
            await shop.request(replay_subject(tenant, SESSION, "reply"), timeout_ms=200)


@all_clients
async def test_a_tenant_cannot_set_what_is_anothers(shop: Agent, bus: Bus) -> None:
    others, own = variable_subject("default", SESSION, "topic"), variable_subject("shop", SESSION, "topic")
    if shop.kind == "mqtt":
        await shop.publish(others, text="nonsense")
    else:
        with pytest.raises(AgentRefused):
            await shop.request(others, text="nonsense", timeout_ms=200)
    await shop.subscribe(set_subject("shop", SESSION, "topic"))
    await shop.publish(own, text="parrots")
    await shop.hear()
    assert (await bus.get(STREAM_VARS, [others, own])).keys() == {own}


@all_clients
async def test_a_tenant_hears_nothing_of_another(shop: Agent, bus: Bus) -> None:
    """Neither what is set, nor answers; the client says so, or keeps silent."""
    await shop.subscribe(set_subject("shop", SESSION, "topic"))
    for subject in (session_subjects("default", SESSION, "set"), "_INBOX.>"):
        try:
            await shop.subscribe(subject)
        except AgentRefused:
            assert shop.kind == "mqtt"
    for tenant, text in (("default", "secret"), ("shop", "parrots")):
        address = VariableAddress(TenantId(tenant), SessionId(SESSION), VariableId("topic"))
        await set_variable(bus, address, text)
    assert (await shop.hear()).text == "parrots"


@nats_clients
async def test_a_tenant_cannot_read_what_is_anothers(shop: Agent, bus: Bus) -> None:
    address = VariableAddress(TenantId("default"), SessionId(SESSION), VariableId("topic"))
    await set_variable(bus, address, "secret")
    read = f"$JS.API.DIRECT.GET.{STREAM_VARS}.{variable_subject(*address)}"
    with pytest.raises(AgentRefused, match="Permissions Violation"):
        await shop.request(read, timeout_ms=200)


# -- native functions ------------------------------------------------------------------------------------------------


@pytest.fixture
async def functions(scripts: Path, kind: ClientKind, service: NatsServer, gateways: Gateways) -> AsyncIterator[Agent]:
    """A program that serves native functions of the tenant `shop`."""
    urls: dict[ClientKind, str] = {"tcp": service.url, **gateways.urls}
    async with open_agent(scripts, kind, urls[kind], FUNCTIONS) as agent:
        yield agent


@nats_clients
async def test_a_tenant_serves_its_functions(shop: Agent, functions: Agent) -> None:
    """With beats, claim checks, and an inbox on which it hears that nobody wants the answer."""
    await shop.subscribe(set_subject("shop", SESSION, "reply"))
    await functions.subscribe(call_subject("shop", "*", "search"), queue="native")
    inbox = f"{FUNCTIONS['INBOX_PREFIX']}.beats"
    await functions.subscribe(inbox)
    task = {"type": "task.native", "function": "search", "outputs": {"reply": {"variable": "reply"}}}
    await shop.publish(task_subject("shop", SESSION, "task-1"), json=task)
    call = await functions.hear()
    for _ in range(3):
        await functions.publish(call.reply, {"Pmq-Status": "running"}, json={"host": "shop", "beat_s": 60}, reply=inbox)
    claim = await store_large(functions, "All about parrots. " * 20_000, tenant="shop")
    await functions.publish(call.reply, {"Pmq-Blob": claim["digest"]}, json=claim)
    assert (await shop.hear()).json == claim
    await shop.publish(task_subject("shop", SESSION, "task-2"), json={**task, "outputs": {"reply": {"variable": "x"}}})
    call = await functions.hear()
    await functions.publish(call.reply, {"Pmq-Status": "running"}, json={"host": "shop", "beat_s": 60}, reply=inbox)
    await shop.request(control_subject("shop", SESSION, "cancel"), json={})
    assert ((heard := await functions.hear()).subject, heard.payload) == (inbox, b"")


@nats_clients
async def test_who_serves_functions_can_do_nothing_else(functions: Agent, bus: Bus) -> None:
    with pytest.raises(AgentRefused):
        await functions.request(variable_subject("shop", SESSION, "topic"), text="nonsense", timeout_ms=200)
    await functions.publish("_INBOX.somebody", text="an answer that nobody asked for")
    await functions.wait_status("error")
    for subject in (call_subject("default", "*", "search"), set_subject("shop", SESSION, "topic")):
        await functions.subscribe(subject)
        await functions.wait_status("error")

"""A real service (nats-server, coordinator, a worker without a model) and Node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from parrot_workers.engine import GenerationRequest
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.types import fresh_id
from tests.interop.agent import SCRIPTS, Agent, ClientKind, open_agent
from tests.interop.gateways import running_gateways
from tests.interop.node import EXAMPLES, Node, script_folder

STORY = "there was a parrot 🦜 who spoke in small pieces."
LONG = 100_000
SAID = {
    "Once upon a time": STORY,
    "Which tool": " capital_of\n",
    "Which countries": "France, Peru\n",
}
"""What the worker says to prompts that begin so."""


def answer(request: GenerationRequest) -> str:
    """What the worker says."""
    prompt = request.text
    for begin, words in SAID.items():
        if prompt.startswith(begin):
            return words
    return f"{len(prompt)} characters" if len(prompt) > LONG else f"<{prompt.splitlines()[-1]}>"


@pytest.fixture(scope="session")
def node_folder() -> Iterator[Path]:
    """The examples beside the packages that they need. Without Node: skipped here, a failure where CI=true."""
    with script_folder(EXAMPLES) as folder:
        yield folder


@pytest.fixture(scope="session")
def scripts() -> Iterator[Path]:
    """The agent beside the public clients; as `node_folder`."""
    with script_folder(SCRIPTS) as folder:
        yield folder


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[ClientKind, str]]:
    """Where a server that no other test has put work into listens for each kind of client."""
    with running_gateways() as found:
        yield found


@pytest.fixture(scope="module")
def own_nats_url(urls: dict[ClientKind, str]) -> str:
    """Where it listens for NATS clients."""
    return urls["tcp"]


@pytest.fixture
async def client(own_nats_url: str) -> AsyncIterator[Client]:
    """Coordinator and worker, each on a connection of its own; gives a client of the service."""
    config = BusConfig(servers=(own_nats_url,))
    async with (
        open_bus(config) as coordinator_bus,
        open_bus(config) as worker_bus,
        open_bus(config) as client_bus,
        open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0, model_grace_s=0.1, function_grace_s=0.5)),
        scripted_worker(worker_bus, answer, tokens_per_step=8),
    ):
        yield Client(client_bus)


@pytest.fixture
async def agent(scripts: Path, kind: ClientKind, urls: dict[ClientKind, str]) -> AsyncIterator[Agent]:
    """A client of the kind that the test is about."""
    async with open_agent(scripts, kind, urls[kind]) as opened:
        yield opened


@pytest.fixture
def session() -> str:
    """A session that only this test uses."""
    return fresh_id("session")


@pytest.fixture
def node(node_folder: Path, urls: dict[ClientKind, str]) -> Node:
    """Runs scripts against the service."""
    gateways = {"WEBSOCKET_URL": urls["websocket"], "MQTT_URL": urls["mqtt"]}
    return Node(node_folder, urls["tcp"], gateways)

"""Metrics are off until somebody names a port; then coordinator and workers serve them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.cli.metrics import METRICS_PORT, serving_metrics
from parrot_mq.cli.stack import StackOptions, _metrics_environment
from parrot_mq.coordinator import open_candidate
from parrot_mq.errors import ConfigurationError
from parrot_mq.observability.metrics import Collector

PARROT_MQ = (sys.executable, "-m", "parrot_mq")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with NatsServer() as server:
        yield server.url


def _metrics_of(url: str, *command: str, until: str = "", **environment: str) -> str:
    """Start a command, and read what it serves, again until `until` is in it."""
    with subprocess.Popen(
        [*PARROT_MQ, *command, "--servers", url],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, METRICS_PORT: "0", **environment},
    ) as process:
        try:
            assert process.stderr is not None
            events = (json.loads(line) for line in process.stderr)
            served = next(event for event in events if event["event"] == "metrics_served")
            while until not in (text := _read(f"http://{served['host']}:{served['port']}/metrics")):
                pass
            return text
        finally:
            process.terminate()
            process.wait(40)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


async def test_a_coordinator_serves_metrics(url: str) -> None:
    leads = "\nparrot_coordinator_is_leader 1.0\n"
    text = await asyncio.to_thread(_metrics_of, url, "coordinator", until=leads, PARROT_MQ_METRICS_HOST="localhost")
    assert "\nparrot_coordinator_terms_total 1.0\n" in text
    assert "\nparrot_tasks_unfinished 0.0\n" in text
    assert '\nparrot_actors{kind="registry"} 1.0\n' in text


async def test_a_coordinator_that_stands_by_serves_metrics_too(url: str) -> None:
    config = BusConfig(servers=(url,))
    async with open_candidate(lambda: open_bus(config)) as leader:
        await leader.wait_leading()
        seen = "\nparrot_coordinator_term 1.0\n"
        text = await asyncio.to_thread(_metrics_of, url, "coordinator", until=seen)
    assert "\nparrot_coordinator_is_leader 0.0\n" in text
    assert "\nparrot_coordinator_terms_total 0.0\n" in text
    assert "\nparrot_tasks_unfinished 0.0\n" in text


async def test_a_worker_serves_metrics_from_the_moment_it_begins_to_load(url: str) -> None:
    text = await asyncio.to_thread(_metrics_of, url, "worker", "--model", "tiny")
    assert "\nprocess_cpu_seconds_total " in text


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "parrot_mq.observability.metrics", raising=False)

    async def serve() -> None:
        async with serving_metrics(0, "127.0.0.1", list[Collector]):
            pass

    with pytest.raises(ConfigurationError, match=r"pip install 'parrot-mq\[server\]'"):
        asyncio.run(serve())


async def test_nothing_is_imported_or_served_while_they_are_off() -> None:
    def fail() -> list[Collector]:
        raise AssertionError("nobody asked for metrics")

    async with serving_metrics(None, "127.0.0.1", fail):
        pass
    code = "import sys, parrot_mq.cli.app, parrot_workers.command; sys.exit('prometheus_client' in sys.modules)"
    arguments = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert (await asyncio.to_thread(subprocess.run, arguments, env=environment)).returncode == 0


def test_the_processes_of_up_have_a_port_each_and_none_where_it_is_off() -> None:
    ports = [_metrics_environment(StackOptions(metrics_port=9100), index)[METRICS_PORT] for index in range(3)]
    assert ports == ["9100", "9101", "9102"]
    assert _metrics_environment(StackOptions(), 0) == {METRICS_PORT: ""}, "also where the environment has one"

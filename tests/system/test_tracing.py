"""One trace through real processes: from who submits, by way of the coordinator, to the tokens of the worker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from parrot_mq.bus import BusConfig, Delivery, open_bus
from parrot_mq.client import Client
from parrot_mq.observability import parse_trace, use_trace
from parrot_mq.program import Input, Output, semantic_function
from parrot_mq.testing import running_nats_server
from tests.coordinator.service import eventually
from tests.system.python_processes import ROOT, running_python

pytestmark = pytest.mark.timeout(120)

TRACED = str(ROOT / "tests" / "system" / "traced.py")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@semantic_function
def shout(text: Input, result: Output = Output(max_tokens=20)) -> None:
    """{{text}}{{result}}"""


def _spans(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _span_id(span: dict[str, Any]) -> str:
    return str(span["context"]["span_id"]).removeprefix("0x")


async def test_spans_of_coordinator_and_worker_are_parented_across_processes(tmp_path: Path) -> None:
    deltas: list[Delivery] = []
    of_coordinator, of_worker = tmp_path / "coordinator.spans", tmp_path / "worker.spans"

    async def keep(delivery: Delivery) -> None:
        deltas.append(delivery)

    with running_nats_server() as server:
        at = ("--servers", server.url)
        coordinator = (TRACED, str(of_coordinator), "coordinator", *at)
        worker = (TRACED, str(of_worker), "scripted-worker", "--model", "scripted", *at)
        async with (
            running_python(*coordinator, log=tmp_path / "coordinator.log", environment={}),
            running_python(*worker, log=tmp_path / "worker.log", environment={"PARROT_MQ_WORKER_WORKER_ID": "one"}),
            open_bus(BusConfig(servers=(server.url,))) as bus,
            Client.connect(server.url) as client,
        ):
            await bus.ensure_streams()
            await bus.subscribe("pmq.default.stream.>", keep)
            async with asyncio.timeout(60), client.session("traced"):
                with use_trace(parse_trace(PARENT)):
                    variable = shout(text="hello")
                assert await variable == "HELLO"
            await eventually(lambda: bool(_spans(of_coordinator) and _spans(of_worker)))
    (task,), (generation,) = _spans(of_coordinator), _spans(of_worker)
    _, trace_id, caller, _ = PARENT.split("-")
    assert {span["context"]["trace_id"] for span in (task, generation)} == {f"0x{trace_id}"}
    assert (task["name"], task["parent_id"]) == ("parrot_mq.task", f"0x{caller}")
    assert (generation["name"], generation["parent_id"]) == ("text_completion scripted", f"0x{_span_id(task)}")
    assert generation["attributes"]["parrot_mq.worker"] == "one"
    assert generation["attributes"]["gen_ai.usage.output_tokens"] == len("hello")
    assert {delta.headers["traceparent"] for delta in deltas} == {f"00-{trace_id}-{_span_id(generation)}-01"}

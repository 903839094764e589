"""What can be told about a server from outside: for `parrot-mq doctor`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime

from parrot_mq.bus.base import Bus
from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.errors import NoResponders, TransportError

__all__ = ["Inspection", "inspect"]

TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a server says of itself.

    Attributes:
        rtt_s: Seconds of one request and answer; 0 if JetStream did not answer.
        jetstream_problem: Why JetStream cannot be used; empty if it can.
        num_messages: Messages in each of our streams that exists.
        clock_offset_s: The server's clock minus ours, seconds; None if it did not tell.
    """

    rtt_s: float
    jetstream_problem: str
    num_messages: dict[str, int]
    clock_offset_s: float | None


async def inspect(bus: Bus) -> Inspection:
    """Ask a server about JetStream, our streams and its clock. Changes nothing; what is missing is told, not raised."""
    start = time.monotonic()
    info, problem = await _ask(bus, "INFO")
    rtt_s = time.monotonic() - start
    if problem:
        return Inspection(0.0, problem, {}, None)
    num_messages: dict[str, int] = {}
    offset_s = None
    for stream in SUBJECTS:
        start = time.time()
        info, problem = await _ask(bus, f"STREAM.INFO.{stream}")
        if not problem:
            num_messages[stream] = info["state"]["messages"]
            offset_s = _offset(info, (start + time.time()) / 2)
    return Inspection(rtt_s, "", num_messages, offset_s)


async def _ask(bus: Bus, operation: str) -> tuple[dict, str]:  # type: ignore[type-arg]
    try:
        reply = await bus.request(f"$JS.API.{operation}", b"", timeout_s=TIMEOUT_S)
    except NoResponders:
        return {}, "the server runs without it"
    except TransportError as error:
        return {}, error.message
    info = json.loads(reply.payload)
    return info, info.get("error", {}).get("description", "")


def _offset(info: dict, now: float) -> float | None:  # type: ignore[type-arg]
    stamp = info.get("ts", "")
    return datetime.fromisoformat(stamp).timestamp() - now if stamp else None

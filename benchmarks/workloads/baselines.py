"""Serving without a coordinator: clients that send one request at a time to engines behind a router.

A client sends a request when it has all results that it reads, and pays half of the network delay each way. The router
hands it to an engine at once, and the engine serves what it has first come, first served. Driven as discrete events on
the same simulated engines that ours uses.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

from benchmarks.workloads.hardware import PAGE_SIZE
from benchmarks.workloads.metrics import Generated, Job
from benchmarks.workloads.programs import Call, Program, Text
from benchmarks.workloads.scenarios import Scenario
from benchmarks.workloads.systems import Placement, System
from parrot_mq.testing.simulated_engine import SimulatedEngine
from parrot_mq.testing.simulated_requests import Failed, Finished, SimulatedRequest, SimulatedSegment, Token

__all__ = ["CacheAware", "run_baseline"]


def run_baseline(
    programs: tuple[Program, ...], scenario: Scenario, system: System, *, delay_s: float, num_slots: int
) -> list[Job]:
    """Serve programs, and tell when their clients had everything.

    Args:
        delay_s: There and back between client and service.
        num_slots: Requests that an engine runs at a time.
    """
    cap = scenario.cap_tokens if system.is_capped else None
    engines = [
        SimulatedEngine(
            scenario.hardware.latency,
            num_slots=num_slots,
            capacity_tokens=cap or scenario.hardware.num_pages * PAGE_SIZE,
            prefix_cache=system.has_prefix_cache,
            cascade=system.has_cascade,
            page_size=PAGE_SIZE,
        )
        for _ in range(scenario.num_workers)
    ]
    make_request = RequestMaker(cap_tokens=cap, has_boundaries=system.has_prefix_cache)
    return _Simulation(engines, make_router(system.placement, len(engines)), make_request, delay_s).run(programs)


# -- routers -----------------------------------------------------------------------------------------------------------

Route = Callable[[SimulatedRequest, list[int]], int]
"""From a request, and how many each engine has, to an engine."""


def make_router(placement: Placement, num_engines: int) -> Route:
    """The router of that name."""
    match placement:
        case "shortest queue":
            return lambda _, loads: loads.index(min(loads))
        case "round robin":
            turns = itertools.cycle(range(num_engines))
            return lambda _, loads: next(turns)
        case "cache aware":
            return CacheAware(num_engines)
    assert_never(placement)


class CacheAware:
    """Send a request where most of its prompt has been sent before, unless the loads are too uneven.

    Source: the rule of SGLang's router and its defaults: at least half of the prompt; loads that differ by more than 32
    requests are evened out.
    """

    MIN_SHARE = 0.5
    MAX_DIFFERENCE = 32

    def __init__(self, num_engines: int) -> None:
        self._seen: list[set[str]] = [set() for _ in range(num_engines)]

    def __call__(self, request: SimulatedRequest, loads: list[int]) -> int:
        shares = [self._num_seen(request, seen) / request.num_prompt_tokens for seen in self._seen]
        engine = loads.index(min(loads))
        if max(loads) - min(loads) <= self.MAX_DIFFERENCE and max(shares) >= self.MIN_SHARE:
            engine = max(range(len(loads)), key=lambda index: (shares[index], -loads[index]))
        self._seen[engine].update(segment.hash for segment in request.segments)
        return engine

    @staticmethod
    def _num_seen(request: SimulatedRequest, seen: set[str]) -> int:
        return sum(segment.num_tokens for segment in request.segments if segment.hash in seen)


# -- the simulation ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Client:
    """A program that runs: which results its client has, and waits for."""

    program: Program
    waiting: dict[str, Call]
    num_missing: int
    has: set[str] = field(default_factory=set)
    generated: list[Generated] = field(default_factory=list)

    def take_sendable(self) -> Iterator[Call]:
        """Calls whose inputs are all there, each once."""
        for call in [call for call in self.waiting.values() if self.has.issuperset(call.reads)]:
            del self.waiting[call.output]
            yield call


@dataclass(slots=True)
class _Request:
    client: _Client
    call: Call
    engine: int
    first_at_s: float = 0.0


class _Simulation:
    def __init__(
        self, engines: list[SimulatedEngine], route: Route, make_request: RequestMaker, delay_s: float
    ) -> None:
        self._engines = engines
        self._route = route
        self._make_request = make_request
        self._delay_s = delay_s
        self._loads = [0] * len(engines)
        self._is_stepping = [False] * len(engines)
        self._requests: dict[str, _Request] = {}
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._jobs: list[Job] = []

    def run(self, programs: tuple[Program, ...]) -> list[Job]:
        num_wanted = sum(not program.is_background for program in programs)
        for program in programs:
            client = _Client(program, {call.output: call for call in program.calls}, len(program.calls))
            self._at(program.arrival_s, partial(self._send, client))
        while len(self._jobs) < num_wanted:
            now, _, act = heapq.heappop(self._agenda)
            act(now)
        return self._jobs

    def _at(self, time_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._agenda, (time_s, next(self._order), act))

    # -- clients -------------------------------------------------------------------------------------------------------

    def _send(self, client: _Client, now: float) -> None:
        for call in client.take_sendable():
            self._at(now + self._delay_s / 2, partial(self._submit, client, call))

    def _receive(self, client: _Client, output: str, now: float) -> None:
        client.has.add(output)
        client.num_missing -= 1
        self._send(client, now)
        program = client.program
        if not client.num_missing and not program.is_background:
            generated = tuple(client.generated)
            self._jobs.append(Job(program.kind, program.num_output_tokens, program.arrival_s, now, generated))

    # -- the service ---------------------------------------------------------------------------------------------------

    def _submit(self, client: _Client, call: Call, now: float) -> None:
        request = self._make_request(client.program, call)
        engine = self._route(request, self._loads)
        self._loads[engine] += 1
        self._requests[request.key] = _Request(client, call, engine)
        self._engines[engine].submit([request])
        if not self._is_stepping[engine]:
            self._step(engine, now)

    def _step(self, index: int, now: float) -> None:
        """Begin a step; what happens in it is known at its end."""
        engine = self._engines[index]
        self._is_stepping[index] = engine.has_work
        if not engine.has_work:
            return
        duration_s, events = engine.step(now)

        def end(at: float) -> None:
            for event in events:
                self._note(event, at)
            self._step(index, at)

        self._at(now + duration_s, end)

    def _note(self, event: object, now: float) -> None:
        match event:
            case Token(key=key, index=0):
                self._requests[key].first_at_s = now
            case Finished(key=key):
                request = self._requests.pop(key)
                self._loads[request.engine] -= 1
                num_tokens = request.call.num_output_tokens
                request.client.generated.append(Generated(num_tokens, request.first_at_s, now))
                self._at(now + self._delay_s / 2, partial(self._receive, request.client, request.call.output))
            case Failed(error=error):
                raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMaker:
    """From a call to what an engine sees of it: hashes chained over the contents of its prompt.

    Attributes:
        cap_tokens: What the engine can hold. The end of a prompt that would not fit is cut off, 100 tokens before it
            would, as the paper's baseline does.
        has_boundaries: Whether a prompt can share its beginning; otherwise it is one piece.
    """

    cap_tokens: int | None = None
    has_boundaries: bool = True

    def __call__(self, program: Program, call: Call) -> SimulatedRequest:
        name = f"{program.name}/{call.output}"
        segments = list(self._segments(program, call))
        if not self.has_boundaries:
            segments = [SimulatedSegment(name, sum(segment.num_tokens for segment in segments))]
        return SimulatedRequest(
            key=name,
            segments=tuple(segments),
            num_output_tokens=call.num_output_tokens,
            output_hash=_chain(segments[-1].hash, name),
        )

    def _segments(self, program: Program, call: Call) -> Iterator[SimulatedSegment]:
        above = ""
        num_left = self.cap_tokens - call.num_output_tokens - 100 if self.cap_tokens else sys.maxsize
        for part, num_tokens in zip(call.prompt, program.part_tokens(call), strict=True):
            name = f"{part.name}/{num_tokens}" if isinstance(part, Text) else f"{program.name}/{part.output}"
            above = _chain(above, name)
            if num_left:
                yield SimulatedSegment(above, min(num_tokens, num_left))
            num_left = max(0, num_left - num_tokens)


def _chain(above: str, name: str) -> str:
    return hashlib.blake2b(f"{above}/{name}".encode(), digest_size=12).hexdigest()

"""Jobs for tests of the queue and of what chooses a worker."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from parrot_mq.coordinator.dispatch.job import Job, measure, name_prefixes
from parrot_mq.coordinator.sessions.ready import ReadyGeneration
from parrot_mq.messages import VariableAddress
from parrot_mq.program import Standing, prefix_hashes
from parrot_mq.types import Objective, Sampling, SessionId, TaskId, TenantId, VariableId

__all__ = ["LATENCY", "THROUGHPUT", "make_job", "make_ready"]

LATENCY = Standing(objective=Objective(kind="latency"))
THROUGHPUT = Standing(objective=Objective(kind="throughput"))

_numbers = count()


def make_ready(
    name: str,
    prompt: Sequence[str] = ("x",),
    *,
    tenant: str = "t",
    session: str = "s",
    standing: Standing = LATENCY,
    max_tokens: int = 256,
    deadline: float = 1e9,
) -> ReadyGeneration:
    """A generation whose salt is its tenant's."""
    return ReadyGeneration(
        address=VariableAddress(TenantId(tenant), SessionId(session), VariableId(name)),
        task=TaskId("task"),
        model="m",
        segments=tuple(prompt),
        prefix_hashes=tuple(prefix_hashes(prompt)),
        sampling=Sampling(max_tokens=max_tokens),
        deadline=deadline,
        standing=standing,
        salt=tenant,
    )


def make_job(
    name: str,
    prompt: Sequence[str] = ("x",),
    *,
    tenant: str = "t",
    session: str = "s",
    standing: Standing = LATENCY,
    max_tokens: int = 256,
    arrived_at: float = 0.0,
    place: float | None = None,
    expires_at: float = 1e9,
) -> Job:
    """A job that came after all that were made before."""
    ready = make_ready(name, prompt, tenant=tenant, session=session, standing=standing, max_tokens=max_tokens)
    return Job(
        generation=ready,
        prefixes=name_prefixes(ready.salt, ready.prefix_hashes),
        ends=measure(ready.segments),
        standing=standing,
        arrived_at=arrived_at,
        expires_at=expires_at,
        place=arrived_at if place is None else place,
        number=next(_numbers),
    )

"""Who serves the workloads: ours, ours without one mechanism at a time, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from parrot_mq.coordinator.config import Mechanisms

__all__ = ["A", "ABLATIONS", "BASELINES", "OURS", "SYSTEMS", "Placement", "System"]

Placement = Literal["shortest queue", "round robin", "cache aware"]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to serve a workload.

    Attributes:
        name: How it is called in results.
        title: The same for people.
        mechanisms: Of our coordinator; None if there is none.
        placement: How a router without a coordinator chooses a worker.
        is_by_client: Whether the client waits for each result before it submits what reads it.
        has_prefix_cache: Whether the workers keep prefixes.
        has_cascade: Whether they read a shared prefix once per step.
        is_capped: Whether they hold no more tokens than the paper's baseline.
    """

    name: str
    title: str
    mechanisms: Mechanisms | None = None
    placement: Placement = "shortest queue"
    is_by_client: bool = True
    has_prefix_cache: bool = True
    has_cascade: bool = True
    is_capped: bool = False


OURS = System(name="ours", title="parrot-mq", mechanisms=Mechanisms(), is_by_client=False)

A = System(name="a", title="(a) request at a time", has_cascade=False)
A_CASCADE = System(name="a-cascade", title="(a) on our engine (cascade)")
A_AWARE = System(name="a-aware", title="(a) on our engine, cache-aware router", placement="cache aware")
B = System(name="b", title="(b) round robin", has_cascade=False, placement="round robin")
C = System(name="c", title="(c) the paper's capped baseline", has_prefix_cache=False, has_cascade=False, is_capped=True)
C_FULL = System(name="c-full", title="(c) without a cap", has_prefix_cache=False, has_cascade=False)

BASELINES = (A, A_CASCADE, A_AWARE, B, C, C_FULL)


_NAMES = {
    "objectives": "objectives",
    "prefix_groups": "prefix and node groups",
    "affinity": "affinity",
    "costs": "costs: workers take turns",
    "pacing": "pacing",
    "prefill_ahead": "prefill ahead",
}
"""The mechanisms of a dispatcher that these workloads show; they have one tenant, and no worker is lost."""


def _without(mechanism: str) -> System:
    mechanisms = replace(Mechanisms(), **{mechanism: False})
    return replace(OURS, name=f"no-{mechanism}", title=f"without {_NAMES[mechanism]}", mechanisms=mechanisms)


ABLATIONS = (
    replace(OURS, name="by-client", title="without the graph: the client waits for each result", is_by_client=True),
    *map(_without, _NAMES),
    replace(OURS, name="no-cascade", title="without cascade attention", has_cascade=False),
    replace(OURS, name="no-cache", title="without prefix cache", has_prefix_cache=False, has_cascade=False),
)

SYSTEMS = {system.name: system for system in (OURS, *BASELINES, *ABLATIONS)}

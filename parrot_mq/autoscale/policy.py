"""How many workers a model should have: a function of what is seen, what was seen before, and settings.

No I/O and no clock of its own: time comes in with the observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from parrot_mq.autoscale.arrivals import Arrivals
from parrot_mq.autoscale.config import PolicyConfig
from parrot_mq.autoscale.need import Need, estimate
from parrot_mq.autoscale.observation import Decision, DecisionKind, Learned, Observation
from parrot_mq.autoscale.window import Window

__all__ = ["PolicyState", "decide"]


@dataclass(slots=True)
class PolicyState:
    """What the policy remembers of one model. Times are monotonic seconds.

    Attributes:
        learned: What outlives a restart; give it the one that was kept.
        arrivals: What has become ready.
        unfinished: How many generations were unfinished, of late.
        kept: How many workers were needed for what came, of late.
        wanted: How many workers were wanted in the last moments.
        began_at: When it decided first; None before that.
        busy_at: When there was work last.
        up_since: Since when more workers are wanted; None if they are not.
        down_at: When one was stopped last.
        panic_until: As long nothing is stopped, because of a burst.
    """

    learned: Learned = field(default_factory=Learned)
    arrivals: Arrivals = field(default_factory=Arrivals)
    unfinished: Window = field(default_factory=Window)
    kept: Window = field(default_factory=Window)
    wanted: Window = field(default_factory=Window)
    began_at: float | None = None
    busy_at: float = -math.inf
    up_since: float | None = None
    down_at: float = -math.inf
    panic_until: float = -math.inf


def decide(state: PolicyState, seen: Observation, config: PolicyConfig) -> Decision:
    """Say how many workers there should be now.

    To be called every few seconds, and not while workers that it wanted are still to be ordered.

    Args:
        state: What was seen before; what is seen now is added to it.
        seen: What is seen now.
        config: Settings.
    """
    now, have = seen.now, seen.num_workers
    if state.began_at is None:
        state.began_at = state.busy_at = now
    state.learned.load(seen.loads_s)
    demand = seen.demand
    if demand is None or seen.age_s > config.max_age_s:
        age = "there are no figures" if demand is None else f"the figures are {seen.age_s:.0f} s old"
        return Decision(have, have, have, "hold", f"{age}: nothing is changed")
    state.learned.rates(demand.workers)
    state.arrivals.note(now, demand, keep_s=max(config.down_window_s, config.stable_window_s))
    if num_unfinished := seen.num_waiting + seen.num_running:
        state.busy_at = now
    state.unfinished.note(now, num_unfinished, keep_s=config.stable_window_s)
    need = estimate(state.learned, state.arrivals, seen, config, max_unfinished=state.unfinished.max())
    most = config.max_workers if seen.num_usable is None else min(config.max_workers, seen.num_usable)
    most, least = max(most, seen.num_fixed), max(config.min_workers, seen.num_fixed)
    is_pressing = 4 * seen.num_waiting >= (state.learned.num_full or config.default_slots)
    if is_pressing and need.num_burst >= config.panic_factor * max(1, have):
        state.panic_until = now + config.stable_window_s
    needed = max(need.num_workers, need.num_burst) if now < state.panic_until else need.num_workers
    wanted = max(min(needed, most), min(least, most))
    state.wanted.note(now, wanted, keep_s=config.stable_window_s)
    state.kept.note(now, min(need.num_kept, most), keep_s=_keep_s(state, config))
    if wanted > have:
        return _grow(state, seen, config, need, wanted)
    state.up_since = None
    if have > least:
        return _shrink(state, seen, config, need, least)
    return Decision(have, have, have, "steady", f"{have} are enough: {need.reason}")


def _grow(state: PolicyState, seen: Observation, config: PolicyConfig, need: Need, wanted: int) -> Decision:
    """More are wanted: at once from zero and in a burst, else when they are wanted for a while."""
    now, have = seen.now, seen.num_workers
    if state.up_since is None:
        state.up_since = now
    step = max(1, math.floor(have * (config.up_factor - 1)))
    target = min(wanted, have + step)
    kind: DecisionKind = "up"
    if have == 0:
        kind, target = "activate", wanted
    elif now < state.panic_until:
        kind = "panic"
    elif (waited_s := now - state.up_since) < config.up_delay_s and not seen.num_stopping:
        return Decision(
            have, wanted, have, "wait", f"{wanted} wanted for {waited_s:.0f} s, not yet started: {need.reason}"
        )
    state.up_since = None
    return Decision(target, wanted, have, kind, f"{wanted} wanted, {have} there, {target - have} more: {need.reason}")


def _shrink(state: PolicyState, seen: Observation, config: PolicyConfig, need: Need, least: int) -> Decision:
    """There are more than must be: give up one, if it was not needed for long enough."""
    now, have = seen.now, seen.num_workers
    kept = max(least, math.ceil(max(state.wanted.max(), state.kept.max())))
    if kept >= have:
        return Decision(have, kept, have, "steady", f"{have} are kept: {need.reason}")
    waits = _why_not(state, seen, config, kept)
    if waits:
        return Decision(have, kept, have, "wait", f"{kept} would be enough, but {waits}: {need.reason}")
    state.down_at = now
    target = have - min(max(1, (have - max(kept, 1)) // 2), have - seen.num_young)
    kind: DecisionKind = "down" if target else "to_zero"
    return Decision(target, kept, have, kind, f"{kept} are enough, {have} there, {have - target} less: {need.reason}")


def _keep_s(state: PolicyState, config: PolicyConfig) -> float:
    """For how long a worker is kept that nobody needs: the longer it takes to load another one, the longer."""
    load_s = state.learned.load_s or config.default_load_s
    return min(config.down_window_s, max(config.min_uptime_s, config.keep_loads * load_s))


def _why_not(state: PolicyState, seen: Observation, config: PolicyConfig, kept: int) -> str:
    """Why none is stopped yet; empty if nothing speaks against it."""
    now, have = seen.now, seen.num_workers
    began_at = now if state.began_at is None else state.began_at
    if now - began_at < _keep_s(state, config):
        return f"what happened before {now - began_at:.0f} s ago is not known"
    if now < state.panic_until:
        return "there was a burst a moment ago"
    if seen.num_starting:
        return "others are starting"
    if now - state.down_at < config.down_step_s:
        return f"one was stopped {now - state.down_at:.0f} s ago"
    if seen.num_young >= have:
        return "they have just become ready"
    if have == 1 and now - state.busy_at < config.idle_to_zero_s:
        return f"there was work {now - state.busy_at:.0f} s ago"
    return ""

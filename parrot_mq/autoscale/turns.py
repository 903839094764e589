"""Several autoscalers, one for each machine, see the same work: whose turn it is to do something about it. Pure.

All decide the same from the same figures. If all did it, twice as many workers would come, and go. So those start
workers first whose name comes first, as long as they have a free slot, and those give up workers first whose name comes
last.
"""

from __future__ import annotations

from collections.abc import Iterable

from parrot_mq.messages import AutoscalerStatus, SlotStatus

__all__ = ["count_starting", "may_grow", "may_shrink"]


def may_grow(me: str, model: str, autoscalers: Iterable[AutoscalerStatus]) -> bool:
    """Whether it is my turn to start a worker: nobody before me has a slot for it."""
    return not any(
        each.autoscaler < me and any(_is_free(slot, model, each.at) for slot in each.slots)
        for each in _acting(autoscalers)
    )


def may_shrink(me: str, model: str, autoscalers: Iterable[AutoscalerStatus]) -> bool:
    """Whether it is my turn to give up a worker: nobody behind me has one of its own."""
    return not any(
        each.autoscaler > me and any(_is_own(slot, model) and slot.state == "running" for slot in each.slots)
        for each in _acting(autoscalers)
    )


def count_starting(me: str, model: str, autoscalers: Iterable[AutoscalerStatus]) -> int:
    """Workers that start in the slots of others, and that nobody has heard of yet."""
    return sum(
        slot.model == model and slot.state in ("starting", "restarting") and not slot.worker
        for each in autoscalers
        if each.autoscaler != me and not each.is_dry_run
        for slot in each.slots
    )


def _acting(autoscalers: Iterable[AutoscalerStatus]) -> Iterable[AutoscalerStatus]:
    return (each for each in autoscalers if not each.is_dry_run and not each.problem)


def _is_free(slot: SlotStatus, model: str, at: float) -> bool:
    """Whether a worker could be started there, or taken back."""
    if slot.model != model:
        return False
    return (slot.state in ("off", "failed") and slot.held_until <= at) or (
        _is_own(slot, model) and slot.state == "standby"
    )


def _is_own(slot: SlotStatus, model: str) -> bool:
    return slot.model == model and slot.owner == "autoscaler"

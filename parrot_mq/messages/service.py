"""Who is there, who leads, and what there is to do: between coordinators, autoscalers and operators' tools."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from parrot_mq.messages.base import Count, Message, Name
from parrot_mq.messages.work import WorkerStatus

__all__ = [
    "AutoscalerStatus",
    "CoordinatorLease",
    "CoordinatorStarted",
    "FunctionStatus",
    "ModelDemand",
    "ScalingDecision",
    "ServiceQuery",
    "ServiceReport",
    "SlotState",
    "SlotStatus",
    "TenantDemand",
    "Work",
    "WorkerRate",
]


class CoordinatorLease(Message, frozen=True, kw_only=True, omit_defaults=True, tag="coordinator.lease"):
    """Who leads: the record that coordinators write in turn, each time as long as nobody else has written it.

    The holder writes it anew again and again. Another may write its own name as soon as this one was released, or has
    stood unchanged for `lease_s`; by then the holder has stopped to act.

    Attributes:
        holder: The process that leads, as host, process and a random part; empty if it has released the lease.
        lease_s: Seconds for which it holds after each writing.
        term: How often the lead was taken, this time included.
        since: When it was taken, seconds since 1970.
    """

    holder: str
    lease_s: float
    term: int
    since: float


class CoordinatorStarted(Message, frozen=True, kw_only=True, omit_defaults=True, tag="coordinator.started"):
    """A coordinator is up; workers answer at once with their status.

    Attributes:
        node: Name of its process; the first part of its actors' addresses.
    """

    node: Name


class ServiceQuery(Message, frozen=True, kw_only=True, omit_defaults=True, tag="service.query"):
    """Ask the coordinator's registry who is there."""


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An amount of work. Tokens are what is expected: prompts are measured in characters, outputs by `max_tokens`.

    Attributes:
        num_generations: How many generations it is.
        num_prefill_tokens: Tokens of their prompts that have to be computed: what several of them share counts once,
            and what a worker probably holds does not count.
        num_output_tokens: Tokens that they will generate, as far as these are not there yet.
    """

    num_generations: Count = 0
    num_prefill_tokens: Count = 0
    num_output_tokens: Count = 0


class TenantDemand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one tenant has to do.

    Attributes:
        tenant: Who.
        num_ready: Generations that wait for a worker.
        num_running: Generations that a worker has.
    """

    tenant: Name
    num_ready: Count = 0
    num_running: Count = 0


class WorkerRate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker can do, learned from its heartbeats.

    Attributes:
        worker: The worker's id.
        num_slots: Generations that it runs at a time.
        num_running: Generations that it has.
        num_full: As many generations of the size that runs there now as it can run at a time: its slots, or fewer if
            its cache cannot hold so many.
        prefill_tokens_per_s: Tokens of prompts that it reads in a second, when it does nothing else; 0 until it worked.
        output_tokens_per_s: Tokens that it generates in a second with `num_full` generations; 0 until it worked.
    """

    worker: Name
    num_slots: Count = 0
    num_running: Count = 0
    num_full: Count = 0
    prefill_tokens_per_s: float = 0.0
    output_tokens_per_s: float = 0.0


class ModelDemand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What there is to do for one model now, by its dispatcher's own ledger.

    Attributes:
        model: Which model.
        latency_ready: What waits for a worker and somebody waits for.
        latency_running: What workers have of it.
        throughput_ready: What waits for a worker and only has to be finished some time.
        throughput_running: What workers have of it.
        arrived: All that has become ready since `since`, with the tokens that had to be computed for it.
        finished: Of it, what is finished or not wanted any more.
        since: When the dispatcher began to count, seconds since 1970. Another time means that it began anew.
        oldest_wait_s: How long the generation that waits longest has waited.
        predicted_wait_s: How long one that came now would wait for a worker; None if there is no worker.
        tenants: Those who have something to do: at most 1,000, those with most of it.
        workers: What the ready workers can do.
    """

    model: str
    latency_ready: Work = Work()
    latency_running: Work = Work()
    throughput_ready: Work = Work()
    throughput_running: Work = Work()
    arrived: Work = Work()
    finished: Work = Work()
    since: float = 0.0
    oldest_wait_s: float = 0.0
    predicted_wait_s: float | None = None
    tenants: list[TenantDemand] = []
    workers: list[WorkerRate] = []


class FunctionStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The calls of one native function in all sessions, since the coordinator began to lead.

    Attributes:
        function: Its name; `(others)` stands for all further ones.
        num_waiting: Calls that wait for their turn.
        num_running: Calls that were started: at a host, or between two attempts.
        num_returned: Calls that brought an answer.
        num_failed: Calls that were given up.
        num_lost: Attempts that failed and may have been followed by another one.
        mean_s: Seconds that the attempts took that brought an answer, on average; 0 if there was none.
    """

    function: str
    num_waiting: Count = 0
    num_running: Count = 0
    num_returned: Count = 0
    num_failed: Count = 0
    num_lost: Count = 0
    mean_s: float = 0.0


SlotState = Literal["off", "starting", "restarting", "running", "standby", "stopping", "failed", "unavailable"]
"""What runs in a slot: `restarting` waits for its next start after it ended by itself; `unavailable` cannot start."""


class SlotStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place on a machine where a worker may run.

    Attributes:
        slot: Its number.
        unit: The unit that runs there.
        model: What a worker there serves.
        state: What it does.
        owner: Who started it: only what the autoscaler started is stopped by it. Empty if nothing runs.
        worker: The worker's id, if it was heard of.
        since: When this run began, seconds since 1970.
        num_restarts: How often it was restarted since.
        held_until: Nothing is started there before, seconds since 1970.
        reason: Why it is held, or why it is to be stopped.
        status: What its process says of itself.
    """

    slot: Annotated[int, msgspec.Meta(ge=0)]
    unit: str
    model: str
    state: SlotState = "off"
    owner: Literal["", "autoscaler", "others"] = ""
    worker: str = ""
    since: float = 0.0
    num_restarts: int = 0
    held_until: float = 0.0
    reason: str = ""
    status: str = ""


class ScalingDecision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many workers a model should have, and why.

    Attributes:
        at: When it was decided, seconds since 1970.
        model: Which model.
        kind: What is decided, in a word.
        num_workers: Workers that there were, or were about to be.
        target: How many there should be now.
        wanted: How many the work calls for, which is reached in steps.
        reason: One sentence for people.
        actions: What follows from it, such as `start parrot-worker@0.service`.
    """

    at: float
    model: str
    kind: str
    num_workers: int
    target: int
    wanted: int
    reason: str = ""
    actions: list[str] = []


class AutoscalerStatus(Message, frozen=True, kw_only=True, omit_defaults=True, tag="autoscaler.status"):
    """What an autoscaler knows and does. It is sent from time to time; one that is not heard of is not there.

    The models that it can start workers for are served as long as it is there, even while no worker runs.

    Attributes:
        autoscaler: Who it is: the machine, and the user if it runs for one.
        at: When it was sent, seconds since 1970.
        models: Those that it starts workers for.
        is_dry_run: It only says what it would do.
        problem: Why it changes nothing at present; empty if all is well.
        slots: What runs in its slots.
        decisions: The newest decisions that changed something, or the reason of which changed; the newest last.
    """

    autoscaler: str
    at: float = 0.0
    models: list[str] = []
    is_dry_run: bool = False
    problem: str = ""
    slots: list[SlotStatus] = []
    decisions: list[ScalingDecision] = []


class ServiceReport(Message, frozen=True, kw_only=True, omit_defaults=True, tag="service.report"):
    """Who is there: the models that are served, the last word of each worker, and how many tasks are unfinished.

    Attributes:
        models: The models that are served, sorted.
        workers: The last status of each worker whose lease lasts.
        num_unfinished: Tasks that are not finished, in all sessions.
        coordinator: The process that leads, as in `CoordinatorLease.holder`.
        demand: What there is to do for each model.
        at: When it answered, seconds since 1970.
        autoscalers: The last word of each autoscaler.
        functions: The native functions that were called: at most 100, those of which most calls are unfinished.
    """

    models: list[str] = []
    workers: list[WorkerStatus] = []
    num_unfinished: int = 0
    coordinator: str = ""
    demand: list[ModelDemand] = []
    at: float = 0.0
    autoscalers: list[AutoscalerStatus] = []
    functions: list[FunctionStatus] = []

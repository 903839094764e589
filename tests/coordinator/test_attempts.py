"""What comes after an attempt at a call, and whose turn it is: rules that hold whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parrot_mq.bus import Delivery, Headers
from parrot_mq.coordinator.calls.attempts import Again, Attempts, GiveUp, Setback, SetbackKind
from parrot_mq.coordinator.calls.counts import MAX_FUNCTIONS, OTHERS, CallCounts
from parrot_mq.coordinator.calls.messages import (
    MAX_HOST_CHARACTERS,
    encode_call,
    is_beat,
    name_of,
    pick_large,
    read_answer,
    read_beat,
)
from parrot_mq.coordinator.calls.queue import CallQueue
from parrot_mq.coordinator.sessions.ready import ReadyCall
from parrot_mq.errors import FunctionFailed, FunctionNotServed, NoResponders
from parrot_mq.messages import (
    HEADER_BLOB,
    HEADER_STATUS,
    BlobRef,
    ErrorInfo,
    NativeCall,
    NativeRunning,
    VariableAddress,
    decode,
    encode_json,
)
from parrot_mq.types import SessionId, TaskId, TenantId, VariableId

GRACE_S = 10.0
ERROR = FunctionFailed(function="f", problem="no luck")
UNCOUNTED = (SetbackKind.NOT_SERVED, SetbackKind.BUSY, SetbackKind.CUT)
MAX_DELAY_S = {
    SetbackKind.NOT_SERVED: 1.0,
    SetbackKind.BUSY: 1.0,
    SetbackKind.CUT: 2.0,
    SetbackKind.FAILED: 30.0,
    SetbackKind.REFUSED: 0.0,
}


def _make_attempts(max_attempts: int = 3, *, seed: int = 0) -> Attempts:
    rng = random.Random(seed)
    return Attempts(tenant="t", function="f", max_attempts=max_attempts, grace_s=GRACE_S, rng=rng)


def _make_call(
    name: str = "v", *, tenant: str = "t", function: str = "f", outputs: tuple[str, ...] = ("out",)
) -> ReadyCall:
    return ReadyCall(
        address=VariableAddress(TenantId(tenant), SessionId("s"), VariableId(name)),
        task=TaskId("task"),
        function=function,
        arguments={},
        outputs=outputs,
        deadline=1e9,
        attempt_timeout_s=60,
        max_attempts=3,
    )


# -- attempts --------------------------------------------------------------------------------------------------------

setbacks = st.tuples(st.sampled_from(SetbackKind), st.floats(0, 20))


@given(st.lists(setbacks, max_size=60), st.integers(1, 5), st.integers(0, 2**32))
def test_only_what_counts_uses_an_attempt_and_nothing_else_ends_a_call_early(
    story: list[tuple[SetbackKind, float]], max_attempts: int, seed: int
) -> None:
    attempts = _make_attempts(max_attempts, seed=seed)
    num_failed = 0
    for kind, unserved_s in story:
        assert attempts.number == num_failed + 1
        decision = attempts.decide(Setback(kind, ERROR), unserved_s=unserved_s)
        num_failed += kind is SetbackKind.FAILED
        is_over = (
            kind is SetbackKind.REFUSED
            or (kind is SetbackKind.NOT_SERVED and unserved_s >= GRACE_S)
            or num_failed == max_attempts
        )
        assert isinstance(decision, GiveUp) == is_over
        if isinstance(decision, GiveUp):
            return
        assert 0 < decision.delay_s <= MAX_DELAY_S[kind]
        if kind is SetbackKind.NOT_SERVED:
            assert unserved_s + decision.delay_s <= GRACE_S, "the last try is made when the time is over, and not later"


@given(st.lists(setbacks, max_size=20), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_delays(story: list[tuple[SetbackKind, float]], seed: int) -> None:
    one, other = _make_attempts(100, seed=seed), _make_attempts(100, seed=seed)
    for kind, unserved_s in story:
        decisions = [each.decide(Setback(kind, ERROR), unserved_s=unserved_s) for each in (one, other)]
        if isinstance(decisions[0], GiveUp):
            return
        assert decisions[0] == decisions[1]


@pytest.mark.parametrize("kind", [SetbackKind.BUSY, SetbackKind.CUT, SetbackKind.FAILED])
def test_delays_double_up_to_a_limit_and_are_cut_by_up_to_a_half(kind: SetbackKind) -> None:
    attempts = _make_attempts(1_000)
    decisions = [attempts.decide(Setback(kind, ERROR)) for _ in range(200)]
    delays = [decision.delay_s for decision in decisions if isinstance(decision, Again)]
    assert len(delays) == 200
    assert all(low / 2 <= high <= 4 * low for low, high in pairwise(delays))
    assert MAX_DELAY_S[kind] / 2 <= min(delays[-50:]) < 0.6 * MAX_DELAY_S[kind] < max(delays) <= MAX_DELAY_S[kind]


def test_what_does_not_count_begins_anew_with_each_attempt() -> None:
    attempts = _make_attempts()
    busy = [attempts.decide(Setback(SetbackKind.BUSY, ERROR)) for _ in range(10)]
    attempts.decide(Setback(SetbackKind.FAILED, ERROR))
    again = attempts.decide(Setback(SetbackKind.BUSY, ERROR))
    assert isinstance(again, Again)
    assert isinstance(busy[-1], Again)
    assert again.delay_s < busy[-1].delay_s


def test_the_error_says_how_often_it_was_tried() -> None:
    attempts = _make_attempts(2)
    attempts.decide(Setback(SetbackKind.FAILED, ERROR))
    decision = attempts.decide(Setback(SetbackKind.FAILED, ERROR))
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, FunctionFailed)
    assert decision.error.message == "native function 'f' failed: no luck; given up after 2 attempts"
    assert decision.error.facts == ERROR.facts
    assert _make_attempts(1).decide(Setback(SetbackKind.FAILED, ERROR)) == GiveUp(ERROR)


def test_a_function_that_nobody_serves_is_named_with_the_remedy() -> None:
    setback = Setback(SetbackKind.NOT_SERVED, NoResponders(subject="pmq.t.call.s.f"))
    decision = _make_attempts().decide(setback, unserved_s=GRACE_S)
    assert isinstance(decision, GiveUp)
    assert isinstance(decision.error, FunctionNotServed)
    assert decision.error.message == (
        "native function 'f' is not served: serve it with `parrot-mq native app:module`, or any NATS client that "
        "listens on pmq.t.call.*.f in a queue group"
    )


# -- turns -----------------------------------------------------------------------------------------------------------

MAX_STARTED = 3


class QueueMachine(RuleBasedStateMachine):
    """Calls come, are started, withdrawn and ended in any order; a naive model says what has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = CallQueue(MAX_STARTED)
        self.waiting: list[ReadyCall] = []
        self.started: list[ReadyCall] = []
        self.num_made = 0

    @rule(tenant=st.sampled_from(["a", "b"]), function=st.sampled_from(["f", "g", "h", "i"]))
    def add(self, tenant: str, function: str) -> None:
        call = _make_call(f"v{self.num_made}", tenant=tenant, function=function)
        self.num_made += 1
        self.queue.add(call)
        self.waiting.append(call)
        self._start(tenant)

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.started))
        self.started.remove(call)
        self.queue.end(call)
        self._start(call.address.tenant)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(call)
        assert self.queue.withdraw(call)
        assert not self.queue.withdraw(call)

    def _start(self, tenant: str) -> None:
        for call in self.queue.start(tenant):
            same = [each for each in self.waiting if _lane_of(each) == _lane_of(call)]
            assert same[0] == call, "first come, first served"
            self.waiting.remove(call)
            self.started.append(call)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        self.queue.check_integrity()
        assert len(self.queue) == len(self.waiting)
        num_started = Counter(str(call.address.tenant) for call in self.started)
        lanes = Counter(map(_lane_of, self.started))
        for tenant in ("a", "b"):
            waits = [call for call in self.waiting if call.address.tenant == tenant]
            assert num_started[tenant] <= 2 * MAX_STARTED
            if waits:
                assert num_started[tenant] >= MAX_STARTED, "there is room, and somebody waits"
            if num_started[tenant] < 2 * MAX_STARTED:
                assert all(lanes[_lane_of(call)] for call in waits), "a function of which nothing runs waits"
        for lane in self.queue.lanes():
            assert lane.num_started == lanes[lane.tenant, lane.function]


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _lane_of(call: ReadyCall) -> tuple[str, str]:
    return call.address.tenant, call.function


def test_functions_of_a_tenant_take_turns() -> None:
    queue = CallQueue(4)
    calls = [_make_call(f"{function}{number}", function=function) for function in "abc" for number in range(4)]
    for call in calls:
        queue.add(call)
    order = []
    running = queue.start("t")
    while running:
        order.append(running[0].function)
        queue.end(running[0])
        running = [*running[1:], *queue.start("t")]
    assert all(set(order[begin : begin + 3]) == set("abc") for begin in range(0, 12, 3))


def test_a_withdrawn_call_that_never_came_is_no_mistake() -> None:
    assert not CallQueue(1).withdraw(_make_call())


# -- messages --------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3),
        st.text(max_size=60) | st.just(BlobRef(digest="0" * 64, size_bytes=9)),
        max_size=8,
    ),
    st.integers(0, 200),
)
def test_no_more_arguments_travel_as_claim_checks_than_have_to(
    arguments: dict[str, str | BlobRef], max_bytes: int
) -> None:
    def size(name: str) -> int:
        call = NativeCall(call="", function="", arguments={name: arguments[name]}, outputs=[])
        empty = NativeCall(call="", function="", arguments={name: ""}, outputs=[])
        return len(encode_json(call)) - len(encode_json(empty)) + 2

    large = pick_large(arguments, max_bytes)
    texts = [name for name, value in arguments.items() if isinstance(value, str)]
    kept = [name for name in texts if name not in large]
    assert set(large) <= set(texts)
    assert sum(map(size, kept)) <= max_bytes
    if large:
        assert sum(map(size, kept)) + size(large[-1]) > max_bytes
        assert all(size(name) <= min(map(size, large)) for name in kept), "the largest go"


def test_a_call_that_fits_no_message_is_an_error_that_says_so() -> None:
    call = _make_call()
    arguments = {f"argument-{number}": "x" for number in range(100)}
    payload, headers = encode_call(call, arguments, attempt=2, deadline=7.0, max_bytes=10_000)
    assert decode(payload, NativeCall, headers) == NativeCall(
        call="t.s.v", function="f", arguments=dict(arguments), outputs=["out"], attempt=2, deadline=7.0
    )
    with pytest.raises(FunctionFailed, match=r"its 100 arguments take \d+ bytes, the limit is 1000; pass fewer"):
        encode_call(call, arguments, attempt=1, deadline=7.0, max_bytes=1_000)


STATUSES = [None, "error", "running", "other"]
BODIES = st.binary(max_size=40) | st.sampled_from(
    [
        encode_json(NativeRunning(host="h", beat_s=2.0)),
        msgpack.packb({"host": "h", "beat_s": float("nan")}),
        msgpack.packb({"host": "h", "beat_s": 1e300}),
        encode_json(ErrorInfo(code="mine", message="x" * 100_000, retryable=True, facts={"args": 1, "message": "y"})),
        b'{"a": ' + b"[" * 100_000,
        b'{"a": 1e999, "b": 123456789012345678901234567890}',
        b'{"a": "", "b": ""}',
    ]
)


@settings(deadline=None)
@given(BODIES, st.sampled_from(STATUSES), st.booleans(), st.sampled_from([("a",), ("a", "b")]))
def test_whatever_a_host_says_is_an_answer_or_an_error(
    payload: bytes, status: str | None, is_blob: bool, outputs: tuple[str, ...]
) -> None:
    """What it says goes through one actor for all tenants."""
    headers = {HEADER_STATUS: status} if status is not None else {}
    answer = Delivery("_INBOX.x", payload, Headers({**headers, **({HEADER_BLOB: "0"} if is_blob else {})}))
    call = _make_call(outputs=outputs)
    assert is_beat(answer) == (status == "running")
    with suppress(FunctionFailed):
        assert 0 < read_beat(call, answer).beat_s <= 3600
    found = read_answer(call, answer)
    assert isinstance(found, str | BlobRef | Setback)
    if isinstance(found, Setback):
        assert len(found.error.message) < 10_000


@given(st.text())
def test_the_name_of_a_host_fits_one_line(name: str) -> None:
    shown = name_of(name)
    assert len(shown) <= MAX_HOST_CHARACTERS
    assert shown.isprintable()
    assert name_of("host-1 (web)") == "host-1 (web)"


# -- counts ----------------------------------------------------------------------------------------------------------


def test_names_that_tenants_choose_cannot_fill_the_memory() -> None:
    counts = CallCounts()
    for number in range(2 * MAX_FUNCTIONS):
        counts.came(f"f{number}")
    found = counts.statistics()
    assert len(found) == MAX_FUNCTIONS + 1
    assert found[OTHERS].num_waiting == MAX_FUNCTIONS
    counts.begin()
    assert {each.num_waiting for each in counts.statistics().values()} == {0}

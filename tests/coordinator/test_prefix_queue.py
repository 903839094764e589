"""The queue of ready generations against a model that is a plain list."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parrot_mq.coordinator import FairQueue, PrefixQueue, ReadyGeneration
from parrot_mq.messages import VariableAddress
from parrot_mq.program import prefix_hashes
from parrot_mq.types import Sampling, SessionId, TaskId, TenantId, VariableId

names = st.integers(0, 15).map(lambda number: f"v{number}")
prompts = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple)


def _make(name: str, prompt: tuple[str, ...], tenant: str = "t") -> ReadyGeneration:
    return ReadyGeneration(
        address=VariableAddress(TenantId(tenant), SessionId("s"), VariableId(name)),
        task=TaskId("task"),
        model="m",
        segments=prompt,
        prefix_hashes=tuple(prefix_hashes(prompt)),
        sampling=Sampling(),
        deadline=0.0,
    )


def _num_shared(one: ReadyGeneration, other: ReadyGeneration) -> int:
    """How many leading segments two prompts share."""
    num = 0
    for a, b in zip(one.segments, other.segments, strict=False):
        if a != b:
            break
        num += 1
    return num


def _take(queued: list[ReadyGeneration], num_wanted: int) -> list[ReadyGeneration]:
    """The rule, told plainly: the oldest, then whoever shares most with it, the older of equals first, and again."""
    batch: list[ReadyGeneration] = []
    left = list(queued)
    while left and len(batch) < num_wanted:
        oldest = left.pop(0)
        group = [oldest]
        sharers = sorted((one for one in left if _num_shared(oldest, one)), key=lambda one: -_num_shared(oldest, one))
        group += sharers
        group = group[: num_wanted - len(batch)]
        batch += group
        left = [one for one in left if one not in group]
    return batch


class QueueModel(RuleBasedStateMachine):
    """Holds the same generations in a list, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PrefixQueue()
        self.model: list[ReadyGeneration] = []

    @rule(name=names, prompt=prompts)
    def add(self, name: str, prompt: tuple[str, ...]) -> None:
        generation = _make(name, prompt)
        if all(one.key != generation.key for one in self.model):
            self.model.append(generation)
        self.queue.add(generation)

    @rule(name=names)
    def remove(self, name: str) -> None:
        key = f"t.s.{name}"
        expected = next((one for one in self.model if one.key == key), None)
        assert (key in self.queue) is (expected is not None)
        assert self.queue.remove(key) is expected
        self.model = [one for one in self.model if one is not expected]

    @rule(num_wanted=st.integers(0, 6))
    def take(self, num_wanted: int) -> None:
        expected = _take(self.model, num_wanted)
        assert self.queue.take(num_wanted) == expected
        self.model = [one for one in self.model if one not in expected]

    @rule()
    def take_all(self) -> None:
        assert {one.key for one in self.queue.take(1000)} == {one.key for one in self.model}
        self.model = []

    @invariant()
    def agrees(self) -> None:
        self.queue.check_integrity()
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_batch_is_the_oldest_and_those_that_share_most_with_it() -> None:
    queue = PrefixQueue()
    for name, prompt in [("old", "ab"), ("other", "xy"), ("half", "ac"), ("same", "ab"), ("longer", "abc")]:
        queue.add(_make(name, tuple(prompt)))
    assert [one.address.variable for one in queue.take(4)] == ["old", "same", "longer", "half"]
    assert [one.address.variable for one in queue.take(4)] == ["other"]


def test_the_oldest_is_in_the_next_batch_however_many_share_another_prefix() -> None:
    queue = PrefixQueue()
    queue.add(_make("popular", ("p", "1")))
    queue.add(_make("lonely", ("l", "1")))
    for number in range(100):
        queue.add(_make(f"p{number}", ("p", str(number))))
    assert queue.take(8)[0].address.variable == "popular"
    assert queue.take(8)[0].address.variable == "lonely"


def test_what_is_queued_already_stays_where_it_is() -> None:
    queue = PrefixQueue()
    generation = _make("a", ("x",))
    queue.add(generation)
    queue.add(_make("a", ("y",)))
    assert queue.take(5) == [generation]
    queue.check_integrity()


# -- several tenants -------------------------------------------------------------------------------------------------

tenants = st.sampled_from(["ann", "bob", "cid"])


def _take_fairly(queued: dict[str, list[ReadyGeneration]], num_wanted: int) -> list[ReadyGeneration]:
    """The rule, told plainly: each tenant in turn has an equal share of what is still to be given."""
    batch: list[ReadyGeneration] = []
    while queued and len(batch) < num_wanted:
        num_left = num_wanted - len(batch)
        tenant, generations = next(iter(queued.items()))
        share = _take(generations, (num_left + len(queued) - 1) // len(queued))
        batch += share
        del queued[tenant]
        if rest := [one for one in generations if one not in share]:
            queued[tenant] = rest
    return batch


class FairQueueModel(RuleBasedStateMachine):
    """Holds the generations of each tenant in a list; the tenants in the order of their turns."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue()
        self.model: dict[str, list[ReadyGeneration]] = {}

    @rule(tenant=tenants, name=names, prompt=prompts)
    def add(self, tenant: str, name: str, prompt: tuple[str, ...]) -> None:
        generation = _make(name, prompt, tenant)
        queued = self.model.setdefault(tenant, [])
        if all(one.key != generation.key for one in queued):
            queued.append(generation)
        self.queue.add(generation)

    @rule(tenant=tenants, name=names)
    def remove(self, tenant: str, name: str) -> None:
        key = f"{tenant}.s.{name}"
        expected = next((one for one in self.model.get(tenant, []) if one.key == key), None)
        assert (key in self.queue) is (expected is not None)
        assert self.queue.remove(key) is expected
        if expected is not None:
            self.model[tenant].remove(expected)
            if not self.model[tenant]:
                del self.model[tenant]

    @rule(num_wanted=st.integers(0, 9))
    def take(self, num_wanted: int) -> None:
        assert self.queue.take(num_wanted) == _take_fairly(self.model, num_wanted)

    @invariant()
    def agrees(self) -> None:
        self.queue.check_integrity()
        assert len(self.queue) == sum(map(len, self.model.values()))
        assert bool(self.queue) is bool(self.model)


TestFairQueueModel = FairQueueModel.TestCase
TestFairQueueModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_every_tenant_is_in_the_next_batch_however_much_another_has() -> None:
    queue = FairQueue()
    for number in range(1000):
        queue.add(_make(f"v{number}", ("same", str(number)), "big"))
    for tenant in ("small", "tiny"):
        queue.add(_make("only", ("x",), tenant))
    assert Counter(str(one.address.tenant) for one in queue.take(10)) == {"big": 8, "small": 1, "tiny": 1}


def test_tenants_take_turns_when_there_is_room_for_one_at_a_time() -> None:
    queue = FairQueue()
    for number in range(3):
        for tenant in ("a", "b"):
            queue.add(_make(f"v{number}", ("x",), tenant))
    turns = [queue.take(1)[0] for _ in range(6)]
    assert [f"{one.address.tenant}{one.address.variable}" for one in turns] == [
        "av0",
        "bv0",
        "av1",
        "bv1",
        "av2",
        "bv2",
    ]

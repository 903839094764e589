"""The small parts of a coordinator: configuration, models, deadlines, what a session remembers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.actors import Actor, ActorSystem
from parrot_mq.bus import Delivery
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import ModelsChanged
from parrot_mq.coordinator.sessions import session_state as session_state_module
from parrot_mq.coordinator.sessions.session_state import SessionState
from parrot_mq.coordinator.sessions.task import Deadlines, Task, read_task
from parrot_mq.errors import ConfigurationError, DuplicateProducer, InvalidName, ModelNotServed
from parrot_mq.messages import ErrorInfo, PromptTask, TaskAddress, encode
from parrot_mq.types import SessionId, TaskId, TenantId, VariableId
from tests.coordinator.programs import ref, task

# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("lease_s", 0, "lease_s must be above 0 seconds, got 0"),
        ("session_idle_s", -1, "session_idle_s must be above 0 seconds, got -1"),
        ("assign_timeout_s", 0, "assign_timeout_s must be above 0 seconds, got 0"),
        ("settle_s", -0.5, "settle_s must not be negative, got -0.5"),
        ("model_grace_s", -1, "model_grace_s must not be negative, got -1"),
        ("function_grace_s", -1, "function_grace_s must not be negative, got -1"),
        ("max_calls_per_tenant", 0, "max_calls_per_tenant must be at least 1, got 0"),
        ("max_pins", -1, "max_pins must not be negative, got -1"),
        ("max_wait_s", -1, "max_wait_s must not be negative, got -1"),
        ("max_holder_wait_s", -1, "max_holder_wait_s must not be negative, got -1"),
        ("max_backlog_s", -1, "max_backlog_s must not be negative, got -1"),
        ("session_keep_s", -1, "session_keep_s must not be negative, got -1"),
        ("session_max_lead_s", -1, "session_max_lead_s must not be negative, got -1"),
        ("min_prefill_chars", -1, "min_prefill_chars must not be negative, got -1"),
        ("max_prefills", -1, "max_prefills must not be negative, got -1"),
        ("max_batch", 0, "max_batch must be at least 1, got 0"),
        ("max_attempts", 0, "max_attempts must be at least 1, got 0"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_was_expected(setting: str, value: float, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected.replace(".", r"\.")):
        CoordinatorConfig(**{setting: value})  # type: ignore[arg-type]


def test_the_name_of_a_node_is_one_token() -> None:
    with pytest.raises(InvalidName):
        CoordinatorConfig(node="a.b")


def test_the_defaults_are_valid() -> None:
    assert CoordinatorConfig().node == "coordinator"


# -- models ----------------------------------------------------------------------------------------------------------


class _Listener(Actor):
    """Counts how often it was told that the models changed."""

    def __init__(self) -> None:
        self.num_told = 0

    async def receive(self, message: object) -> object:
        if isinstance(message, ModelsChanged):
            self.num_told += 1
            return None
        return _Count(self.num_told)


class _Count(int):
    """An answer."""


async def test_a_model_is_resolved_by_its_name_or_by_being_the_only_one() -> None:
    async with ActorSystem("test") as system:
        some, other = [await system.spawn(_Listener, name=name) for name in ("some", "other")]
        models = Models()
        assert models.resolve("a") is None, "it may come"
        assert models.resolve("") is None
        await models.add("a", some)
        assert models.resolve("a") == models.resolve("") == "a"
        assert models.resolve("b") is None
        await models.add("b", other)
        assert (models.names, models.dispatcher("b")) == (["a", "b"], other)
        with pytest.raises(ModelNotServed, match="names no model, and not exactly one is served; served: a, b"):
            models.resolve("")
        await models.settle()
        with pytest.raises(ModelNotServed, match="'c' is not served; served: a, b"):
            models.resolve("c")


async def test_when_nobody_came_nothing_is_served() -> None:
    models = Models()
    await models.settle()
    for name in ("", "a"):
        with pytest.raises(ModelNotServed, match="served: none"):
            models.resolve(name)


async def test_who_asked_is_told_once_and_one_that_has_stopped_does_not_keep_the_others_from_it() -> None:
    async with ActorSystem("test") as system:
        models = Models()
        listeners = [await system.spawn(_Listener, name=f"listener-{number}") for number in range(9)]
        for listener in listeners:
            models.notify(listener)
            models.notify(listener)
        for listener in listeners[:5]:
            await listener.stop()
        await models.add("a", listeners[8])
        await models.settle()
        assert [await listener.ask("?", timeout_s=5) for listener in listeners[5:]] == [1, 1, 1, 1]


# -- deadlines -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=60), st.integers(0, 10))
def test_due_are_the_tasks_that_are_there_and_late_and_no_other(steps: list[tuple[int, int, bool]], now: int) -> None:
    deadlines = Deadlines()
    model: dict[str, float] = {}
    for number, deadline, is_added in steps:
        name = f"t{number}"
        if is_added and name not in model:
            model[name] = deadline
            deadlines.add(name, deadline)
        elif not is_added:
            model.pop(name, None)
            deadlines.remove(name)
    assert (deadlines.next_at is None) or not model or deadlines.next_at <= min(model.values())
    due = deadlines.pop_due(now)
    assert sorted(due) == sorted(name for name, deadline in model.items() if deadline <= now)
    assert due == sorted(due, key=lambda name: (model[name], name))
    assert deadlines.pop_due(now) == []


def test_a_task_that_is_watched_again_has_its_new_deadline() -> None:
    deadlines = Deadlines()
    for task_name, deadline in (("a", 1.0), ("b", 100.0), ("c", 100.0)):
        deadlines.add(task_name, deadline)
    deadlines.remove("a")
    deadlines.add("a", 50.0)
    assert deadlines.pop_due(10.0) == []
    assert deadlines.pop_due(60.0) == ["a"]


def test_a_deadline_that_is_moved_again_and_again_takes_no_room() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.add("v", 600.0 - number % 7)
    assert len(deadlines._heap) <= 4
    assert deadlines.pop_due(1000.0) == ["v"]


def test_tasks_that_ended_are_not_kept_for_their_deadlines() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.add(f"t{number}", 600.0 + number)
        deadlines.remove(f"t{number}")
    assert len(deadlines._heap) <= 2
    assert deadlines.next_at is None


# -- what a session remembers ----------------------------------------------------------------------------------------


def _read(record: PromptTask, name: str) -> Task:
    address = TaskAddress(TenantId("t"), SessionId("s"), TaskId(name))
    read = read_task(address, Delivery("", encode(record)))
    assert isinstance(read, Task)
    return read


def test_a_variable_has_one_writer_also_after_its_node_has_left_the_graph() -> None:
    state = SessionState()
    state.enter(_read(task("{{x}}{{out}}", reads={"x": ref("x")}), "first"))
    state.graph.fail(VariableId("x"))
    with pytest.raises(DuplicateProducer, match="'first'"):
        state.enter(_read(task("y{{out}}"), "second"))
    assert state.tasks.keys() == {"first"}


def test_a_text_is_known_and_an_error_is_not() -> None:
    state = SessionState()
    state.store(VariableId("empty"), "")
    state.store(VariableId("failed"), ErrorInfo(code="c", message="m"))
    for name, is_ready in (("empty", True), ("failed", False), ("unset", False)):
        record = task("a{{x}}{{out}}", reads={"x": ref(name)}, writes=f"out-{name}")
        (node,) = state.enter(_read(record, name))
        assert (state.graph.num_missing(node.writes) == 0) is is_ready


def test_values_that_nobody_waits_for_are_forgotten_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_state_module, "MAX_KEPT_CHARACTERS", 100_000)
    state = SessionState(_max_characters=100_000)
    state.store(VariableId("read"), "x" * 10_000)
    state.enter(_read(task("{{a}}{{b}}{{out}}", reads={"a": ref("read"), "b": ref("later")}), "t"))
    num_forgotten = 0
    for number in range(1000):
        state.store(VariableId(f"v{number}"), "y" * 1_000)
        num_forgotten += state.forget_values()
        assert len(state.values) < 110
        assert state.values[VariableId("read")] == "x" * 10_000
    assert 5 < num_forgotten < 30

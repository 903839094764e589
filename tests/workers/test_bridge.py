"""The engine thread: commands in, events out, bounded both ways; it stops, it fails aloud, and it never leaks."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from parrot_workers.bridge import EngineFactory, EngineThread
from parrot_workers.engine import (
    Delta,
    Engine,
    EngineEvent,
    EngineStatistics,
    Failed,
    Finished,
    GenerationRequest,
    Prefilled,
    PrefillRequest,
    ScriptedEngine,
    Started,
)

from parrot_mq.errors import CheckpointError, EngineFailure, GenerationAborted, TaskCancelled
from parrot_mq.messages import LoadProgress
from parrot_mq.program import prefix_hashes
from tests.workers.driving import check_story, ends, make_request

Report = Callable[[str, float], None]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class _GatedEngine:
    """A scripted engine whose steps wait for the test. `on_step` may raise."""

    def __init__(self, on_step: Callable[[], None] = lambda: None) -> None:
        self._engine = ScriptedEngine(lambda request: request.text, tokens_per_step=1, num_slots=4)
        self._on_step = on_step
        self.gate = threading.Semaphore(0)
        self.stepping = threading.Event()
        self.num_slots, self.max_context_tokens = 4, 1000

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        self._engine.submit(requests)

    def cancel(self, keys: Iterable[str]) -> None:
        self._engine.cancel(keys)

    def pin(self, names: Iterable[str]) -> None:
        self._engine.pin(names)

    def prefill(self, requests: Sequence[PrefillRequest]) -> None:
        self._engine.prefill(requests)

    def check_integrity(self) -> None:
        self._engine.check_integrity()

    def step(self) -> list[EngineEvent]:
        self.stepping.set()
        self.gate.acquire()
        self.stepping.clear()
        self._on_step()
        return self._engine.step()

    def statistics(self) -> EngineStatistics:
        return self._engine.statistics()


def _scripted(**options: int) -> EngineFactory:
    return lambda _: ScriptedEngine(lambda request: request.text.upper(), **options)  # type: ignore[arg-type]


async def _read_until_ended(events: AsyncIterator[list[EngineEvent]], num_ends: int) -> list[EngineEvent]:
    """Read until so many requests have ended."""
    found: list[EngineEvent] = []
    async for some in events:
        found += some
        if sum(isinstance(event, Finished | Failed) for event in found) >= num_ends:
            return found
    return found


# -- running ---------------------------------------------------------------------------------------------------------


async def test_requests_come_back_as_events() -> None:
    thread = EngineThread(_scripted(num_slots=3))
    async with thread as engine:
        assert engine.state == "running"
        assert (engine.num_slots, engine.max_context_tokens) == (3, 1_000_000)
        requests = [make_request(f"r{i}", f"parrot {i}") for i in range(10)]
        await engine.submit(requests[:4])
        await engine.submit(requests[4:])
        events = await _read_until_ended(engine.events(), 10)
        check_story(events, [request.key for request in requests])
        end = ends(events)["r7"]
        assert isinstance(end, Finished)
        assert end.text == "PARROT 7"
        assert engine.statistics().num_output_tokens == 80
    assert thread.state == "stopped"


async def test_many_requests_pass_narrow_bounds_while_the_reader_is_slow() -> None:
    """One waiting command and one waiting batch: both sides wait for each other all the time, and nothing is lost."""
    keys = [f"r{i}" for i in range(300)]
    found: list[EngineEvent] = []
    async with (
        EngineThread(_scripted(num_slots=7, tokens_per_step=2), max_commands=1, max_batches=1) as engine,
        asyncio.TaskGroup() as tasks,
    ):

        async def submit_some(some: Sequence[str]) -> None:
            for key in some:
                await engine.submit([make_request(key, "abcdef")])

        for i in range(3):
            tasks.create_task(submit_some(keys[i::3]))
        async for events in engine.events():
            await asyncio.sleep(0)
            found += events
            if len(ends(found)) == len(keys):
                break
    check_story(found, keys)


async def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what the thread is about to do and tells nobody."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_the_engine_waits_for_a_reader_that_is_behind() -> None:
    async with EngineThread(_scripted(tokens_per_step=1), max_batches=3) as engine:
        await engine.submit([make_request("a", "x" * 50)])
        await _wait_until(lambda: engine.statistics().num_steps == 3 and not engine.step_duration_s)
        found: list[EngineEvent] = []
        async for events in engine.events():
            assert sum(isinstance(event, Delta) for event in events) <= 3
            found += events
            if ends(found):
                break
        check_story(found, ["a"])


async def test_submit_waits_for_room_and_a_cancelled_submit_leaves_nothing() -> None:
    gated = _GatedEngine()
    async with EngineThread(lambda _: gated, max_commands=1) as engine:
        await engine.submit([make_request("first", "a")])
        await asyncio.to_thread(gated.stepping.wait)  # the thread has taken it
        await engine.submit([make_request("second", "b")])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.submit([make_request("never", "c")]), 0.01)
        waiting = asyncio.ensure_future(engine.submit([make_request("third", "d")]))  # noqa: TID251
        await asyncio.sleep(0)
        assert not waiting.done()
        gated.gate.release(20)
        await waiting
        check_story(await _read_until_ended(engine.events(), 3), ["first", "second", "third"])


async def test_a_cancelled_request_ends_at_the_next_step() -> None:
    gated = _GatedEngine()
    async with EngineThread(lambda _: gated) as engine:
        await engine.submit([make_request("a", "x" * 100), make_request("b", "xy")])
        await asyncio.to_thread(gated.stepping.wait)
        engine.cancel(["a"])
        engine.cancel(iter(["unknown"]))
        gated.gate.release(20)
        events = await _read_until_ended(engine.events(), 2)
        check_story(events, ["a", "b"])
        assert isinstance(ends(events)["a"], TaskCancelled)
        assert sum(event.key == "a" for event in events) == 3  # started, one delta, failed


async def test_a_cancelled_key_may_be_submitted_again_at_once() -> None:
    gated = _GatedEngine()
    async with EngineThread(lambda _: gated) as engine:
        await engine.submit([make_request("a", "xyz")])
        await asyncio.to_thread(gated.stepping.wait)
        engine.cancel(["a"])
        await engine.submit([make_request("a", "xyz")])
        gated.gate.release(20)
        events = await _read_until_ended(engine.events(), 2)
        failed = next(i for i, event in enumerate(events) if isinstance(event, Failed))
        check_story(events[: failed + 1], ["a"])
        check_story(events[failed + 1 :], ["a"])


# -- progress --------------------------------------------------------------------------------------------------------


async def test_idle_and_stuck_are_told_apart() -> None:
    gated = _GatedEngine()
    async with EngineThread(lambda _: gated) as engine:
        assert engine.step_duration_s == 0.0
        before = engine.last_step_at
        assert before <= time.monotonic()
        await engine.submit([make_request("a", "x")])
        await asyncio.to_thread(gated.stepping.wait)
        assert engine.step_duration_s > 0.0
        assert engine.last_step_at == before
        gated.gate.release(5)
        await _read_until_ended(engine.events(), 1)
        assert engine.last_step_at > before
        await _wait_until(lambda: engine.step_duration_s == 0.0)


async def test_the_statistics_are_those_of_the_engine_from_its_start() -> None:
    async with EngineThread(_scripted(num_pages=100)) as engine:
        assert engine.statistics().num_pages == 100
        await engine.submit([make_request("a", "xyz")])
        await _read_until_ended(engine.events(), 1)
        assert engine.statistics().num_output_tokens == 3


async def test_progress_of_loading_comes_to_the_loop_and_is_there_to_read() -> None:
    may_go_on = threading.Semaphore(0)
    told: list[LoadProgress] = []

    def load(report: Report) -> Engine:
        report("reading weights", 0.25)
        may_go_on.acquire()
        report("warming up", 1.5)
        may_go_on.acquire()
        return _scripted()(report)

    def note(progress: LoadProgress) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(progress)
        may_go_on.release()

    thread = EngineThread(load, on_progress=note)
    assert thread.progress == LoadProgress(stage="starting")
    async with thread as engine:
        assert engine.progress == LoadProgress(stage="warming up", fraction=1.0), "a share is at most the whole"
    assert told == [LoadProgress(stage="reading weights", fraction=0.25), thread.progress]


async def test_a_factory_that_reports_often_does_not_flood_the_loop() -> None:
    told: list[LoadProgress] = []

    def load(report: Report) -> Engine:
        for number in range(20_000):
            report("reading weights", number / 20_000)
        return _scripted()(report)

    async with EngineThread(load, on_progress=told.append) as engine:
        await _wait_until(lambda: told[-1] == engine.progress)
        assert engine.progress.fraction == 19_999 / 20_000
    assert len(told) < 5_000


# -- pins ------------------------------------------------------------------------------------------------------------


class _PinnedEngine(_GatedEngine):
    """Remembers every set of pins that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.pins: list[list[str]] = []

    def pin(self, names: Iterable[str]) -> None:
        self.pins.append(list(names))


async def test_pins_reach_the_engine_also_when_it_is_idle_and_the_newest_wins() -> None:
    pinned = _PinnedEngine()
    async with EngineThread(lambda _: pinned) as engine:
        engine.pin(["a"])
        pinned.gate.release()
        await _wait_until(lambda: pinned.pins == [["a"]])
        await engine.submit([make_request("r", "xy")])
        await asyncio.to_thread(pinned.stepping.wait)
        for number in range(1_000):
            engine.pin([f"b{number}"])
        engine.pin(iter(["c", "d"]))
        pinned.gate.release(5)
        await _read_until_ended(engine.events(), 1)
        assert pinned.pins == [["a"], ["c", "d"]]
    engine.pin(["late"])  # nobody is there any more


async def test_pins_come_before_the_requests_that_could_evict_what_they_keep() -> None:
    engine_thread = EngineThread(_scripted(num_pages=2, page_size=4, num_slots=1))
    async with engine_thread as engine:

        async def run(text: str) -> int:
            request = replace(
                make_request(text, text), prefix_hashes=tuple(prefix_hashes([text])), prefix_ends=(len(text),)
            )
            await engine.submit([request])
            events = await _read_until_ended(engine.events(), 1)
            return next(event.num_shared_tokens for event in events if isinstance(event, Started))

        await run("kept")
        engine.pin(prefix_hashes(["kept"]))
        for text in ("one", "two", "three"):
            await run(text)
        assert await run("kept") == 3


# -- prefills --------------------------------------------------------------------------------------------------------


class _AheadEngine(_GatedEngine):
    """Remembers what it is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[str]] = []

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        super().submit(requests)
        self.told.append([request.key for request in requests])

    def prefill(self, requests: Sequence[PrefillRequest]) -> None:
        self.told.append([request.key for request in requests])


async def test_prefills_reach_the_engine_also_when_it_is_idle_and_the_newest_wins() -> None:
    ahead = _AheadEngine()
    async with EngineThread(lambda _: ahead) as engine:
        engine.prefill([PrefillRequest(key="a", prompt="x")])
        ahead.gate.release()
        await _wait_until(lambda: ahead.told == [["a"]])
        await engine.submit([make_request("r", "xy")])
        await asyncio.to_thread(ahead.stepping.wait)
        for number in range(1_000):
            engine.prefill([PrefillRequest(key=f"b{number}", prompt="x")])
        engine.prefill(PrefillRequest(key=key, prompt="x") for key in "cd")
        await engine.submit([make_request("last", "xy")])
        ahead.gate.release(9)
        await _read_until_ended(engine.events(), 2)
        assert ahead.told == [["a"], ["r"], ["last"], ["c", "d"]], "what has come is known before"
    engine.prefill([])  # nobody is there any more


async def test_what_is_computed_ahead_is_told_and_then_the_engine_rests() -> None:
    async with EngineThread(_scripted()) as engine:
        engine.prefill([PrefillRequest(key=key, prompt="x") for key in "ab"])
        found: list[EngineEvent] = []
        async for events in engine.events():
            found += events
            if len(found) == 2:
                break
        assert found == [Prefilled("a"), Prefilled("b")]
        await _wait_until(lambda: engine.step_duration_s == 0)


# -- rules -----------------------------------------------------------------------------------------------------------


class _CheckedEngine(ScriptedEngine):
    """Counts how often it proves its rules, or breaks one."""

    def __init__(self, *, is_broken: bool = False) -> None:
        super().__init__(lambda request: request.text)
        self._is_broken = is_broken
        self.num_checks = 0

    def check_integrity(self) -> None:
        super().check_integrity()
        self.num_checks += 1
        assert not self._is_broken, "a page is lost"


async def test_an_engine_proves_its_rules_once_after_it_had_nothing_to_do_for_a_while() -> None:
    checked = _CheckedEngine()
    async with EngineThread(lambda _: checked, check_after_s=0.005) as engine:
        for number in range(1, 3):
            await engine.submit([make_request("a")])
            await _read_until_ended(engine.events(), 1)
            await _wait_until(lambda num=number: checked.num_checks == num)  # type: ignore[misc]
        engine.pin([])
        await _wait_until(lambda: checked.num_checks == 3)


async def test_an_engine_that_gets_work_again_does_not_stop_to_prove_its_rules() -> None:
    checked = _CheckedEngine()
    async with EngineThread(lambda _: checked, check_after_s=60) as engine:
        for _ in range(100):
            await engine.submit([make_request("a")])
            await _read_until_ended(engine.events(), 1)
        assert checked.num_checks == 0


async def test_an_engine_that_has_broken_its_rules_is_told() -> None:
    thread = EngineThread(lambda _: _CheckedEngine(is_broken=True), check_after_s=0.001)
    async with thread as engine:
        engine.pin([])
        with pytest.raises(EngineFailure, match="a page is lost"):
            async for _ in engine.events():
                pass


# -- starting and stopping -------------------------------------------------------------------------------------------


async def test_entering_waits_for_the_engine_without_blocking_the_loop() -> None:
    may_load = threading.Event()

    def load(report: Report) -> Engine:
        may_load.wait()
        return _scripted()(report)

    thread = EngineThread(load)
    assert thread.state == "loading"
    asyncio.get_running_loop().call_later(0.01, may_load.set)
    async with thread as engine:
        assert may_load.is_set()
        assert engine.state == "running"


async def test_a_failure_to_load_reaches_the_starter() -> None:
    def load(report: Report) -> Engine:
        raise CheckpointError(path="/x", problem="it is empty", remedy="fill it")

    thread = EngineThread(load)
    with pytest.raises(CheckpointError, match="it is empty"):
        await thread.__aenter__()
    assert thread.state == "stopped"
    with pytest.raises(GenerationAborted):
        await thread.submit([make_request("a")])


async def test_a_start_that_is_cancelled_waits_for_the_thread() -> None:
    may_load = threading.Event()

    def load(report: Report) -> Engine:
        may_load.wait()
        return _scripted()(report)

    asyncio.get_running_loop().call_later(0.02, may_load.set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(EngineThread(load).__aenter__(), 0.01)


async def test_a_start_that_is_cancelled_ends_at_the_next_report() -> None:
    is_loading = threading.Event()

    def load(report: Report) -> Engine:
        is_loading.set()
        while True:
            report("reading weights", 0.5)
            time.sleep(0.001)

    thread = EngineThread(load)
    starting = asyncio.ensure_future(thread.__aenter__())  # noqa: TID251
    await asyncio.to_thread(is_loading.wait)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert thread.state == "stopped"


async def test_stopping_waits_for_the_step_in_progress_only() -> None:
    gated = _GatedEngine()
    thread = EngineThread(lambda _: gated)
    await thread.__aenter__()
    await thread.submit([make_request("a", "x" * 100)])
    await asyncio.to_thread(gated.stepping.wait)
    asyncio.get_running_loop().call_later(0.01, gated.gate.release)
    await thread.aclose()
    await thread.aclose()  # may be called twice
    assert thread.state == "stopped"
    events = [event async for some in thread.events() for event in some]  # what was told is still there; then it ends
    assert events[0] == Started("a", 100, 0)
    assert not ends(events)
    thread.cancel(["a"])
    with pytest.raises(GenerationAborted, match="not running"):
        await thread.submit([make_request("b")])


async def test_stopping_ends_a_reader_and_a_waiting_submit() -> None:
    gated = _GatedEngine()
    thread = EngineThread(lambda _: gated, max_commands=1)
    await thread.__aenter__()
    await thread.submit([make_request("a")])
    await asyncio.to_thread(gated.stepping.wait)
    await thread.submit([make_request("b")])
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(_raised_by(thread.submit([make_request("c")])))
        reader = tasks.create_task(_read_until_ended(thread.events(), 99))
        asyncio.get_running_loop().call_later(0.01, gated.gate.release)
        await thread.aclose()
    assert isinstance(waiting.result(), GenerationAborted)
    assert not ends(reader.result())


async def _raised_by(work: object) -> Exception | None:
    try:
        await work  # type: ignore[misc]
    except Exception as error:
        return error
    return None


async def test_closing_before_entering_does_nothing() -> None:
    await EngineThread(_scripted()).aclose()


async def test_an_engine_that_does_not_stop_is_told() -> None:
    gated = _GatedEngine()
    thread = EngineThread(lambda _: gated, grace_s=0.2)
    await thread.__aenter__()
    await thread.submit([make_request("a")])
    await asyncio.to_thread(gated.stepping.wait)
    with pytest.raises(EngineFailure, match=r"did not stop within 0\.2 s"):
        await thread.aclose()
    gated.gate.release()
    await thread.aclose()


def test_a_loop_that_closes_first_does_not_trouble_the_thread() -> None:
    gated = _GatedEngine()
    threads: list[EngineThread] = []

    async def leave_open() -> None:
        thread = await EngineThread(lambda _: gated).__aenter__()
        await thread.submit([make_request("a", "xyz")])
        await asyncio.to_thread(gated.stepping.wait)
        threads.append(thread)

    asyncio.run(leave_open())
    gated.gate.release(10)
    threads[0]._exchange.stop()
    threads[0]._thread.join(5)
    assert threads[0].state == "stopped"


# -- failing ---------------------------------------------------------------------------------------------------------


async def test_a_broken_engine_fails_every_request_and_says_so() -> None:
    """Those that run, those that wait in the engine, and those that had not reached it."""

    def explode() -> None:
        if explosive:
            raise ZeroDivisionError("in the engine")

    explosive: list[int] = []
    gated = _GatedEngine(explode)
    thread = EngineThread(lambda _: gated)
    async with thread as engine:
        await engine.submit([make_request(f"r{i}", "ab") for i in range(6)])
        gated.gate.release(2)  # the first four finish
        reader = engine.events()
        events = await _read_until_ended(reader, 4)
        await asyncio.to_thread(gated.stepping.wait)
        await engine.submit([make_request("late", "ab")])
        engine.cancel(["r5"])
        explosive.append(1)
        gated.gate.release()
        events += await anext(reader)
        with pytest.raises(EngineFailure, match="ZeroDivisionError: in the engine"):
            await anext(reader)
        check_story(events, [*(f"r{i}" for i in range(6)), "late"])
        found = ends(events)
        assert all(isinstance(found[f"r{i}"], Finished) for i in range(4))
        assert all(isinstance(found[key], GenerationAborted) for key in ("r4", "r5", "late"))
        assert engine.state == "failed"
        assert isinstance(engine.failure, EngineFailure)
        assert engine.step_duration_s == 0.0
        with pytest.raises(EngineFailure):
            await engine.submit([make_request("more")])
    assert thread.state == "failed"
    gc.collect()

"""What the coordinator tells of a session when it is asked."""

from __future__ import annotations

from parrot_mq.client.control import SessionControl
from parrot_mq.messages import SessionStory, TaskStory
from parrot_mq.program import Input, Output, semantic_function
from tests.coordinator.holding_engine import Gate
from tests.coordinator.service import Service, eventually, expected, running_service


@semantic_function
def write(text: Input, result: Output = Output()) -> None:
    """{{text}}

    {{result}}"""


async def _explain(service: Service, session: str) -> SessionStory:
    return await SessionControl(service.bus, "default", session).explain()


def _story(session: SessionStory, variable: str) -> TaskStory:
    return next(story for story in session.stories if story.variable == variable)


async def test_a_finished_program_is_explained_also_when_its_session_is_closed() -> None:
    async with running_service() as service:
        async with service.client().session() as session:
            topic = session.variable("topic")
            first = write(text=topic)
            second = write(text=first)
            await topic.set("parrots")
            await second
            name = session.name
        story = await _explain(service, name)
        assert [each.variable for each in story.stories] == [first.id, second.id]
        one, two = story.stories
        assert one.function == "write"
        assert (one.reads, two.reads) == (["topic"], [first.id])
        assert (one.state, two.state) == ("finished", "finished")
        assert (one.worker, two.last_input) == ("worker", first.id)
        assert 0 < one.submitted_at <= one.ready_at <= one.assigned_at <= one.finished_at <= two.finished_at <= story.at
        assert story.node == "coordinator"


async def test_what_waits_and_what_failed_are_explained() -> None:
    async with running_service() as service, service.client().session() as session:
        waiting = write(text=session.variable("never"))
        failing = write(text="FAIL")
        await eventually(lambda: "failed" in service.kinds(failing.id))
        story = await _explain(service, session.name)
        assert _story(story, waiting.id).state == "waiting"
        failed = _story(story, failing.id)
        assert failed.state == "failed"
        assert failed.error is not None
        assert failed.error.code == "engine_failure"


async def test_what_runs_is_seen_to_run() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, service.client().session() as session:
        await service.add_holding_worker(gate=gate)
        held = write(text="HOLD")

        async def state() -> str:
            return next((each.state for each in (await _explain(service, session.name)).stories), "")

        async def is_there() -> bool:
            return await state() in ("assigned", "running")

        await eventually(is_there)
        gate.open()
        await held

        async def is_finished() -> bool:
            return await state() == "finished"

        await eventually(is_finished)


async def test_a_session_that_nobody_knows_is_no_mistake() -> None:
    async with running_service() as service:
        story = await _explain(service, "nobody")
        assert (story.session, story.stories, story.node) == ("nobody", [], "coordinator")


async def test_a_request_does_not_overtake_a_task() -> None:
    async with running_service(workers=()) as service, service.client().session() as session:
        variables = [write(text=str(number)) for number in range(20)]
        await session.flush()

        async def is_known() -> bool:
            story = await _explain(service, session.name)
            return [each.variable for each in story.stories] == [variable.id for variable in variables]

        await eventually(is_known)


async def test_after_a_take_over_only_unfinished_work_is_known() -> None:
    async with running_service() as service, service.client().session() as session:
        done = write(text="done")
        assert await done == expected("done\n\n")
        waiting = write(text=session.variable("never"))
        await eventually(lambda: "submitted" in service.kinds(waiting.id))
        await service.coordinators[0].kill()
        await service.add_coordinator()
        story = await _explain(service, session.name)
        assert [each.variable for each in story.stories] == [waiting.id]

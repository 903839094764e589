"""What a text cost, as a program asks for it."""

from __future__ import annotations

import pytest
from parrot_workers.testing import local_service

from parrot_mq.bus import fail_variable, set_variable
from parrot_mq.errors import CallError, TaskCancelled
from parrot_mq.messages import Usage, VariableAddress
from parrot_mq.program import Input, Output, semantic_function
from parrot_mq.types import SessionId, TenantId, VariableId, raw_variable
from tests.coordinator.service import raised_by

USAGE = Usage(num_prompt_tokens=12, num_shared_tokens=5, num_output_tokens=3)


@semantic_function
def ask(text: Input, reply: Output = Output(max_tokens=100)) -> None:
    """Q: {{text}} A: {{reply}}"""


def _address(session: str, variable: str) -> VariableAddress:
    return VariableAddress(TenantId("default"), SessionId(session), VariableId(variable))


async def test_a_generated_text_has_its_usage() -> None:
    async with local_service(lambda request: "Polly") as client, client.session() as session:
        usage = await session.usage(ask(text="name"))
    assert (usage.num_prompt_tokens, usage.num_output_tokens) == (len("Q: name A: "), len("Polly"))


async def test_a_text_that_somebody_set_cost_nothing() -> None:
    async with local_service(lambda request: "") as client, client.session() as session:
        await session.variable("topic").set("parrots")
        assert await session.usage("topic") == Usage()


async def test_a_transformed_text_cost_what_its_raw_text_did() -> None:
    async with local_service(lambda request: "") as client, client.session() as session:
        address = _address(session.name, "names")
        raw = address._replace(variable=raw_variable(address.variable))
        await set_variable(client.bus, raw, "Ada, Bob", producer="worker", usage=USAGE)
        await set_variable(client.bus, address, '["Ada", "Bob"]')
        assert await session.usage("names") == USAGE


async def test_a_failed_variable_raises_its_error() -> None:
    async with local_service(lambda request: "") as client, client.session() as session:
        await fail_variable(client.bus, _address(session.name, "x"), TaskCancelled(task="t"))
        assert isinstance(await raised_by(session.usage("x")), TaskCancelled)


async def test_a_variable_of_another_session_is_refused() -> None:
    async with local_service(lambda request: "") as client, client.session() as one, client.session() as other:
        with pytest.raises(CallError, match="another session"):
            await one.usage(other.variable("x"))

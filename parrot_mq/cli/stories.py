"""What a coordinator remembers of a session, as `explain` and `graph` ask for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import typer

from parrot_mq.bus import open_bus
from parrot_mq.cli.options import bus_config
from parrot_mq.client.control import SessionControl
from parrot_mq.messages import SessionStory
from parrot_mq.types import check_name

__all__ = ["nothing_known", "print_json", "story_source"]


@asynccontextmanager
async def story_source(servers: str, tenant: str, session: str, *, name: str) -> AsyncIterator[SessionControl]:
    """Whom to ask, during the block.

    Raises:
        InvalidName: The session has no name that a session can have.
    """
    check_name("session", session)
    async with open_bus(bus_config(servers, name=name)) as bus:
        yield SessionControl(bus, tenant, session)


def nothing_known(story: SessionStory) -> str:
    """The sentence for a session of which nothing is remembered."""
    return (
        f"nothing is known of session {story.session!r}: no task of it came since this coordinator "
        f"({story.node or 'without a name'}) began to lead, or it is forgotten. "
        f"Its values may still be there: parrot-mq get {story.session} VARIABLE"
    )


def print_json(story: SessionStory) -> None:
    """For programs."""
    typer.echo(msgspec.json.format(msgspec.json.encode(story), indent=2).decode())

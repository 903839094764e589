"""`parrot-mq graph`: a picture of what a session did, or does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from parrot_mq.cli.drawing import draw_graph, draw_svg
from parrot_mq.cli.options import Servers, Tenant
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stories import nothing_known, print_json, story_source
from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import SessionStory
from parrot_mq.observability import configure_logging

__all__ = ["graph"]


def graph(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session.")],
    servers: Servers = "",
    tenant: Tenant = "default",
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the picture here, as SVG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what it is drawn from, for programs.")] = False,
) -> None:
    """Draw the graph of a session: what reads what, classes, node groups, when what ran, and the critical path.

    Without `--output` it is drawn in the terminal: the stages with a mark for each output, then a bar for each output
    of a small program, or for those on the critical path of a large one. The critical path leads from the output that
    ended last to what that waited for last, and so on: to make a program faster, make something on it faster.

    The SVG has a box for each output; many that are alike become one. The pointer on a box shows more.

    Example: `parrot-mq graph demo --output demo.svg`
    """
    configure_logging("error")
    run_async(_graph(servers, tenant, session, output, as_json=as_json))


async def _graph(servers: str, tenant: str, session: str, output: Path | None, *, as_json: bool) -> None:
    async with story_source(servers, tenant, session, name="parrot-mq graph") as source:
        story = await source.explain()
    if not story.stories and not as_json:
        typer.secho(nothing_known(story), fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(1)
    if output is not None:
        _save(story, output)
    if as_json:
        print_json(story)
    elif output is None:
        Console(highlight=False).print(draw_graph(story))
    else:
        typer.echo(f"{output}: {len(story.stories):,} outputs")


def _save(story: SessionStory, path: Path) -> None:
    try:
        path.write_text(draw_svg(story), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {str(path)!r}: {error.strerror}") from error

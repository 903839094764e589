"""`parrot-mq demo`: a real application on a real model, with a picture of what happens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from parrot_mq.bus import Delivery, Handler
from parrot_mq.cli.demo.application import PEAKS, Records, expected_result, find_largest, read_records
from parrot_mq.cli.demo.recorder import Recorder
from parrot_mq.cli.drawing import draw_stages, draw_summary, draw_svg
from parrot_mq.cli.options import Servers, bus_config
from parrot_mq.cli.process import run_async
from parrot_mq.cli.stack import StackOptions
from parrot_mq.cli.up import Model, Slots, open_stack_visibly
from parrot_mq.client import Client
from parrot_mq.clock import SystemClock
from parrot_mq.errors import CodecError
from parrot_mq.messages import SessionStory, TaskEvent, decode, event_subject
from parrot_mq.observability import configure_logging

__all__ = ["Recorder", "Result", "demo", "expected_result", "find_largest", "read_records"]

LAST_EVENTS_S = 2.0
"""Events may come after the last value; they get this long."""


def demo(
    file: Annotated[
        Path,
        typer.Argument(help="Records of `key: value` lines, separated by empty lines.", show_default="24 mountains"),
    ] = PEAKS,
    field: Annotated[str, typer.Option(help="The field whose largest number is looked for.")] = "height",
    label: Annotated[str, typer.Option(help="The field that names a record.")] = "name",
    servers: Servers = "",
    model: Model = "tiny",
    slots: Slots = 64,
    svg: Annotated[Path | None, typer.Option(help="Save the picture of the run here, as SVG.")] = None,
) -> None:
    """Run a map-reduce application over a text file, and show its graph while it runs.

    Starts nats-server, coordinator and worker on this machine, unless `--servers` names a service. Every answer is
    computed by the model; in the end plain Python checks the result.
    """
    configure_logging("warning")
    raise typer.Exit(run_async(_demo(file, field, label, servers, StackOptions(model=model, num_slots=slots), svg)))


async def _demo(file: Path, field: str, label: str, servers: str, options: StackOptions, svg: Path | None) -> int:
    console = Console()
    records = read_records(file, field=field, label=label)
    if servers:
        result = await _run(records, servers, console)
    else:
        async with open_stack_visibly(options, Console(stderr=True)) as stack:
            result = await _run(records, stack.url, console)
    result.show(console)
    if svg is not None:
        result.save(svg)
    return 0 if result.is_right else 1


async def _run(records: Records, servers: str, console: Console) -> Result:
    """Run the application with its graph on the console."""
    console.print(f"[bold]{len(records.texts)} records[/]: which one has the largest {records.field}?")
    config = bus_config(servers, name="parrot-mq demo")
    async with Client.connect(config=config) as client, client.session(timeout_s=120) as session:
        recorder = Recorder(session.name, SystemClock())
        with Live(console=console, refresh_per_second=12, get_renderable=lambda: draw_stages(recorder.story())):
            await client.bus.subscribe(event_subject(client.tenant, session.name, "*"), _recording(recorder))
            answer = await (await find_largest(records))
            await recorder.wait_complete(LAST_EVENTS_S)
        return Result(recorder.story(), answer, expected_result(records))


def _recording(recorder: Recorder) -> Handler:
    async def record(delivery: Delivery) -> None:
        try:
            recorder.add(decode(delivery.payload, TaskEvent, delivery.headers))
        except CodecError:
            return  # somebody else's bytes

    return record


@dataclass(frozen=True)
class Result:
    """What came of a run: what the server did, what the model answered, what plain Python finds."""

    story: SessionStory
    answer: str
    expected: str

    @property
    def is_right(self) -> bool:
        """Whether the model's answer is right."""
        return self.answer == self.expected

    def show(self, console: Console) -> None:
        """Print the summary and the answer."""
        console.print(draw_summary(self.story))
        console.print(f"\nanswer of the model: [bold]{self.answer}[/]", highlight=False)
        if self.is_right:
            console.print("[green]plain Python finds the same[/]")
        else:
            console.print(f"[red]plain Python finds {self.expected}[/]: the model has made a mistake")

    def save(self, path: Path) -> None:
        """Save the graph as SVG."""
        titled = msgspec.structs.replace(self.story, session="parrot-mq demo")
        path.write_text(draw_svg(titled), encoding="utf-8")

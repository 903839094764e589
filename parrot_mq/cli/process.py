"""What every subcommand that runs for a while needs: an event loop, stop signals, errors without tracebacks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from parrot_mq.errors import ParrotError

__all__ = ["EXIT_WITH_PARENT", "exit_with_parent", "run_async", "stop_signal"]

T = TypeVar("T")

EXIT_WITH_PARENT = "PARROT_MQ_EXIT_WITH_PARENT"
"""Set to 1 for a child whose standard input is a pipe from its parent: it stops when the parent is gone."""


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a subcommand to its end, on uvloop where that is installed.

    An error of ours ends the process with one clear line and exit status 1; Ctrl-C with status 130.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except ParrotError as error:
        raise _failed(error) from None
    except BaseExceptionGroup as group:
        ours, others = group.split(ParrotError)
        if ours is None or others is not None:
            raise
        raise _failed(_first(ours)) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _first(group: BaseExceptionGroup[ParrotError]) -> ParrotError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ParrotError)
    return error


def _failed(error: ParrotError) -> typer.Exit:
    typer.secho(f"error: {error.message}", fg=typer.colors.RED, err=True)
    return typer.Exit(1)


@contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """An event that is set by SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def exit_with_parent() -> None:
    """For a child of `parrot-mq up`: stop as on SIGTERM when the parent has gone, however it went."""
    if os.environ.get(EXIT_WITH_PARENT) == "1":
        threading.Thread(target=_wait_for_parent, name="exit-with-parent", daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the process ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)

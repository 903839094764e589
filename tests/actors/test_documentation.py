"""What the documentation shows, runs."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import parrot_mq.actors
from parrot_mq.bus import MemoryBus, MemoryServer
from parrot_mq.messages import CoordinatorStarted, ErrorInfo

README = Path(parrot_mq.actors.__file__).with_name("README.md")
PUBLIC = {name: getattr(parrot_mq.actors, name) for name in parrot_mq.actors.__all__}
WITH_EXAMPLES = [name for name, value in PUBLIC.items() if ">>>" in (value.__doc__ or "")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_example_of_a_docstring_runs(name: str) -> None:
    names = {**PUBLIC, "asyncio": asyncio, "MemoryBus": MemoryBus, "MemoryServer": MemoryServer}
    names |= {"CoordinatorStarted": CoordinatorStarted, "ErrorInfo": ErrorInfo}
    text = inspect.getdoc(PUBLIC[name]) or ""
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_main_classes_have_examples() -> None:
    assert {"Actor", "ActorSystem", "Mailbox", "RemoteRef", "Supervisor"} <= set(WITH_EXAMPLES)


def test_example_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    source = f"async def main():\n{textwrap.indent(block, '    ')}"
    names: dict[str, object] = {}
    exec(source, names)
    asyncio.run(names["main"]())  # type: ignore[operator]


def test_the_readme_names_every_file() -> None:
    files = {path.name for path in README.parent.glob("*.py")} - {"__init__.py"}
    assert files == set(re.findall(r"^\| `(\w+\.py)`", README.read_text(), flags=re.MULTILINE))


def test_all_is_complete_and_sorted() -> None:
    found = {
        name
        for name, value in vars(parrot_mq.actors).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(parrot_mq.actors.__all__) == found
    assert parrot_mq.actors.__all__ == sorted(parrot_mq.actors.__all__)

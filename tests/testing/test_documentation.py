"""The examples of the page for users run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import parrot_mq.testing

README = Path(parrot_mq.testing.__file__).with_name("README.md")


def test_examples_run() -> None:
    source = "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL))
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(source, str(README), "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        assert callable(test)
        test()


def test_every_file_is_named() -> None:
    page = README.read_text(encoding="utf-8")
    files = {path.name for path in README.parent.glob("*.py")} - {"__init__.py"}
    assert {name for name in files if f"`{name}`" not in page} == set()

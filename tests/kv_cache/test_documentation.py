"""What the README of the package says is true."""

from __future__ import annotations

import re
from pathlib import Path

from parrot_workers import kv_cache

PACKAGE = Path(kv_cache.__file__).parent
README = (PACKAGE / "README.md").read_text()


def test_the_example_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})


def test_the_file_map_is_complete() -> None:
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", README, re.MULTILINE)) == files

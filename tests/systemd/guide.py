"""The commands of deploy/README.md, as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["steps"]

GUIDE = Path(__file__).parents[2] / "deploy" / "README.md"


def steps(name: str) -> list[str]:
    """The blocks of commands that belong to one part of the guide, in order.

    A block begins with ```bash and stands behind a line `<!-- steps: name -->`, with nothing but text between.
    """
    pattern = rf"<!-- steps: {name} -->\n.*?```bash\n(.*?)```"
    found = re.findall(pattern, GUIDE.read_text(), re.DOTALL)
    assert found, f"{GUIDE} has no steps {name!r}"
    return list(found)

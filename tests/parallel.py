"""How the processes of a parallel run (`pytest -n 3`) share the tests: file by file, those that take long first.

A file stays in one process, so what its fixtures make is made once. A folder in `ONE_PROCESS` stays in one process as a
whole.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

__all__ = ["FileScheduling", "put_long_ones_first"]

ONE_PROCESS = ("tests/systemd/", "tests/interop/")
"""Folders whose tests share one expensive thing: a machine with a real systemd; packages from the registry of Node."""


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it comes without types
    """Gives each process the next unit in the order of collection when it has nearly done the one before."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # it would sort by the number of tests; their length is another thing

    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


def put_long_ones_first(items: list[pytest.Item]) -> None:
    """Sort: whole folders, then files with tests that are marked `slow`, then the others.

    What takes long and begins last would keep one process busy while the others have nothing left to do.
    """
    slow = {_unit(item.nodeid) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not _unit(item.nodeid).endswith("/"), _unit(item.nodeid) not in slow))


def _unit(nodeid: str) -> str:
    """What one process does as a whole."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in ONE_PROCESS if file.startswith(folder)), file)

"""Runs scripts in Node with public packages: the examples of `schemas/examples/node`, and others of the tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "EXAMPLES",
    "INSTALL_TIMEOUT_S",
    "Line",
    "Node",
    "NodeMissing",
    "Script",
    "install",
    "running_script",
    "script_folder",
]

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "node"
CACHE = Path(__file__).parent / "node_modules"
"""Ignored by git; one folder for each set of packages that was ever asked for."""

MIN_NODE = 18
INSTALL_TIMEOUT_S = 120.0
RETRIES = ("--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000")
WAIT_S = 20.0
"""Longest wait for something that has to happen."""
MAX_LINE_BYTES = 8 * 1024 * 1024

Line = dict[str, Any]
"""What a script prints: one JSON object on each line."""


class NodeMissing(Exception):
    """The scripts cannot run on this machine; the sentence says why."""


@contextmanager
def script_folder(sources: Path) -> Iterator[Path]:
    """The scripts of `sources` beside the packages that they need. Without Node: skipped, a failure where CI=true."""
    try:
        packages = install(sources)
    except NodeMissing as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=packages))
    for script in sources.glob("*.mjs"):
        shutil.copy(script, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def install(sources: Path) -> Path:
    """The folder with the packages that `sources/package.json` names, from the registry if it is not here yet.

    Raises:
        NodeMissing: There is no Node or npm, it is too old, or the packages cannot be fetched.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NodeMissing("Node.js or npm is not on the search path")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < MIN_NODE:
        raise NodeMissing(f"Node.js {version} is too old; {MIN_NODE} or newer is needed")
    package = (sources / "package.json").read_bytes()
    folder = CACHE / hashlib.sha256(package).hexdigest()[:16]
    if not folder.exists():
        _fetch(npm, package, folder)
    return folder


def _fetch(npm: str, package: bytes, folder: Path) -> None:
    """Install beside the place and rename, so that a folder that is there is complete whoever else installs."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="installing-", dir=CACHE, ignore_cleanup_errors=True) as temporary:
        fresh = Path(temporary) / "packages"
        fresh.mkdir()
        (fresh / "package.json").write_bytes(package)
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
        command = [npm, "install", "--prefer-offline", *quiet, *RETRIES]
        try:
            done = subprocess.run(
                command, cwd=fresh, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NodeMissing(
                f"npm install did not end within {INSTALL_TIMEOUT_S:g} s; is the registry away?"
            ) from None
        if done.returncode != 0:
            raise NodeMissing(f"npm install failed: {' '.join(done.stderr.split())[:300]}")
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.exists():
                raise


class Script:
    """A script that runs."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def write_line(self, line: Line) -> None:
        """Tell it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()

    async def next_line(self) -> Line:
        """What it prints next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            text = await self._process.stdout.readline()
        assert text, f"it ended: {await self._last_words()}"
        line: Line = json.loads(text)
        return line

    async def rest(self) -> list[Line]:
        """All that it prints until it ends by itself, without an error."""
        async with asyncio.timeout(WAIT_S):
            output, errors = await self._process.communicate()
        assert self._process.returncode == 0, errors.decode()
        return [json.loads(line) for line in output.splitlines()]

    async def _last_words(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


@asynccontextmanager
async def running_script(path: Path, *arguments: str, environment: Mapping[str, str]) -> AsyncIterator[Script]:
    """Run a script during the block."""
    process = await asyncio.create_subprocess_exec(
        *("node", str(path), *arguments),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **environment},
        limit=MAX_LINE_BYTES,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Node:
    """Starts scripts against one server.

    Args:
        folder: The scripts beside their packages.
        url: Where the server listens for NATS clients.
        environment: Further variables, such as where it listens for others.
    """

    def __init__(self, folder: Path, url: str, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {"NATS_URL": url, **(environment or {})}

    async def run(self, name: str, *arguments: str) -> list[Line]:
        """Run a script to its end; returns what it printed."""
        async with self.start(name, *arguments) as script:
            return await script.rest()

    @asynccontextmanager
    async def start(self, name: str, *arguments: str) -> AsyncIterator[Script]:
        """Run a script during the block."""
        async with running_script(self._folder / name, *arguments, environment=self._environment) as script:
            yield script

"""Runs the examples of `schemas/examples/node`: Node, the public NATS client, and no code of ours."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["EXAMPLES", "Node", "NodeMissing", "Script", "install"]

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "node"
CACHE = Path(__file__).parent / "node_modules"
"""Ignored by git; one folder for each set of packages that was ever asked for."""

MIN_NODE = 18
INSTALL_TIMEOUT_S = 45.0
RETRIES = ("--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=1000")
WAIT_S = 20.0
"""Longest wait for something that has to happen."""

Line = dict[str, Any]
"""What a script prints: one JSON object on each line."""


class NodeMissing(Exception):
    """The scripts cannot run on this machine; the sentence says why."""


def install() -> Path:
    """The folder with the packages of the examples, from the registry if it is not here yet.

    Raises:
        NodeMissing: There is no Node or npm, it is too old, or the packages cannot be fetched.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NodeMissing("Node.js or npm is not on the search path")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < MIN_NODE:
        raise NodeMissing(f"Node.js {version} is too old; {MIN_NODE} or newer is needed")
    package = (EXAMPLES / "package.json").read_bytes()
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


class Node:
    """Starts scripts against one server."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    async def run(self, name: str, session: str) -> list[Line]:
        """Run a script to its end; returns what it printed."""
        async with self.start(name, session) as script:
            return await script.rest()

    @asynccontextmanager
    async def start(self, name: str, session: str) -> AsyncIterator[Script]:
        """Run a script during the block."""
        env = {**os.environ, "NATS_URL": self._url}
        process = await asyncio.create_subprocess_exec(
            "node", str(self._folder / name), session, stdout=PIPE, stderr=PIPE, env=env
        )
        try:
            yield Script(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

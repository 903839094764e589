"""A private nats-server as a child process: for one machine, tests and demos."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from parrot_mq.bus.child import ParentGuard, find_server_binary
from parrot_mq.errors import ServerStartFailed

__all__ = ["NatsServer", "find_server_binary"]

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.005
_LOG_LINES = 5


class NatsServer:
    """One nats-server. Use it as an async context manager, or call `start` and `stop`, in whatever event loops.

    It listens on loopback by default, has JetStream, and stops when this process ends, also if that is killed (on POSIX
    systems). A child made with a bare `os.fork` that outlives this process keeps it alive.

    Args:
        port: Where it listens; 0 takes a free port and keeps it across restarts.
        host: Address it listens on.
        store_dir: Where streams are kept; without it in a temporary folder that `stop` removes.
        jetstream: Whether there are streams at all.
        extra_config: Further lines of the server's configuration file.
        log_file: Where its log goes; without it into the temporary folder.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        store_dir: str | Path | None = None,
        jetstream: bool = True,
        extra_config: Sequence[str] = (),
        log_file: str | Path | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._is_jetstream = jetstream
        self._extra_config = tuple(extra_config)
        self._store_dir = None if store_dir is None else Path(store_dir)
        self._log_file = None if log_file is None else Path(log_file)
        self._run_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = ParentGuard()

    # -- facts -------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Address for clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nats://{host}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        """Where its log goes."""
        return self._log_file or self._folder() / "server.log"

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Start it; returns when it takes clients.

        Raises:
            ServerStartFailed: No program, port in use, or it ended; the sentence says what to do, or its last words.
        """
        if self.is_running:
            return self
        binary = find_server_binary()
        await asyncio.to_thread(self._spawn, binary)
        try:
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Stop it and remove what was temporary. May be called twice."""
        await self._end_process(is_graceful=True)
        await asyncio.to_thread(self._clean_up)

    async def kill(self) -> None:
        """End it with SIGKILL, as a crash would; `restart` brings it back with what it had stored."""
        await self._end_process(is_graceful=False)

    async def restart(self) -> None:
        """Start it again on the same port with the same storage."""
        await self._end_process(is_graceful=True)
        await self.start()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    async def wait_stopped(self) -> int:
        """Wait until the process ends, for whatever reason; returns its exit status."""
        while self._process is not None and self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # a thread in `Popen.wait` could not be cancelled
        return 0 if self._process is None else int(self._process.returncode)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    # -- process -----------------------------------------------------------------------------------------------------

    def _folder(self) -> Path:
        if self._run_dir is None:
            self._run_dir = Path(tempfile.mkdtemp(prefix="parrot-mq-nats-"))
        return self._run_dir

    def _spawn(self, binary: str) -> None:
        folder = self._folder()
        for stale in folder.glob("*.ports"):
            stale.unlink()
        config = folder / "server.conf"
        config.write_text("\n".join(self._config_lines(folder)) + "\n")
        # A session of its own: Ctrl-C at the terminal is for us, who stop it after everything that needs it.
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._guard.watch(self._process.pid)

    def _config_lines(self, folder: Path) -> list[str]:
        port = self.port or -1
        lines = [f"listen: {json.dumps(f'{self.host}:{port}')}", f"ports_file_dir: {json.dumps(str(folder))}"]
        if self._is_jetstream:
            store_dir = self._store_dir or folder / "store"
            lines.append(f"jetstream {{ store_dir: {json.dumps(str(store_dir))} }}")
        return [*lines, *self._extra_config]

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise ServerStartFailed(reason=self._why_it_ended())
            if (port := self._read_port()) is not None:
                self.port = port
                return
            await asyncio.sleep(_POLL_S)
        raise ServerStartFailed(reason=f"it was not ready within {_START_TIMEOUT_S:g} s: {self._last_words()}")

    def _read_port(self) -> int | None:
        """The port from the ports file, which the server writes when it takes clients."""
        for path in self._folder().glob("*.ports"):
            try:
                return int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
            except (ValueError, KeyError, IndexError, OSError):
                return None  # not completely written yet
        return None

    def _why_it_ended(self) -> str:
        words = self._last_words()
        if "address already in use" in words:
            return (
                f"port {self.port} of {self.host} is in use; stop the program that has it, "
                "or choose another port (0 takes a free one)"
            )
        return f"it ended with status {self._process.returncode if self._process else '?'}: {words}"

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return " | ".join(line.strip() for line in lines[-_LOG_LINES:]) or "it wrote no log"

    async def _end_process(self, *, is_graceful: bool) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate() if is_graceful else process.kill()
            if not await _wait_exit(process, _STOP_TIMEOUT_S):
                process.kill()
                await _wait_exit(process, _STOP_TIMEOUT_S)
        self._process = None
        self._guard.watch(None)

    def _clean_up(self) -> None:
        self._guard.close()
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None


async def _wait_exit(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether the process ended, and was reaped, in time."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    return process.poll() is not None

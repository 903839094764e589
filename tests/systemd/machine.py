"""A throw-away machine with a real systemd, in namespaces of this one (see `nsboot`)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

__all__ = ["Machine", "missing"]

HERE = Path(__file__).parent
PATH = "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "LD_LIBRARY_PATH": "/opt/python/lib"}
BOOT_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
PROGRAMS = ("systemctl", "unshare", "nsenter", "setpriv", "findmnt", "pivot_root", "ip", "dbus-daemon")
POLKITD = tuple(Path(folder, "polkitd") for folder in ("/usr/lib/polkit-1", "/usr/libexec", "/usr/libexec/polkit-1"))
CLONE_NEWNET = 0x40000000


def missing() -> str:
    """Why no such machine can be started here; empty if nothing is missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a real systemd needs Linux and root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    absent += [] if any(path.exists() for path in POLKITD) else ["polkitd"]
    if absent:
        return f"a real systemd needs {', '.join(absent)}"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--cgroup", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
    )
    return f"a real systemd needs namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Machine:
    """Boots on entering, is gone without a trace on leaving. Addresses, files and units are its own.

    Args:
        wheels: Folder with what pip finds inside.
    """

    def __init__(self, wheels: Path) -> None:
        self._wheels = wheels
        self._state = Path(tempfile.mkdtemp(prefix="parrot-mq-machine-"))
        self.pid = 0

    # -- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._state.chmod(0o755)
        shutil.copytree(self._wheels, self._state / "wheels")
        with (self._state / "boot.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", HERE / "nsboot", self._state, HERE / "provide"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **_what_is_provided()},
            )
        try:
            self._wait_booted(time.monotonic() + BOOT_TIMEOUT_S)
        except BaseException:
            print((self._state / "boot.log").read_text())
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _wait_booted(self, end: float) -> None:
        while not (pid := self._init()):
            if self._process.poll() is not None:
                raise RuntimeError(f"nsboot ended with status {self._process.returncode}")
            _pause_until(end, "nsboot did not come to start systemd")
        self.pid = pid
        while self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip() not in (
            "running",
            "degraded",
        ):
            _pause_until(end, "systemd did not boot")

    def _init(self) -> int:
        """Process id of its systemd, as this machine sees it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return 0

    def _end(self) -> None:
        for pid in (self.pid, self._process.pid):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # all that is in the namespaces ends with its PID 1
        self._process.wait()
        end = time.monotonic() + STOP_TIMEOUT_S
        while not self._remove_cgroups():
            _pause_until(end, "processes of the machine are left")
        shutil.rmtree(self._state, ignore_errors=True)

    def _remove_cgroups(self) -> bool:
        top = Path((self._state / "cgroup").read_text().strip())
        for folder in sorted((path for path in (top, *top.rglob("*")) if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not top.exists()

    # -- inside ------------------------------------------------------------------------------------------------------

    def run(
        self,
        *command: str,
        user: str = "root",
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout_s: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end.

        Raises:
            AssertionError: `check`, and it failed; says what it wrote.
        """
        if user != "root":
            return self.run(*self._become(user, env or {}), *command, check=check, stdin=stdin, timeout_s=timeout_s)
        given = {**ENVIRONMENT, "HOME": "/root", **(env or {})}
        words = ["env", "-i", *(f"{name}={value}" for name, value in given.items()), *command]
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "-r", "-w", "--", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def _become(self, user: str, env: Mapping[str, str]) -> list[str]:
        """What to put before a command, so that a user runs it, who may have a service manager of their own."""
        uid, gid = (self.run("id", option, user).stdout.strip() for option in ("-u", "-g"))
        folder = f"/run/user/{uid}"
        session = {"XDG_RUNTIME_DIR": folder, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus"}
        given = {"HOME": f"/home/{user}", **session, **env}
        become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups"]
        return [*become, "env", *(f"{name}={value}" for name, value in given.items())]

    def shell(self, script: str, *, user: str = "root", timeout_s: float = 300) -> str:
        """Run lines of shell inside, until one fails; returns what they print."""
        return self.run("bash", "-euo", "pipefail", "-c", script, user=user, timeout_s=timeout_s).stdout

    def path(self, inside: str) -> Path:
        """Where a file or a socket of the machine is to be found from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    @property
    def shared(self) -> Path:
        """A folder that is `/run/host` inside."""
        return self._state

    @property
    def system_bus(self) -> str:
        """D-Bus address of its system bus, from here."""
        return f"unix:path={self.path('/run/dbus/system_bus_socket')}"

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """During the block, sockets that this thread makes are in the machine's network: 127.0.0.1 is its own."""
        libc = ctypes.CDLL(None, use_errno=True)
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        other = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(libc, other)
            yield
            _enter(libc, own)
        finally:
            _enter(libc, own)
            os.close(own)
            os.close(other)

    # -- units -------------------------------------------------------------------------------------------------------

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", unit, "-p", ",".join(properties)).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def wait(self, unit: str, *, timeout_s: float = 60, **expected: str) -> dict[str, str]:
        """Wait until properties of a unit match regular expressions; returns these properties.

        Raises:
            AssertionError: They did not in time; says what the journal has of the unit.
        """
        end = time.monotonic() + timeout_s
        while True:
            found = self.show(unit, *expected)
            if all(re.fullmatch(pattern, found.get(name, "")) for name, pattern in expected.items()):
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{unit} is {found}, expected {expected}\n{self.journal(unit, '-n60')}")
            time.sleep(0.05)

    def journal(self, unit: str, *matches: str, output: str = "short-monotonic") -> str:
        """What the journal has of a unit."""
        return self.run("journalctl", "--no-pager", "-o", output, "-u", unit, *matches).stdout

    def drop_in(self, unit: str, text: str, name: str = "test") -> None:
        """Add lines to a unit, until `reset`."""
        folder = f"/run/systemd/system/{unit}.d"
        self.run("mkdir", "-p", folder)
        self.run("tee", f"{folder}/90-{name}.conf", stdin=text)
        self.run("systemctl", "daemon-reload")

    def reset(self) -> None:
        """Bring units back to how they were after the installation: no worker, no autoscaler, no changes."""
        self.run("systemctl", "stop", "parrot-autoscaler.service", check=False)
        self.run("systemctl", "kill", "--signal=KILL", "parrot-worker@*", check=False)
        self.run("systemctl", "stop", "parrot-worker@*", "parrot-workers.target", check=False)
        self.run("bash", "-c", "rm -rf /run/systemd/system/parrot-*.d /run/host/stuck")
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "reset-failed")
        self.run("systemctl", "start", "parrot-nats", "parrot-coordinator@1", "parrot-coordinator@2")


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _pause_until(end: float, otherwise: str) -> None:
    if time.monotonic() > end:
        raise TimeoutError(otherwise)
    time.sleep(0.02)


def _what_is_provided() -> dict[str, str]:
    return {
        "PREFIX": sys.base_prefix,
        "STDLIB": str(Path(sysconfig.get_path("stdlib")).relative_to(sys.base_prefix)),
        "PACKAGES": sysconfig.get_path("purelib"),
        "PROGRAMS": sysconfig.get_path("scripts"),
    }

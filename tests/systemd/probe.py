"""Says what it may do where it runs: as JSON on stdout. Runs inside the machine, with the sandbox of a unit."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from parrot_mq.bus import BusConfig


def _outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "ok"


def _open(device: str) -> Callable[[], None]:
    return lambda: os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))


status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
credentials = BusConfig.from_env().credentials_file
facts = {
    "uid": os.getuid(),
    "capabilities": status["CapEff"].strip(),
    "nvidia0": _outcome(_open("/dev/nvidia0")),
    "nvidia1": _outcome(_open("/dev/nvidia1")),
    "write /etc": _outcome(lambda: Path("/etc/parrot-mq/written").write_text("")),
    "write cache": _outcome(lambda: Path(os.environ.get("CACHE_DIRECTORY", "/"), "written").write_text("")),
    "list /root": _outcome(lambda: list(Path("/root").iterdir()) or Path("/root/nothing").stat()),
    "read secret": _outcome(lambda: Path("/etc/parrot-mq/nats.creds").read_text()),
    "credentials": Path(credentials).read_text() if credentials else "",
    "sees systemd": Path("/proc/1").exists(),
}
print("PROBE " + json.dumps(facts), flush=True)

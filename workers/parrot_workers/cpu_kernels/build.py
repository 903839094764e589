"""Compile the kernels for this machine, once: the library is kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from parrot_mq.errors import ConfigurationError

__all__ = ["build_library"]

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "kernels.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-freciprocal-math",
)
"""Sums may be taken in any order, as vectors need it. NaN stays NaN."""
TIMEOUT_S = 120.0


def build_library() -> Path:
    """Return the library, compiled now if it is not there yet; that takes some seconds.

    The compiler is `$CXX`, or the first of c++, g++, clang++. The cache is `$CACHE_DIRECTORY` (as systemd sets it), or
    `$XDG_CACHE_HOME/parrot-mq`, or `~/.cache/parrot-mq`.

    Raises:
        ConfigurationError: There is no compiler, or it failed; the message has its words.
    """
    compiler = _find_compiler()
    command = [compiler, *FLAGS, *_machine_flags()]
    target = _cache() / f"cpu-kernels-{_fingerprint(command)}.so"
    if not target.exists():
        _compile(command, target)
    return target


def _find_compiler() -> str:
    chosen = os.environ.get("CXX")
    found = [path for name in ((chosen,) if chosen else COMPILERS) if name and (path := shutil.which(name))]
    if not found:
        raise ConfigurationError(f"no C++ compiler: none of {', '.join(COMPILERS)} is there; set CXX to one")
    return found[0]


def _machine_flags() -> tuple[str, ...]:
    if platform.machine() in ("x86_64", "AMD64"):
        return "-march=native", "-mprefer-vector-width=512"
    return ("-mcpu=native",)


def _fingerprint(command: list[str]) -> str:
    """Of all that decides what the library is: a home directory may be shared by unlike machines."""
    facts = [*command, platform.machine(), _processor()]
    sources = [path.read_bytes() for path in (SOURCE, *sorted(FOLDER.glob("*.hpp")))]
    return hashlib.blake2b("\0".join(facts).encode() + b"".join(sources), digest_size=10).hexdigest()


def _processor() -> str:
    """What Linux says that the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _cache() -> Path:
    """A folder that can be written to and is there the next time, if there is one."""
    home = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(home.partition(":")[0]).expanduser() / "parrot-mq"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="parrot-mq-"))
    return folder


def _compile(command: list[str], target: Path) -> None:
    """Compile beside the target and rename, so that another process finds all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        product = Path(folder) / target.name
        try:
            done = subprocess.run(
                [*command, str(SOURCE), "-o", str(product)], capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"the CPU kernels were not compiled: {error}") from error
        if done.returncode != 0:
            raise ConfigurationError(f"the CPU kernels were not compiled: {done.stderr.strip()[-2000:]}")
        product.replace(target)

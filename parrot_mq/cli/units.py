"""`parrot-mq units`: put the units of systemd where it finds them, look whether they are right, take them away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from parrot_mq.errors import ConfigurationError

__all__ = ["InstalledFile", "app", "installed_files"]

SHIPPED_PREFIX = "/opt/parrot-mq"
"""Where the environment is that the shipped units run."""

HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""Folders that the sandbox of the units hides."""

MAX_EXPOSURE = 20
"""Tenths; see `systemd-analyze security`."""

app = typer.Typer(help="Install, verify or uninstall the units that let systemd run a service.", no_args_is_help=True)

User = Annotated[bool, typer.Option("--user", help="Units of this user's own service manager, not of the machine's.")]
Root = Annotated[Path, typer.Option(help="Folder that becomes / of the machine: an image that is being made.")]
Prefix = Annotated[
    Path | None,
    typer.Option(help="Environment whose bin/parrot-mq the units run.", show_default="that of this command"),
]


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """One file, and where it belongs.

    Attributes:
        source: What comes with this package.
        target: Where it is looked for.
        is_settings: Whether it is the operator's once it is there: never written again, never removed.
    """

    source: Path
    target: Path
    is_settings: bool = False

    @property
    def is_unit(self) -> bool:
        """Whether systemd runs it."""
        return self.target.suffix in (".service", ".target", ".slice")

    def text(self, prefix: Path) -> str:
        """What is to stand there."""
        return self.source.read_text().replace(SHIPPED_PREFIX, str(prefix))


# -- commands --------------------------------------------------------------------------------------------------------


@app.command()
def install(user: User = False, root: Root = Path("/"), prefix: Prefix = None) -> None:
    """Write the units, and the settings that are not there yet; nothing is started.

    Again after an update: settings and drop-ins (`systemctl edit`) stay as they are.
    """
    chosen = _prefix(prefix, user=user)
    for file in installed_files(user=user, root=root):
        if file.is_settings and file.target.exists():
            typer.echo(f"kept     {file.target}")
        else:
            _write(file.target, file.text(chosen))
            typer.echo(f"written  {file.target}")
    if user:
        _run("systemctl", "--user", "daemon-reload")
    elif root == Path("/"):
        _run("systemd-sysusers")
        _run("systemd-tmpfiles", "--create", "parrot-mq.conf")
        _run("systemctl", "daemon-reload")


@app.command()
def verify(user: User = False, root: Root = Path("/"), prefix: Prefix = None) -> None:
    """Look whether the units are there and of this version, are understood by systemd, and leave little exposed.

    Exit status 1 if one does not.
    """
    chosen = _prefix(prefix, user=user)
    files = installed_files(user=user, root=root)
    problems = [problem for file in files if (problem := _difference(file, chosen))]
    there = [file.target for file in files if file.is_unit and file.target.exists()]
    problems += _analyze("verify", "--man=no", *_manager(user), *map(str, there))
    if not user:
        for path in there:
            problems += _check_exposure(path)
    for problem in problems:
        typer.secho(problem, fg=typer.colors.RED, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{len(files)} files are right")


@app.command()
def uninstall(user: User = False, root: Root = Path("/")) -> None:
    """Stop the units and remove them; settings, values and the autoscaler's memory stay."""
    files = installed_files(user=user, root=root)
    is_running = user or root == Path("/")
    if is_running:
        _stop_all(files, user=user)
    for file in files:
        if not file.is_settings and file.target.exists():
            file.target.unlink()
            typer.echo(f"removed  {file.target}")
    if is_running:
        _run("systemctl", *_manager(user), "daemon-reload")


# -- files -----------------------------------------------------------------------------------------------------------


def installed_files(*, user: bool, root: Path = Path("/")) -> list[InstalledFile]:
    """All files, in the order in which they are installed.

    Raises:
        ConfigurationError: This package was installed without them.
    """
    return list(_user_files() if user else _system_files(root))


def _system_files(root: Path) -> Iterator[InstalledFile]:
    # Below /usr/local/lib, so that /etc is left to what the operator changes.
    folders = {
        "systemd/system": "usr/local/lib/systemd/system",
        "sysusers.d": "usr/local/lib/sysusers.d",
        "tmpfiles.d": "usr/local/lib/tmpfiles.d",
        "polkit": "etc/polkit-1/rules.d",
    }
    for folder, target in folders.items():
        for source in _shipped(folder):
            yield InstalledFile(source, root / target / source.name)
    for source in _shipped("etc"):
        yield InstalledFile(source, root / "etc/parrot-mq" / source.name, is_settings=True)


def _user_files() -> Iterator[InstalledFile]:
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for source in _shipped("systemd/user"):
        yield InstalledFile(source, data / "systemd/user" / source.name)
    for source in _shipped("etc"):
        yield InstalledFile(source, settings / "parrot-mq" / source.name, is_settings=True)


def _shipped(folder: str) -> list[Path]:
    package = Path(__file__).parent.parent
    for top in (package / "deploy", package.parent / "deploy"):  # in a wheel, and in a checkout
        if found := sorted(path for path in (top / folder).glob("*") if path.is_file()):
            return found
    raise ConfigurationError(f"this installation of parrot-mq has no deploy/{folder}: install it from its wheel")


def _prefix(given: Path | None, *, user: bool) -> Path:
    prefix = (given or Path(sys.prefix)).absolute()
    if not user and str(prefix).startswith(HIDDEN):
        raise ConfigurationError(f"units cannot run what is in {prefix}: their sandbox hides it; use {SHIPPED_PREFIX}")
    return prefix


def _write(target: Path, text: str) -> None:
    beside = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.chmod(0o644)
        beside.replace(target)
    except PermissionError as error:
        raise ConfigurationError(f"{target} cannot be written: run this as root, or with --user") from error


def _difference(file: InstalledFile, prefix: Path) -> str:
    if not file.target.exists():
        return f"{file.target}: missing; `parrot-mq units install` writes it"
    if not file.is_settings and file.target.read_text() != file.text(prefix):
        return f"{file.target}: changed, or of another version; `parrot-mq units install` writes it anew"
    return ""


# -- systemd ---------------------------------------------------------------------------------------------------------


def _manager(user: bool) -> tuple[str, ...]:
    return ("--user",) if user else ()


def _analyze(*arguments: str) -> list[str]:
    """What `systemd-analyze` has to say. Its exit status says nothing of words that it does not know."""
    done = _run("systemd-analyze", *arguments, check=False)
    return done.stderr.splitlines() or ([f"systemd-analyze: exit status {done.returncode}"] if done.returncode else [])


def _check_exposure(path: Path) -> list[str]:
    if path.suffix != ".service":
        return []
    threshold = f"--threshold={MAX_EXPOSURE}"
    done = _run("systemd-analyze", "security", "--offline=yes", "--no-pager", threshold, str(path), check=False)
    return [f"{path}: {done.stdout.splitlines()[-1]}"] if done.returncode and done.stdout else []


def _stop_all(files: list[InstalledFile], *, user: bool) -> None:
    """Stop and disable what there is: first who would start the others again."""
    _run("systemctl", *_manager(user), "stop", "parrot-autoscaler*")
    _run("systemctl", *_manager(user), "stop", "parrot-*")
    there = [
        file.target.name for file in files if file.target.suffix in (".service", ".target") and file.target.exists()
    ]
    if there:
        _run("systemctl", *_manager(user), "disable", *there)


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise ConfigurationError(f"there is no {command[0]} on this machine: units need systemd")
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise ConfigurationError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done

"""Tries what the walls must refuse. A wall that is only believed to stand is none."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from queries.sql.walls.report import IsolationReport, Proof

_READ_OUTSIDE: Final = "read a file outside the table"
_WRITE_TABLE: Final = "write into the table"
_CONNECT: Final = "open a network connection"
_FORK: Final = "start a process"
_SIGNAL: Final = "signal the service"

# Which walls, each by itself, refuse an attempt.
_REFUSED_BY: Final = {
    _READ_OUTSIDE: frozenset({"mounts", "landlock"}),
    _WRITE_TABLE: frozenset({"mounts", "landlock"}),
    _CONNECT: frozenset({"namespaces", "landlock", "seccomp"}),
    _FORK: frozenset({"seccomp"}),
    _SIGNAL: frozenset({"seccomp"}),
}


class WallBroken(Exception):
    """An attempt went through a wall that is said to stand. Nothing may be served behind it."""


def try_to_get_out(data_folder: Path) -> tuple[Proof, ...]:
    """Make every attempt and report how the system answered. What succeeded is undone."""
    attempts: dict[str, Callable[[], None]] = {
        _READ_OUTSIDE: _read_outside,
        _WRITE_TABLE: lambda: _write_into(data_folder),
        _CONNECT: _connect,
        _FORK: _fork,
        _SIGNAL: lambda: os.kill(os.getppid(), 0),
    }
    return tuple(_try(name, attempt) for name, attempt in attempts.items())


def check_against_walls(report: IsolationReport) -> None:
    """Compare what walls promise with what was tried.

    Raises:
        WallBroken: an attempt succeeded that a standing wall refuses.
    """
    standing = {wall.name for wall in report.standing}
    for proof in report.open_ways:
        broken = _REFUSED_BY[proof.attempt] & standing
        if broken:
            raise WallBroken(f"it was possible to {proof.attempt}, although {', '.join(sorted(broken))} stands")


def _try(name: str, attempt: Callable[[], None]) -> Proof:
    try:
        attempt()
    except OSError as error:
        return Proof(name, refused=True, detail=error.strerror or str(error))
    return Proof(name, refused=False, detail="went through")


def _read_outside() -> None:
    """Read the interpreter, which every user may on an ordinary system."""
    os.close(os.open(sys.executable, os.O_RDONLY | os.O_CLOEXEC))


def _write_into(folder: Path) -> None:
    probe = folder / f".probe-{os.getpid()}"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    probe.unlink()


def _connect() -> None:
    """Connect to the discard port of this machine: refused by a peer that is not there is a way out all the same."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(("127.0.0.1", 9))
        except ConnectionRefusedError:
            return


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)

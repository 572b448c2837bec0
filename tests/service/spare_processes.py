"""The keeper and the workers of a forked service, forked like it from a process that has imported what they need.

A service starts Python anew for its keeper, and for each of several workers: mostly the same imports again. Nothing may
be forked from a service that runs, for it has threads and an open table; so one that has not begun yet forks spares,
which wait. Where the service starts its keeper or a worker, a spare becomes that: a child of the service, in its
group, with the command line, the environment and the open files that it is given. When the spares are used up, as for
a keeper that follows one that died, and for whatever else a service starts, Python is started as always.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import multiprocessing.util
import os
import re
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.spawn import spawn_main
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypedDict

from service.keeper_process import KeeperProcess
from service.metrics import MULTIPROCESS_VARIABLE, share_metrics
from service.sources import HANDED_OVER_VARIABLE

_MESSAGE_BYTES_MAX: Final = 1 << 17
_DESCRIPTORS_MAX: Final = 64
# Above the numbers of descriptors that a spare is told to give those that it gets.
_FREE_DESCRIPTORS: Final = 500
_WORKERS_FUNCTION: Final = "spawn_main"


class _Start(TypedDict, total=False):
    """How a program begins: a keeper with its module, a worker with the arguments of the function of its process."""

    keeper: str
    worker: dict[str, int]


class Run(Protocol):
    """Runs a program to its end, and ends the process as it does."""

    def __call__(self, program: Callable[[], object]) -> NoReturn: ...


class _Spares:
    """Children of this process that wait for what they are to become."""

    def __init__(self, number: int, run: Run) -> None:
        self._idle: list[tuple[int, socket.socket]] = []
        for _ in range(number):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                for channel in (ours, *(other for _, other in self._idle)):
                    channel.close()
                run(_program_of(theirs))
            theirs.close()
            self._idle.append((pid, ours))

    def become(
        self, command: Sequence[str], start: _Start, descriptors: Sequence[tuple[int, int]], **environment: str
    ) -> int | None:
        """Have one run a program; return its pid, or None where there is none left.

        Args:
            command: its command line.
            start: how it begins.
            descriptors: which of this process it gets, each with the number that it has there.
            environment: is added to that of this process.
        """
        if not self._idle:
            return None
        pid, channel = self._idle.pop(0)
        what = {
            "command": list(command),
            "start": start,
            "numbers": [there for _, there in descriptors],
            "environment": {**os.environ, **environment},
        }
        with channel:
            socket.send_fds(channel, [json.dumps(what).encode()], [here for here, _ in descriptors])
        return pid


def lay_in_spares(workers: int, run: Run) -> None:
    """Fork spares for a service with so many *workers*, and have this process use them when it becomes that service.

    Only for a process with one thread.

    Args:
        workers: how many; a single one is the service itself.
        run: runs the programs of the spares.
    """
    spares = _Spares(1 + (workers if workers > 1 else 0), run)
    start_keeper, start_worker = KeeperProcess._spawn, multiprocessing.util.spawnv_passfds

    def spawn_keeper(process: KeeperProcess) -> Any:
        theirs, ours = os.pipe()
        module = process._command[-1]
        environment = {HANDED_OVER_VARIABLE: process._live.hand_over()}
        pid = spares.become(["python", "-m", module], {"keeper": module}, [(theirs, 0)], **environment)
        os.close(theirs)
        if pid is None:
            os.close(ours)
            return start_keeper(process)
        return _ForkedKeeper(pid, ours)

    def spawn_worker(path: Any, arguments: Sequence[Any], descriptors: Sequence[int]) -> int:
        pid = None
        for argument in map(os.fsdecode, arguments):
            if _WORKERS_FUNCTION in argument:
                numbers = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", argument)}
                pid = spares.become(
                    ["python", "-c", _WORKERS_FUNCTION], {"worker": numbers}, [(one, one) for one in descriptors]
                )
        return start_worker(path, arguments, descriptors) if pid is None else pid

    KeeperProcess._spawn = spawn_keeper  # type: ignore[method-assign, assignment]
    multiprocessing.util.spawnv_passfds = spawn_worker  # type: ignore[assignment]


class _ForkedKeeper:
    """What `KeeperProcess` uses of a `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: int) -> None:
        self.stdin = open(stdin, "wb")  # noqa: SIM115
        self.returncode: int | None = None
        self._pid = pid

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self.returncode


# A spare's side


def _program_of(channel: socket.socket) -> Callable[[], object]:
    """Wait for what to become; what is returned is then to be run. Ends with whoever would say it."""
    message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
    channel.close()
    if not message:
        os._exit(0)
    what = json.loads(message)
    _show_as(what["command"])
    _place(descriptors, what["numbers"])
    os.environ.clear()
    os.environ.update(what["environment"])
    if MULTIPROCESS_VARIABLE in os.environ:
        # The library looked at the variable when it was imported.
        share_metrics(Path(os.environ[MULTIPROCESS_VARIABLE]))
    start: _Start = what["start"]
    if "keeper" in start:
        return partial(run_anew, start["keeper"])
    sys.argv = ["-c", "--multiprocessing-fork"]
    return partial(spawn_main, **start["worker"])


def run_anew(module: str) -> None:
    """Run a module as `python -m` does, also one that is imported already."""
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _FREE_DESCRIPTORS) for one in descriptors]
    for one in descriptors:
        os.close(one)
    for one, number in zip(moved, numbers, strict=True):
        os.dup2(one, number)
        os.close(one)


def _show_as(arguments: Sequence[str]) -> None:
    """Show this process with a command line, cut to the length of that with which it was started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(one) + b"\0" for one in arguments)
    ctypes.memmove(begin, text[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)

"""System calls of a process that the kernel holds until a test has decided what becomes of each.

A process gives away the calls by which it changes what is on disk (`hand_over`): the kernel stops the thread that makes
one, whichever it is, and asks (seccomp's user notifications). Whoever holds them (`HeldCalls`) sees them one after the
other, in the order of the whole process, with the path that each is about, and lets it be done, lets it fail, or kills
the process before it is done. So every call can be met: `strace`, which injects faults as well, counts the calls of
each thread by themselves, so that those of threads that come and go are not all met.

Nothing else of the process is changed, and no privileges are needed. What is written through mapped memory makes no
call, and is not seen.

    python -m tests.faults.held_calls

exits with 0 where this works.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from tests.service.forked_service import ROOT

_AT_FDCWD: Final = -100
_PATH_BYTES_MAX: Final = 4096
_CONNECT_TIMEOUT_S: Final = 300.0
_SILENCE_MS_MAX: Final = 300_000


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of a system call: where it says which file it is about.

    Attributes:
        name: of the call.
        descriptor: the number of the argument that is an open file, or a folder that a path is relative to; or None.
        path: the number of the argument that is a path, or None.
        creates: the number of the argument with flags of which `O_CREAT` must be one; None if it always changes a disk.
    """

    name: str
    descriptor: int | None = None
    path: int | None = None
    creates: int | None = None


# Machine → its name for the kernel, the number of `seccomp`, and of each call that changes what is on disk.
_X86_64: Final = {
    1: _Kind("write", 0),
    18: _Kind("pwrite64", 0),
    20: _Kind("writev", 0),
    296: _Kind("pwritev", 0),
    328: _Kind("pwritev2", 0),
    40: _Kind("sendfile", 0),
    326: _Kind("copy_file_range", 2),
    74: _Kind("fsync", 0),
    75: _Kind("fdatasync", 0),
    76: _Kind("truncate", path=0),
    77: _Kind("ftruncate", 0),
    285: _Kind("fallocate", 0),
    2: _Kind("open", path=0, creates=1),
    257: _Kind("openat", 0, 1, creates=2),
    82: _Kind("rename", path=0),
    264: _Kind("renameat", 0, 1),
    316: _Kind("renameat2", 0, 1),
    86: _Kind("link", path=0),
    265: _Kind("linkat", 0, 1),
    87: _Kind("unlink", path=0),
    263: _Kind("unlinkat", 0, 1),
    83: _Kind("mkdir", path=0),
    258: _Kind("mkdirat", 0, 1),
    84: _Kind("rmdir", path=0),
}
_AARCH64: Final = {
    64: _Kind("write", 0),
    68: _Kind("pwrite64", 0),
    66: _Kind("writev", 0),
    70: _Kind("pwritev", 0),
    287: _Kind("pwritev2", 0),
    71: _Kind("sendfile", 0),
    285: _Kind("copy_file_range", 2),
    82: _Kind("fsync", 0),
    83: _Kind("fdatasync", 0),
    45: _Kind("truncate", path=0),
    46: _Kind("ftruncate", 0),
    47: _Kind("fallocate", 0),
    56: _Kind("openat", 0, 1, creates=2),
    38: _Kind("renameat", 0, 1),
    276: _Kind("renameat2", 0, 1),
    37: _Kind("linkat", 0, 1),
    35: _Kind("unlinkat", 0, 1),
    34: _Kind("mkdirat", 0, 1),
}
_MACHINES: Final = {"x86_64": (0xC000003E, 317, _X86_64), "aarch64": (0xC00000B7, 277, _AARCH64)}

# Of <linux/seccomp.h>, <linux/prctl.h> and <linux/filter.h>.
_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 1 << 3
_ALLOW: Final = 0x7FFF0000
_ASK: Final = 0x7FC00000
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_STEP: Final = struct.Struct("=HBBI")
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
# id, thread, flags, number, machine, instruction, six arguments.
_QUESTION: Final = struct.Struct("=QIIiIQ6Q")
# id, result, error, flags.
_ANSWER: Final = struct.Struct("=QqiI")
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_CONTINUE: Final = 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filter() -> bytes:
    """The program by which the kernel chooses the calls to ask about."""
    machine, _, kinds = _MACHINES[platform.machine()]
    steps = [
        _STEP.pack(_LOAD, 0, 0, _MACHINE_AT),
        _STEP.pack(_JUMP_IF_EQUAL, 1, 0, machine),
        _STEP.pack(_RETURN, 0, 0, _ALLOW),
    ]
    for number, kind in kinds.items():
        steps.append(_STEP.pack(_LOAD, 0, 0, _NUMBER_AT))
        if kind.creates is None:
            steps.append(_STEP.pack(_JUMP_IF_EQUAL, 0, 1, number))
        else:
            steps.append(_STEP.pack(_JUMP_IF_EQUAL, 0, 4, number))
            steps.append(_STEP.pack(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * kind.creates))
            steps.append(_STEP.pack(_JUMP_IF_SET, 1, 0, os.O_CREAT))
            steps.append(_STEP.pack(_RETURN, 0, 0, _ALLOW))
        steps.append(_STEP.pack(_RETURN, 0, 0, _ASK))
    steps.append(_STEP.pack(_RETURN, 0, 0, _ALLOW))
    return b"".join(steps)


def hand_over(gate: str) -> None:
    """Give away this thread's calls, and those of every thread that it starts from now on.

    Args:
        gate: the path of the socket at which a `HeldCalls` waits.

    Raises:
        OSError: the kernel does not do that here.
    """
    questions = _have_the_kernel_ask()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gate)
        socket.send_fds(connection, [b"questions"], [questions])
    os.close(questions)


def _have_the_kernel_ask() -> int:
    """Set the filter, and return the descriptor from which its questions are read."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the process cannot give up getting privileges")
    program = _filter()
    described = _Program(len(program) // _STEP.size, program)
    seccomp = _MACHINES[platform.machine()][1]
    questions = int(libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(described)))
    if questions < 0:
        raise OSError(ctypes.get_errno(), "the kernel does not hold calls")
    return questions


@cache
def can_hold() -> bool:
    """Tell whether calls can be held here: on Linux, on a machine known to this module, unless it is forbidden."""
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return False
    probe = [sys.executable, "-m", __name__]
    return subprocess.run(probe, cwd=ROOT, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was held: its name, and the file or folder that it is about."""

    name: str
    path: str


class Process(Protocol):
    """What is used of the process that makes the calls: a `subprocess.Popen`, or one like it."""

    pid: int

    def kill(self) -> None:
        """Send it SIGKILL."""

    def wait(self) -> int:
        """Wait for its end; return its exit code."""


Decide = Callable[[Call], int | None]
KILL: Final = -1


class HeldCalls:
    """Where a process hands its calls over; use it once, as a context."""

    def __init__(self, gate: Path) -> None:
        """Make the socket *gate*, whose path must be short (107 bytes)."""
        self._gate = gate
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_CONNECT_TIMEOUT_S)
        self._socket.bind(str(gate))
        self._socket.listen(1)

    def __enter__(self) -> HeldCalls:
        """Nothing more to do."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the socket."""
        self._socket.close()
        self._gate.unlink()

    def see_through(self, process: Process, folder: Path, decide: Decide) -> int:
        """Answer for the calls about *folder* and what is below it until the process has ended; return its exit code.

        Args:
            process: has been started and is going to hand over its calls.
            folder: calls about other files are done without a question.
            decide: is asked about each call: None for it to be done, an `errno` for it to fail and change nothing, or
                `KILL` for the process to die before it.

        Raises:
            TimeoutError: the process hangs; it was killed.
        """
        questions = self._questions()
        ends = os.pidfd_open(process.pid)
        poll = select.poll()
        poll.register(questions, select.POLLIN)
        poll.register(ends, select.POLLIN)
        memory = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY)
        inside = (str(folder), f"{folder}/")
        try:
            while ends not in (ready := dict(poll.poll(_SILENCE_MS_MAX))):
                if not ready:
                    process.kill()
                    raise TimeoutError("the process has not ended, and has made no call for minutes")
                if ready.get(questions, 0) & select.POLLIN:
                    _answer(questions, process, memory, inside, decide)
                elif ready.get(questions):
                    # All threads that were asked about are gone; what is left is the end of the process.
                    poll.unregister(questions)
        finally:
            for descriptor in (questions, ends, memory):
                os.close(descriptor)
        return process.wait()

    def _questions(self) -> int:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(_CONNECT_TIMEOUT_S)
            _, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        return descriptors[0]


def _answer(questions: int, process: Process, memory: int, inside: tuple[str, str], decide: Decide) -> None:
    question = bytearray(_QUESTION.size)
    # A thread that was killed takes its question with it.
    try:
        fcntl.ioctl(questions, _RECEIVE, question)
        identity, thread, _, number, _, _, *arguments = _QUESTION.unpack(question)
        kind = _MACHINES[platform.machine()][2][number]
        path = _path(kind, thread, memory, arguments)
        error = decide(Call(kind.name, path)) if path == inside[0] or path.startswith(inside[1]) else None
        if error == KILL:
            os.kill(process.pid, signal.SIGKILL)
            return
        answer = bytearray(_ANSWER.pack(identity, 0, -(error or 0), 0 if error else _CONTINUE))
        fcntl.ioctl(questions, _SEND, answer)
    except OSError as gone:
        if gone.errno not in (errno.ENOENT, errno.EIO, errno.ESRCH):
            raise


def _path(kind: _Kind, thread: int, memory: int, arguments: list[int]) -> str:
    """What a call is about, while the thread that made it stands still."""
    base = ""
    if kind.descriptor is not None:
        descriptor = ctypes.c_int(arguments[kind.descriptor] & 0xFFFFFFFF).value
        if kind.path is None or descriptor != _AT_FDCWD:
            base = os.readlink(f"/proc/{thread}/fd/{descriptor}")
    if kind.path is None:
        return base
    # Up to the end of a page at least, since what follows may not be there to be read.
    begin = arguments[kind.path]
    text = os.pread(memory, _PATH_BYTES_MAX - begin % _PATH_BYTES_MAX, begin)
    if b"\0" not in text:
        text += os.pread(memory, _PATH_BYTES_MAX, begin + len(text))
    given = os.fsdecode(text.partition(b"\0")[0])
    return os.path.join(base or os.readlink(f"/proc/{thread}/cwd"), given)


if __name__ == "__main__":
    _have_the_kernel_ask()

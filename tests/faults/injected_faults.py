"""Faults of a disk, injected into the process itself: for machines on which no small disk and no tracer is to be had.

What is replaced are the system calls below the store: `os.fsync`, which makes data files and log entries durable, and
the `pwrite` and `write` of SQLite, through the table of system calls that SQLite keeps for such tests. The store and
the database above them run unchanged.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, use_errno=True)
_WriteAt = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
FSYNC: Final = "fsync"
DATABASE_WRITE: Final = "database write"

# SQLite and ctypes call these from C for as long as the process lives.
_alive: list[Any] = []


class _Fault:
    """Decides for each call whether it fails."""

    def __init__(self, error: str, calls: Sequence[str], at: int, while_exists: str | None, once: str | None) -> None:
        self.errno: int = getattr(errno, error)
        self._calls = calls
        self._at = at
        self._while_exists = Path(while_exists) if while_exists is not None else None
        self._once = Path(once) if once is not None else None
        self._seen = 0

    def strikes(self, call: str) -> bool:
        """Count one call; tell whether it is to fail."""
        if call not in self._calls:
            return False
        if self._while_exists is not None and not self._while_exists.exists():
            return False
        if self._once is not None:
            return self._take(self._once)
        self._seen += 1
        return self._seen >= self._at

    @staticmethod
    def _take(path: Path) -> bool:
        """Remove a file; only one process of several can say that it did."""
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True


def install(
    *, error: str, calls: Sequence[str], at: int = 1, while_exists: str | None = None, once: str | None = None
) -> None:
    """Let calls fail in this process, from now until its end.

    Args:
        error: the name of the `errno`, such as `EIO`.
        calls: which fail: `FSYNC`, `DATABASE_WRITE`.
        at: the first call of them all that fails; every later one fails as well.
        while_exists: calls fail, and count, only while there is a file of this name.
        once: one call fails, of whichever process sees a file of this name first; the file is gone then.
    """
    fault = _Fault(error, calls, at, while_exists, once)
    _replace_fsync(fault)
    _replace_database_writes(fault)


def _replace_fsync(fault: _Fault) -> None:
    fsync: Callable[[int], None] = os.fsync

    def faulty_fsync(descriptor: int) -> None:
        if fault.strikes(FSYNC):
            raise OSError(fault.errno, os.strerror(fault.errno))
        fsync(descriptor)

    os.fsync = faulty_fsync  # type: ignore[assignment]


def _replace_database_writes(fault: _Fault) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.write.restype = libc.pwrite64.restype = ctypes.c_ssize_t

    def fail() -> int:
        ctypes.set_errno(fault.errno)
        return -1

    def faulty_write(descriptor: int, buffer: int, size: int) -> int:
        if fault.strikes(DATABASE_WRITE):
            return fail()
        return int(libc.write(descriptor, ctypes.c_void_p(buffer), ctypes.c_size_t(size)))

    def faulty_write_at(descriptor: int, buffer: int, size: int, offset: int) -> int:
        if fault.strikes(DATABASE_WRITE):
            return fail()
        return int(libc.pwrite64(descriptor, ctypes.c_void_p(buffer), ctypes.c_size_t(size), ctypes.c_int64(offset)))

    system = apsw.VFS("system calls", "unix")
    for name, function in (("write", _Write(faulty_write)), ("pwrite64", _WriteAt(faulty_write_at))):
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        if not system.xSetSystemCall(name, address):
            raise RuntimeError(f"SQLite has no system call {name} to replace")
        _alive.append(function)
    _alive.append(system)

"""Resource limits of this process: memory, files, CPU time."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from pathlib import Path
from typing import Final

_OPEN_FILES_MAX: Final = 4096
_PROC_STATM: Final = "/proc/self/statm"
_PROC_IO: Final = Path("/proc/self/io")
_PROC_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
_OOM_SCORE_MAX: Final = 1000


class AddressSpace:
    """What the kernel says about this process's memory, also when `/proc` is out of reach later.

    Raises:
        OSError: the system does not say.
    """

    def __init__(self) -> None:
        self._descriptor = os.open(_PROC_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def bytes_now(self) -> int:
        """The address space that this process takes now."""
        return int(os.pread(self._descriptor, 256, 0).split()[0]) * os.sysconf("SC_PAGE_SIZE")


class ResidentBytes:
    """How much this process has in memory, also when `/proc` is out of reach later."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(FileNotFoundError):
            self._descriptor = os.open(_PROC_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def now(self) -> int | None:
        """The bytes now, shared ones included; None where the system does not count."""
        if self._descriptor is None:
            return None
        return int(os.pread(self._descriptor, 256, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


class BytesRead:
    """How many bytes this process has read from files, also when `/proc` is out of reach later; for any thread."""

    def __init__(self) -> None:
        self._descriptor = os.open(_PROC_IO, os.O_RDONLY | os.O_CLOEXEC) if _PROC_IO.exists() else None
        self._own = 0
        self._lock = threading.Lock()

    def now(self, *, besides: int) -> int | None:
        """The bytes read until now, less those named *besides*; None where the system does not count."""
        if self._descriptor is None:
            return None
        with self._lock:
            text = os.pread(self._descriptor, 256, 0)
            read = int(text.split(b"\n", 1)[0].split()[1]) - self._own - besides
            self._own += len(text)
        return read


def go_first_when_memory_runs_out() -> str:
    """Have the kernel end this process before any other.

    Raises:
        OSError: the system has no such score.
    """
    _PROC_OOM_SCORE.write_text(str(_OOM_SCORE_MAX))
    return "is ended first when the machine runs out of memory"


def apply(*, file_bytes_max: int, address_space_bytes_max: int | None) -> str:
    """Set the limits that hold for the life of this process; no process can be started any more.

    Returns:
        what is limited, in words.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, file_bytes_max)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES_MAX)
    if address_space_bytes_max is None:
        return "file size, open files, no core dumps"
    _lower(resource.RLIMIT_AS, address_space_bytes_max)
    return f"address space {address_space_bytes_max >> 20} MiB, file size, open files, no core dumps"


def allow_cpu_seconds(seconds: int) -> None:
    """Let this process use *seconds* of CPU time from now on; beyond that the kernel ends it.

    This is for the case that the service, which watches the clock, cannot any more.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + seconds, hard))


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (limit, limit))

"""Giving memory back to the system that is free, but that allocators keep.

An allocator keeps what was freed, since taking it from the system again costs. What it keeps is as much as the largest
piece of work ever needed: DuckDB's own allocator (jemalloc, in its wheels for Linux) was measured to hold 230 MB after
one aggregate over three million rows, for as long as the process lived and with nothing in use. Giving 230 MB back
takes 40 to 80 ms, and the next such query has to take it again, so that it is done when there is time: not after each
piece of work, but once a process has grown, or rests.

Where the system or a library has nothing of the kind, this does nothing: memory is then bounded by the largest work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

GROWTH_BYTES: Final = 32 * 1024 * 1024
_LOOK_S: Final = 2.0
_PAUSE_S_MAX: Final = 60.0
_DECAY_MS: Final = 200
_STATM: Final = "/proc/self/statm"
# The number that glibc's malloc.h gives the option.
_M_ARENA_MAX: Final = -8
_ARENAS_MAX: Final = 2
# jemalloc's name for "all arenas" (MALLCTL_ARENAS_ALL).
_PURGE_ALL: Final = b"arena.4096.purge"


def give_back() -> None:
    """Give back what DuckDB's, Arrow's and the C library's allocator keep; takes milliseconds. From any thread."""
    purge = _duckdb_control()
    if purge is not None:
        purge(_PURGE_ALL, None, None, None, 0)
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)


def forget_soon() -> None:
    """Have Arrow's allocator keep what was freed for some milliseconds only, where it is jemalloc.

    A stream frees hundreds of megabytes a second, of which the usual second keeps a good part.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and arrow.default_memory_pool().backend_name == "jemalloc":
        arrow.jemalloc_set_decay_ms(_DECAY_MS)


def share_arenas() -> None:
    """Have the threads of this process share a few of the C library's arenas, before there are many threads.

    Each thread would have one of its own, up to eight for each processor, of which some megabytes stay when all in it
    is free: `give_back` cannot give back what is at an arena's end. Streams have threads of their own: 9 MB more stayed
    behind each of them, up to 80.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS_MAX)


def _duckdb_control() -> Callable[..., Any] | None:
    """The control function of the allocator that came with DuckDB, if DuckDB is loaded."""
    library = sys.modules.get("_duckdb")
    return None if library is None or library.__file__ is None else _control_of(library.__file__)


@cache
def _control_of(library: str) -> Callable[..., Any] | None:
    with contextlib.suppress(OSError, AttributeError):
        control = ctypes.CDLL(library).duckdb_je_mallctl
        control.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        return control
    return None


@cache
def _trim() -> Callable[..., Any] | None:
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None).malloc_trim
    return None


def resident_bytes() -> int | None:
    """What this process has in memory, shared pages included; None where the system does not say."""
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


class GivingBack:
    """A thread that gives free memory back while the process is larger than it has been by *growth_bytes*.

    It looks every *look_s* seconds. What is still in use cannot be given back, so that it waits longer each time that
    hardly anything was, up to a minute.
    """

    def __init__(self, *, growth_bytes: int = GROWTH_BYTES, look_s: float = _LOOK_S) -> None:
        self._growth_bytes = growth_bytes
        self._look_s = look_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="free-memory", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        smallest, pause_s = resident_bytes(), self._look_s
        while not self._stopping.wait(pause_s):
            now = resident_bytes()
            if now is None or smallest is None:
                return
            smallest = min(smallest, now)
            if now - smallest < self._growth_bytes:
                pause_s = self._look_s
                continue
            give_back()
            gone = now - (resident_bytes() or now)
            pause_s = self._look_s if gone > self._growth_bytes // 4 else min(_PAUSE_S_MAX, pause_s * 2)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

"""Queries that last leave the processors to everything else on the machine, once it is clear that they last.

Linux puts a thread under SCHED_IDLE aside as soon as any other wants the processor, so that submissions hardly notice
queries that never end. But it also has two such threads take turns on one processor while the other rests, which takes
milliseconds of a short query. So a worker is only nice at first; the service puts the threads of one that is
at a query for longer than `AFTER_S` aside, and takes them back when the query is over.

Anybody may put aside what is their own. Taking back needs a right that an ordinary user lacks (CAP_SYS_NICE, or an
RLIMIT_NICE of the worker's niceness): without it the worker is replaced by another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

AFTER_S: Final = 1.0
_PROC: Final = Path("/proc")
_CAP_SYS_NICE: Final = 23


def is_known() -> bool:
    """Whether the system has such a policy."""
    return hasattr(os, "SCHED_IDLE")


def may_put_aside_others() -> bool:
    """Whether this process may put aside workers, which are of another user if it is root's."""
    if os.geteuid() != 0:
        return True
    try:
        status = (_PROC / "self" / "status").read_text()
    except OSError:
        return False
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return bool(held >> _CAP_SYS_NICE & 1)


def put_aside(pid: int) -> bool:
    """Let all threads of a process have only what others leave, and those that they start; whether that was allowed."""
    return is_known() and _each_thread(pid, put_thread_aside)


def take_back(pid: int) -> bool:
    """Let all threads of a process have their share again; whether that was allowed."""
    return is_known() and _each_thread(pid, _take_thread_back)


def leave_a_processor(pid: int) -> bool:
    """Keep all threads of a process, and those that they start, off one of the processors that this process may use.

    Returns:
        Whether that was allowed. Where there is only one processor nothing is done.
    """
    processors = sorted(os.sched_getaffinity(0))
    return _each_thread(pid, lambda thread: os.sched_setaffinity(thread, processors[1:] or processors))


def use_all_processors(pid: int) -> bool:
    """Take back what `leave_a_processor` did; whether that was allowed."""
    return _each_thread(pid, lambda thread: os.sched_setaffinity(thread, os.sched_getaffinity(0)))


def put_thread_aside(thread: int = 0) -> None:
    """Let one thread, or the one that calls, have only what others leave.

    Raises:
        OSError: it has ended, or is not one of ours.
    """
    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def _take_thread_back(thread: int) -> None:
    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _each_thread(pid: int, call: Callable[[int], None]) -> bool:
    try:
        threads = [int(one) for one in os.listdir(_PROC / str(pid) / "task")]
    except OSError:
        # It has ended; whoever waits for it learns it from there.
        return False
    for thread in threads:
        try:
            call(thread)
        except ProcessLookupError:
            # It has ended since, as the thread that writes an answer may.
            continue
        except PermissionError:
            return False
    return True

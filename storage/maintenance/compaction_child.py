"""`python -m storage.maintenance.compaction_child`: one compaction in a process of its own, with low priority.

What takes long, importing, reading, sorting and writing, is done by a thread of low priority. The commits are not: who
has a lock of the journal or of the file system and is not given a processor keeps everybody waiting who is.

Started by `storage.maintenance.compaction_process`, which writes what to do as one line of JSON and then keeps the
pipe open: at its end, which is also the end of the parent by whatever cause, this process ends at once. Each commit is
told as one line of JSON. It may be killed at any step, as `storage.maintenance.compaction` says.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from storage.absent_modules import do_without

if TYPE_CHECKING:
    from storage.maintenance.compaction import Replacement

NICENESS: Final = 10


class Task(msgspec.Struct, frozen=True):
    """What to compact, and how; the limits as `CompactionLimits` has them.

    Attributes:
        stands_back: have only the time of processors that nobody else wants.
    """

    data: str
    state: str
    limits: dict[str, int]
    memory_bytes_max: int
    stands_back: bool


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer: a commit, or in the end an error, of the store's own kinds or another."""

    commit: dict[str, float] | None = None
    error: str | None = None
    conflict: bool = False


def main() -> int:
    """Do it; returns the exit code."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    do_without("pandas")
    with ThreadPoolExecutor(1, "compaction", initializer=_yield_to_others, initargs=(task,)) as aside:
        # Takes a second, the first time.
        aside.submit(importlib.import_module, "storage.maintenance.access").result()
        aside.submit(importlib.import_module, "storage.maintenance.compaction").result()
        return _compact(task, lambda rewrite: aside.submit(rewrite).result())


def _compact(task: Task, aside: Callable[[Callable[[], Replacement]], Replacement]) -> int:
    from storage.errors import RewriteConflict, StoreError
    from storage.locks import FileLock
    from storage.maintenance.access import opened_upkeep
    from storage.maintenance.compaction import CompactionResult, CompactionRun, compact
    from storage.maintenance.planning import CompactionLimits
    from storage.maintenance.table_log import system_now_ms
    from storage.paths import StorePaths
    from storage.schema import ActionSchema

    paths = StorePaths(Path(task.data), Path(task.state))
    # Recovery waits for whoever was at work when a service died.
    at_work = FileLock(paths.workers_lock)
    at_work.share()

    def tell(result: CompactionResult) -> None:
        _tell(Told(commit=asdict(result)))

    try:
        # A rewrite takes columns from the table, not from the configuration.
        with opened_upkeep(paths, ActionSchema()) as upkeep:
            compact(
                CompactionRun(
                    paths,
                    upkeep.journal,
                    upkeep.lake,
                    upkeep.latch,
                    CompactionLimits(**task.limits),
                    task.memory_bytes_max,
                    now_ms=system_now_ms,
                    on_commit=tell,
                    aside=aside,
                )
            )
    except (StoreError, OSError) as error:
        _tell(Told(error=f"{type(error).__name__}: {error}", conflict=isinstance(error, RewriteConflict)))
        return 1
    return 0


def _yield_to_others(task: Task) -> None:
    """Give the calling thread, and those that it starts, the priority that a task asks for.

    Linux keeps a priority for each thread, and lets anybody lower their own. Elsewhere all of the process is nice.
    """
    os.nice(NICENESS)
    if task.stands_back and sys.platform == "linux":
        # A sandbox around the service may forbid it; being nice has to do there.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _tell(told: Told) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    # Not by `sys.stdin`, whose lock would be held when this process ends in order.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(2)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m storage.maintenance.compaction_child`: one compaction in a process of its own, with low priority.

Started by `storage.maintenance.compaction_process`, which writes what to do as one line of JSON and then keeps the
pipe open: at its end, which is also the end of the parent by whatever cause, this process ends at once. Each commit is
told as one line of JSON. It may be killed at any step, as `storage.maintenance.compaction` says.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from storage.absent_modules import do_without

NICENESS: Final = 10


class Task(msgspec.Struct, frozen=True):
    """What to compact, and how; the limits as `CompactionLimits` has them."""

    data: str
    state: str
    limits: dict[str, int]
    memory_bytes_max: int


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the answer: a commit, or in the end an error, of the store's own kinds or another."""

    commit: dict[str, float] | None = None
    error: str | None = None
    conflict: bool = False


def main() -> int:
    """Do it; returns the exit code."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    os.nice(NICENESS)
    do_without("pandas")
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
                )
            )
    except (StoreError, OSError) as error:
        _tell(Told(error=f"{type(error).__name__}: {error}", conflict=isinstance(error, RewriteConflict)))
        return 1
    return 0


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

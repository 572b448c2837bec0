"""The table's upkeep as chores of the caretaker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from storage.caretaker import Chore
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.maintenance.compaction import CompactionResult
from storage.maintenance.compaction_process import CompactionProcess
from storage.maintenance.last_runs import record_run
from storage.maintenance.options import MaintenanceOptions
from storage.maintenance.planning import is_pressing, plan_compaction
from storage.maintenance.retention import expire
from storage.maintenance.table_log import clean_log, commits_since_checkpoint, system_now_ms, write_checkpoint
from storage.maintenance.vacuum import vacuum
from storage.paths import StorePaths

_LOG_INTERVAL_S: Final = 2.0
_COMPACTION_INTERVAL_S: Final = 10.0
_RETENTION_INTERVAL_S: Final = 300.0
_VACUUM_INTERVAL_S: Final = 60.0
# An erasure waits for the end of what is written, and files for their vacuum.
_STANDING_BACK_S_MAX: Final = 60.0
# Where one got no processor, others would get none either for a while, and their work would be lost as well.
_BUSY_S: Final = 600.0


class Upkeeper:
    """Does what is due of one store's upkeep, with a table handle of its own. For one thread at a time."""

    def __init__(
        self, paths: StorePaths, journal: Journal, lake: Lake, latch: Latch, options: Callable[[], MaintenanceOptions]
    ) -> None:
        self._paths = paths
        self._journal = journal
        self._lake = lake
        self._latch = latch
        self._options = options
        self._compaction: CompactionProcess | None = None
        # When a compaction last got no processor, if one did.
        self._busy_at_s: float | None = None

    def chores(self) -> list[Chore]:
        """The chores, in the order in which they matter."""
        return [
            Chore("table log", _LOG_INTERVAL_S, self.keep_log),
            Chore("retention", _RETENTION_INTERVAL_S, self.expire),
            Chore("compaction", _COMPACTION_INTERVAL_S, self.compact),
            Chore("vacuum", _VACUUM_INTERVAL_S, self.vacuum),
        ]

    def keep_log(self) -> bool:
        """Write a checkpoint when there are enough commits, and remove what it makes superfluous."""
        self._latch.check()
        if commits_since_checkpoint(self._paths.table) >= self._options().checkpoint_commits:
            write_checkpoint(self._lake, self._journal, self._latch)
            durable = self._journal.state().durable_version
            clean_log(self._paths.table, durable_version=durable, now_ms=system_now_ms())
        return False

    def expire(self) -> bool:
        """Take out what is older than it may become."""
        self._latch.check()
        options = self._options()
        done = expire(self._lake, self._journal, self._latch, options.retention, now_ms=system_now_ms)
        if done.files:
            record_run(self._paths, "retention", done)
            options.on_retention(done)
        return False

    def compact(self) -> bool:
        """See to the compaction that runs in a process of its own, or start one if there is something to do."""
        self._latch.check()
        if self._compaction is not None:
            running = self._compaction
            try:
                finished = running.finished()
            except Exception:
                self._compaction = None
                raise
            if not finished:
                self._hurry(running)
                return False
            self._compaction = None
        limits = self._options().compaction
        files = self._lake.reload(self._journal.state().id).files
        if plan_compaction(files, limits, now_ms=system_now_ms()).batches:
            self._start(stands_back=not self._is_busy() and not is_pressing(files, limits))
        return False

    def _hurry(self, running: CompactionProcess) -> None:
        """Have a compaction that stands back begin anew without, once it must not wait any longer.

        What is lost of it was done in time that nobody else wanted. A service may lack the right to give it back what
        it has given up.
        """
        if running.stands_back and (
            running.seconds_since_progress > _STANDING_BACK_S_MAX
            or is_pressing(self._lake.reload(self._journal.state().id).files, self._options().compaction)
        ):
            self._compaction = None
            self._busy_at_s = time.monotonic()
            running.stop()
            self._start(stands_back=False)

    def _is_busy(self) -> bool:
        """Whether the machine was too busy lately for compactions that stand back."""
        return self._busy_at_s is not None and time.monotonic() - self._busy_at_s < _BUSY_S

    def _start(self, *, stands_back: bool) -> None:
        options = self._options()
        self._compaction = CompactionProcess(
            self._paths,
            options.compaction,
            memory_bytes_max=options.compaction_memory_bytes_max,
            on_commit=self._tell_of_compaction,
            stands_back=stands_back,
        )

    def _tell_of_compaction(self, result: CompactionResult) -> None:
        record_run(self._paths, "compaction", result)
        self._options().on_compaction(result)

    def vacuum(self) -> bool:
        """Remove files that nobody needs any more."""
        self._latch.check()
        options = self._options()
        done = vacuum(self._lake, self._journal, self._latch, now_ms=system_now_ms(), grace_ms=options.vacuum_grace_ms)
        if done.files:
            record_run(self._paths, "vacuum", done)
            options.on_vacuum(done)
        return False

    def close(self) -> None:
        """End a compaction that runs; it may be ended at any step."""
        if self._compaction is not None:
            self._compaction.stop()
            self._compaction = None

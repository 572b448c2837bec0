"""Compaction: the small files of a partition become few, sorted ones, in one commit that changes no row.

The order is what makes it safe: the new files are durable and proven to hold the same rows before they are committed;
the commit is synced and recorded as durable; then readers are told to use it. The old files stay on disk, for whoever
reads them still, until the vacuum's grace is over. A crash in between leaves new files that no commit names, which the
vacuum removes, or a commit that the next start syncs, or takes back if it is torn: the old files are all there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile, WrittenFile, remove_unreferenced
from storage.errors import CommitRefused, CorruptData, RewriteConflict
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.maintenance.durability import make_durable
from storage.maintenance.planning import CompactionLimits, Partition, PartitionRewrite, plan_compaction
from storage.maintenance.rewriting import Rewriter, RowsDiffer, Stopped
from storage.maintenance.temp_folder import own_temp_folder
from storage.paths import StorePaths
from storage.write_guard import writing_files

# What DuckDB may have of the memory of a compaction; the rest is Arrow's, for the row groups under way.
_DUCKDB_SHARE: Final = 0.75
_CONFLICTS_MAX: Final = 100

# The files that are to be replaced, and those that are to take their place.
Replacement = tuple[list[DataFile], list[WrittenFile]]

_log = logging.getLogger("actionlake.compaction")


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What one commit of compaction did, or several together.

    Attributes:
        partitions: that were rewritten.
        files_removed, files_added: in the table.
        rows: in these files.
        bytes_removed, bytes_added: sizes of these files.
        seconds: from reading to the durable commit.
    """

    partitions: int = 0
    files_removed: int = 0
    files_added: int = 0
    rows: int = 0
    bytes_removed: int = 0
    bytes_added: int = 0
    seconds: float = 0.0

    def __add__(self, other: CompactionResult) -> CompactionResult:
        return CompactionResult(
            self.partitions + other.partitions,
            self.files_removed + other.files_removed,
            self.files_added + other.files_added,
            self.rows + other.rows,
            self.bytes_removed + other.bytes_removed,
            self.bytes_added + other.bytes_added,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class CompactionRun:
    """What to do, by whom: see `compact`.

    Attributes:
        paths: of the store.
        journal: knows what is durable.
        lake: a handle of the table that nobody else uses meanwhile.
        latch: set when the table's log cannot be synced.
        limits: see there.
        memory_bytes_max: beside what the process has anyway.
        now_ms: the clock.
        stop: asked between row groups and commits; what is under way is given up without a trace.
        on_commit: called after each commit, which is durable.
        on_written: called with each new data file, before it is committed.
        aside: calls what takes long, reading, sorting and writing, perhaps in a thread that leaves the processors to
            others; what others wait for, a commit and its syncs, is done in the calling thread.
    """

    paths: StorePaths
    journal: Journal
    lake: Lake
    latch: Latch | None
    limits: CompactionLimits
    memory_bytes_max: int
    now_ms: Callable[[], int]
    stop: Callable[[], bool] = lambda: False
    on_commit: Callable[[CompactionResult], None] = lambda _: None
    on_written: Callable[[WrittenFile], None] = lambda _: None
    aside: Callable[[Callable[[], Replacement]], Replacement] = lambda rewrite: rewrite()


def compact(run: CompactionRun, *, thorough: bool = False) -> CompactionResult:
    """Rewrite what `plan_compaction` chooses, until it chooses nothing more; return what was done.

    A partition that cannot be rewritten does not keep the others from it: it is told of at the end. With *thorough*
    every partition is treated as if it rested, for the files that were there at the beginning, or when another rewrite
    was first: beside a service that flushes there are always newer ones, and who waits for their end would not come to
    one.

    Raises:
        CorruptData: files of a partition cannot be read, or did not come out the same; the others are done.
        RewriteConflict: other rewrites were first, again and again.
        CommitRefused, DiskFull: the table took no more commits; what was committed stays.
        StoreFailed: the log could not be synced; the latch is set.
        OSError: a file could not be written.
    """
    done = CompactionResult()
    failed: dict[Partition, Exception] = {}
    conflicts = 0
    among: set[str] | None = None
    with own_temp_folder(run.paths.compaction_temp) as temp_folder:
        while not run.stop():
            files = run.lake.reload(run.journal.state().id).files
            if among is None:
                among = {one.path for one in files}
            if thorough:
                files = tuple(one for one in files if one.path in among)
            plan = plan_compaction(files, run.limits, now_ms=run.now_ms(), thorough=thorough, without=failed.keys())
            if not plan.batches:
                break
            rewriter = Rewriter(
                run.paths.table,
                run.lake.file_schema,
                memory_bytes_max=int(run.memory_bytes_max * _DUCKDB_SHARE),
                temp_folder=temp_folder,
                on_written=run.on_written,
            )
            try:
                for batch in plan.batches:
                    if run.stop():
                        break
                    result, added = _compact_batch(run, rewriter, batch, failed)
                    among.update(str(run.paths.table / one.relative_path) for one in added)
                    done += result
                    if result.partitions:
                        run.on_commit(result)
            except Stopped:
                break
            except RewriteConflict as error:
                conflicts += 1
                if conflicts > _CONFLICTS_MAX:
                    raise
                _log.info("a compaction was overtaken and plans again: %s", error)
                among = None
            finally:
                rewriter.close()
    for failure in failed.values():
        raise failure
    return done


def _compact_batch(
    run: CompactionRun,
    rewriter: Rewriter,
    batch: Sequence[PartitionRewrite],
    failed: dict[Partition, Exception],
) -> tuple[CompactionResult, list[WrittenFile]]:
    """Rewrite some partitions in one commit, and return its files; those that cannot be are noted in *failed*."""
    started = time.perf_counter()
    with writing_files(run.paths.table):
        removed, added = run.aside(lambda: _proven(run, rewriter, batch, failed))
        if not removed:
            return CompactionResult(), []
        try:
            version = run.lake.rewrite(removed, added, data_change=False)
        except (RewriteConflict, CommitRefused):
            # These say that nothing was committed; any other error does not.
            remove_unreferenced(added, run.paths.table)
            raise
    make_durable(run.lake, run.journal, run.latch, version)
    result = CompactionResult(
        len({(one.date, one.type) for one in removed}),
        len(removed),
        len(added),
        sum(one.rows for one in added),
        sum(one.size_bytes for one in removed),
        sum(one.size_bytes for one in added),
        time.perf_counter() - started,
    )
    return result, added


def _proven(
    run: CompactionRun,
    rewriter: Rewriter,
    batch: Sequence[PartitionRewrite],
    failed: dict[Partition, Exception],
) -> Replacement:
    """Write the rows of some partitions anew, and prove that they are the same; what cannot be is left out."""
    removed: list[DataFile] = []
    added: list[WrittenFile] = []
    try:
        for wanted in batch:
            try:
                added += rewriter.rewrite(wanted, stop=run.stop)
            except (CorruptData, CommitRefused) as error:
                _require_present(wanted.files, error)
                failed[wanted.partition] = error
                _log.error("a partition is left as it is: %s", error)
                continue
            removed += wanted.files
        if removed:
            rewriter.require_same_rows([one.path for one in removed], added)
    except RowsDiffer as error:
        remove_unreferenced(added, run.paths.table)
        failed.update(dict.fromkeys((wanted.partition for wanted in batch), error))
        _log.error("partitions are left as they are: %s", error)
        return [], []
    except BaseException as error:
        remove_unreferenced(added, run.paths.table)
        if isinstance(error, CorruptData):
            _require_present(removed, error)
        raise
    return removed, added


def _require_present(files: Sequence[DataFile], error: Exception) -> None:
    """Tell damage from files that somebody else has replaced, and removed, meanwhile."""
    gone = [one.path for one in files if not os.path.exists(one.path)]
    if gone:
        raise RewriteConflict(f"{gone[0]} is gone: another rewrite was first") from error

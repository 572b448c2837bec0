"""From the journal into the lake: deciding when (`plan_flush`, pure), and doing it (`Flusher`).

The order is what makes it safe: data files are fsynced, then named in one commit together with the watermark, then
the commit's log entry is fsynced, then the journal is told that the version is durable and trimmed. Whatever fails in
between, the rows are in the journal until the lake has them on disk, and the watermark says which of the two counts.

On any error of the commit the table is loaded again and its watermark looked at before anything else is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from storage.columns import JournalRow, action_text, rows_to_table
from storage.data_files import (
    UNWRITABLE,
    WrittenFile,
    prefix_within_partitions,
    remove_unreferenced,
    sort_rows_and_let_go,
    write_partitions,
)
from storage.erasure_records import read_erased_rows
from storage.errors import CommitRefused, CorruptData
from storage.journal import Journal
from storage.journal_records import JournalState
from storage.lake import Lake, checkpoints
from storage.latch import Latch
from storage.maintenance.table_log import commits_since_checkpoint, write_checkpoint
from storage.rejects_flush import RejectsFlusher
from storage.submission import Rejection
from storage.write_errors import refusal, write_errors_told
from storage.write_guard import writing_files

UNFLUSHABLE: Final = "unflushable"
_CHECKPOINT_COMMITS: Final = 64

_log = logging.getLogger("actionlake.flush")


@dataclass(frozen=True, slots=True)
class FlushLimits:
    """When the journal is flushed, and how much is written at once.

    Attributes:
        interval_ms_max: no acknowledged row waits longer than this for the lake.
        rows_max, bytes_max: the journal is flushed when it holds this much; also the most that one commit takes, but
            for what `backlog_commits` says.
        partitions_max: one commit writes files into at most this many partitions.
        backlog_commits: a commit takes up to so many times `rows_max` where the journal holds as much. It costs the
            same for its files, its log entry and their compaction whatever it moves, so that a service that falls
            behind gets faster.
    """

    interval_ms_max: int = 60_000
    rows_max: int = 200_000
    bytes_max: int = 67_108_864
    partitions_max: int = 1024
    backlog_commits: int = 1

    @property
    def commit_rows_max(self) -> int:
        """The most rows that one commit takes."""
        return self.rows_max * self.backlog_commits


@dataclass(frozen=True, slots=True)
class FlushPlan:
    """Flush up to position `through`, because of `reason`: `request`, `rows`, `bytes` or `age`."""

    through: int
    reason: str

    @property
    def to_the_end(self) -> bool:
        """Whether all rows up to there have to go, also the last few that are not worth a commit."""
        return self.reason in ("request", "age")


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What one commit did: rows, files, bytes written, the new version, seconds, and rows that went to the rejects."""

    rows: int
    files: int
    bytes: int
    version: int
    seconds: float
    rejected: int


def plan_flush(
    state: JournalState, *, oldest_received_at_us: int | None, now_us: int, limits: FlushLimits
) -> FlushPlan | None:
    """Decide whether the journal is due; pure."""
    if state.depth == 0 or oldest_received_at_us is None:
        return None
    if state.flush_requested_position > state.trimmed_position:
        return FlushPlan(state.head, "request")
    if state.depth >= limits.rows_max:
        return FlushPlan(state.head, "rows")
    if state.bytes >= limits.bytes_max:
        return FlushPlan(state.head, "bytes")
    if now_us - oldest_received_at_us >= limits.interval_ms_max * 1000:
        return FlushPlan(state.head, "age")
    return None


class Flusher:
    """Moves rows of one journal into the lake. Only the leader has one; not for several threads at once."""

    def __init__(
        self,
        journal: Journal,
        lake: Lake,
        latch: Latch,
        *,
        rejects: RejectsFlusher,
        limits: Callable[[], FlushLimits],
        now_us: Callable[[], int],
        on_commit: Callable[[FlushResult], None],
    ) -> None:
        self.rejects = rejects
        self._journal = journal
        self._lake = lake
        self._latch = latch
        self._columns = lake.columns
        self._limits = limits
        self._now_us = now_us
        self._on_commit = on_commit
        self._commits_since_checkpoint = _CHECKPOINT_COMMITS - 1

    def flush(self, through: int, *, to_the_end: bool = True, between: Callable[[], None] = lambda: None) -> None:
        """Move all rows up to position *through* into the lake, durably, and trim them from the journal.

        Args:
            through: may be far away; each commit takes as much as the limits allow.
            to_the_end: unless it is true, what is left at the end and less than half a commit stays in the journal.
                A commit costs the same for its files and its log entry whatever it moves.
            between: is called after each commit, for what must not wait until all of them are done.

        Raises:
            DiskFull: no space; nothing is lost, and flushing again continues.
            CommitRefused: the table did not take the commit; nothing is lost, and flushing again continues.
            StoreFailed: a write or fsync failed; the latch is set.
            CorruptData: the journal and the table do not belong together, or one of them is damaged.
        """
        self._latch.check()
        # What was replayed is in the table `rejects` as replayed before the lake has it: see `storage.rejects_flush`.
        self.rejects.settle_replays()
        try:
            with write_errors_told(self._lake.folder, self._latch):
                self._flush(through, between, to_the_end=to_the_end)
        finally:
            # Arrow's allocator keeps what it had; a service that flushes once a minute should not. Not after each
            # commit, since the next one takes the same memory.
            pa.default_memory_pool().release_unused()

    def _flush(self, through: int, between: Callable[[], None], *, to_the_end: bool) -> None:
        state = self._journal.state()
        watermark = self._lake.reload(state.id).watermark
        # What the table has, not what is promoted today: rows may have been accepted under an earlier configuration.
        self._columns = self._lake.columns
        if watermark < state.trimmed_position:
            raise CorruptData(
                f"the table in {self._lake.folder} is older than the journal: it ends at position {watermark}, the"
                f" journal was trimmed up to {state.trimmed_position}; restore both from one backup"
            )
        if watermark > state.trimmed_position:
            # A commit that we did not see succeed: make it durable before anything relies on it.
            self._make_durable(state.durable_version, watermark)
        target = min(through, state.head)
        bytes_left = state.bytes + self._journal.trimmed_bytes
        while watermark < target:
            watermark = self._flush_batch(state.id, watermark, through)
            between()
            if not to_the_end and not self._worth_a_commit(
                target - watermark, bytes_left - self._journal.trimmed_bytes
            ):
                return

    def _worth_a_commit(self, rows: int, size: int) -> bool:
        limits = self._limits()
        return rows * 2 >= limits.rows_max or size * 2 >= limits.bytes_max

    def _flush_batch(self, journal: str, watermark: int, through: int) -> int:
        """Commit the oldest rows above *watermark*, as many as fit one commit; return the new watermark."""
        started = time.perf_counter()
        rejected: list[tuple[Rejection, int]] = []
        unsorted, last = self._next_rows(journal, watermark, through, rejected)
        # The unsorted rows are let go while they are sorted: what is held of them bounds a batch.
        held = [unsorted]
        del unsorted
        table = sort_rows_and_let_go(held)
        with writing_files(self._lake.folder):
            files = self._write(table, rejected)
            try:
                self._journal.move_to_dead_letters(rejected, watermark=watermark, now_us=self._now_us())
            except BaseException:
                remove_unreferenced(files, self._lake.folder)
                raise
            version = self._commit(files, journal, after=watermark, watermark=last)
        durable_version = self._sync_log(after_version=self._journal.state().durable_version)
        written = sum(one.rows for one in files)
        size = sum(one.size_bytes for one in files)
        seconds = time.perf_counter() - started
        # Before the journal is trimmed, which is what answers those who asked for a flush: they find it counted.
        self._on_commit(FlushResult(written, len(files), size, version, seconds, len(rejected)))
        self._journal.trim(last, durable_version=durable_version)
        self._commits_since_checkpoint += 1
        if self._commits_since_checkpoint >= _CHECKPOINT_COMMITS:
            self._checkpoint()
        return last

    def _next_rows(
        self, journal: str, watermark: int, through: int, rejected: list[tuple[Rejection, int]]
    ) -> tuple[pa.Table, int]:
        """Read the rows of the next commit; return them, in order of position, and their last position."""
        limits = self._limits()
        rows = self._journal.read_batch(
            watermark, through=through, rows_max=limits.commit_rows_max, bytes_max=limits.bytes_max
        )
        # Read after the batch. An erasure that is recorded later finds the rows in the table, once this is committed.
        with self._journal.reading() as execute:
            erased = read_erased_rows(execute)
        kept = [row for row in rows if not erased.hides(row.user_id, journal, row.last_position)] if erased else rows
        # Batches hold rows of many users; what of them cannot be read is not among those that are let go here.
        table = erased.without(self._above(watermark, self._to_table(kept, journal, rejected)))
        rejected[:] = [_beyond(watermark, letter, position) for letter, position in rejected]
        prefix = prefix_within_partitions(table, limits.partitions_max)
        if prefix < table.num_rows:
            last = table["position"][prefix - 1].as_py()
            # What is rejected beyond this commit comes up again with the next one.
            rejected[:] = [(letter, position) for letter, position in rejected if position <= last]
            return table.slice(0, prefix), last
        return table, rows[-1].last_position

    @staticmethod
    def _above(watermark: int, table: pa.Table) -> pa.Table:
        """Leave out the rows of a submission of which an earlier commit took a part."""
        if not table.num_rows:
            return table
        return table.slice(max(0, watermark - table["position"][0].as_py() + 1))

    def _to_table(self, rows: Sequence[JournalRow], journal: str, rejected: list[tuple[Rejection, int]]) -> pa.Table:
        """Turn submissions into a table; find those that cannot be by halving, and put them aside."""
        try:
            return rows_to_table(rows, journal, self._columns)
        except CorruptData as error:
            if len(rows) > 1:
                half = len(rows) // 2
                parts = [self._to_table(part, journal, rejected) for part in (rows[:half], rows[half:])]
                return pa.concat_tables(parts)
            row = rows[0]
            rejection = Rejection(None, None, UNFLUSHABLE, str(error), row.payload, row.user_id or None, row.session_id)
            rejected.append((rejection, row.first_position))
            _log.error("positions %d to %d cannot be flushed: %s", row.first_position, row.last_position, error)
            return self._columns.table_schema.empty_table()

    def _write(self, table: pa.Table, rejected: list[tuple[Rejection, int]]) -> list[WrittenFile]:
        """Write a table; find rows that cannot be written by halving, and put them aside."""
        if not table.num_rows:
            return []
        try:
            return write_partitions(table, self._lake.folder)
        except UNWRITABLE as error:
            if isinstance(error, (OSError, MemoryError)):
                raise
            if table.num_rows > 1:
                half = table.num_rows // 2
                files = self._write(table.slice(0, half), rejected)
                try:
                    return files + self._write(table.slice(half), rejected)
                except BaseException:
                    remove_unreferenced(files, self._lake.folder)
                    raise
            action = table.to_pylist()[0]
            original = action_text(action)
            rejection = Rejection(
                None, None, UNFLUSHABLE, str(error), original, action["user_id"], action["session_id"]
            )
            rejected.append((rejection, action["position"]))
            _log.error("position %d cannot be flushed: %s", action["position"], error)
            return []

    def _commit(self, files: list[WrittenFile], journal: str, *, after: int, watermark: int) -> int:
        try:
            return self._lake.append(files, journal=journal, after=after, watermark=watermark)
        except Exception as error:
            # The library raises many kinds, and any of them may mean "committed": only the watermark knows.
            snapshot = self._lake.reload(journal)
            if snapshot.watermark >= watermark:
                return snapshot.version
            # Judged before the files are removed, since that makes room.
            refused = refusal(self._lake.folder, f"did not take a commit: {error}")
            remove_unreferenced(files, self._lake.folder)
            raise refused from error

    def _checkpoint(self) -> None:
        """Write a checkpoint unless upkeep, whose business it is while somebody leads, has done so lately."""
        folder = self._lake.folder
        if not checkpoints(folder) or commits_since_checkpoint(folder) >= _CHECKPOINT_COMMITS:
            try:
                write_checkpoint(self._lake, self._journal, self._latch)
            except CommitRefused as error:
                raise refusal(folder, f"did not take a checkpoint: {error}") from error
        self._commits_since_checkpoint = 0

    def _make_durable(self, durable_version: int, watermark: int) -> None:
        """Sync the log up to the version at hand, then record that and trim: never the other way round."""
        self._journal.trim(watermark, durable_version=self._sync_log(after_version=durable_version))

    def _sync_log(self, *, after_version: int) -> int:
        """Make the log durable up to the version at hand; return that."""
        version = self._lake.version
        self._lake.sync(after_version=after_version, through_version=version)
        return version


def _beyond(watermark: int, letter: Rejection, position: int) -> tuple[Rejection, int]:
    """Say in the letter of a submission how many of its actions an earlier commit took, before one was spoiled."""
    if position > watermark:
        return letter, position
    return replace(letter, index=watermark + 1 - position), watermark + 1

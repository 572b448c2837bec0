"""From the dead letters into the table `rejects`: deciding when (`is_due`, pure), and doing it (`RejectsFlusher`).

The order is that of `storage.flush`: data files are fsynced, then named in one commit together with the watermark, then
the log entry is fsynced, and only then do letters and marks go from the journal's database. Marks are idempotent, so
that a commit which nobody saw succeed may apply them again.

A replay is settled before the lake has its actions: the flush of actions calls `settle_replays` first, so that whatever
is in the lake from a replay is marked as replayed in the table `rejects`, durably. A journal that is lost or rolled
back takes replays with it that were in it alone, and never lets one happen twice.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from storage.dead_letters import (
    DeadLetter,
    Mark,
    RejectsState,
    delete_letters,
    forget_marks,
    has_final_marks,
    oldest_waiting_us,
    read_letters,
    read_marks,
    read_rejects_state,
)
from storage.errors import CommitRefused, CorruptData, RewriteConflict
from storage.journal import Journal
from storage.latch import Latch
from storage.rejects_files import Row, read_rows, remove_files, row_of_letter, with_mark, write_rows
from storage.rejects_table import RejectsFile, RejectsSnapshot, RejectsTable
from storage.write_errors import refusal, write_errors_told
from storage.write_guard import writing_files

# A file smaller than this is written anew together with what comes to its date, so that files stay few.
SMALL_FILE_BYTES: Final = 1024 * 1024
_CHECKPOINT_COMMITS: Final = 64
_ATTEMPTS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class RejectsLimits:
    """When dead letters are moved, and how much is moved at once.

    Attributes:
        interval_ms_max: no dead letter waits longer than this for the table; it is durable and shown all the time.
        letters_max, bytes_max: letters are moved when there are this many; also the most that one commit takes.
    """

    interval_ms_max: int = 300_000
    letters_max: int = 10_000
    bytes_max: int = 16_777_216


def is_due(state: RejectsState, *, oldest_us: int | None, now_us: int, limits: RejectsLimits) -> bool:
    """Decide whether letters and marks are to be moved; pure."""
    waiting = state.head - state.moved_through
    if oldest_us is None or (waiting <= 0 and not state.marks):
        return False
    return (
        state.flush_requested_id > state.moved_through
        or max(waiting, state.marks) >= limits.letters_max
        or state.bytes >= limits.bytes_max
        or now_us - oldest_us >= limits.interval_ms_max * 1000
    )


class RejectsFlusher:
    """Moves dead letters into the table, and decisions about rejects. For one thread; only the leader has one."""

    def __init__(
        self,
        journal: Journal,
        folder: Path,
        latch: Latch,
        *,
        now_us: Callable[[], int],
        limits: Callable[[], RejectsLimits] = RejectsLimits,
    ) -> None:
        self._journal = journal
        self._folder = folder
        self._latch = latch
        self._now_us = now_us
        self._limits = limits
        self._opened: RejectsTable | None = None
        self._commits_since_checkpoint = 0

    def flush_if_due(self) -> bool:
        """Move what there is to move if it is time; return whether it was.

        Raises:
            as `flush`.
        """
        with self._journal.reading() as execute:
            state = read_rejects_state(execute)
            if state.head <= state.moved_through and not state.marks:
                return False
            oldest_us = oldest_waiting_us(execute)
        if not is_due(state, oldest_us=oldest_us, now_us=self._now_us(), limits=self._limits()):
            return False
        self.flush()
        return True

    def settle_replays(self) -> None:
        """Have every replay so far in the table, durably: as replayed, or gone where it was dropped since.

        Costs nothing where there was neither.

        Raises:
            as `flush`.
        """
        with self._journal.reading() as execute:
            pending = has_final_marks(execute)
        if pending:
            self.flush()

    def flush(self) -> None:
        """Move all letters, but provisional ones, and all marks into the table, durably.

        Raises:
            DiskFull: no space; nothing is lost, and flushing again continues.
            CommitRefused: the table did not take a commit; nothing is lost, and flushing again continues.
            StoreFailed: a write or fsync failed; the latch is set.
            CorruptData: the table does not belong to this journal, or a file is damaged.
        """
        self._latch.check()
        with write_errors_told(self._folder, self._latch):
            attempts = 0
            while True:
                try:
                    if not self._flush_once():
                        return
                    attempts = 0
                except RewriteConflict as conflict:
                    attempts += 1
                    if attempts >= _ATTEMPTS_MAX:
                        raise CommitRefused(f"{self._folder} is rewritten all the time: {conflict}") from conflict

    def _flush_once(self) -> bool:
        """Make one commit, of letters or of marks; return whether there was anything to do."""
        with self._journal.reading() as execute:
            state = read_rejects_state(execute)
        if state.head <= state.moved_through and not state.marks:
            return False
        table = self._table()
        table.create_if_missing()
        with writing_files(self._folder):
            return self._commit_once(table, state)

    def _commit_once(self, table: RejectsTable, state: RejectsState) -> bool:
        """As `_flush_once`, while nobody removes files that no commit names yet."""
        # Planned from this snapshot on: the letters are read after it, so that an erasure in between is noticed.
        snapshot = table.snapshot(state.source)
        if snapshot.watermark < state.moved_through or snapshot.version < state.version_min:
            raise CorruptData(
                f"the table in {self._folder} is older than the journal, which has moved dead letters up to"
                f" {state.moved_through} to its version {max(state.durable_version, state.version_min)}: restore both"
                " from one backup"
            )
        if snapshot.watermark > state.moved_through:
            # A commit that nobody saw succeed: make it durable before anything relies on it.
            self._make_durable(table, state.durable_version, through=snapshot.watermark, marks=())
        limits = self._limits()
        with self._journal.reading() as execute:
            letters = read_letters(
                execute, after=snapshot.watermark, letters_max=limits.letters_max, bytes_max=limits.bytes_max
            )
            marks = read_marks(execute)
        if letters:
            self._move_letters(table, snapshot, state, letters, marks)
            return True
        # Marks of provisional letters wait with them; those of letters that an erasure deleted do not.
        through = snapshot.watermark if state.head > snapshot.watermark else max_id(marks, state.source)
        in_table = [one for one in marks if one.source != state.source or one.id <= through]
        if not in_table:
            return False
        self._apply_marks(table, snapshot, state, in_table, watermark=max(snapshot.watermark, through))
        return True

    def _move_letters(
        self,
        table: RejectsTable,
        snapshot: RejectsSnapshot,
        state: RejectsState,
        letters: Sequence[DeadLetter],
        marks: Sequence[Mark],
    ) -> None:
        last = letters[-1].id
        of_letters = {(one.source, one.id): one for one in marks}
        applied = [one for one in marks if one.source == state.source and letters[0].id <= one.id <= last]
        by_date: dict[datetime.date, list[Row]] = {}
        for letter in letters:
            row = with_mark(row_of_letter(letter, state.source), of_letters)
            if row is not None:
                by_date.setdefault(row["received_at"].date(), []).append(row)
        removed: list[RejectsFile] = []
        added: list[RejectsFile] = []
        try:
            for date, rows in sorted(by_date.items()):
                small = [one for one in snapshot.files if one.date == date and one.size_bytes < SMALL_FILE_BYTES]
                for one in small:
                    rows.extend(self._rows(one))
                removed += small
                added += write_rows(self._folder, date, rows)
        except BaseException:
            remove_files(self._folder, added)
            raise
        self._commit(table, removed, added, snapshot=snapshot, state=state, watermark=last, marks=applied)

    def _apply_marks(
        self,
        table: RejectsTable,
        snapshot: RejectsSnapshot,
        state: RejectsState,
        marks: Sequence[Mark],
        *,
        watermark: int,
    ) -> None:
        by_reject = {(one.source, one.id): one for one in marks}
        removed: list[RejectsFile] = []
        added: list[RejectsFile] = []
        try:
            for file in snapshot.files:
                if not any(file.id_min <= one.id <= file.id_max for one in marks):
                    continue
                before = list(self._rows(file))
                after = [row for row in (with_mark(row, by_reject) for row in before) if row is not None]
                if after != before:
                    removed.append(file)
                    added += write_rows(self._folder, file.date, after)
        except BaseException:
            remove_files(self._folder, added)
            raise
        self._commit(table, removed, added, snapshot=snapshot, state=state, watermark=watermark, marks=marks)

    def _rows(self, file: RejectsFile) -> list[Row]:
        try:
            return list(read_rows(self._folder, file))
        except (FileNotFoundError, pa.ArrowException) as error:
            path = self._folder / file.relative_path
            raise CorruptData(f"{path} is missing or damaged ({error}); restore it from a backup") from error

    def _commit(
        self,
        table: RejectsTable,
        removed: Sequence[RejectsFile],
        added: Sequence[RejectsFile],
        *,
        snapshot: RejectsSnapshot,
        state: RejectsState,
        watermark: int,
        marks: Sequence[Mark],
    ) -> None:
        if removed or added or watermark > snapshot.watermark:
            try:
                table.commit(removed, added, planned_from=snapshot, source=state.source, watermark=watermark)
            except CommitRefused as error:
                # Judged before the files are removed, since that makes room.
                refused = refusal(self._folder, f"did not take a commit: {error}")
                remove_files(self._folder, added)
                raise refused from error
            except RewriteConflict:
                remove_files(self._folder, added)
                raise
            self._commits_since_checkpoint += 1
        self._make_durable(table, state.durable_version, through=watermark, marks=marks)
        if self._commits_since_checkpoint >= _CHECKPOINT_COMMITS:
            table.checkpoint()
            self._commits_since_checkpoint = 0

    def _make_durable(self, table: RejectsTable, durable_version: int, *, through: int, marks: Sequence[Mark]) -> None:
        """Sync the log, then record that and let go of what the table holds: never the other way round."""
        table.sync(after_version=durable_version)
        let_go(self._journal, through=through, durable_version=table.version, marks=marks)

    def _table(self) -> RejectsTable:
        if self._opened is None:
            self._opened = RejectsTable(self._folder)
        return self._opened


def max_id(marks: Sequence[Mark], source: str) -> int:
    """The largest id of *source* that a mark speaks of, 0 if there is none."""
    return max((one.id for one in marks if one.source == source), default=0)


def let_go(journal: Journal, *, through: int, durable_version: int, marks: Sequence[Mark]) -> None:
    """Delete the letters up to *through* and *marks*, which the table holds durably since *durable_version*."""
    with journal.writing() as execute:
        delete_letters(execute, "id <= ?", (through,))
        forget_marks(execute, marks)
        execute(
            "UPDATE rejects SET moved_through = max(moved_through, ?), durable_version = max(durable_version, ?),"
            " version_min = CASE WHEN ? THEN max(version_min, ?) ELSE version_min END",
            (through, durable_version, len(marks) > 0, durable_version),
        )

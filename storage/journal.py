"""The durable log: what is acknowledged is in here until the lake has it.

Positions are dense and never used twice: each transaction takes `next_position`, adds the number of its actions, and
writes both in one BEGIN IMMEDIATE. They are never derived from the rows, since a journal trimmed empty would begin
again at 1. Trimming writes `trimmed_position` in the transaction of its DELETE, so that a reader who sees a row gone
sees in the same read transaction that it was trimmed (the reader protocol stands in `storage.read_view`).

One group commit holds the accepted actions of all its requests, their dead letters and their idempotency keys; its
fsync (WAL, synchronous=FULL) is what an acknowledgement means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from storage.columns import JournalRow
from storage.dead_letters import (
    count_dead_letters,
    has_provisional,
    insert_dead_letters,
    read_dead_letters,
    read_rejects_state,
    replace_provisional,
)
from storage.erased_rows import ErasedRows
from storage.erasure_records import keep_after_new_id, read_erased_rows
from storage.errors import CorruptData, StoreError
from storage.head_mark import HeadMark
from storage.idempotency import delete_keys, newest_key_beyond, remember_keys, without_repetitions
from storage.journal_file import JournalFile
from storage.journal_records import STATE, Append, JournalState
from storage.journal_rows import INSERT_ROWS_MAX, insert_submissions, missing_from, rows_above, trim_step
from storage.latch import Latch
from storage.leader_page import LeaderPage
from storage.submission import Rejection, Submission

_KEYS_PER_TRANSACTION: Final = 1000
_POSITION_MAX: Final = (1 << 63) - 1


def mark_of(path: Path) -> Path:
    """Where the note lies of what the journal at *path* has acknowledged."""
    return path.with_suffix(".head")


class Journal(JournalFile):
    """One journal, opened by one process. All methods may be called from any thread."""

    def __init__(self, path: Path, latch: Latch | None, *, page: LeaderPage | None = None) -> None:
        """Open an existing journal, for reading only where there is no *latch*.

        Args:
            path: of the database.
            latch: is set when a write fails.
            page: on which processes that write to one journal make way for each other.

        Raises:
            CorruptData: the file is no journal, or damaged.
            StoreFailed: a setting on which durability rests did not take.
        """
        super().__init__(path, latch, page=page)
        self._mark = None if latch is None else HeadMark(mark_of(path))
        self.bytes_known = self.state().bytes
        with self.reading() as execute:
            self.reject_bytes_known = read_rejects_state(execute).bytes
        # By this process, since it opened the journal.
        self.trimmed_bytes = 0

    # Appending

    def append(self, group: Sequence[Append], *, now_us: int) -> list[bytes | StoreError]:
        """Make a group of requests durable in one transaction with one fsync.

        Returns:
            For each request, in order, its answer: its own, or that of the first request with its idempotency key.
            `IdempotencyConflict` in the place of a request whose key stands for another body; it stores nothing and
            does not touch the others.

        Raises:
            DiskFull: no space; nothing is kept, and a later append may succeed.
            Overloaded: somebody else was writing for too long; nothing is kept.
            StoreFailed: the write or its fsync failed. Nothing is visible now, but the rows may reappear after
                recovery. The latch is set.
        """
        with self._append_turn():
            return self._append_in_turn(group, now_us)

    def append_next(self, take: Callable[[], Sequence[Append]], *, now_us: int) -> list[bytes | StoreError]:
        """As `append`, with the group that *take* returns once it is this process's turn to write.

        Other processes may be writing, and what came while this one waited for them shares the commit. The wait has no
        limit: whoever does not wait so long may take back meanwhile what it would return.
        """
        with self._append_turn(patient=True):
            group = take()
            return self._append_in_turn(group, now_us) if group else []

    def _append_in_turn(self, group: Sequence[Append], now_us: int) -> list[bytes | StoreError]:
        outcomes: list[bytes | StoreError] = [one.answer for one in group]
        head: int | None = None
        if self._page is not None and _is_one_insert(group):
            # One step of SQLite instead of a handful, after each of which this thread has to win the interpreter's
            # lock back from those that parse, while everybody waits for it.
            submissions = _submissions(group)
            head = self._append_statement(lambda execute: self._insert_submissions(execute, submissions, now_us))
        if head is None:
            with self._append_transaction() as execute:
                fresh, outcomes = without_repetitions(execute, group)
                head = self._insert_submissions(execute, _submissions(fresh), now_us)
                rejections = [rejection for one in fresh for rejection in one.rejections]
                self._insert_dead_letters(execute, rejections, now_us)
                remember_keys(execute, fresh, now_us)
        self._note_head(head)
        return outcomes

    def append_decided(
        self, decide: Callable[[Callable[..., Any], int], tuple[Sequence[Submission], Sequence[Rejection]]], now_us: int
    ) -> None:
        """Append what *decide* chooses by what it reads in the same transaction, and what it writes there, durably.

        Args:
            decide: gets the transaction's `execute` and the position that the first action will have; returns what
                is to be appended, and what is to be kept as dead letters.
            now_us: the time of the append.

        Raises:
            DiskFull, StoreFailed: as `append`.
            Exception: whatever *decide* raises; nothing is kept then.
        """
        with self._appending() as execute:
            first_position = execute("SELECT next_position FROM journal").fetchone()[0]
            submissions, rejections = decide(execute, first_position)
            head = self._insert_submissions(execute, submissions, now_us)
            self._insert_dead_letters(execute, rejections, now_us)
        self._note_head(head)

    def _note_head(self, head: int | None) -> None:
        if head is not None and self._mark is not None:
            self._mark.note(head)

    def acknowledged(self) -> int:
        """The last position that any process has acknowledged since the journal was opened; 0 if only read here."""
        return 0 if self._mark is None else self._mark.noted()

    def _insert_dead_letters(self, execute: Callable[..., Any], rejections: Sequence[Rejection], now_us: int) -> None:
        if rejections:
            insert_dead_letters(execute, [(rejection, None) for rejection in rejections], now_us)
            self.reject_bytes_known = read_rejects_state(execute).bytes

    def _insert_submissions(
        self, execute: Callable[..., Any], submissions: Sequence[Submission], now_us: int
    ) -> int | None:
        """Insert rows at the next positions; return the last of these, None if there are no rows."""
        inserted = insert_submissions(execute, submissions, now_us)
        if inserted is None:
            return None
        head, self.bytes_known = inserted
        return head

    # Reading

    def state(self) -> JournalState:
        """Read the journal's own row."""
        with self._read_lock, self._translated():
            values: Any = self._reader.execute(STATE).fetchone()
            return JournalState(*values)

    def read_tail(self, after: int) -> tuple[JournalState, list[JournalRow], ErasedRows]:
        """Read the state, all rows that hold positions above *after*, and which rows anywhere count as erased.

        All in one read transaction, ended at once. Erased rows are among the rows. Rows that were trimmed are not: the
        caller has to look at `trimmed_position`.

        Raises:
            CorruptData: a row that was not trimmed is missing.
        """
        with self.reading() as execute:
            state = JournalState(*execute(STATE).fetchone())
            rows = list(rows_above(execute, after, state.head))
            erased = read_erased_rows(execute)
        self._require_dense(rows, after=max(after, state.trimmed_position), through=state.head)
        return state, rows, erased

    @contextlib.contextmanager
    def pinned(self) -> Iterator[tuple[JournalState, Callable[[int], Iterator[JournalRow]]]]:
        """Hold one read transaction: its state, and a function that yields the rows that hold positions above another.

        For a look at everything that does not fit into memory; the write-ahead log cannot be emptied meanwhile.
        """
        with self.reading() as execute:
            state = JournalState(*execute(STATE).fetchone())

            def all_above(after: int) -> Iterator[JournalRow]:
                # Whatever is there, also beyond the head, since this is for finding what should not be.
                return rows_above(execute, after, _POSITION_MAX)

            yield state, all_above

    def read_batch(self, after: int, *, through: int, rows_max: int, bytes_max: int) -> list[JournalRow]:
        """Read the oldest rows above *after*, at least one, as long as they begin up to *through* and fit both limits.

        The limits bound memory, so that a journal of any length is flushed in steps.

        Raises:
            CorruptData: a row is missing.
        """
        batch: list[JournalRow] = []
        actions = size = 0
        with self._reading_beside_readers() as execute:
            for row in rows_above(execute, after, through):
                actions += row.actions
                size += len(row.payload)
                if batch and (actions > rows_max or size > bytes_max):
                    break
                batch.append(row)
        self._require_dense(batch, after=after, through=batch[-1].last_position if batch else through)
        return batch

    def _require_dense(self, rows: Sequence[JournalRow], *, after: int, through: int) -> None:
        """Raise CorruptData unless *rows* hold every position above *after* up to *through*."""
        missing = missing_from(rows, after=after, through=through)
        if missing is not None:
            raise CorruptData(
                f"the journal {self.path} lacks rows from position {missing} on, which it says it holds up to"
                f" {through}; restore it from a backup"
            )

    def oldest_received_at_us(self) -> int | None:
        """When the oldest row that is still in the journal was received, or None if there is none."""
        with self._read_lock, self._translated():
            row: Any = self._reader.execute(
                "SELECT received_at_us FROM submissions ORDER BY first_position LIMIT 1"
            ).fetchone()
            return None if row is None else int(row[0])

    def dead_letters(self) -> int:
        """How many dead letters are kept."""
        with self._read_lock, self._translated():
            return count_dead_letters(self._reader.execute)

    def may_have_left_rows_out(self) -> bool:
        """Whether rows of this journal may be in neither the table nor the journal: it says so, or evidence is gone.

        False means for sure that no flush has put a row aside and no erasure has taken one away.
        """
        with self._read_lock, self._translated():
            counts: Any = self._reader.execute("SELECT count(*), count(position) FROM dead_letters").fetchone()
            made: Any = self._reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters'").fetchone()
            erased: Any = self._reader.execute("SELECT lake_version_min FROM journal").fetchone()
        return bool(counts[1] or counts[0] < (made[0] if made else 0) or erased[0])

    def read_dead_letters(self, *, limit: int) -> list[dict[str, Any]]:
        """Read the newest dead letters, each as column name → value."""
        with self._read_lock, self._translated():
            return read_dead_letters(self._reader.execute, limit=limit)

    @property
    def bytes_held_known(self) -> int:
        """Bytes of submissions and dead letters that the journal holds, as far as this process has seen."""
        return self.bytes_known + self.reject_bytes_known

    def look_at_bytes(self) -> None:
        """See what other processes have done to `bytes_held_known`."""
        with self.reading() as execute:
            self.bytes_known = JournalState(*execute(STATE).fetchone()).bytes
            self.reject_bytes_known = read_rejects_state(execute).bytes

    # Upkeep, by the leader

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[..., Any]]:
        """One durable upkeep transaction for what belongs to other modules; an error in it undoes it.

        Raises:
            DiskFull, StoreFailed: as `append`.
        """
        with self._upkeep_transaction() as execute:
            yield execute
            self.reject_bytes_known = read_rejects_state(execute).bytes

    def request_flush(self, position: int) -> None:
        """Ask the leader, whichever process that is, to flush up to *position*."""
        with self._appending() as execute:
            execute("UPDATE journal SET flush_requested_position = max(flush_requested_position, ?)", (position,))

    def record_durable(self, version: int) -> None:
        """Record that the lake's versions up to *version* are synced to disk."""
        with self._upkeep_transaction() as execute:
            execute("UPDATE journal SET durable_version = max(durable_version, ?)", (version,))

    def forget_versions(self) -> None:
        """Record that no version of the lake is known: it is being made anew. Only for recovery."""
        with self._upkeep_transaction() as execute:
            execute("UPDATE journal SET durable_version = 0, lake_version_min = 0")

    def require_version(self, version: int) -> None:
        """Have every reader use version *version* of the lake, which is durable, or a newer one from now on."""
        with self._upkeep_transaction() as execute:
            execute("UPDATE journal SET lake_version_min = max(lake_version_min, ?)", (version,))

    def trim(self, through: int, *, durable_version: int) -> None:
        """Delete the rows up to *through*, which the lake holds durably since *durable_version*.

        Done in steps of a few megabytes, since each holds the write lock. A submission that is in the lake only in
        part stays until all of it is there; readers go by positions.

        Raises:
            DiskFull: no space for the deletion's own log; rows stay, and trimming again later is safe.
            StoreFailed: the write or its fsync failed; the latch is set.
        """
        while True:
            with self._upkeep_transaction() as execute:
                size, self.bytes_known, done = trim_step(execute, through, durable_version=durable_version)
            self.trimmed_bytes += size
            if done:
                return

    def move_to_dead_letters(self, letters: Sequence[tuple[Rejection, int]], *, watermark: int, now_us: int) -> None:
        """Keep actions above *watermark* that cannot be flushed as dead letters, each at most once by its position.

        What an earlier attempt to flush put aside above *watermark*, and this one does not, is a dead letter no more.
        """
        if letters or self.has_provisional_letters(watermark):
            with self._upkeep_transaction() as execute:
                replace_provisional(execute, letters, watermark=watermark, now_us=now_us)
                self.reject_bytes_known = read_rejects_state(execute).bytes

    def has_provisional_letters(self, watermark: int) -> bool:
        """Whether an earlier attempt to flush put rows above *watermark* aside."""
        with self._read_lock, self._translated():
            return has_provisional(self._reader.execute, watermark=watermark)

    def forget_idempotency_keys(self, *, before_us: int, bytes_max: int) -> int:
        """Delete keys stored before *before_us*, and the oldest ones beyond *bytes_max*; return how many.

        What has to go is looked up without holding up appends, and deleted in steps, since each holds the write lock.
        """
        with self._reading_beside_readers() as execute:
            newest_beyond = newest_key_beyond(execute, bytes_max=bytes_max)
        if newest_beyond is not None:
            before_us = max(before_us, newest_beyond + 1)
        deleted = 0
        while True:
            with self._upkeep_transaction() as execute:
                delete_keys(execute, before_us=before_us, keys_max=_KEYS_PER_TRANSACTION)
                step = self._upkeep.changes()
            deleted += step
            if step < _KEYS_PER_TRANSACTION:
                return deleted

    def begin_mark(self) -> None:
        """Let the note of what was acknowledged begin anew with what is there. Only after recovery."""
        if self._mark is not None:
            state = self.state()
            self._mark.begin(state.id, state.head)

    def take_new_id(self, new: str) -> None:
        """Give a journal that was rolled back the id *new*, without the rows, which the lake has under the old one.

        Positions go on where they are, so that the table must hold that as the watermark of *new* already.
        """
        with self._upkeep_transaction() as execute:
            keep_after_new_id(execute, new)
            execute("DELETE FROM submissions")
            execute(
                "UPDATE journal SET id = ?, trimmed_position = next_position - 1, bytes = 0,"
                " flush_requested_position = 0",
                (new,),
            )

    def close(self) -> None:
        """Close all connections; the last one of all processes checkpoints."""
        super().close()
        if self._mark is not None:
            self._mark.close()
            self._mark = None


def _submissions(group: Sequence[Append]) -> list[Submission]:
    return [submission for one in group for submission in one.submissions]


def _is_one_insert(group: Sequence[Append]) -> bool:
    """Whether all that a group asks to keep are rows that one statement takes."""
    rows = sum(len(one.submissions) for one in group)
    return 0 < rows <= INSERT_ROWS_MAX and not any(one.idempotency or one.rejections for one in group)

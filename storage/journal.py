"""The durable log: what is acknowledged is in here until the lake has it.

Positions are dense and never used twice: each transaction takes `next_position`, adds the number of its actions, and
writes both in one BEGIN IMMEDIATE. They are never derived from the rows, since a journal trimmed empty would begin
again at 1. Trimming writes `trimmed_position` in the transaction of its DELETE, so that a reader who sees a row gone
sees in the same read transaction that it was trimmed (the reader protocol stands in `storage.store`).

One group commit holds the accepted actions of all its requests, their dead letters and their idempotency keys; its
fsync (WAL, synchronous=FULL) is what an acknowledgement means.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from storage.columns import JournalRow, row_checksum
from storage.dead_letters import (
    count_dead_letters,
    has_provisional,
    insert_dead_letters,
    read_dead_letters,
    read_rejects_state,
    replace_provisional,
)
from storage.durable_files import fsync_path, make_durable_folder
from storage.erased_rows import ErasedRows
from storage.erasure_records import keep_after_new_id, read_erased_rows
from storage.errors import CorruptData, DiskFull, Overloaded, StoreError, StoreFailed
from storage.head_mark import HeadMark
from storage.idempotency import delete_keys, newest_key_beyond, remember_keys, without_repetitions
from storage.journal_records import SCHEMA_VERSION, STATE, Append, JournalState, upgrade_statements
from storage.latch import Latch
from storage.leader_page import LeaderPage
from storage.submission import Rejection, Submission

BUSY_TIMEOUT_MS: Final = 10_000
_TRIM_BYTES_PER_TRANSACTION: Final = 4 * 1024 * 1024
_KEYS_PER_TRANSACTION: Final = 1000
_PAGE_BYTES: Final = 4096
_SHRINK_PAGES: Final = 256
# What a submission costs beyond its payload and ids: its fixed columns and its place in the tree.
_ROW_OVERHEAD_BYTES: Final = 64
_INSERT_ROWS_MAX: Final = 128
_POSITION_MAX: Final = (1 << 63) - 1

_PRAGMAS: Final = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "auto_vacuum": 2}


_ROWS: Final = (
    "SELECT first_position, last_position, received_at_us, user_id, session_id, payload, checksum FROM submissions"
)


def mark_of(path: Path) -> Path:
    """Where the note lies of what the journal at *path* has acknowledged."""
    return path.with_suffix(".head")


def new_journal_id() -> str:
    """Make an id that no other journal has."""
    return uuid.uuid4().hex


class Journal:
    """One journal file, opened by one process. All methods may be called from any thread.

    There is one connection for appends, one for readers and one for trimming and checkpoints, each behind its own
    lock, so that a checkpoint does not keep an append waiting in this process.
    """

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
        self.path = path
        self._latch = latch
        self._page = page
        self._append_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._upkeep_lock = threading.Lock()
        self._mark: HeadMark | None = None
        with self._translated():
            self._reader = self._connect(read_only=latch is None)
            if latch is not None:
                self._mark = HeadMark(mark_of(path))
                self._appender = self._connect(read_only=False)
                self._upkeep = self._connect(read_only=False)
            self.bytes_known = self.state().bytes
            self.reject_bytes_known = read_rejects_state(self._reader.execute).bytes
        # By this process, since it opened the journal.
        self.trimmed_bytes = 0

    @staticmethod
    def create(path: Path, *, durable_version: int, rejects_durable_version: int = -1) -> None:
        """Make a new, empty journal with an id of its own, durably.

        Args:
            path: where; nothing may be there yet.
            durable_version: the newest version of the lake at this moment.
            rejects_durable_version: the newest version of the table `rejects`, -1 if there is none.

        Raises:
            StoreFailed: the file could not be made.
        """
        make_durable_folder(path.parent)
        unfinished = path.with_suffix(".creating")
        unfinished.unlink(missing_ok=True)
        try:
            connection = apsw.Connection(str(unfinished))
            connection.execute(f"PRAGMA auto_vacuum = {_PRAGMAS['auto_vacuum']}")
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(upgrade_statements(0))
            journal = new_journal_id()
            connection.execute(
                "INSERT INTO journal (only, id, next_position, trimmed_position, durable_version, lake_version_min,"
                " bytes, flush_requested_position) VALUES (1, ?, 1, 0, ?, 0, 0, 0)",
                (journal, durable_version),
            )
            connection.execute(
                "INSERT INTO rejects (only, source, moved_through, durable_version, version_min, bytes,"
                " flush_requested_id) VALUES (1, ?, 0, ?, -1, 0, 0)",
                (journal, rejects_durable_version),
            )
            connection.execute("COMMIT")
            connection.close()
            fsync_path(unfinished)
            os.rename(unfinished, path)
            fsync_path(path.parent)
        except (apsw.Error, OSError) as error:
            raise StoreFailed(f"the journal {path} could not be made: {error}") from error

    @staticmethod
    def upgrade(path: Path) -> None:
        """Bring a journal of an older format to the present one, durably; without effect on one that is.

        Only for the holder of the folder's lock, before anybody else opens the journal.

        Raises:
            CorruptData: it is no journal, or of a format that only a newer program knows.
            StoreFailed: it could not be written.
        """
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                version = connection.pragma("user_version")
                if version == 0:
                    raise CorruptData(f"{path} is not a journal")
                if version != SCHEMA_VERSION:
                    connection.execute(upgrade_statements(version))
                connection.execute("COMMIT")
            finally:
                connection.close()
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise CorruptData(f"the journal {path} is damaged ({error}); restore it from a backup") from error
        except apsw.Error as error:
            raise StoreFailed(f"the journal {path} could not be brought to a new format: {error}") from error

    def _connect(self, *, read_only: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(str(self.path), flags=flags)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        version = connection.pragma("user_version")
        if version != SCHEMA_VERSION:
            raise CorruptData(f"{self.path} is not a journal of format {SCHEMA_VERSION} (it says {version})")
        if read_only:
            # The last to close copies the log into the database; one that cannot write must not try.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            # Checkpoints are the leader's, so that no submission waits for one.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            for name, wanted in _PRAGMAS.items():
                got = connection.pragma(name)
                if got != wanted:
                    raise StoreFailed(f"{self.path}: PRAGMA {name} is {got!r} where it must be {wanted!r}")
        return connection

    # Appending

    def append(self, group: Sequence[Append], *, now_us: int) -> list[bytes | StoreError]:
        """Make a group of requests durable in one transaction with one fsync.

        Returns:
            For each request, in order, its answer: its own, or that of the first request with its idempotency key.
            `IdempotencyConflict` in the place of a request whose key stands for another body; it stores nothing and
            does not touch the others.

        Raises:
            DiskFull: no space; nothing is kept, and a later append may succeed.
            StoreFailed: the write or its fsync failed. Nothing is visible now, but the rows may reappear after
                recovery. The latch is set.
        """
        return self.append_next(lambda: group, now_us=now_us)

    def append_next(self, take: Callable[[], Sequence[Append]], *, now_us: int) -> list[bytes | StoreError]:
        """As `append`, with the group that *take* returns once it is this process's turn to write.

        Other processes may be writing, and what came while this one waited for them shares the commit.
        """
        if self._page is not None:
            self._page.give_way()
        with self._append_lock, self._translated(), self._transaction(self._appender) as execute:
            # In here, since a commit that this one had to wait for may have set it.
            self._check_latch()
            fresh, outcomes = without_repetitions(execute, take())
            rows = [(one, submission) for one in fresh for submission in one.submissions]
            head = self._insert_submissions(execute, [submission for _, submission in rows], now_us)
            self._insert_dead_letters(execute, [rejection for one in fresh for rejection in one.rejections], now_us)
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
        with self._append_lock, self._translated(), self._transaction(self._appender) as execute:
            self._check_latch()
            first_position = execute("SELECT next_position FROM journal").fetchone()[0]
            submissions, rejections = decide(execute, first_position)
            head = self._insert_submissions(execute, submissions, now_us)
            self._insert_dead_letters(execute, rejections, now_us)
        self._note_head(head)

    def _note_head(self, head: int | None) -> None:
        if head is not None and self._mark is not None:
            self._mark.note(head)

    def _insert_dead_letters(self, execute: Callable[..., Any], rejections: Sequence[Rejection], now_us: int) -> None:
        if rejections:
            insert_dead_letters(execute, [(rejection, None) for rejection in rejections], now_us)
            self.reject_bytes_known = read_rejects_state(execute).bytes

    def _insert_submissions(
        self, execute: Callable[..., Any], submissions: Sequence[Submission], now_us: int
    ) -> int | None:
        """Insert rows at the next positions; return the last of these, None if there are no rows."""
        if not submissions:
            return None
        actions = sum(submission.actions for submission in submissions)
        size = sum(_row_bytes(s.user_id, s.session_id, s.payload) for s in submissions)
        next_position, self.bytes_known = execute(
            "UPDATE journal SET next_position = next_position + ?, bytes = bytes + ? RETURNING next_position, bytes",
            (actions, size),
        ).fetchone()
        position = next_position - actions
        values: list[Any] = []
        for submission in submissions:
            last = position + submission.actions - 1
            user, session = submission.user_id, submission.session_id
            checksum = row_checksum(position, last, now_us, user, session)
            values += (position, last, now_us, user, session, submission.payload, checksum)
            position = last + 1
        # One statement for many rows: each statement gives up the interpreter's lock and has to win it back.
        for start in range(0, len(submissions), _INSERT_ROWS_MAX):
            part = values[start * 7 : (start + _INSERT_ROWS_MAX) * 7]
            places = ",".join(["(?,?,?,?,?,?,?)"] * (len(part) // 7))
            execute(f"INSERT INTO submissions VALUES {places}", part)  # noqa: S608
        return int(position) - 1

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
        with self._read_lock, self._translated(), _read_transaction(self._reader) as execute:
            state = JournalState(*execute(STATE).fetchone())
            rows = [JournalRow(*values) for values in _rows_above(execute, after, state.head)]
            erased = read_erased_rows(execute)
        self._require_dense(rows, after=max(after, state.trimmed_position), through=state.head)
        return state, rows, erased

    @contextlib.contextmanager
    def pinned(self) -> Iterator[tuple[JournalState, Callable[[int], Iterator[JournalRow]]]]:
        """Hold one read transaction: its state, and a function that yields the rows that hold positions above another.

        For a look at everything that does not fit into memory; the write-ahead log cannot be emptied meanwhile.
        """
        with self._read_lock, self._translated(), _read_transaction(self._reader) as execute:
            state = JournalState(*execute(STATE).fetchone())

            def rows_above(after: int) -> Iterator[JournalRow]:
                # Whatever is there, also beyond the head, since this is for finding what should not be.
                return (JournalRow(*values) for values in _rows_above(execute, after, _POSITION_MAX))

            yield state, rows_above

    def read_batch(self, after: int, *, through: int, rows_max: int, bytes_max: int) -> list[JournalRow]:
        """Read the oldest rows above *after*, at least one, as long as they begin up to *through* and fit both limits.

        The limits bound memory, so that a journal of any length is flushed in steps.

        Raises:
            CorruptData: a row is missing.
        """
        batch: list[JournalRow] = []
        actions = size = 0
        with self._upkeep_lock, self._translated(), _read_transaction(self._upkeep) as execute:
            for values in _rows_above(execute, after, through):
                row = JournalRow(*values)
                actions += row.actions
                size += len(row.payload)
                if batch and (actions > rows_max or size > bytes_max):
                    break
                batch.append(row)
        self._require_dense(batch, after=after, through=batch[-1].last_position if batch else through)
        return batch

    def _require_dense(self, rows: Sequence[JournalRow], *, after: int, through: int) -> None:
        """Raise CorruptData unless *rows* hold every position above *after* up to *through*."""
        for row in rows:
            if row.first_position > after + 1:
                break
            after = max(after, row.last_position)
        if after < through:
            raise CorruptData(
                f"the journal {self.path} lacks rows from position {after + 1} on, which it says it holds up to"
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

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[..., Any]]:
        """One read transaction for what belongs to other modules; rows must be copied before it ends."""
        with self._read_lock, self._translated(), _read_transaction(self._reader) as execute:
            yield execute

    def copy_to(self, path: Path) -> None:
        """Copy the journal as it is at one instant into a new file, durably; appends go on meanwhile.

        Raises:
            DiskFull: no space there.
            StoreFailed: it could not be read, or not be written there.
        """
        with self._read_lock, self._translated():
            copy = apsw.Connection(str(path))
            try:
                with copy.backup("main", self._reader, "main") as copying:
                    # All pages in one step, which is one read transaction: a copy in steps begins anew at each commit.
                    copying.step(-1)
                # So that it is one file, which can be read from where nothing can be written.
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
        fsync_path(path)
        fsync_path(path.parent)

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
        with self._append_lock, self._translated(), self._transaction(self._appender) as execute:
            self._check_latch()
            execute("UPDATE journal SET flush_requested_position = max(flush_requested_position, ?)", (position,))

    def record_durable(self, version: int) -> None:
        """Record that the lake's versions up to *version* are synced to disk."""
        with self._upkeep_transaction() as execute:
            execute("UPDATE journal SET durable_version = max(durable_version, ?)", (version,))

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
                step, done = self._next_trim(execute, through)
                size = execute(
                    "SELECT total(length(payload) + length(CAST(user_id AS BLOB))"
                    " + ifnull(length(CAST(session_id AS BLOB)), 0) + ?)"
                    " FROM submissions WHERE first_position <= ? AND last_position <= ?",
                    (_ROW_OVERHEAD_BYTES, step, step),
                ).fetchone()[0]
                execute("DELETE FROM submissions WHERE first_position <= ? AND last_position <= ?", (step, step))
                self.bytes_known = execute(
                    "UPDATE journal SET trimmed_position = max(trimmed_position, ?), bytes = bytes - ?,"
                    " durable_version = max(durable_version, ?) RETURNING bytes",
                    (step, int(size), durable_version),
                ).fetchone()[0]
            self.trimmed_bytes += int(size)
            if done:
                return

    def _next_trim(self, execute: Callable[..., Any], through: int) -> tuple[int, bool]:
        """Return up to where one transaction trims, and whether that is all.

        One statement with one row: every row that is fetched gives up the interpreter's lock and has to win it back.
        """
        last = execute(
            "SELECT min(last_position) FROM (SELECT last_position, sum(length(payload)) OVER (ORDER BY first_position)"
            " AS held FROM submissions WHERE first_position <= ?) WHERE held > ? AND last_position < ?",
            (through, _TRIM_BYTES_PER_TRANSACTION, through),
        ).fetchone()[0]
        return (through, True) if last is None else (last, False)

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
        with self._upkeep_lock, self._translated(), _read_transaction(self._upkeep) as execute:
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

    def wal_bytes(self) -> int:
        """The size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, *, truncate: bool) -> None:
        """Copy the write-ahead log into the database file.

        With *truncate* the log file is emptied as well, and free pages go back to the file system; this waits for
        readers and writers, so that it comes after a checkpoint without it. If they are in the way for too long,
        nothing is said: the log is not lost, only longer.

        Raises:
            DiskFull: the database file cannot grow; the log holds everything still.
            StoreFailed: a write or a sync failed.
        """
        try:
            with self._upkeep_lock, self._translated():
                self._upkeep.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if truncate:
                with self._upkeep_turn(), self._translated():
                    self._upkeep.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except DiskFull:
            raise
        except Overloaded:
            # A commit at the same instant, or a reader in another process, is in the way, and SQLite does not wait for
            # all of them; the next checkpoint gets its chance.
            return

    def scrub(self) -> bool:
        """Return all free pages to the file system and empty the write-ahead log, so that nothing deleted is left.

        Returns:
            Whether the log was emptied: not if a reader or a writer was in the way for too long.
        """
        with self._upkeep_turn(), self._translated():
            for _ in self._upkeep.execute("PRAGMA incremental_vacuum"):
                pass
            try:
                self._upkeep.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return False
            return True

    def shrink(self, *, free_bytes_kept: int) -> None:
        """Return free pages of the database file to the file system, but for *free_bytes_kept*.

        Done in steps of a megabyte, since each holds the write lock.
        """
        while True:
            with self._upkeep_turn(), self._translated():
                spare = self._upkeep.pragma("freelist_count") - free_bytes_kept // _PAGE_BYTES
                if spare <= 0:
                    return
                pages = min(spare, _SHRINK_PAGES)
                for _ in self._upkeep.execute(f"PRAGMA incremental_vacuum({pages})"):
                    pass
            if spare <= _SHRINK_PAGES:
                return

    def integrity_problems(self, *, thorough: bool = False) -> list[str]:
        """Check the database's structure, with *thorough* its indexes too.

        Returns:
            What is wrong with it, nothing if it is whole.
        """
        check = "integrity_check" if thorough else "quick_check"
        with self._read_lock, self._translated():
            return [row[0] for row in self._reader.execute(f"PRAGMA {check}") if row[0] != "ok"]

    def close(self) -> None:
        """Close all connections; the last one of all processes checkpoints."""
        with self._upkeep_lock, self._append_lock, self._read_lock:
            self._reader.close()
            if self._latch is not None:
                self._appender.close()
                self._upkeep.close()
            if self._mark is not None:
                self._mark.close()
                self._mark = None

    # Errors

    @contextlib.contextmanager
    def _upkeep_transaction(self) -> Iterator[Callable[..., Any]]:
        """A transaction of the upkeep connection that takes its turn with the appends of this and other processes."""
        with self._upkeep_turn(), self._translated(), self._transaction(self._upkeep) as execute:
            self._end_turn()
            yield execute

    @contextlib.contextmanager
    def _upkeep_turn(self) -> Iterator[None]:
        """Keep appends from taking the write lock, those of other processes for as long as a turn lasts."""
        with self._upkeep_lock, self._append_lock:
            if self._page is not None:
                self._page.want_turn()
            try:
                yield
            finally:
                self._end_turn()

    def _end_turn(self) -> None:
        if self._page is not None:
            self._page.end_turn()

    @contextlib.contextmanager
    def _transaction(self, connection: apsw.Connection) -> Iterator[Callable[..., Any]]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection.execute
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the library's errors into the store's, and latch what must not be retried."""
        try:
            yield
        except apsw.FullError as error:
            raise DiskFull("no space left on the journal's disk", retry_after_s=5) from error
        except apsw.BusyError as error:
            raise Overloaded("the journal was busy for too long") from error
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, UnicodeDecodeError) as error:
            reason = f"the journal {self.path} is damaged ({error}); restore it from a backup, or move it away"
            self._set_latch(reason)
            raise CorruptData(reason) from error
        except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError) as error:
            if _extended_result(error) == apsw.SQLITE_IOERR_SHMSIZE and _is_full(self.path.parent):
                raise DiskFull("no space left for the journal's index", retry_after_s=5) from error
            reason = f"the journal {self.path} could not be written or read: {error}"
            self._set_latch(reason)
            raise StoreFailed(reason) from error

    def _check_latch(self) -> None:
        if self._latch is not None:
            self._latch.check()

    def _set_latch(self, reason: str) -> None:
        """Latch the store; a process that only reads does not judge for the service."""
        if self._latch is not None:
            self._latch.set(reason)


def _extended_result(error: apsw.Error) -> int:
    """Return SQLite's extended result code, which the library's stubs leave out."""
    return int(error.extendedresult)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _read_transaction(connection: apsw.Connection) -> Iterator[Callable[..., Any]]:
    """Hold one read transaction; rows must be copied before it ends."""
    with connection:
        yield connection.execute


def _rows_above(execute: Callable[..., Any], after: int, through: int) -> Iterator[Sequence[Any]]:
    """Yield the rows that hold positions above *after* and begin up to *through*."""
    # The row that holds position `after` + 1 may begin before it; positions are dense, so the row with the
    # largest first position up to there is where to begin.
    start = execute("SELECT max(first_position) FROM submissions WHERE first_position <= ?", (after + 1,)).fetchone()[0]
    yield from execute(
        f"{_ROWS} WHERE first_position >= ? AND first_position <= ? AND last_position > ? ORDER BY first_position",
        (start if start is not None else 0, through, after),
    )


def _row_bytes(user_id: str, session_id: str | None, payload: bytes) -> int:
    session_bytes = len(session_id.encode()) if session_id is not None else 0
    return len(payload) + len(user_id.encode()) + session_bytes + _ROW_OVERHEAD_BYTES


def _is_full(folder: Path) -> bool:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize < 64 * 1024

"""The store: open, append, read, flush, close.

The one invariant:

    A snapshot of the lake at version V carries, for every journal J, a watermark W(J). Rows of J at positions up to
    W(J) are in the lake, each exactly once; rows above it are in the journal. What is stored is therefore
    lake(V) + the journal's rows above the W of that same V: no gap, no duplicate, at every instant.

How a reader stays on it (`Store.read_view`): take the snapshot V at hand; in ONE read transaction of the journal read
`trimmed_position`, `lake_version_min` and the rows above W(V). If `trimmed_position` > W(V), rows were trimmed that
this snapshot does not have yet; if V < `lake_version_min`, the snapshot must not be used any more. In both cases load
the table again and repeat. Snapshot first and tail after, without this check, leaves gaps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa

from storage.caretaker import Caretaker, Chore
from storage.columns import JournalRow
from storage.data_files import DataFile
from storage.dead_letters import read_rejects_state
from storage.durable_files import make_durable_folder
from storage.erased_rows import NOTHING_ERASED, ErasedRows
from storage.eraser import Eraser, request_erasure
from storage.erasure_records import Erasure, newest_erasures, read_erasure
from storage.errors import CorruptData, DiskFull, Overloaded, StoreError, StoreFailed, StoreLocked
from storage.flush import Flusher, FlushLimits, FlushResult
from storage.headroom import Headroom
from storage.history.chore import HistoryChore
from storage.hot import HotRows
from storage.journal import Journal
from storage.journal_records import Append, JournalState
from storage.lake import Lake, Snapshot
from storage.latch import Latch
from storage.leader import KeyLimits, Leader
from storage.leader_page import LeaderPage
from storage.locks import FileLock
from storage.maintenance.chores import Upkeeper
from storage.maintenance.options import MaintenanceOptions
from storage.new_columns import add_columns
from storage.paths import StorePaths
from storage.recovery import RecoveryReport, recover
from storage.rejects import RejectsReader
from storage.rejects_flush import RejectsFlusher, RejectsLimits
from storage.rejects_vacuum import RejectsVacuum
from storage.replay import Decisions
from storage.schema import ActionSchema
from storage.share_book import ShareBook
from storage.shortcut_upkeep import UserFilterChore
from storage.shortcuts import ShortcutLimits, Shortcuts, ShortcutStatus

_READ_ATTEMPTS_MAX: Final = 100
_FLUSH_POLL_S: Final = 0.01
_REJECTS_VACUUM_INTERVAL_S: Final = 60.0
_USER_FILTERS_INTERVAL_S: Final = 1.0
_HISTORY_INTERVAL_S: Final = 1.0
_WORKERS_END_TIMEOUT_S: Final = 15.0
_LOCK_POLL_S: Final = 0.05
# How those describe themselves who hold the folder's lock for the length of a recovery only.
FOR_A_MOMENT: Final = ", for a moment"
_ERASURE_INTERVAL_S: Final = 1.0


def system_now_us() -> int:
    """The clock: microseconds since the epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store behaves; see the settings of the same names.

    Attributes:
        erasure_grace_ms: how long queries may go on that began before a user's files were rewritten.
        forget_user: removes what is kept of an erased user outside of the store's own files; called again if it fails.
        on_flush: called after each commit to the lake, in the leader's thread.
        on_flush_error: called for each failed attempt.
        on_chore_error: called with the chore's name when upkeep of the table failed; it is tried again.
    """

    flush: FlushLimits = field(default_factory=FlushLimits)
    rejects: RejectsLimits = field(default_factory=RejectsLimits)
    shortcuts: ShortcutLimits = field(default_factory=ShortcutLimits)
    maintenance: MaintenanceOptions = field(default_factory=MaintenanceOptions)
    journal_bytes_max: int = 1 << 30
    disk_free_bytes_min: int = 0
    idempotency_retention_hours: int = 72
    idempotency_bytes_max: int = 268_435_456
    now_us: Callable[[], int] = system_now_us
    erasure_grace_ms: int = 60_000
    forget_user: Callable[[str], None] = lambda _: None
    on_flush: Callable[[FlushResult], None] = lambda _: None
    on_flush_error: Callable[[BaseException], None] = lambda _: None
    on_chore_error: Callable[[str, BaseException], None] = lambda _name, _error: None


@dataclass(frozen=True, slots=True)
class ReadView:
    """Everything that is stored at one instant: the files of one version, and the journal's rows above its watermark.

    Attributes:
        snapshot: the table's version with its files.
        hot: the rows that are in the journal only, with all columns of the table.
        schema: the columns.
        journal: id of the journal the hot rows are from.
        shortcuts: what finds a user's rows sooner; no part of what is stored.
        erased: rows of the files that must be left out, since an erasure of their users is under way. The hot rows
            have none.
    """

    snapshot: Snapshot
    hot: pa.Table
    schema: ActionSchema
    journal: str
    shortcuts: Shortcuts
    erased: ErasedRows = NOTHING_ERASED

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The data files of the snapshot."""
        return self.snapshot.files


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What `actionlake status` tells; of rejects, those in the journal's database (`dead_letters`) and in the table."""

    version: int
    watermark: int
    files: int
    rows: int
    bytes: int
    journal: JournalState
    journal_file_bytes: int
    oldest_received_at_us: int | None
    dead_letters: int
    rejects: int
    rejects_files: int
    rejects_bytes: int
    shortcuts: ShortcutStatus


class Store:
    """One process's access to a store. Methods may be called from any thread."""

    def __init__(self, paths: StorePaths, schema: ActionSchema, options: StoreOptions, *, read_only: bool) -> None:
        """Use `open_store`, `join_store` or `read_store`."""
        self.paths = paths
        self.schema = schema
        self.options = options
        self.latch = None if read_only else Latch(paths.latch)
        self._page = None if read_only else LeaderPage(paths.leader_page)
        self._lake = Lake(paths.table, schema)
        self.journal = Journal(paths.journal, self.latch, page=self._page)
        self._headroom = None if self._page is None else self._make_headroom(self._page)
        self.journal_id = self.journal.state().id
        self._hot = HotRows(self.journal_id, schema)
        self._shortcuts = Shortcuts(paths, options.shortcuts)
        self._filtered: tuple[pa.Table, ErasedRows, pa.Table] | None = None
        self._read_lock = threading.Lock()
        self.rejects = RejectsReader(self.journal, paths.rejects)
        self._lock: FileLock | None = None
        self._leader: Leader | None = None
        self._caretaker: Caretaker | None = None
        self._history: HistoryChore | None = None
        self._upkeeper: Upkeeper | None = None

    def own(self, lock: FileLock) -> None:
        """Release *lock* when this store is closed."""
        self._lock = lock

    def _make_headroom(self, page: LeaderPage) -> Headroom:
        return Headroom(
            self.journal,
            page,
            folders=(self.paths.table, self.paths.journal.parent),
            journal_bytes_max=lambda: self.options.journal_bytes_max,
            disk_free_bytes_min=lambda: self.options.disk_free_bytes_min,
        )

    # Configuration

    def use(self, schema: ActionSchema, options: StoreOptions) -> bool:
        """Take other action types, promoted properties and limits, all at once, while the store is in use.

        Columns that the table lacks are added first, by the process that leads, between two flushes and durably. A
        flush writes every column that the table has by then, so that values accepted under either configuration
        reach the table, whichever process flushes and whatever it has heard of.

        Returns:
            Whether it was taken. False while the table lacks columns that another process, the leader, has to add:
            call again a little later. Until then everything is as before.

        Raises:
            CorruptData: a promoted property's column is in the table with another type.
            CommitRefused: another commit was first; call again.
            StoreFailed: the store is latched, or the disk does not take the new columns.
        """
        if schema == self.schema:
            self.options = options
            return True
        if not self._has_columns(schema):
            return False
        # A view is pinned under the same lock, so that none has hot rows of one schema and columns of another.
        with self._read_lock:
            self.schema = schema
            self.options = options
            self._hot = HotRows(self.journal_id, schema)
        return True

    def _has_columns(self, schema: ActionSchema) -> bool:
        latch = self._require_writable()
        lake = Lake(self.paths.table, schema)
        if not lake.missing_columns():
            return True
        if self._leader is None:
            return False
        with self._leader.between_flushes() as leads:
            if not leads:
                return False
            add_columns(lake, self.journal, latch)
        return True

    # Writing

    def append(self, group: Sequence[Append]) -> list[bytes | StoreError]:
        """Make requests durable and visible; see `Journal.append`."""
        return self.journal.append(group, now_us=self.options.now_us())

    def check_writable(self, part: float = 1.0) -> None:
        """Do nothing while submissions can be taken that may fill this *part* of the journal.

        Raises:
            StoreFailed: the store is latched.
            DiskFull: the disk has too little space left.
            Overloaded: the journal holds as much as it may.
        """
        if self.latch is not None:
            self.latch.check()
        if self._headroom is not None:
            self._headroom.check(part)

    @property
    def held_bytes(self) -> int:
        """What the journal holds, its log included, as far as this process knows."""
        return 0 if self._headroom is None else self._headroom.held_bytes

    def seconds_to_drain(self, excess_bytes: int) -> int:
        """How long a client should wait until so much was flushed; see `Headroom.seconds_to_drain`."""
        return 1 if self._headroom is None else self._headroom.seconds_to_drain(excess_bytes)

    def pause_s(self, committed_bytes: int) -> float:
        """How long to pause after a commit of so many bytes, so that flushes keep up; see `Headroom.pause_s`."""
        return 0.0 if self._headroom is None else self._headroom.pause_s(committed_bytes)

    @property
    def drained_bytes_per_s(self) -> int:
        """How many bytes of the journal the last flushes moved in a second of their work; 0 before the first."""
        return 0 if self._page is None else self._page.drained_bytes_per_s

    def open_share_book(self) -> ShareBook:
        """Join the book of who waits with how much; to be closed."""
        self._require_writable()
        assert self._page is not None, "whoever may write has the page"
        page = self._page
        return ShareBook(
            self.paths.share_book, flushes_begun=lambda: page.flushes_begun, flushing=lambda: page.flushing
        )

    def decisions(self) -> Decisions:
        """What replays and drops rejects of this store.

        Raises:
            RuntimeError: the store is open for reading only.
        """
        self._require_writable()
        return Decisions(self.journal, self.rejects, now_us=self.options.now_us)

    # Reading

    def read_view(self) -> ReadView:
        """Pin everything that is stored at this instant, every acknowledged action included.

        Raises:
            StoreFailed: the journal could not be read.
            CorruptData: the table's log or a row of the journal is damaged.
        """
        with self._read_lock:
            snapshot = self._lake.snapshot(self.journal_id)
            for _ in range(_READ_ATTEMPTS_MAX):
                state, rows, erased = self.journal.read_tail(self._hot.next_after(snapshot.watermark))
                if state.id != self.journal_id:
                    # Recovery gave the journal a new id while this process, a reader beside it, had it open.
                    self.journal_id = state.id
                    self._hot = HotRows(state.id, self.schema)
                    snapshot = self._lake.reload(state.id)
                    continue
                if state.trimmed_position <= snapshot.watermark and snapshot.version >= state.lake_version_min:
                    self._extend_hot(rows, state.head)
                    shown = self._shown(erased)
                    return ReadView(snapshot, shown, self.schema, self.journal_id, self._shortcuts, erased)
                snapshot = self._lake.reload(self.journal_id)
        raise StoreFailed(
            f"no version of the table in {self.paths.table} reaches the journal's trimmed position"
            f" {state.trimmed_position}: restore the table and the journal from one backup"
        )

    def _shown(self, erased: ErasedRows) -> pa.Table:
        """The hot rows that may be seen: the same object as long as they are the same."""
        table = self._hot.table
        if not erased:
            return table
        known = self._filtered
        if known is None or known[0] is not table or known[1] != erased:
            known = self._filtered = (table, erased, erased.without(table))
        return known[2]

    def _extend_hot(self, rows: Sequence[JournalRow], head: int) -> None:
        try:
            self._hot.extend(rows)
        except CorruptData:
            # The flush puts a row that does not decode aside, after which the others can be read again.
            if self.latch is not None:
                self.journal.request_flush(head)
            raise

    def status(self) -> StoreStatus:
        """Read the figures of the store as it is now."""
        snapshot = self._lake.reload(self.journal_id)
        rejects = self.rejects.in_table()
        return StoreStatus(
            version=snapshot.version,
            watermark=snapshot.watermark,
            files=len(snapshot.files),
            rows=sum(one.rows for one in snapshot.files),
            bytes=sum(one.size_bytes for one in snapshot.files),
            journal=self.journal.state(),
            journal_file_bytes=self.paths.journal.stat().st_size + self.journal.wal_bytes(),
            oldest_received_at_us=self.journal.oldest_received_at_us(),
            dead_letters=self.journal.dead_letters(),
            rejects=rejects.rows,
            rejects_files=rejects.files,
            rejects_bytes=rejects.bytes,
            shortcuts=self._shortcuts.status(snapshot),
        )

    def shortcut_status(self) -> ShortcutStatus:
        """How much of the newest version that this process has loaded the caches know."""
        return self._shortcuts.status(self._lake.snapshot(self.journal_id))

    # Erasing users

    def erase(self, user_id: str) -> Erasure:
        """Hide all actions of a user that are acknowledged by now, at once, and have them erased for good.

        Raises:
            DiskFull: it is not recorded.
            StoreFailed: the store is latched.
        """
        self._require_writable().check()
        return request_erasure(
            self.journal, user_id, now_us=self.options.now_us(), forget_user=self.options.forget_user
        )

    def erasure(self, erasure_id: str) -> Erasure | None:
        """How far an erasure is, or None if there is none with this id."""
        with self.journal.reading() as execute:
            return read_erasure(execute, erasure_id)

    def erasures(self, *, limit: int) -> list[Erasure]:
        """The newest erasures, finished or not."""
        with self.journal.reading() as execute:
            return newest_erasures(execute, limit=limit)

    def make_eraser(self) -> Eraser:
        """Make what does the work of recorded erasures; the caretaker has one of its own."""
        return Eraser(
            self.paths,
            self.journal,
            Lake(self.paths.table, self.schema),
            self._require_writable(),
            grace_us=lambda: self.options.erasure_grace_ms * 1000,
            now_us=self.options.now_us,
            forget_user=self.options.forget_user,
        )

    # Flushing

    def start_leading(self) -> None:
        """Start the thread that competes for leadership and flushes."""
        options = self.options
        self._require_writable()
        assert self._page is not None, "whoever may write has the page"
        self._leader = Leader(
            FileLock(self.paths.leader_lock),
            self._page,
            self.journal,
            self._make_flusher,
            limits=self._flush_limits,
            journal_bytes_max=lambda: self.options.journal_bytes_max,
            keys=lambda: KeyLimits(
                self.options.idempotency_retention_hours * 3_600_000_000, self.options.idempotency_bytes_max
            ),
            now_us=options.now_us,
            on_error=options.on_flush_error,
        )

        self._caretaker = Caretaker(self._chores(), leads=lambda: self.leads, on_error=options.on_chore_error)

    def _flush_limits(self) -> FlushLimits:
        """A journal that may hold less than a flush is flushed before it is full."""
        limits, journal_bytes_max = self.options.flush, self.options.journal_bytes_max
        return replace(limits, bytes_max=max(1, min(limits.bytes_max, journal_bytes_max // 2)))

    def _rejects_limits(self) -> RejectsLimits:
        limits, journal_bytes_max = self.options.rejects, self.options.journal_bytes_max
        return replace(limits, bytes_max=max(1, min(limits.bytes_max, journal_bytes_max // 4)))

    def _chores(self) -> list[Chore]:
        """What the leader does for the table besides flushing, in the order in which it matters."""
        # Tables of their own: readers of this process keep their snapshot.
        self._upkeeper = Upkeeper(
            self.paths,
            self.journal,
            Lake(self.paths.table, self.schema),
            self._require_writable(),
            lambda: self.options.maintenance,
        )
        lake = Lake(self.paths.table, self.schema)
        filters = UserFilterChore(self.paths, self.options.shortcuts, lambda: lake.reload(self.journal_id))
        self._history = HistoryChore(
            self.paths,
            self.options.shortcuts,
            lambda: lake.reload(self.journal_id),
            lambda: lake.file_schema,
        )
        return [
            Chore("erasure", _ERASURE_INTERVAL_S, self.make_eraser().run),
            *self._upkeeper.chores(),
            Chore("user filters", _USER_FILTERS_INTERVAL_S, filters.run),
            Chore("old files of rejects", _REJECTS_VACUUM_INTERVAL_S, RejectsVacuum(self.paths.rejects).run),
            Chore("history", _HISTORY_INTERVAL_S, self._history.run),
        ]

    @property
    def leader_looked_at_us(self) -> int | None:
        """When the leader, whichever process that is, last looked at the journal; None if none ever has."""
        return None if self._page is None else self._page.looked_at_us

    @property
    def leads(self) -> bool:
        """Whether this process is the one that flushes."""
        return self._leader is not None and self._leader.leads

    def flush(self, *, timeout_s: float) -> int:
        """Have everything that is acknowledged by now flushed, by whichever process leads; return the watermark.

        Raises:
            DiskFull: it is not done in time, and the disk is full.
            Overloaded: it is not done in time.
            StoreFailed: the store is latched.
        """
        latch = self._require_writable()
        assert self._page is not None, "whoever may write has the page"
        target = self.journal.state().head
        if self.journal.state().trimmed_position < target:
            self.journal.request_flush(target)
        deadline = time.monotonic() + timeout_s
        earlier_errors = self._page.last_error().number
        while (trimmed := self.journal.state().trimmed_position) < target:
            latch.check()
            if self._leader is not None:
                self._leader.wake()
            error = self._page.last_error()
            if error.disk_full and error.number > earlier_errors:
                raise DiskFull(error.message, retry_after_s=5)
            if time.monotonic() > deadline:
                raise Overloaded(f"the flush took longer than {timeout_s:g} s and goes on", retry_after_s=5)
            time.sleep(_FLUSH_POLL_S)
        self._flush_rejects(latch, deadline)
        return trimmed

    def _flush_rejects(self, latch: Latch, deadline: float) -> None:
        """Have the dead letters of this moment moved by whichever worker leads."""
        with self.journal.reading() as execute:
            state = read_rejects_state(execute)
        target = state.head
        if target <= state.moved_through:
            return
        with self.journal.writing() as execute:
            execute("UPDATE rejects SET flush_requested_id = max(flush_requested_id, ?)", (target,))
        # Letters that an erasure deletes meanwhile are never moved.
        while state.moved_through < min(target, state.head):
            latch.check()
            if self._leader is not None:
                self._leader.wake()
            if time.monotonic() > deadline:
                raise Overloaded("moving the rejects took too long and goes on", retry_after_s=5)
            time.sleep(_FLUSH_POLL_S)
            with self.journal.reading() as execute:
                state = read_rejects_state(execute)

    def flush_here(self) -> None:
        """Flush everything in the calling thread; for a store that no other process shares.

        Raises:
            DiskFull, CommitRefused, StoreFailed: as `Flusher.flush`.
        """
        state = self.journal.state()
        with self.journal.reading() as execute:
            rejects = read_rejects_state(execute)
        if state.depth or rejects.head > rejects.moved_through or rejects.marks:
            flusher = self._make_flusher()
            if state.depth:
                flusher.flush(state.head)
                self.journal.checkpoint(truncate=True)
            flusher.rejects.flush()

    def _require_writable(self) -> Latch:
        if self.latch is None:
            raise RuntimeError("a store that is open for reading only does not flush")
        return self.latch

    def _make_flusher(self) -> Flusher:
        latch = self._require_writable()
        # A table handle of its own: readers of this process keep their snapshot while a commit is under way.
        return Flusher(
            self.journal,
            Lake(self.paths.table, self.schema),
            latch,
            rejects=RejectsFlusher(
                self.journal, self.paths.rejects, latch, now_us=self.options.now_us, limits=self._rejects_limits()
            ),
            limits=self._flush_limits,
            now_us=self.options.now_us,
            on_commit=self.options.on_flush,
        )

    def close(self, *, flush: bool) -> None:
        """Stop the leader's thread, flush what is left if *flush*, and close.

        Raises:
            StoreError: the last flush failed; the store is closed all the same, and nothing is lost.
        """
        try:
            if self._caretaker is not None:
                self._caretaker.stop()
            if self._history is not None:
                self._history.stop()
            if self._upkeeper is not None:
                self._upkeeper.close()
            if self._leader is not None:
                self._leader.stop()
                if flush:
                    self._leader.flush_all()
        finally:
            if self._leader is not None:
                self._leader.release()
            self.journal.close()
            if self._page is not None:
                self._page.close()
            if self._lock is not None:
                self._lock.release()


def open_store(
    paths: StorePaths, schema: ActionSchema, options: StoreOptions, *, holder: str
) -> tuple[Store, RecoveryReport]:
    """Take the folder's lock, recover, and open the store; make it if there is none.

    Raises:
        StoreLocked: a service or an import holds the folder.
        CorruptData: what is there is damaged.
        StoreFailed: the disk does not take writes.
    """
    lock, report = lock_and_recover(paths, schema, holder=holder)
    try:
        store = Store(paths, schema, options, read_only=False)
    except BaseException:
        lock.release()
        raise
    store.own(lock)
    return store, report


def _acquire(lock: FileLock, holder: str) -> None:
    """Take the folder's lock; wait for a command that only recovers the folder, but not for one that stays."""
    deadline = time.monotonic() + _WORKERS_END_TIMEOUT_S
    while not lock.try_acquire(holder):
        other = lock.holder()
        # A file that is just being written says nothing for a moment.
        if (other and not other.endswith(FOR_A_MOMENT)) or time.monotonic() > deadline:
            raise StoreLocked(f"{lock.path.parent} is in use by {other or 'another process'}")
        time.sleep(_LOCK_POLL_S)


def lock_and_recover(paths: StorePaths, schema: ActionSchema, *, holder: str) -> tuple[FileLock, RecoveryReport]:
    """Take the folder's lock and recover, for a supervisor whose workers `join_store`.

    Raises:
        StoreLocked, CorruptData, StoreFailed: as `open_store`.
    """
    make_durable_folder(paths.state)
    lock = FileLock(paths.service_lock)
    _acquire(lock, holder)
    workers = FileLock(paths.workers_lock)
    try:
        workers.acquire_within(holder, timeout_s=_WORKERS_END_TIMEOUT_S)
        latch = Latch(paths.latch)
        try:
            return lock, recover(paths, schema, latch)
        finally:
            latch.close()
            workers.release()
    except BaseException:
        workers.release()
        lock.release()
        raise


def join_store(paths: StorePaths, schema: ActionSchema, options: StoreOptions) -> Store:
    """Open a store whose folder a supervisor holds and has recovered."""
    workers = FileLock(paths.workers_lock)
    workers.share()
    try:
        store = Store(paths, schema, options, read_only=False)
    except BaseException:
        workers.release()
        raise
    store.own(workers)
    return store


def read_store(paths: StorePaths, schema: ActionSchema) -> Store:
    """Open a store for reading only, whether or not a service holds it.

    Raises:
        FileNotFoundError: there is no store.
        CorruptData: what is there is damaged.
    """
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    return Store(paths, schema, StoreOptions(), read_only=True)

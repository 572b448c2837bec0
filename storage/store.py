"""The store: append, read, flush, erase, close. `storage.opening` opens it.

The one invariant:

    A snapshot of the lake at version V carries, for every journal J, a watermark W(J). Rows of J at positions up to
    W(J) are in the lake, each exactly once; rows above it are in the journal. What is stored is therefore
    lake(V) + the journal's rows above the W of that same V: no gap, no duplicate, at every instant.

How a reader stays on it stands in `storage.read_view`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from storage.dead_letters import read_rejects_state
from storage.eraser import Eraser, request_erasure
from storage.erasure_records import Erasure, newest_erasures, read_erasure
from storage.errors import StoreError
from storage.flush_requests import FlushRequests
from storage.headroom import Headroom
from storage.journal import Journal
from storage.journal_records import Append
from storage.lake import Lake
from storage.latch import Latch
from storage.leader_page import LeaderPage
from storage.leadership import Leadership, Workshop
from storage.locks import FileLock
from storage.new_columns import add_columns
from storage.paths import StorePaths
from storage.read_view import Reader, ReadView
from storage.rejects import RejectsReader
from storage.replay import Decisions
from storage.schema import ActionSchema
from storage.share_book import ShareBook
from storage.shortcuts import Shortcuts, ShortcutStatus
from storage.store_options import StoreOptions
from storage.store_status import StoreStatus


class Store:
    """One process's access to a store. Methods may be called from any thread."""

    def __init__(self, paths: StorePaths, schema: ActionSchema, options: StoreOptions, *, read_only: bool) -> None:
        """Use `open_store`, `join_store` or `read_store` of `storage.opening`."""
        self.paths = paths
        self.options = options
        self.latch = None if read_only else Latch(paths.latch)
        self._page = None if read_only else LeaderPage(paths.leader_page)
        self._lake = Lake(paths.table, schema)
        self.journal = Journal(paths.journal, self.latch, page=self._page)
        self._headroom = None if self._page is None else self._make_headroom(self._page)
        self._shortcuts = Shortcuts(paths, options.shortcuts)
        self._reader = Reader(self._lake, self.journal, self._shortcuts, self.latch, schema)
        self.rejects = RejectsReader(self.journal, paths.rejects)
        self._lock: FileLock | None = None
        self._leadership: Leadership | None = None

    @property
    def schema(self) -> ActionSchema:
        """The columns and action types that are in force."""
        return self._reader.schema

    @property
    def journal_id(self) -> str:
        """The id of the journal, as far as this process has heard."""
        return self._reader.journal_id

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
        if schema != self.schema:
            if not self._has_columns(schema):
                return False
            self._reader.use(schema)
        self.options = options
        if self._leadership is not None:
            self._leadership.look_at_everything()
        return True

    def _has_columns(self, schema: ActionSchema) -> bool:
        latch = self._require_writable()
        lake = Lake(self.paths.table, schema)
        if not lake.missing_columns():
            return True
        if self._leadership is None:
            return False
        with self._leadership.between_flushes() as leads:
            if not leads:
                return False
            add_columns(lake, self.journal, latch)
        return True

    # Writing

    def append(self, group: Sequence[Append]) -> list[bytes | StoreError]:
        """Make requests durable and visible; see `Journal.append`."""
        return self.journal.append(group, now_us=self.options.now_us())

    def acknowledged(self) -> int:
        """The position of the last action that any process has acknowledged; costs some microseconds."""
        return self.journal.acknowledged()

    def check_writable(self, part: float = 1.0) -> None:
        """Do nothing while submissions can be taken that may fill this *part* of the journal.

        Raises:
            StoreFailed: the store is latched, or its files are not where they were.
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
        page = self._require_page()
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
        return self._reader.read_view()

    @property
    def hot_bytes(self) -> int:
        """What the hot rows that this process read last take in its memory."""
        return self._reader.hot_bytes

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
        return self._workshop().make_eraser()

    # Flushing

    def start_leading(self) -> None:
        """Start the threads that compete for leadership, flush, and do the table's upkeep."""
        self._leadership = Leadership(self._workshop(), self._require_page())

    @property
    def leader_looked_at_us(self) -> int | None:
        """When the leader, whichever process that is, last looked at the journal; None if none ever has."""
        return None if self._page is None else self._page.looked_at_us

    @property
    def leads(self) -> bool:
        """Whether this process is the one that flushes."""
        return self._leadership is not None and self._leadership.leads

    def flush(self, *, timeout_s: float) -> int:
        """Have everything that is acknowledged by now flushed, by whichever process leads; return the watermark.

        Raises:
            DiskFull: it is not done in time, and the disk is full.
            Overloaded: it is not done in time.
            StoreFailed: the store is latched.
        """
        wake: Callable[[], None] = self._leadership.wake if self._leadership is not None else lambda: None
        requests = FlushRequests(self.journal, self._require_page(), self._require_writable(), wake)
        return requests.flush(timeout_s=timeout_s)

    def flush_here(self) -> None:
        """Flush everything in the calling thread; for a store that no other process shares.

        Raises:
            DiskFull, CommitRefused, StoreFailed: as `Flusher.flush`.
        """
        state = self.journal.state()
        with self.journal.reading() as execute:
            rejects = read_rejects_state(execute)
        if state.depth or rejects.head > rejects.moved_through or rejects.marks:
            flusher = self._workshop().make_flusher()
            if state.depth:
                flusher.flush(state.head)
                self.journal.checkpoint(truncate=True)
            flusher.rejects.flush()

    def _workshop(self) -> Workshop:
        return Workshop(
            self.paths,
            self.journal,
            self._require_writable(),
            schema=lambda: self.schema,
            options=lambda: self.options,
        )

    def _require_writable(self) -> Latch:
        if self.latch is None:
            raise RuntimeError("a store that is open for reading only does not flush")
        return self.latch

    def _require_page(self) -> LeaderPage:
        self._require_writable()
        assert self._page is not None, "whoever may write has the page"
        return self._page

    def close(self, *, flush: bool) -> None:
        """Stop the leader's threads, flush what is left if *flush*, and close.

        Raises:
            StoreError: the last flush failed; the store is closed all the same, and nothing is lost.
        """
        try:
            if self._leadership is not None:
                self._leadership.end(flush=flush)
        finally:
            self.journal.close()
            if self._page is not None:
                self._page.close()
            if self._lock is not None:
                self._lock.release()

"""What the leading process of a store does, put together: flushing, in one thread, and upkeep, in another.

Every process may compete for leadership; one leads at a time (`storage.leader`). What the threads work with is their
own, the table's handles above all, so that readers of the same process keep their snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from storage.caretaker import Caretaker, Chore
from storage.eraser import Eraser
from storage.flush import Flusher
from storage.history.chore import HistoryChore
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.leader import KeyLimits, Leader
from storage.leader_page import LeaderPage
from storage.locks import FileLock
from storage.maintenance.chores import Upkeeper
from storage.paths import StorePaths
from storage.rejects_flush import RejectsFlusher
from storage.rejects_vacuum import RejectsVacuum
from storage.schema import ActionSchema
from storage.shortcut_upkeep import UserFilterChore
from storage.store_options import StoreOptions

_REJECTS_VACUUM_INTERVAL_S: Final = 60.0
_USER_FILTERS_INTERVAL_S: Final = 1.0
_HISTORY_INTERVAL_S: Final = 1.0
_ERASURE_INTERVAL_S: Final = 1.0


class Workshop:
    """Makes what flushes and what keeps house, for a store that may be written to.

    Args:
        paths, journal, latch: of the store.
        schema, options: asked for each time, since they follow the settings.
    """

    def __init__(
        self,
        paths: StorePaths,
        journal: Journal,
        latch: Latch,
        *,
        schema: Callable[[], ActionSchema],
        options: Callable[[], StoreOptions],
    ) -> None:
        self.paths = paths
        self.journal = journal
        self.latch = latch
        self.options = options
        self._schema = schema

    def open_lake(self) -> Lake:
        """The table, by a handle of its own."""
        return Lake(self.paths.table, self._schema())

    def make_flusher(self) -> Flusher:
        """Make what moves rows and rejects out of the journal."""
        now_us = self.options().now_us
        return Flusher(
            self.journal,
            self.open_lake(),
            self.latch,
            rejects=RejectsFlusher(
                self.journal,
                self.paths.rejects,
                self.latch,
                now_us=now_us,
                limits=lambda: self.options().rejects_limits(),
            ),
            limits=lambda: self.options().flush_limits(),
            now_us=now_us,
            on_commit=self.options().on_flush,
        )

    def make_eraser(self) -> Eraser:
        """Make what does the work of recorded erasures."""
        return Eraser(
            self.paths,
            self.journal,
            self.open_lake(),
            self.latch,
            grace_us=lambda: self.options().erasure_grace_ms * 1000,
            now_us=self.options().now_us,
            forget_user=self.options().forget_user,
        )

    def make_upkeeper(self) -> Upkeeper:
        """Make what keeps the table's files few, young and needed."""
        return Upkeeper(self.paths, self.journal, self.open_lake(), self.latch, lambda: self.options().maintenance)


class Leadership:
    """Competes for leadership from its making on, and does a leader's work while it leads."""

    def __init__(self, workshop: Workshop, page: LeaderPage) -> None:
        options = workshop.options
        self._leader = Leader(
            FileLock(workshop.paths.leader_lock),
            page,
            workshop.journal,
            workshop.make_flusher,
            limits=lambda: options().flush_limits(),
            journal_bytes_max=lambda: options().journal_bytes_max,
            keys=lambda: KeyLimits(
                options().idempotency_retention_hours * 3_600_000_000, options().idempotency_bytes_max
            ),
            now_us=options().now_us,
            on_error=options().on_flush_error,
        )
        self._upkeeper = workshop.make_upkeeper()
        lake = workshop.open_lake()
        journal = workshop.journal
        shortcuts = options().shortcuts
        self._history = HistoryChore(
            workshop.paths, shortcuts, lambda: lake.reload(journal.state().id), lambda: lake.file_schema
        )
        filters = UserFilterChore(workshop.paths, shortcuts, lambda: lake.reload(journal.state().id))
        # In the order in which it matters.
        chores = [
            Chore("erasure", _ERASURE_INTERVAL_S, workshop.make_eraser().run),
            *self._upkeeper.chores(),
            Chore("user filters", _USER_FILTERS_INTERVAL_S, filters.run),
            Chore("old files of rejects", _REJECTS_VACUUM_INTERVAL_S, RejectsVacuum(workshop.paths.rejects).run),
            Chore("history", _HISTORY_INTERVAL_S, self._history.run),
        ]
        self._caretaker = Caretaker(chores, leads=lambda: self.leads, on_error=options().on_chore_error)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that flushes."""
        return self._leader.leads

    @property
    def last_error(self) -> BaseException | None:
        """Why the last attempt to flush failed, or None."""
        return self._leader.last_error

    def wake(self) -> None:
        """Look at the journal now instead of at the next tick."""
        self._leader.wake()

    def look_at_everything(self) -> None:
        """Look now at all that may be due by other settings, the table's upkeep included."""
        self._leader.wake()
        self._caretaker.wake()

    @contextmanager
    def between_flushes(self) -> Iterator[bool]:
        """Hold up flushing for a block; yields whether this process leads, and goes on to until the block ends."""
        with self._leader.between_flushes() as leads:
            yield leads

    def end(self, *, flush: bool) -> None:
        """Stop both threads, flush what is left if *flush*, and let another process lead.

        Raises:
            StoreError: the last flush failed; nothing is lost.
        """
        try:
            self._caretaker.stop()
            self._history.stop()
            self._upkeeper.close()
            self._leader.stop()
            if flush:
                self._leader.flush_all()
        finally:
            self._leader.release()

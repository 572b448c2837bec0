"""Reading everything that is stored at one instant.

How a reader stays on the store's invariant (`storage.store`): take the snapshot V at hand; in ONE read transaction of
the journal read `trimmed_position`, `lake_version_min` and the rows above W(V). If `trimmed_position` > W(V), rows were
trimmed that this snapshot does not have yet; if V < `lake_version_min`, the snapshot must not be used any more. In both
cases load the table again and repeat. Snapshot first and tail after, without this check, leaves gaps.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.columns import JournalRow
from storage.data_files import DataFile
from storage.erased_rows import NOTHING_ERASED, ErasedRows
from storage.errors import CorruptData, StoreFailed
from storage.hot import HotRows
from storage.hot_users import HotUsers
from storage.journal import Journal
from storage.lake import Lake, Snapshot
from storage.latch import Latch
from storage.schema import ActionSchema
from storage.shortcuts import Shortcuts

_READ_ATTEMPTS_MAX: Final = 100


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
        hot_users: where a user's hot rows are; None where some were left out, so that positions tell no place.
    """

    snapshot: Snapshot
    hot: pa.Table
    schema: ActionSchema
    journal: str
    shortcuts: Shortcuts
    erased: ErasedRows = NOTHING_ERASED
    hot_users: HotUsers | None = None

    def hot_rows_of(self, user_id: str, columns: Sequence[str]) -> pa.Table:
        """The hot rows of one user, with these columns."""
        wanted = self.hot.select(list(columns))
        if self.hot_users is None:
            return wanted.filter(pc.equal(self.hot["user_id"], user_id))
        return self.hot_users.rows_of(user_id, self.hot, wanted)

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The data files of the snapshot."""
        return self.snapshot.files


class Reader:
    """Pins views for one process. Methods may be called from any thread.

    Args:
        lake, journal, shortcuts: of the store; the table's handle is the reader's own.
        latch: of a store that may be written to, whose journal's damaged rows a flush can put aside.
        schema: the columns.
    """

    def __init__(
        self, lake: Lake, journal: Journal, shortcuts: Shortcuts, latch: Latch | None, schema: ActionSchema
    ) -> None:
        self.schema = schema
        self.journal_id = journal.state().id
        self._lake = lake
        self._journal = journal
        self._shortcuts = shortcuts
        self._latch = latch
        self._hot = HotRows(self.journal_id, schema)
        self._filtered: tuple[pa.Table, ErasedRows, pa.Table] | None = None
        # A view is pinned under it, so that none has hot rows of one schema and columns of another.
        self._lock = threading.Lock()

    def use(self, schema: ActionSchema) -> None:
        """Show other columns from the next view on; the table has them."""
        with self._lock:
            self.schema = schema
            self._hot = HotRows(self.journal_id, schema)

    def read_view(self) -> ReadView:
        """Pin everything that is stored at this instant, every acknowledged action included.

        Raises:
            StoreFailed: the journal could not be read.
            CorruptData: the table's log or a row of the journal is damaged.
        """
        with self._lock:
            snapshot = self._lake.snapshot(self.journal_id)
            for _ in range(_READ_ATTEMPTS_MAX):
                state, rows, erased = self._journal.read_tail(self._hot.next_after(snapshot.watermark))
                if state.id != self.journal_id:
                    # Recovery gave the journal a new id while this process, a reader beside it, had it open.
                    self.journal_id = state.id
                    self._hot = HotRows(state.id, self.schema)
                    snapshot = self._lake.reload(state.id)
                    continue
                if state.trimmed_position <= snapshot.watermark and snapshot.version >= state.lake_version_min:
                    self._extend_hot(rows, state.head)
                    shown = self._shown(erased)
                    users = None if erased else self._hot.users
                    return ReadView(snapshot, shown, self.schema, self.journal_id, self._shortcuts, erased, users)
                snapshot = self._lake.reload(self.journal_id)
        raise StoreFailed(
            f"no version of the table in {self._lake.folder} reaches the journal's trimmed position"
            f" {state.trimmed_position}: restore the table and the journal from one backup"
        )

    @property
    def hot_bytes(self) -> int:
        """What the hot rows that were read last take in memory."""
        return self._hot.held_bytes

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
            if self._latch is not None:
                self._journal.request_flush(head)
            raise

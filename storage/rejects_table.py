"""The Delta table `rejects`: what was not kept, with the reason and the exact text, and what became of it.

Partitioned by the UTC date of `received_at`. `source` and `reject_id` together name a reject for good. The watermark
of a source is Delta's application transaction of `rejects-<source>`: letters up to it are in the table, unless they
were dropped. Every commit also takes the next number of the application transaction `maintenance`, counted from the
snapshot that it was planned from: of two plans made from one snapshot, one is refused and plans again. What an erasure
has removed can therefore not come back with a move that had read it before.

The library syncs nothing; `commit` is followed by `sync` before anybody relies on it, as in `storage.lake`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, PostCommitHookProperties, RemoveAction, Transaction

from storage.delta_log import (
    MILLISECOND_US,
    entry_name,
    first_line,
    iso_of,
    log_folder,
    microseconds_of,
    now_ms,
    sync_checkpoint,
)
from storage.durable_files import fsync_path, make_durable_folder
from storage.errors import CommitRefused, CorruptData, RewriteConflict, StoreFailed
from storage.schema import TIMESTAMP

PARTITION: Final = "date"
UTF_8: Final = "utf-8"
BASE64: Final = "base64"
REJECTS_SCHEMA: Final = pa.schema(
    [
        pa.field("date", pa.date32()),
        pa.field("source", pa.string()),
        pa.field("reject_id", pa.int64()),
        pa.field("received_at", TIMESTAMP),
        pa.field("user_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("action_index", pa.int64()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
        pa.field("original", pa.string()),
        pa.field("original_encoding", pa.string()),
        pa.field("original_bytes", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("state", pa.string()),
        pa.field("state_at", TIMESTAMP),
        pa.field("replayed_position", pa.int64()),
    ]
)
FILE_SCHEMA: Final = pa.schema([field for field in REJECTS_SCHEMA if field.name != PARTITION])

_MAINTENANCE: Final = "maintenance"
_CONFIGURATION: Final = {
    "delta.dataSkippingStatsColumns": "received_at,reject_id",
    "delta.checkpointInterval": "1000000000",
    "delta.enableExpiredLogCleanup": "false",
}
_NO_HOOKS: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True)
class RejectsFile:
    """A data file of the table.

    Attributes:
        relative_path: below the table's folder, as the log names it.
        received_min_us, received_max_us: bounds of `received_at`; those of a file read from the log are wider by up
            to a millisecond, which is what the log cuts them to.
        id_min, id_max: bounds of `reject_id`.
    """

    relative_path: str
    size_bytes: int
    rows: int
    date: datetime.date
    received_min_us: int
    received_max_us: int
    id_min: int
    id_max: int


@dataclass(frozen=True, slots=True)
class RejectsSnapshot:
    """One version of the table.

    Attributes:
        version: -1 where there is no table yet.
        watermark: letters of the source that was asked for, up to here, are in `files` or were dropped.
        maintenance: the number of commits; the next one is planned from this.
        files: all data files, in order of date and path.
    """

    version: int
    watermark: int
    maintenance: int
    files: tuple[RejectsFile, ...]


def app_id(source: str) -> str:
    """The application transaction that holds the watermark of *source*."""
    return f"rejects-{source}"


class RejectsTable:
    """The table as one user of it sees it. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Open the table, if there is one; the first `commit` makes it.

        Raises:
            CorruptData: its log cannot be read.
        """
        self.folder = folder
        self._table = self._open()

    def _open(self) -> DeltaTable | None:
        try:
            return DeltaTable(str(self.folder))
        except TableNotFoundError:
            return None
        except (DeltaError, OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> CorruptData:
        return CorruptData(f"the log of the table in {self.folder} cannot be read: {first_line(error)}")

    def create_if_missing(self) -> None:
        """Make an empty table, durably, where there is none. Only for the leader, or whoever holds the folder.

        Raises:
            StoreFailed: it could not be made.
        """
        if self._table is not None:
            return
        try:
            make_durable_folder(self.folder)
            self._table = DeltaTable.create(
                str(self.folder),
                schema=Schema.from_arrow(REJECTS_SCHEMA),
                mode="error",
                partition_by=[PARTITION],
                configuration=dict(_CONFIGURATION),
                post_commithook_properties=_NO_HOOKS,
            )
            self.sync(after_version=-1)
            fsync_path(self.folder)
        except DeltaError as error:
            raise StoreFailed(f"the table in {self.folder} could not be made: {first_line(error)}") from error

    def snapshot(self, source: str) -> RejectsSnapshot:
        """Load what was committed since, also by other processes, and return the newest version.

        Raises:
            CorruptData: the log cannot be read.
        """
        try:
            if self._table is None:
                self._table = self._open()
            else:
                self._table.update_incremental()
            if self._table is None:
                return RejectsSnapshot(-1, 0, 0, ())
            adds: Any = pa.table(self._table.get_add_actions(flatten=True))
            # These are read from the log only now.
            watermark, maintenance = self._transaction(app_id(source)), self._transaction(_MAINTENANCE)
        except (DeltaError, OSError) as error:
            raise self._unreadable(error) from error
        files = sorted((_file(row) for row in adds.to_pylist()), key=lambda one: (one.date, one.relative_path))
        return RejectsSnapshot(int(self._table.version()), watermark, maintenance, tuple(files))

    def _transaction(self, app: str) -> int:
        return 0 if self._table is None else int(self._table.transaction_version(app) or 0)

    def commit(
        self,
        removed: Sequence[RejectsFile],
        added: Sequence[RejectsFile],
        *,
        planned_from: RejectsSnapshot,
        source: str,
        watermark: int,
    ) -> int:
        """Replace files by others and set the watermark of *source*, in one commit; return its version.

        The added files are durable already; the commit is not, until `sync`. The removed files stay on disk. An error
        of the library after it had committed is seen as the commit that it was.

        Raises:
            RewriteConflict: another commit came after the snapshot; nothing was committed, plan again.
            CommitRefused: the commit was refused; nothing was committed.
        """
        table = self._table
        if table is None:
            raise CommitRefused(f"there is no table in {self.folder}")
        number = planned_from.maintenance + 1
        if self.snapshot(source).maintenance != planned_from.maintenance:
            raise RewriteConflict(f"another commit to {self.folder} was first")
        try:
            table.create_write_transaction(
                [_remove_action(one) for one in removed] + [_add_action(one) for one in added],
                "append",
                Schema.from_arrow(REJECTS_SCHEMA),
                partition_by=[PARTITION],
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(_MAINTENANCE, number), Transaction(app_id(source), watermark)]
                ),
                post_commithook_properties=_NO_HOOKS,
            )
            table.update_incremental()
        except Exception as error:
            # Any error may mean "committed": only the table knows.
            self._table = self._open()
            if not self._is_committed(number, added):
                if self._transaction(_MAINTENANCE) != planned_from.maintenance:
                    raise RewriteConflict(f"another commit to {self.folder} was first: {error}") from error
                raise CommitRefused(f"{self.folder} did not take a commit: {first_line(error)}") from error
        return self.version

    def _is_committed(self, number: int, added: Sequence[RejectsFile]) -> bool:
        # A commit that added nothing leaves nothing to know it by; planning again is right whoever was first.
        if self._table is None or not added or self._transaction(_MAINTENANCE) < number:
            return False
        adds: Any = pa.table(self._table.get_add_actions(flatten=True))
        live = set(adds["path"].to_pylist())
        return all(one.relative_path in live for one in added)

    @property
    def version(self) -> int:
        """The newest version that is loaded, -1 where there is no table."""
        return -1 if self._table is None else int(self._table.version())

    def sync(self, *, after_version: int) -> None:
        """Fsync the log entries above *after_version* up to the loaded one, and the log's folder.

        Raises:
            OSError: an entry is missing or could not be synced.
        """
        log = log_folder(self.folder)
        for version in range(after_version + 1, self.version + 1):
            fsync_path(log / entry_name(version))
        fsync_path(log)

    def checkpoint(self) -> None:
        """Write a checkpoint of the loaded version, durably, so that opening stays fast.

        Raises:
            CommitRefused: it could not be written; the table is as good without it.
            OSError: it could not be synced.
        """
        if self._table is None:
            return
        try:
            self._table.create_checkpoint()
        except (DeltaError, OSError) as error:
            raise CommitRefused(first_line(error)) from error
        sync_checkpoint(self.folder, self.version)


def _file(add: dict[str, Any]) -> RejectsFile:
    return RejectsFile(
        relative_path=add["path"],
        size_bytes=add["size_bytes"],
        rows=add["num_records"],
        date=add["partition.date"],
        received_min_us=microseconds_of(add["min.received_at"]),
        received_max_us=microseconds_of(add["max.received_at"]) + MILLISECOND_US,
        id_min=add["min.reject_id"],
        id_max=add["max.reject_id"],
    )


def _add_action(one: RejectsFile) -> AddAction:
    statistics = {
        "numRecords": one.rows,
        "minValues": {"received_at": iso_of(one.received_min_us), "reject_id": one.id_min},
        "maxValues": {"received_at": iso_of(one.received_max_us), "reject_id": one.id_max},
        "nullCount": {"received_at": 0, "reject_id": 0},
    }
    return AddAction(
        path=one.relative_path,
        size=one.size_bytes,
        partition_values={PARTITION: one.date.isoformat()},
        modification_time=now_ms(),
        data_change=True,
        stats=json.dumps(statistics),
    )


def _remove_action(one: RejectsFile) -> RemoveAction:
    return RemoveAction(
        path=one.relative_path,
        data_change=True,
        deletion_timestamp=now_ms(),
        size=one.size_bytes,
        partition_values={PARTITION: one.date.isoformat()},
    )

"""The Delta table `actions`: pinned snapshots, and commits that carry rows and watermark together.

The watermark of journal J is Delta's application transaction (`txn`) for app id J. `append` commits it with the rows
that it speaks of, from a freshly loaded handle, and only if it moves forward; a commit of the same app id from a
stale handle is refused by the library's own conflict check. Neither is relied upon alone: whoever sees `append` fail
must look at the watermark again before trying again, since an error does not mean "not committed".

The library syncs nothing to disk. Data files are synced before they are named in a commit (`storage.data_files`),
and the commit's own log entry by `sync`, after which the caller may call the version durable.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, PostCommitHookProperties, RemoveAction, Transaction

from storage.data_files import DataFile, WrittenFile
from storage.delta_log import (
    MILLISECOND_US,
    checkpoint_mark,
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
from storage.schema import PARTITION_COLUMNS, ActionSchema, TableColumns

_CONFIGURATION: Final = {
    # Ids and properties stay out of the log, so that erasing a user does not mean rewriting the log's history.
    "delta.dataSkippingStatsColumns": "time,received_at,position",
    # Checkpoints and clean-up happen where nobody waits for them.
    "delta.checkpointInterval": "1000000000",
    "delta.enableExpiredLogCleanup": "false",
    # How long a checkpoint remembers removed files: for other programs' vacuum, ours goes by the log's entries.
    "delta.deletedFileRetentionDuration": "interval 1 hours",
}
_ENTRY: Final = re.compile(r"[0-9]{20}\.json")
# The app id of everything that replaces files by others: two rewrites from the same version cannot both be committed.
MAINTENANCE: Final = "maintenance"
_PAUSES_BEFORE_DAMAGE_S: Final = (0.01, 0.1)
_NO_HOOKS: Final = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the table: its files and one journal's watermark, which belong together.

    Attributes:
        version: of the table.
        watermark: rows of the journal that the lake was opened for, up to here, are in `files`.
        files: all data files, in order of date, type and path.
    """

    version: int
    watermark: int
    files: tuple[DataFile, ...]


class Lake:
    """The table as one process sees it. Methods may be called from any thread."""

    def __init__(self, folder: Path, schema: ActionSchema) -> None:
        """Open the table.

        Raises:
            FileNotFoundError: there is no table.
            CorruptData: its log cannot be read.
        """
        self.folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, DataFile] = {}
        self._snapshots: dict[str, Snapshot] = {}
        try:
            self._open()
        except TableNotFoundError as error:
            raise FileNotFoundError(f"there is no table in {folder}") from error
        except (DeltaError, OSError, ValueError) as error:
            raise CorruptData(f"the log of the table in {folder} cannot be read: {first_line(error)}") from error
        self.schema = schema

    def _open(self) -> None:
        # Looked at before the table is opened: a newer one only makes the next update open it once more.
        self._checkpoint = checkpoint_mark(self.folder)
        self._table = DeltaTable(str(self.folder))

    def _update(self) -> None:
        """Load what was committed since.

        The library reads what it has not needed so far when it is asked for it, from the files that it saw when it
        opened the table; upkeep removes these once there are two newer checkpoints. It goes by lists of the log's
        folder, of which a file system only promises what was there all the time: one that is made while others commit
        may have an entry and not the one before it, or one twice. So a log counts as damaged only when it fails again.
        """
        for pause_s in _PAUSES_BEFORE_DAMAGE_S:
            try:
                self._load()
            except DeltaError:
                time.sleep(pause_s)
            else:
                return
        self._open()

    def _load(self) -> None:
        if checkpoint_mark(self.folder) == self._checkpoint:
            self._table.update_incremental()
        else:
            self._open()

    @classmethod
    def create(cls, folder: Path, schema: ActionSchema) -> None:
        """Make an empty table, durably.

        Creating has no conflict check in the library: only the holder of the folder's lock may call this.

        Raises:
            StoreFailed: the table could not be made.
        """
        try:
            make_durable_folder(folder)
            DeltaTable.create(
                str(folder),
                schema=Schema.from_arrow(schema.table_schema),
                mode="error",
                partition_by=list(PARTITION_COLUMNS),
                configuration=dict(_CONFIGURATION),
                post_commithook_properties=_NO_HOOKS,
            )
            fsync_path(log_folder(folder) / entry_name(0))
            fsync_path(log_folder(folder))
            fsync_path(folder)
        except (DeltaError, OSError) as error:
            raise StoreFailed(f"the table in {folder} could not be made: {error}") from error

    @property
    def columns(self) -> TableColumns:
        """The columns that the newest version that is loaded has; more than the schema's where it promoted others."""
        with self._lock:
            return TableColumns.of_table(pa.field(one) for one in pa.schema(self._table.schema()))

    def missing_columns(self) -> list[pa.Field]:
        """The promoted columns that the schema has and the newest version of the table lacks.

        Raises:
            CorruptData: a column exists with another type; no column is ever retyped.
        """
        with self._lock:
            self._update()
            return self._missing_columns()

    def add_missing_columns(self) -> int | None:
        """Add the promoted columns that the schema has and the table lacks; return the new version if there are any.

        Raises:
            CorruptData: a column exists with another type; no column is ever retyped.
            CommitRefused: another commit was first; nothing was added, it may be tried again.
        """
        with self._lock:
            self._update()
            missing = self._missing_columns()
            if not missing:
                return None
            delta_fields = Schema.from_arrow(pa.schema(missing)).fields
            try:
                self._table.alter.add_columns(list(delta_fields), post_commithook_properties=_NO_HOOKS)
            except (DeltaError, OSError) as error:
                raise CommitRefused(f"{self.folder} did not take new columns: {first_line(error)}") from error
            self._update()
            return int(self._table.version())

    def _missing_columns(self) -> list[pa.Field]:
        existing = {field.name: pa.field(field) for field in pa.schema(self._table.schema())}
        wanted = self.schema.table_schema
        for field in wanted:
            if field.name in existing and not _same_type(existing[field.name].type, field.type):
                raise CorruptData(
                    f"column {field.name} of the table in {self.folder} is {existing[field.name].type},"
                    f" the configuration says {field.type}; columns are never retyped, choose another name"
                )
        return [field for field in wanted if field.name not in existing]

    def snapshot(self, journal: str) -> Snapshot:
        """Return the newest version that this process has loaded; costs nothing if it was asked for before.

        Raises:
            CorruptData: the log cannot be read.
        """
        with self._lock:
            known = self._snapshots.get(journal)
            # A failed commit may have moved the handle on, so that only its own version tells.
            if known is None or known.version != self._table.version():
                try:
                    known = self._read_snapshot(journal)
                except DeltaError:
                    # It was opened long ago, and the files are gone that it has not read so far.
                    try:
                        self._update()
                        known = self._read_snapshot(journal)
                    except (DeltaError, OSError) as error:
                        raise CorruptData(
                            f"the log of the table in {self.folder} cannot be read: {first_line(error)}"
                        ) from error
                self._snapshots = {journal: known}
            return known

    def reload(self, journal: str) -> Snapshot:
        """Load what was committed since, also by other processes, and return the newest snapshot.

        Raises:
            CorruptData: the log cannot be read.
        """
        with self._lock:
            try:
                self._update()
            except (DeltaError, OSError) as error:
                raise CorruptData(
                    f"the log of the table in {self.folder} cannot be read: {first_line(error)}"
                ) from error
        return self.snapshot(journal)

    @property
    def file_schema(self) -> pa.Schema:
        """The columns that data files of the newest version that is loaded may have, also those that came and went
        with the configuration."""
        with self._lock:
            columns = pa.schema(self._table.schema())
        return pa.schema([_plain(one) for one in columns if one.name not in PARTITION_COLUMNS])

    @property
    def version(self) -> int:
        """The newest version that is loaded."""
        with self._lock:
            return int(self._table.version())

    def watermark(self, journal: str) -> int:
        """Return the journal's watermark in the newest version that is loaded."""
        with self._lock:
            return int(self._table.transaction_version(journal) or 0)

    def append(self, files: Sequence[WrittenFile], *, journal: str, after: int, watermark: int) -> int:
        """Commit *files*, the journal's rows above *after* up to *watermark*, and that watermark together.

        Returns the new version.

        The files are durable already; the commit is not, until `sync`.

        Raises:
            ValueError: the watermark is not *after*: some of what the files hold is in the table already.
            Exception: whatever the library raises; the commit may have happened all the same. Reload and look at
                the watermark before doing anything else.
        """
        with self._lock:
            self._update()
            current = int(self._table.transaction_version(journal) or 0)
            if current != after or watermark <= after:
                raise ValueError(f"the watermark of journal {journal} is {current}: {after} cannot become {watermark}")
            self._table.create_write_transaction(
                [_add_action(one) for one in files],
                "append",
                Schema.from_arrow(self.schema.table_schema),
                partition_by=list(PARTITION_COLUMNS),
                commit_properties=CommitProperties(app_transactions=[Transaction(journal, watermark)]),
                post_commithook_properties=_NO_HOOKS,
            )
            self._update()
            return int(self._table.version())

    def rewrite(self, removed: Sequence[DataFile], added: Sequence[WrittenFile], *, data_change: bool) -> int:
        """Replace files by others in one commit, with the next number of the application transaction `maintenance`.

        Committed from a freshly loaded handle, in which every one of *removed* is checked to be in the table. The
        added files are durable already; the commit is not, until `sync`. The removed files stay on disk.

        Args:
            removed: files of a snapshot, at least one.
            added: what takes their place; none where nothing is left.
            data_change: False where the rows are the same as before (compaction).

        Returns:
            The version that holds the change; also where the library raised an error after it had committed.

        Raises:
            RewriteConflict: another rewrite was first; nothing was committed. Plan again from a new snapshot.
            CommitRefused: the commit was refused; nothing was committed.
        """
        with self._lock:
            self._update()
            before = int(self._table.transaction_version(MAINTENANCE) or 0)
            self._require_live(removed)
            try:
                self._table.create_write_transaction(
                    [self._remove_action(one, data_change=data_change) for one in removed]
                    + [_add_action(one, data_change=data_change) for one in added],
                    "append",
                    self._table.schema(),
                    partition_by=list(PARTITION_COLUMNS),
                    commit_properties=CommitProperties(app_transactions=[Transaction(MAINTENANCE, before + 1)]),
                    post_commithook_properties=_NO_HOOKS,
                )
            except Exception as error:
                # Any error may mean "committed": only the table knows.
                self._open()
                if not self._committed(removed, added):
                    if int(self._table.transaction_version(MAINTENANCE) or 0) != before:
                        raise RewriteConflict(f"another rewrite of {self.folder} was first: {error}") from error
                    raise CommitRefused(f"{self.folder} did not take a rewrite: {first_line(error)}") from error
            self._update()
            return int(self._table.version())

    def _live_paths(self) -> set[str]:
        adds: Any = pa.table(self._table.get_add_actions(flatten=True))
        return set(adds["path"].to_pylist())

    def _require_live(self, files: Sequence[DataFile]) -> None:
        live = self._live_paths()
        for one in files:
            if self._relative(one) not in live:
                raise RewriteConflict(f"{one.path} is no longer in the table: another rewrite was first")

    def _committed(self, removed: Sequence[DataFile], added: Sequence[WrittenFile]) -> bool:
        """Tell by the files: names of added ones are used once only, and somebody may have replaced some already."""
        live = self._live_paths()
        if added:
            return any(one.relative_path in live for one in added)
        return not any(self._relative(one) in live for one in removed)

    def _relative(self, one: DataFile) -> str:
        return Path(one.path).relative_to(self.folder).as_posix()

    def _remove_action(self, one: DataFile, *, data_change: bool) -> RemoveAction:
        return RemoveAction(
            path=self._relative(one),
            data_change=data_change,
            deletion_timestamp=now_ms(),
            size=one.size_bytes,
            partition_values={"date": one.date.isoformat(), "type": one.type},
        )

    def sync(self, *, after_version: int, through_version: int) -> None:
        """Fsync the log entries of the versions above *after_version*, and the log's folder.

        Raises:
            OSError: an entry is missing or could not be synced.
        """
        log = log_folder(self.folder)
        for version in range(after_version + 1, through_version + 1):
            try:
                fsync_path(log / entry_name(version))
            except FileNotFoundError:
                # Somebody else made it durable meanwhile, and summed it up.
                if not any(summed_up >= version for summed_up in checkpoints(self.folder)):
                    raise
        fsync_path(log)

    def checkpoint(self, *, durable_version: int = -1) -> int:
        """Write a checkpoint of the newest version, durably, so that opening and committing stay fast; return it.

        The entries above *durable_version* that it sums up are made durable first: the caller may record the version.

        Raises:
            CommitRefused: it could not be written; the table is as good without it.
            OSError: it, or an entry, could not be synced.
        """
        with self._lock:
            try:
                self._update()
                version = int(self._table.version())
            except (DeltaError, OSError) as error:
                raise CommitRefused(f"{self.folder} cannot be read: {first_line(error)}") from error
            self.sync(after_version=durable_version, through_version=version)
            try:
                self._table.create_checkpoint()
            except (DeltaError, OSError) as error:
                raise CommitRefused(first_line(error)) from error
        sync_checkpoint(self.folder, version)
        return version

    def _read_snapshot(self, journal: str) -> Snapshot:
        adds: Any = pa.table(self._table.get_add_actions(flatten=True))
        paths: list[str] = adds["path"].to_pylist()
        fresh = [place for place, path in enumerate(paths) if path not in self._known]
        if fresh or len(paths) != len(self._known):
            new = {row["path"]: self._data_file(row) for row in adds.take(pa.array(fresh, pa.int64())).to_pylist()}
            self._known = {path: self._known.get(path) or new[path] for path in paths}
        files = sorted(self._known.values(), key=lambda one: (one.date, one.type, one.path))
        watermark = int(self._table.transaction_version(journal) or 0)
        return Snapshot(int(self._table.version()), watermark, tuple(files))

    def _data_file(self, add: dict[str, Any]) -> DataFile:
        if add.get("num_records") is None or add.get("min.time") is None or add.get("max.time") is None:
            raise CorruptData(f"{self.folder / add['path']} has no statistics in the table's log")
        return DataFile(
            path=str(self.folder / add["path"]),
            size_bytes=add["size_bytes"],
            rows=add["num_records"],
            date=add["partition.date"],
            type=add["partition.type"],
            time_min_us=microseconds_of(add["min.time"]),
            time_max_us=microseconds_of(add["max.time"]) + MILLISECOND_US,
            written_at_ms=add["modification_time"],
        )


def watermark_at(folder: Path, journal: str, version: int) -> int:
    """Return the journal's watermark in an older version of the table.

    Raises:
        CorruptData: the log cannot be read.
    """
    try:
        return int(DeltaTable(str(folder), version=version).transaction_version(journal) or 0)
    except (DeltaError, OSError, ValueError) as error:
        raise CorruptData(f"the log of the table in {folder} cannot be read: {first_line(error)}") from error


def newest_version(folder: Path) -> int:
    """Return the newest version in the table's log by the names of its entries, -1 if there is none."""
    with suppress(FileNotFoundError), os.scandir(log_folder(folder)) as found:
        return max((int(one.name[:20]) for one in found if _ENTRY.fullmatch(one.name)), default=-1)
    return -1


def log_entries(folder: Path) -> dict[int, Path]:
    """Map version → log entry, for all entries in the table's log, whatever is in them."""
    found: dict[int, Path] = {}
    for path in log_folder(folder).glob("*.json"):
        if _ENTRY.fullmatch(path.name):
            found[int(path.stem)] = path
    return found


def checkpoints(folder: Path) -> dict[int, Path]:
    """Map version → checkpoint, for all checkpoints in the table's log, whatever is in them."""
    return {
        int(path.name[:20]): path
        for path in log_folder(folder).glob("*.checkpoint.parquet")
        if path.name[:20].isdigit()
    }


def _add_action(one: WrittenFile, *, data_change: bool = True) -> AddAction:
    statistics = {
        "numRecords": one.rows,
        "minValues": {"time": iso_of(one.time_min_us), "position": one.position_min},
        "maxValues": {"time": iso_of(one.time_max_us), "position": one.position_max},
        "nullCount": {"time": 0, "position": 0},
    }
    return AddAction(
        path=one.relative_path,
        size=one.size_bytes,
        partition_values={"date": one.date.isoformat(), "type": one.type},
        modification_time=now_ms(),
        data_change=data_change,
        stats=json.dumps(statistics),
    )


def _plain(column: pa.Field) -> pa.Field:
    """The column as data files are written: whatever layout of text the library prefers."""
    column = pa.field(column)
    return pa.field(column.name, pa.string() if _same_type(column.type, pa.string()) else column.type)


def _same_type(existing: pa.DataType, wanted: pa.DataType) -> bool:
    strings = (pa.string(), pa.large_string(), pa.string_view())
    return bool(existing == wanted) or (existing in strings and wanted in strings)

"""A data file of the table: what is known about one, and how rows become files on disk.

Rows are sorted by `user_id, time`, so that the minima and maxima of row groups find a user, and written as zstd
Parquet with row groups of about 20,000 rows. A file is fsynced, and the folders that its name is in, before its
path is handed to anybody. How columns are encoded and compressed is `storage.packing`'s.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.durable_files import fsync_path, make_durable_folder
from storage.file_names import new_file_name
from storage.packing import Packing, packing_options
from storage.schema import PARTITION_COLUMNS

ROW_GROUP_ROWS: Final = 20_480
# What Arrow and Python raise for rows that no file can hold; a disk that fails raises OSError.
UNWRITABLE: Final = (pa.ArrowException, ValueError, OverflowError)
_NUMBERS: Final = 1 << 63
_SORT_KEYS: Final = [
    ("date", "ascending"),
    ("type", "ascending"),
    ("user_id", "ascending"),
    ("time", "ascending"),
    ("position", "ascending"),
]


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a snapshot, with what the table's log says about it.

    Attributes:
        path: absolute path (or URI) of the file.
        size_bytes: its size.
        rows: its number of rows.
        date: partition, UTC date of every row's `time`.
        type: partition, the action type in lower case.
        time_min_us, time_max_us: bounds of `time` in microseconds since the epoch. The log keeps
            milliseconds, so the maximum is already one millisecond later than written there.
        written_at_ms: when it was committed, milliseconds since the epoch; 0 where that is of no interest.
    """

    path: str
    size_bytes: int
    rows: int
    date: datetime.date
    type: str
    time_min_us: int
    time_max_us: int
    written_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A data file that is on disk, durably, and not in the table yet.

    Attributes:
        relative_path: below the table's folder, as the log names it.
        time_min_us, time_max_us, position_min, position_max: exact bounds of its rows.
    """

    relative_path: str
    size_bytes: int
    rows: int
    date: datetime.date
    type: str
    time_min_us: int
    time_max_us: int
    position_min: int
    position_max: int


def count_partitions(table: pa.Table) -> int:
    """Count the partitions that the rows of *table* belong to."""
    return int(table.select(list(PARTITION_COLUMNS)).group_by(list(PARTITION_COLUMNS)).aggregate([]).num_rows)


def prefix_within_partitions(table: pa.Table, partitions_max: int) -> int:
    """Return how many leading rows of *table* (at least one) belong to at most *partitions_max* partitions."""
    if count_partitions(table) <= partitions_max:
        return int(table.num_rows)
    numbered = table.select(list(PARTITION_COLUMNS)).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    first_rows = numbered.group_by(list(PARTITION_COLUMNS)).aggregate([("row", "min")])["row_min"].to_pylist()
    return int(sorted(first_rows)[partitions_max])


def sort_rows(table: pa.Table) -> pa.Table:
    """Order rows as data files hold them: by partition, user, time and position."""
    return sort_rows_and_let_go([table])


def sort_rows_and_let_go(unsorted: list[pa.Table]) -> pa.Table:
    """Take the one table out of a list, and order its rows as `sort_rows` does.

    Where nobody else holds it, each of its columns is let go as soon as it is ordered: no more than one is held twice.
    """
    table = unsorted.pop()
    order = _order_by_one_number(table)
    if order is None:
        order = pc.sort_indices(table, _SORT_KEYS)
    schema, columns = table.schema, table.columns
    del table
    for place, column in enumerate(columns):
        columns[place] = column.take(order)
        del column
    return pa.Table.from_arrays(columns, schema=schema)


def _order_by_one_number(table: pa.Table) -> pa.Array | None:
    """The same order as by `_SORT_KEYS`, for rows that come in order of position; None where it does not work.

    Partition, user and time of a row make one number of 63 bits, unless they are too far apart. Comparing these is half
    the work of comparing columns, a fifth where users are many.
    """
    if not table.num_rows or any(table[name].null_count for name, _ in _SORT_KEYS):
        return None
    position = _numbers(table["position"])
    if not bool((position[1:] > position[:-1]).all()):
        return None
    days = _numbers(table["date"].cast(pa.int32())).astype(np.int64)
    days -= days.min()
    times = _numbers(table["time"].cast(pa.int64()))
    times = times - times.min()
    types, users = _ranks(table["type"]), _ranks(table["user_id"])
    counts = [int(of.max()) + 1 for of in (days, types, users, times)]
    if math.prod(counts) > _NUMBERS:
        return None
    key = ((days * counts[1] + types) * counts[2] + users) * counts[3] + times
    # Stable, so that rows of one user and time stay in order of position.
    return pa.array(np.argsort(key, kind="stable"))


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = column.to_numpy()
    return numbers


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """For each text its place among the different ones, in the order in which Arrow sorts them."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    places: npt.NDArray[np.int32] = encoded.indices.to_numpy()
    return ranks[places]


def write_partitions(ordered: pa.Table, table_folder: Path) -> list[WrittenFile]:
    """Write rows, which `sort_rows` has ordered and which have all columns, as one durable file a partition.

    Raises:
        OSError: a write or fsync failed; files written so far are removed again.
        UNWRITABLE: the rows themselves cannot be written.
    """
    written: list[WrittenFile] = []
    try:
        for date, type_, rows in _partitions(ordered):
            written.append(_write_one(rows, date, type_, table_folder))
    except BaseException:
        remove_unreferenced(written, table_folder)
        raise
    return written


def remove_unreferenced(files: list[WrittenFile], table_folder: Path) -> None:
    """Remove files that were written and are known not to be in the table."""
    for one in files:
        (table_folder / one.relative_path).unlink(missing_ok=True)


def _partitions(ordered: pa.Table) -> Iterator[tuple[datetime.date, str, pa.Table]]:
    """Cut a table that is sorted by partition into one slice a partition, without the partition columns."""
    keys = ordered.select(list(PARTITION_COLUMNS)).combine_chunks()
    counts = keys.group_by(list(PARTITION_COLUMNS), use_threads=False).aggregate([([], "count_all")])
    data = ordered.drop_columns(list(PARTITION_COLUMNS))
    start = 0
    for row in counts.sort_by([("date", "ascending"), ("type", "ascending")]).to_pylist():
        yield row["date"], row["type"], data.slice(start, row["count_all"])
        start += row["count_all"]


def _write_one(rows: pa.Table, date: datetime.date, type_: str, table_folder: Path) -> WrittenFile:
    writer = DataFileWriter(table_folder, date, type_, rows.schema)
    try:
        writer.write(rows)
        return writer.close()
    except BaseException:
        writer.abort()
        raise


class DataFileWriter:
    """Writes one data file piece by piece, holding at most one row group.

    Rows come in the order of `sort_rows`, without the partition columns. After `close` the file is durable; after
    `abort`, or any error of `write` and `close` followed by it, there is no file.
    """

    def __init__(
        self,
        table_folder: Path,
        date: datetime.date,
        type_: str,
        schema: pa.Schema,
        packing: Packing = Packing.QUICK,
    ) -> None:
        """Create the file.

        Raises:
            OSError: it could not be created.
        """
        self.rows = 0
        self._date = date
        self._type = type_
        self._relative = f"date={date.isoformat()}/type={type_}/{new_file_name(schema, packing)}"
        self._path = table_folder / self._relative
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._time_bounds: list[int] = []
        self._position_bounds: list[int] = []
        self._packing = packing
        # Made with the first rows, which say what a dictionary is worth while for.
        self._writer: pq.ParquetWriter | None = None
        make_durable_folder(self._path.parent)
        self._sink = open(  # noqa: SIM115 - closed by close and abort
            os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb"
        )

    def write(self, rows: pa.Table) -> None:
        """Append rows.

        Raises:
            OSError: the write failed.
            UNWRITABLE: the rows themselves cannot be written.
        """
        if not rows.num_rows:
            return
        self._held.append(rows)
        self._held_rows += rows.num_rows
        self.rows += rows.num_rows
        for bounds, column in (
            (self._time_bounds, rows["time"].cast(pa.int64())),
            (self._position_bounds, rows["position"]),
        ):
            found = pc.min_max(column).as_py()
            bounds[:] = [min([found["min"], *bounds]), max([found["max"], *bounds])]
        whole = self._held_rows - self._held_rows % ROW_GROUP_ROWS
        if whole:
            self._write_held(whole)

    def _write_held(self, count: int) -> None:
        table = pa.concat_tables(self._held)
        if self._writer is None:
            self._writer = self._made_writer(table.slice(0, ROW_GROUP_ROWS))
        self._writer.write_table(table.slice(0, count), row_group_size=ROW_GROUP_ROWS)
        self._held = [table.slice(count)] if count < table.num_rows else []
        self._held_rows = table.num_rows - count

    def _made_writer(self, first: pa.Table) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._sink,
            first.schema,
            write_page_checksum=True,
            # Would be as long as the rest of the footer, and says what the columns' own types say.
            store_schema=False,
            sorting_columns=pq.SortingColumn.from_ordering(
                first.schema, [("user_id", "ascending"), ("time", "ascending")]
            ),
            **packing_options(first, self._packing),
        )

    def close(self) -> WrittenFile:
        """Make the file durable and return what a commit says of it; there must be rows.

        Raises:
            OSError: a write or fsync failed.
        """
        if self._held_rows:
            self._write_held(self._held_rows)
        assert self._writer is not None, "there are rows"
        self._writer.close()
        self._sink.flush()
        os.fsync(self._sink.fileno())
        size = os.fstat(self._sink.fileno()).st_size
        self._sink.close()
        fsync_path(self._path.parent)
        return WrittenFile(
            self._relative, size, self.rows, self._date, self._type, *self._time_bounds, *self._position_bounds
        )

    def abort(self) -> None:
        """Remove the file."""
        if self._writer is not None and not self._sink.closed:
            # Says where pages would go, which is of no interest any more, and may fail as what came before did.
            with contextlib.suppress(*UNWRITABLE, OSError):
                self._writer.close()
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._sink.close()
        self._path.unlink(missing_ok=True)

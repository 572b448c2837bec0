"""Rows of a few data files, read by Arrow: what DuckDB needs to begin is longer than what these take altogether.

The columns that decide are decoded first, `time` and, where it is asked for, `user_id`; the others only of row groups
in which a row is wanted. Footers of files that were read before are remembered, within a bound, until their files are
gone from the table: while rows arrive, each compaction leaves the footers of its old files behind.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from queries.file_index import RetrievalFilter
from queries.memory_rows import wanted_among
from storage.data_files import DataFile
from storage.footer_memory import FOOTER_GROWTH, read_footer

# Beyond these DuckDB is faster: it goes over row groups with all its threads, and stops decoding within them.
FILES_MAX: Final = 4
ROWS_MAX: Final = 100_000
_FOOTERS_BYTES_MAX: Final = 32 << 20
# Handing less to other threads costs more than it saves.
_THREADS_FROM_ROWS: Final = 4_096


@dataclass(frozen=True, slots=True)
class DirectRows:
    """Rows that are asked for, with the columns of a retrieval, and the bytes of the column chunks that were read."""

    rows: pa.Table
    read_bytes: int


@dataclass(frozen=True, slots=True)
class _GroupBounds:
    """What the statistics of a row group say; None where there are none."""

    rows: int
    users: tuple[str, str] | None
    times_us: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Footer:
    metadata: pq.FileMetaData
    columns: dict[str, int]
    groups: tuple[_GroupBounds, ...]
    size_bytes: int


class DirectReader:
    """Reads data files. May be used by any thread."""

    def __init__(self, footers_bytes_max: int = _FOOTERS_BYTES_MAX) -> None:
        self._bytes_max = footers_bytes_max
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, _Footer] = OrderedDict()
        self._bytes = 0
        self._followed: Sequence[DataFile] = ()

    @property
    def footers_kept(self) -> int:
        """How many footers are remembered."""
        return len(self._footers)

    @property
    def footers_bytes(self) -> int:
        """About what they take in memory."""
        return self._bytes

    def follow(self, files: Sequence[DataFile]) -> None:
        """Forget the footers of files that are not among *files*, all those of a version of the table.

        Costs nothing for the same version again. Whoever reads an older one reads its footers anew.
        """
        if files is self._followed:
            return
        with self._lock:
            self._followed = files
            gone = set(self._footers)
            gone.difference_update(one.path for one in files)
            for path in gone:
                self._bytes -= self._footers.pop(path).size_bytes

    def read(
        self, files: Sequence[DataFile], asked: RetrievalFilter, schema: pa.Schema, check: Callable[[], None]
    ) -> DirectRows | None:
        """Read the rows that are asked for; None where DuckDB is the better way.

        Args:
            files: to be read.
            asked: which rows.
            schema: of the result; every file has these columns, but for its partition's.
            check: called before each file; raises where nobody waits any more.

        Raises:
            OSError, pa.ArrowException: a file is gone or cannot be read.
        """
        if len(files) > FILES_MAX:
            return None
        chosen = []
        for one in files:
            footer = self._footer(one.path)
            chosen.append((one, footer, _groups(footer, asked)))
        if sum(footer.groups[group].rows for _, footer, groups in chosen for group in groups) > ROWS_MAX:
            return None
        tables = [schema.empty_table()]
        read_bytes = 0
        for one, footer, groups in chosen:
            check()
            if groups:
                rows, size = _read_file(one, footer, groups, asked, schema)
                tables.append(rows)
                read_bytes += size
        return DirectRows(pa.concat_tables(tables), read_bytes)

    def _footer(self, path: str) -> _Footer:
        # Data files are never changed once they are written, and no two share a name.
        with self._lock:
            known = self._footers.get(path)
            if known is not None:
                self._footers.move_to_end(path)
                return known
        metadata, schema = read_footer(path)
        columns = {name: place for place, name in enumerate(schema.names)}
        groups = tuple(_bounds(metadata.row_group(group), columns) for group in range(metadata.num_row_groups))
        fresh = _Footer(metadata, columns, groups, metadata.serialized_size * FOOTER_GROWTH)
        with self._lock:
            replaced = self._footers.pop(path, None)
            self._bytes += fresh.size_bytes - (0 if replaced is None else replaced.size_bytes)
            self._footers[path] = fresh
            while self._bytes > self._bytes_max and len(self._footers) > 1:
                self._bytes -= self._footers.popitem(last=False)[1].size_bytes
        return fresh


def _bounds(group: pq.RowGroupMetaData, columns: dict[str, int]) -> _GroupBounds:
    users, times = (group.column(columns[name]).statistics for name in ("user_id", "time"))
    return _GroupBounds(
        group.num_rows,
        None if users is None or not users.has_min_max else (users.min, users.max),
        None if times is None or not times.has_min_max else (times.min_raw, times.max_raw),
    )


def _groups(footer: _Footer, asked: RetrievalFilter) -> list[int]:
    """The row groups that can hold what is asked for; those without statistics can."""
    return [
        number
        for number, one in enumerate(footer.groups)
        if (one.users is None or _can_hold_users(*one.users, asked))
        and (one.times_us is None or _can_hold_times(*one.times_us, asked))
    ]


def _can_hold_users(least: str, greatest: str, asked: RetrievalFilter) -> bool:
    if asked.user_id is not None and not least <= asked.user_id <= greatest:
        return False
    if asked.user_prefix is None:
        return True
    below = asked.users_below
    return greatest >= asked.user_prefix and (below is None or least < below)


def _can_hold_times(least_us: int, greatest_us: int, asked: RetrievalFilter) -> bool:
    if asked.from_us is not None and greatest_us < asked.from_us:
        return False
    return asked.to_us is None or least_us <= asked.to_us


def _read_file(
    one: DataFile, footer: _Footer, groups: Sequence[int], asked: RetrievalFilter, schema: pa.Schema
) -> tuple[pa.Table, int]:
    deciding = ["time", *(["user_id"] if asked.user_id is not None or asked.user_prefix is not None else [])]
    others = [name for name in schema.names if name not in deciding and name in footer.columns]
    parts = []
    read_bytes = 0
    with open(one.path, "rb", buffering=0) as file:
        reader = pq.ParquetFile(file, metadata=footer.metadata, pre_buffer=False)
        for group in groups:
            threads = footer.groups[group].rows >= _THREADS_FROM_ROWS
            decided = reader.read_row_group(group, columns=deciding, use_threads=threads)
            read_bytes += _chunk_bytes(footer, group, deciding)
            keep = wanted_among(decided, asked)
            if keep is not None and not pc.any(keep).as_py():
                continue
            rest = reader.read_row_group(group, columns=others, use_threads=threads)
            read_bytes += _chunk_bytes(footer, group, others)
            columns = {name: decided[name] for name in deciding} | {name: rest[name] for name in others}
            rows = pa.table(columns)
            parts.append(rows if keep is None else rows.filter(keep))
    return _with_partition(parts, one, schema), read_bytes


def _chunk_bytes(footer: _Footer, group: int, columns: Sequence[str]) -> int:
    of_group = footer.metadata.row_group(group)
    return sum(of_group.column(footer.columns[name]).total_compressed_size for name in columns)


def _with_partition(parts: Sequence[pa.Table], one: DataFile, schema: pa.Schema) -> pa.Table:
    """The rows with the columns of *schema*; the type is in the file's name only."""
    if not parts:
        return schema.empty_table()
    rows = pa.concat_tables(parts)
    arrays = [
        pa.repeat(pa.scalar(one.type, field.type), rows.num_rows) if field.name == "type" else rows[field.name]
        for field in schema
    ]
    return pa.table(arrays, names=schema.names).cast(schema)

"""One user's rows from one run: a footer, which is remembered, and the few row groups that can hold them.

Nothing is taken on trust: the footer must be the one that the manifest names, the file the one that the footer was read
from, and each page must have its checksum. A file that does not check raises, and the rows are read elsewhere.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.footer_memory import FOOTER_GROWTH, read_footer
from storage.history.coverage import RunUse
from storage.history.manifest import Part, footer_digest
from storage.history.packed import (
    CopyDamaged,
    Notes,
    notes_of,
    stored_columns,
    unpack_journal,
    unpack_properties,
    unpack_times,
    us_of_times,
)

USER_HASH: Final = "user_hash"
_FOOTER_TAIL_BYTES: Final = 8
# Handing a few row groups to another thread costs more than it saves.
_HALVES_FROM_GROUPS: Final = 6
_EPOCH_DATE: Final = datetime.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a user.

    Attributes:
        user_id, user_hash: the user.
        action_type: of this type only, or of any.
        from_us, to_us: bounds of time, both included, or None.
        columns: of the result, in this order.
        descending: begin with the newest.
        rows_min: stop when there are this many rows; None for all.
        beyond: with `rows_min`: time, journal and position of a row; only rows that follow it count and are returned.
    """

    user_id: str
    user_hash: int
    action_type: str | None
    from_us: int | None
    to_us: int | None
    columns: tuple[str, ...]
    descending: bool = False
    rows_min: int | None = None
    beyond: tuple[int, str, int] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of a user, in no order that may be relied upon, and the bytes of the column chunks that were read."""

    rows: pa.Table
    read_bytes: int


@dataclass(frozen=True, slots=True)
class _Footer:
    identity: tuple[int, int, int]
    metadata: pq.FileMetaData
    columns: dict[str, int]
    notes: Notes
    times_in_us: int
    hash_mins: tuple[int, ...]
    hash_maxs: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _OpenPart:
    footer: _Footer
    reader: pq.ParquetFile


class FooterCache:
    """Footers of parts, the most recently used, up to a bound in memory. May be used by any thread."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._footers: OrderedDict[Path, _Footer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._footers)

    @property
    def kept_bytes(self) -> int:
        """About what they take in memory."""
        return self._bytes

    def get(self, path: Path, part: Part, file: io.FileIO) -> _Footer:
        """Return the footer of an open part.

        Raises:
            CopyDamaged: it is not the footer that the manifest names.
            OSError: it cannot be read.
        """
        status = os.fstat(file.fileno())
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._footers.get(path)
            if known is not None and known.identity == identity:
                self._footers.move_to_end(path)
                return known
        fresh = _read_footer(path, part, file, identity)
        with self._lock:
            replaced = self._footers.pop(path, None)
            self._bytes += fresh.size_bytes - (0 if replaced is None else replaced.size_bytes)
            self._footers[path] = fresh
            while self._bytes > self._bytes_max and len(self._footers) > 1:
                self._bytes -= self._footers.popitem(last=False)[1].size_bytes
        return fresh


def _read_footer(path: Path, part: Part, file: io.FileIO, identity: tuple[int, int, int]) -> _Footer:
    size = identity[1]
    if size != part.size_bytes:
        raise CopyDamaged(f"{path} has {size} bytes, not {part.size_bytes}")
    tail = os.pread(file.fileno(), _FOOTER_TAIL_BYTES, size - _FOOTER_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little") + _FOOTER_TAIL_BYTES
    footer = os.pread(file.fileno(), length, size - length) if 0 < length <= size else b""
    if footer_digest(footer) != part.footer_digest:
        raise CopyDamaged(f"the footer of {path} is not the one that was written")
    # The magic in front makes a file of the footer alone.
    metadata, schema = read_footer(pa.BufferReader(b"PAR1" + footer))
    columns = {name: place for place, name in enumerate(schema.names)}
    place = columns[USER_HASH]
    statistics = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
    mins, maxs = tuple(one.min for one in statistics), tuple(one.max for one in statistics)
    notes, times_in_us = notes_of(metadata.metadata), us_of_times(schema)
    return _Footer(identity, metadata, columns, notes, times_in_us, mins, maxs, length * FOOTER_GROWTH)


def read_user(history: Path, use: RunUse, wanted: Wanted, footers: FooterCache) -> Found:
    """Read what a run holds of a user.

    Raises:
        CopyDamaged: the run is not what it says it is.
        OSError, pa.ArrowException: it cannot be read.
    """
    part = use.run.part_of(wanted.user_hash)
    if part is None:
        return Found(_together([], wanted), 0)
    with _open_part(history, use, part, footers) as opened:
        columns = stored_columns(
            _columns_to_read(wanted, use), opened.footer.columns, opened.footer.notes, action_type=wanted.action_type
        )
        groups = _groups(opened.footer, wanted)
        if wanted.rows_min is None and len(groups) >= _HALVES_FROM_GROUPS:
            half = (len(groups) + 1) // 2
            # A thread of its own: what it takes of Arrow's allocator, which keeps memory for each, ends with it.
            with ThreadPoolExecutor(1, thread_name_prefix="history") as thread:
                second = thread.submit(_read_by_itself, history, use, wanted, footers, groups[half:], columns)
                tables = [_read_groups(opened, use, wanted, groups[:half], columns), second.result()]
            return Found(_together(tables, wanted), _chunk_bytes(opened.footer, groups, columns))
        tables = []
        read_bytes = found = 0
        for batch in _batches(groups, wanted):
            tables.append(_read_groups(opened, use, wanted, batch, columns))
            read_bytes += _chunk_bytes(opened.footer, batch, columns)
            found += tables[-1].num_rows
            if wanted.rows_min is not None and found >= wanted.rows_min:
                break
    return Found(_together(tables, wanted), read_bytes)


@contextlib.contextmanager
def _open_part(history: Path, use: RunUse, part: Part, footers: FooterCache) -> Iterator[_OpenPart]:
    path = history / use.run.id / part.name
    with open(path, "rb", buffering=0) as file:
        footer = footers.get(path, part, file)
        reader = pq.ParquetFile(
            file, metadata=footer.metadata, page_checksum_verification=True, pre_buffer=False, memory_map=False
        )
        yield _OpenPart(footer, reader)


def _read_by_itself(
    history: Path, use: RunUse, wanted: Wanted, footers: FooterCache, groups: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """Read row groups in another thread, for which the part is opened once more: a reader is of one thread."""
    part = use.run.part_of(wanted.user_hash)
    assert part is not None, "it has these row groups"
    with _open_part(history, use, part, footers) as opened:
        return _read_groups(opened, use, wanted, groups, columns)


def _read_groups(
    opened: _OpenPart, use: RunUse, wanted: Wanted, groups: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    read = opened.reader.read_row_groups(list(groups), columns=list(columns), use_threads=False)
    of_user = unpack_journal(_of_user(unpack_times(read), wanted.user_id), opened.footer.notes)
    return unpack_properties(_of_page(_matching(of_user, wanted, use), wanted), opened.footer.notes)


def _of_page(rows: pa.Table, wanted: Wanted) -> pa.Table:
    """Leave out what cannot be among the first rows of a page: texts of properties are made for all that stays."""
    if wanted.rows_min is None or rows.num_rows <= wanted.rows_min:
        return rows
    times: npt.NDArray[np.int64] = rows["time"].cast(pa.int64()).to_numpy()
    at = len(times) - wanted.rows_min if wanted.descending else wanted.rows_min - 1
    last = np.partition(times, at)[at]
    # Rows of the same time are told apart by others, when rows from elsewhere are among them.
    return rows.filter(pa.array(times >= last if wanted.descending else times <= last))


def _columns_to_read(wanted: Wanted, use: RunUse) -> list[str]:
    needed = dict.fromkeys(("user_id", "time", "type", *wanted.columns))
    if wanted.beyond is not None:
        needed |= dict.fromkeys(("journal", "position"))
    return [name for name in needed if name in use.run.columns]


def _groups(footer: _Footer, wanted: Wanted) -> list[int]:
    """The row groups that can hold the user, in the order in which they are to be read."""
    first = bisect_left(footer.hash_maxs, wanted.user_hash)
    last = bisect_right(footer.hash_mins, wanted.user_hash)
    groups = [group for group in range(first, last) if _time_matches(footer, group, wanted)]
    return groups[::-1] if wanted.descending else groups


def _time_matches(footer: _Footer, group: int, wanted: Wanted) -> bool:
    if wanted.from_us is None and wanted.to_us is None:
        return True
    times = footer.metadata.row_group(group).column(footer.columns["time"]).statistics
    if wanted.from_us is not None and times.max_raw * footer.times_in_us < wanted.from_us:
        return False
    return wanted.to_us is None or bool(times.min_raw * footer.times_in_us <= wanted.to_us)


def _batches(groups: Sequence[int], wanted: Wanted) -> Iterator[list[int]]:
    """Cut row groups into steps after which reading may stop: one, two, four and so on."""
    if wanted.rows_min is None:
        yield from [list(groups)] if groups else []
        return
    start, count = 0, 1
    while start < len(groups):
        yield list(groups[start : start + count])
        start, count = start + count, count * 2


def _chunk_bytes(footer: _Footer, groups: Sequence[int], columns: Sequence[str]) -> int:
    return sum(
        footer.metadata.row_group(group).column(footer.columns[name]).total_compressed_size
        for group in groups
        for name in columns
    )


def _of_user(read: pa.Table, user_id: str) -> pa.Table:
    """The rows of a user, without copying them where they stand beside each other, as they do unless read backwards."""
    places = pc.indices_nonzero(pc.equal(read["user_id"], user_id))
    if not len(places):
        return read.slice(0, 0)
    first, last = places[0].as_py(), places[-1].as_py()
    return read.slice(first, len(places)) if last - first + 1 == len(places) else read.take(places)


def _matching(rows: pa.Table, wanted: Wanted, use: RunUse) -> pa.Table:
    if not rows.num_rows:
        return rows
    times = rows["time"].cast(pa.int64())
    conditions = []
    if wanted.action_type is not None:
        conditions.append(pc.equal(rows["type"], wanted.action_type))
    if wanted.from_us is not None:
        conditions.append(pc.greater_equal(times, wanted.from_us))
    if wanted.to_us is not None:
        conditions.append(pc.less_equal(times, wanted.to_us))
    if wanted.beyond is not None:
        conditions.append(_follows(rows, times, wanted))
    if conditions:
        rows = rows.filter(functools.reduce(pc.and_, conditions))
    return without_partitions(rows, use.excluded) if use.excluded else rows


def _follows(rows: pa.Table, times: pa.ChunkedArray, wanted: Wanted) -> pa.ChunkedArray:
    assert wanted.beyond is not None
    time_us, journal, position = wanted.beyond
    after = pc.less if wanted.descending else pc.greater
    same_journal = pc.and_(pc.equal(rows["journal"], journal), after(rows["position"], position))
    same_time = pc.and_(pc.equal(times, time_us), pc.or_(after(rows["journal"], journal), same_journal))
    return pc.or_(after(times, time_us), same_time)


def without_partitions(rows: pa.Table, excluded: frozenset[tuple[str, str]]) -> pa.Table:
    """Leave out the rows of these partitions."""
    days = {((datetime.date.fromisoformat(date) - _EPOCH_DATE).days, type_) for date, type_ in excluded}
    of_rows = zip(_days(rows["time"]).to_pylist(), rows["type"].to_pylist(), strict=True)
    return rows.filter(pa.array([one not in days for one in of_rows], pa.bool_()))


def _days(times: pa.ChunkedArray) -> pa.ChunkedArray:
    # Times before 1970 are not accepted, so that dividing is rounding down.
    return pc.divide(times.cast(pa.int64()), 86_400_000_000).cast(pa.int32())


def _together(tables: list[pa.Table], wanted: Wanted) -> pa.Table:
    """The rows with the columns that are wanted; the date follows from the time."""
    if not tables:
        return pa.table({})
    rows = pa.concat_tables(tables)
    if "date" in wanted.columns:
        rows = rows.append_column("date", _days(rows["time"]).cast(pa.date32()))
    return rows.select(list(wanted.columns))

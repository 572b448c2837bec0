"""A whole retrieval as a stream, in order, in bounded memory.

Rows leave ordered by time. Sorting them all at once would hold them all, and hold back the first until the last is
read. What is asked for is therefore cut along time into slices: days follow each other without being merged, since a
file belongs to one UTC day, and a day with more rows or longer texts than a slice may hold is cut by what is counted in
it (`slice_cutting`). Each slice is sorted by itself, and sent while the next one is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from queries.action_rows import CSV_HEADER, action_stream_sql
from queries.engine import QueryConnection
from queries.file_index import RetrievalFilter
from queries.formats import ByteStream, Format, encode, encode_lines
from queries.memory_rows import page_rows
from queries.pruning import Pruned
from queries.retrieval import ROW_COLUMNS, RetrievalQuery, ScanStatistics
from queries.slice_cutting import SliceBounds, SliceCutter
from queries.slice_rows import SliceRows, can_be_read, read_slice
from queries.sources import Order, PageBounds, Sources, find_sources
from storage.data_files import DataFile
from storage.read_view import ReadView

SLICE_ROWS: Final = 90_000
# Of queries, whose lines of text are as many.
_BATCH_ROWS: Final = 16_384
# Of properties; those of 90,000 usual rows have a third.
SLICE_TEXT_BYTES: Final = 12_000_000
# Of files that are read by Arrow, for one slice.
_READ_DIRECTLY_ROWS_MAX: Final = 2 * SLICE_ROWS
# Of fewer rows DuckDB finds the first without reading all columns of the others.
_READ_ROWS_MIN: Final = 20_000
# Of no more than these DuckDB finds the first without holding the others.
_FIRST_ROWS_MAX: Final = 10_000
_DAY_US: Final = 86_400_000_000
_EPOCH_ORDINAL: Final = 719_163
_ALL_TIME_US: Final = (0, 253_402_300_800_000_000)


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream that is asked for: the filter, the order by time, the format, and how many rows at most, if any."""

    filter: RetrievalFilter
    order: Order
    format: Format
    limit: int | None = None
    csv_raw: bool = False


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a retrieval: bounds of time, both included, and the files that can hold rows between them."""

    from_us: int
    to_us: int
    files: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class RetrievalStream:
    """An answer on its way.

    Attributes:
        content: the bytes; to be closed if it is not read to its end.
        planned: what will be read at the most: the files that remain after pruning, with their whole size.
    """

    content: ByteStream
    planned: ScanStatistics
    pruned: Pruned


def stream_retrieval(connection: QueryConnection, view: ReadView, request: StreamRequest) -> RetrievalStream:
    """Begin to answer; the connection must stay open until the content is read or closed.

    Raises:
        QueryStopped: the connection was interrupted; also from the content.
    """
    typed = request.format in (Format.ARROW, Format.PARQUET)
    sources = find_sources(
        view,
        request.filter,
        view.schema.table_schema.names if typed else ROW_COLUMNS,
        page=None if request.limit is None else PageBounds(request.order, request.limit, None),
    )
    slices = plan_slices(sources.files, request.filter, rows_max=SLICE_ROWS)
    if request.order == "desc":
        slices.reverse()
    if typed and request.filter.user_id is not None and not sources.files:
        batches = _from_memory(view, request, sources)
    else:
        batches = _SliceReader(connection, view, request, sources).batches(slices)
    # The first batch tells the columns' types, and that the query is right, before anything is sent.
    first = next(batches)
    rows = _prepended(first, batches)
    match request.format:
        case Format.NDJSON:
            content = encode_lines(rows)
        case Format.CSV:
            content = encode_lines(rows, header=CSV_HEADER)
        case _:
            content = encode(first.schema, rows, request.format)
    planned = ScanStatistics(
        len(sources.files) + sources.copied_files,
        len(view.files),
        sum(one.size_bytes for one in sources.files) + sources.copied_bytes,
    )
    return RetrievalStream(content, planned, sources.pruned)


def plan_slices(files: Sequence[DataFile], asked: RetrievalFilter, *, rows_max: int) -> list[Slice]:
    """Cut what is asked for between days, each part with *rows_max* rows in files at the most, or one day.

    At least one part. A user's own history is one slice: the files have far more rows than it.
    """
    low = _ALL_TIME_US[0] if asked.from_us is None else asked.from_us
    high = _ALL_TIME_US[1] if asked.to_us is None else asked.to_us
    if asked.user_id is not None or sum(one.rows for one in files) <= rows_max:
        return [Slice(low, high, tuple(files))]
    days: dict[int, list[DataFile]] = {}
    for one in files:
        days.setdefault(one.date.toordinal() - _EPOCH_ORDINAL, []).append(one)
    slices: list[Slice] = []
    start = low
    pending: list[DataFile] = []
    pending_rows = 0
    for day in sorted(days):
        rows = sum(one.rows for one in days[day])
        if pending and pending_rows + rows > rows_max:
            slices.append(Slice(start, day * _DAY_US - 1, tuple(pending)))
            start, pending, pending_rows = day * _DAY_US, [], 0
        pending += days[day]
        pending_rows += rows
    slices.append(Slice(start, high, tuple(pending)))
    return [one for one in slices if one.from_us <= one.to_us]


def _from_memory(view: ReadView, request: StreamRequest, sources: Sources) -> Iterator[pa.RecordBatch]:
    """Yield a user's rows where all of them are in memory: DuckDB would only copy them."""
    page = PageBounds(request.order, sources.memory.num_rows if request.limit is None else request.limit, None)
    rows = page_rows(view.erased.of_user(request.filter.user_id or "").without(sources.memory), request.filter, page)
    yield from rows.combine_chunks().to_batches(_BATCH_ROWS) or [
        pa.RecordBatch.from_pylist([], schema=sources.memory.schema)
    ]


def _is_read_directly(request: StreamRequest, view: ReadView, files: Sequence[DataFile]) -> bool:
    """Whether Arrow reads the slices of these files, as far as they are not too large."""
    return (
        request.format in (Format.ARROW, Format.PARQUET)
        and (request.limit is None or request.limit >= _READ_ROWS_MIN)
        and can_be_read(files, request.filter, view.schema.table_schema, rows_max=sum(one.rows for one in files))
    )


class _SliceReader:
    """Yields the rows of slices, one after the other.

    Args:
        connection: for slices that need a query; must stay open while batches are read.
    """

    def __init__(self, connection: QueryConnection, view: ReadView, request: StreamRequest, sources: Sources) -> None:
        self._connection = connection
        self._view = view
        self._request = request
        self._memory = sources.memory
        self._columns = view.schema.table_schema
        self._typed = request.format in (Format.ARROW, Format.PARQUET)
        self._selected = action_stream_sql(request.format, view.schema, csv_raw=request.csv_raw)
        self._cutter = SliceCutter(connection, sources.memory, view.erased, SliceBounds(SLICE_ROWS, SLICE_TEXT_BYTES))
        direction = "ASC" if request.order == "asc" else "DESC"
        self._order = f"time {direction}, journal {direction}, position {direction}"

    def batches(self, slices: Sequence[Slice]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of all slices, at least one batch, which may be empty."""
        left = self._request.limit
        # Threads of this stream: what they took of Arrow's allocator, which keeps memory for each thread, ends with
        # them. One reads a slice, and the other one helps it.
        with ThreadPoolExecutor(2, thread_name_prefix="slices") as threads:
            yield from self._batches(slices, left, threads)
        if self._typed:
            pa.default_memory_pool().release_unused()

    def _batches(
        self, slices: Sequence[Slice], left: int | None, threads: ThreadPoolExecutor
    ) -> Iterator[pa.RecordBatch]:
        ahead = self._read_ahead(slices[0], threads)
        # Parquet takes four times as long to encode as slices to read: two would be held for nothing.
        early = self._request.format is not Format.PARQUET
        try:
            for number, one in enumerate(slices):
                read = None if ahead is None else ahead.result()
                if read is not None:
                    pa.default_memory_pool().release_unused()
                following = slices[number + 1] if number + 1 < len(slices) else None
                ahead = self._read_ahead(following, threads) if following is not None and early else None
                rows = 0
                for batch in self._queried(one, left) if read is None else self._of_read(read, left):
                    rows += batch.num_rows
                    if rows or number == 0:
                        yield batch
                if left is not None:
                    left -= rows
                    if left <= 0:
                        return
                if following is not None and not early:
                    read = None
                    ahead = self._read_ahead(following, threads)
        finally:
            if ahead is not None:
                ahead.cancel()

    def _read_ahead(self, one: Slice, threads: ThreadPoolExecutor) -> Future[SliceRows | None] | None:
        """Begin to read a slice in another thread; None where it needs a query."""
        rows = sum(file.rows for file in one.files)
        if rows > _READ_DIRECTLY_ROWS_MAX or not _is_read_directly(self._request, self._view, one.files):
            return None
        return threads.submit(
            read_slice,
            one.files,
            self._memory,
            self._view.erased,
            self._asked(one),
            self._request.order,
            self._columns,
            self._connection.check,
            beside=threads,
        )

    def _of_read(self, read: SliceRows, left: int | None) -> Iterator[pa.RecordBatch]:
        if not read.rows:
            yield pa.RecordBatch.from_pylist([], schema=read.schema)
        for batch in read.batches(rows_max=left):
            self._connection.check()
            yield batch

    def _queried(self, one: Slice, left: int | None) -> Iterator[pa.RecordBatch]:
        """The rows of a slice by queries, each of which holds a part of bounded size."""
        asked = self._asked(one)
        bounds: Iterable[tuple[int | None, int | None]] = [(asked.from_us, asked.to_us)]
        if asked.user_id is None and (left is None or left > _FIRST_ROWS_MAX):
            bounds = self._cutter.parts(one.files, asked, descending=self._request.order == "desc")
        for number, (from_us, to_us) in enumerate(bounds):
            rows = 0
            for batch in self._query(one.files, replace(asked, from_us=from_us, to_us=to_us), left):
                rows += batch.num_rows
                if rows or number == 0:
                    yield batch
            if left is not None:
                left -= rows
                if left <= 0:
                    return

    def _query(self, files: Sequence[DataFile], asked: RetrievalFilter, left: int | None) -> Iterator[pa.RecordBatch]:
        query = RetrievalQuery(asked)
        source = query.source(
            self._connection,
            files,
            self._memory,
            self._view.erased,
            columns=self._columns.names if self._typed else None,
        )
        limit = "" if left is None else f" LIMIT {left}"
        ordered = f"SELECT * FROM ({source}) ORDER BY {self._order}{limit}"  # noqa: S608
        sql = f"SELECT {self._selected} FROM ({ordered}) ORDER BY {self._order}"  # noqa: S608
        reader = self._connection.stream(sql, query.parameters, batch_rows=_BATCH_ROWS)
        empty = True
        for batch in reader:
            empty = False
            yield batch
        if empty:
            yield pa.RecordBatch.from_pylist([], schema=reader.schema)

    def _asked(self, one: Slice) -> RetrievalFilter:
        return replace(self._request.filter, from_us=one.from_us, to_us=one.to_us)


def _prepended(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest  # Closed with the connection, which the stream's owner closes last.

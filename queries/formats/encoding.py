"""The rows of a result, batch by batch, as the bytes of an answer in one of the formats.

Memory is bounded whatever the number of rows: text formats turn slices of at most 8,192 rows and about 4 MiB at a time,
Arrow copies half a MiB at a time, Parquet holds one row group. A single value larger than that is held whole, several
times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from queries.formats.array_parts import estimated_bytes, text_bytes
from queries.formats.byte_streams import ByteStream, DrainedSink, Piece
from queries.formats.csv_text import csv_header, csv_lines
from queries.formats.few_rows import are_few, few_objects
from queries.formats.json_text import json_objects
from queries.formats.media_types import Format
from queries.formats.portable import portable_batch, portable_schema
from queries.formats.result_columns import distinct_names, sql_type_name

SLICE_ROWS_MAX: Final = 8_192
SLICE_BYTES_MAX: Final = 4 * 1024 * 1024
_SLICES_AHEAD: Final = 2
# Python's clients take the memory for a larger message from the system each time, which costs as much as reading it.
ARROW_MESSAGE_BYTES: Final = 512 * 1024
ARROW_STREAM_END: Final = b"\xff\xff\xff\xff\0\0\0\0"
_WHOLE_BYTES_OF_BITS: Final = 64
ARROW_BATCH_ROWS_MAX: Final = 122_880
ROW_GROUP_ROWS_FIRST: Final = 20_480
# All of a row group is held, and its encoded pages beside it.
ROW_GROUP_ROWS_MAX: Final = 32_768
ROW_GROUP_BYTES_MAX: Final = 8 * 1024 * 1024

Batches = Iterator[pa.RecordBatch]


def encode(
    schema: pa.Schema,
    batches: Batches,
    format_: Format,
    *,
    csv_raw: bool = False,
    column_types: Sequence[str] | None = None,
    statistics: Callable[[], Mapping[str, object]] | None = None,
) -> ByteStream:
    """Encode the result of any query.

    Columns of the same name get distinct ones, as DuckDB makes them (`a`, `a_1`). JSON is
    `{"columns": [{"name", "type"}], "rows": [{…}], "statistics": {…}}` and NDJSON a row a line, both with one object a
    row; see `json_text`, `scalar_text`, `csv_text` and `portable` for how values are written. Set
    `arrow_lossless_conversion` in the DuckDB that makes *batches*: without it, UHUGEINT and TIME WITH TIME ZONE arrive
    altered, and JSON cannot be told from text.

    Args:
        schema: of all batches.
        batches: the rows; closed with the answer, if it can be closed.
        format_: what to encode to.
        csv_raw: leave what a spreadsheet would take for a formula as it is.
        column_types: the names of the columns' types in JSON; SQL's names for the Arrow types by default.
        statistics: called after the last row, for the member `statistics` of JSON, which is left out without it.

    Raises:
        ValueError: the result has no columns.
        TypeError: a column has a type that no query gives (raised at once, or with the first rows).
        TooManyDigits: (Arrow and Parquet, while streaming) a number is larger than a decimal.
    """
    if not len(schema):
        raise ValueError("a result without columns cannot be encoded")
    names = distinct_names(schema.names)
    close_source = getattr(batches, "close", _nothing_to_close)
    match format_:
        case Format.JSON:
            types = column_types if column_types is not None else [sql_type_name(one.type) for one in schema]
            pieces = _json(names, types, batches, statistics)
        case Format.NDJSON:
            pieces = _ndjson(names, batches)
        case Format.CSV:
            pieces = _csv(names, batches, raw=csv_raw)
        case Format.ARROW:
            return ByteStream(_arrow(portable_schema(schema), batches), close_source, messages=True)
        case Format.PARQUET:
            pieces = _parquet(portable_schema(schema), batches)
    return ByteStream(pieces, close_source)


def encode_lines(batches: Batches, *, header: bytes = b"") -> ByteStream:
    """Hand on lines that the query itself has made: the texts of the one column of *batches*, after *header*.

    Raises:
        ValueError: (while streaming) a line is null, or there is more than one column.
    """
    return ByteStream(_lines(batches, header), getattr(batches, "close", _nothing_to_close))


def _nothing_to_close() -> None:
    """Stand in for the `close` of an iterator that has none."""


def _json(
    names: Sequence[str],
    types: Sequence[str],
    batches: Batches,
    statistics: Callable[[], Mapping[str, object]] | None,
) -> Iterator[Piece]:
    columns = [{"name": name, "type": type_} for name, type_ in zip(names, types, strict=True)]
    yield b'{"columns":' + msgspec.json.encode(columns) + b',"rows":['
    first = True
    for rows in _turned(_slices(batches), lambda part: _objects(part, names, before=",", after="")):
        yield rows[1:] if first else rows
        first = False
    yield b"]"
    if statistics is not None:
        yield b',"statistics":' + msgspec.json.encode(statistics())
    yield b"}"


def _ndjson(names: Sequence[str], batches: Batches) -> Iterator[Piece]:
    yield from _turned(_slices(batches), lambda part: _objects(part, names, before="", after="\n"))


def _csv(names: Sequence[str], batches: Batches, *, raw: bool) -> Iterator[Piece]:
    yield csv_header(names, raw=raw)
    yield from _turned(_slices(batches), lambda part: text_bytes(csv_lines(part.columns, raw=raw)))


def _lines(batches: Batches, header: bytes) -> Iterator[Piece]:
    if header:
        yield header
    for batch in batches:
        if batch.num_columns != 1 or batch.column(0).null_count:
            raise ValueError("lines are one column of texts that are not null")
        yield text_bytes(batch.column(0))


def _arrow(schema: pa.Schema, batches: Batches) -> Iterator[list[Piece]]:
    """Arrow's messages. Nothing leaves before the first rows, which may have numbers that are too large."""
    if any("dictionary<" in str(one.type) for one in schema):
        yield from _arrow_with_dictionaries(schema, batches)
        return
    # Copied, each by one call: a writer calls back for every buffer, and threads that read wait for each other then.
    waiting: list[Piece] = [memoryview(schema.serialize()).cast("B")]
    for batch in batches:
        portable = portable_batch(batch, schema)
        rows = _message_rows(portable)
        for start in range(0, portable.num_rows, rows):
            yield [*waiting, memoryview(portable.slice(start, rows).serialize()).cast("B")]
            waiting = []
    yield [*waiting, ARROW_STREAM_END]


def _message_rows(batch: pa.RecordBatch) -> int:
    """How many rows of *batch* are a message of about the size that it should have."""
    rows: int = max(1, ARROW_MESSAGE_BYTES * batch.num_rows // max(1, batch.nbytes))
    # Bits of validity are cut where bytes are, so that they need not be shifted.
    return rows if rows < _WHOLE_BYTES_OF_BITS else rows // _WHOLE_BYTES_OF_BITS * _WHOLE_BYTES_OF_BITS


def _arrow_with_dictionaries(schema: pa.Schema, batches: Batches) -> Iterator[list[Piece]]:
    sink = DrainedSink()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            for start in range(0, batch.num_rows, ARROW_BATCH_ROWS_MAX):
                writer.write_batch(portable_batch(batch.slice(start, ARROW_BATCH_ROWS_MAX), schema))
                yield sink.drain()
    yield sink.drain()


def _parquet(schema: pa.Schema, batches: Batches) -> Iterator[Piece]:
    sink = DrainedSink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in _row_groups(schema, batches):
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS_MAX)
            yield from sink.drain()
    yield from sink.drain()


def _row_groups(schema: pa.Schema, batches: Batches) -> Iterator[pa.Table]:
    """Gather rows into row groups; the first is small, so that its bytes leave early."""
    rows_max = ROW_GROUP_ROWS_FIRST
    held: list[pa.RecordBatch] = []
    held_rows = 0
    held_bytes = 0
    for part in _slices(batches):
        held.append(portable_batch(part, schema))
        held_rows += part.num_rows
        held_bytes += part.nbytes
        if held_rows + SLICE_ROWS_MAX > rows_max or held_bytes >= ROW_GROUP_BYTES_MAX:
            yield pa.Table.from_batches(held, schema)
            rows_max = ROW_GROUP_ROWS_MAX
            held, held_rows, held_bytes = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _objects(part: pa.RecordBatch, names: Sequence[str], *, before: str, after: str) -> Piece:
    if are_few(part):
        return few_objects(part.columns, names, before=before, after=after)
    return text_bytes(json_objects(part.columns, names, before=before, after=after))


def _turned(parts: Batches, text_of: Callable[[pa.RecordBatch], Piece]) -> Iterator[Piece]:
    """Turn slices into text in order, the first one here and at once, those after it a few ahead in threads."""
    for first in parts:
        yield text_of(first)
        break
    ahead: deque[Future[Piece]] = deque()
    for part in parts:
        ahead.append(_threads().submit(text_of, part))
        if len(ahead) > _SLICES_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


@cache
def _threads() -> ThreadPoolExecutor:
    """The threads that all answers of a process share; Arrow's kernels run beside each other."""
    return ThreadPoolExecutor(_SLICES_AHEAD, thread_name_prefix="encode")


def _slices(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Cut batches into slices that may be turned into text without taking much memory; empty ones are left out."""
    for batch in _gathered(batches):
        row_bytes = max(1, sum(map(estimated_bytes, batch.columns)) // batch.num_rows)
        rows = max(1, min(SLICE_ROWS_MAX, SLICE_BYTES_MAX // row_bytes))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _gathered(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Join small batches, but for the first one, since a kernel costs as much for few rows as for many."""
    held: list[pa.RecordBatch] = []
    held_rows = held_bytes = 0
    wanted_rows = 1
    for batch in batches:
        if not batch.num_rows:
            continue
        held.append(batch)
        held_rows += batch.num_rows
        held_bytes += sum(map(estimated_bytes, batch.columns))
        if held_rows >= wanted_rows or held_bytes >= SLICE_BYTES_MAX // 2 or not _can_be_joined(batch.schema):
            yield from _joined(held)
            held, held_rows, held_bytes = [], 0, 0
            wanted_rows = SLICE_ROWS_MAX
    if held:
        yield from _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if len(batches) == 1:
        yield batches[0]
    else:
        yield from pa.Table.from_batches(batches).combine_chunks().to_batches()


def _can_be_joined(schema: pa.Schema) -> bool:
    """Arrow cannot join unions and some extension types."""
    return not any(pa.types.is_nested(one.type) or isinstance(one.type, pa.BaseExtensionType) for one in schema)

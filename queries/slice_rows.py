"""The rows of one slice of a stream, read from files by Arrow and put into order of time, without a query.

A stream of all columns needs no engine: the rows of a slice are all read, and only their order is to be found. Arrow
reads files in two thirds of the processor time that DuckDB takes, sorts one number a row instead of rows, and gathers
each column once: one column after the other, while it is in the processor's caches. Texts that many rows share stay in
dictionaries until a batch is made, so that what is held is about as large as what the files' pages hold. Columns of
which a file says that they are empty are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from queries.file_index import RetrievalFilter
from queries.sources import Order
from storage.data_files import DataFile
from storage.erased_rows import ErasedRows
from storage.file_names import all_have_columns
from storage.schema import PARTITION_COLUMNS

# Of all pages of a slice's files, decompressed: ten times what 120,000 usual rows take.
PAGES_BYTES_MAX: Final = 64 << 20
_OWN_TEXTS: Final = ("user_id", "session_id", "properties")
_SHARED_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_KEYS: Final = ("time", "journal", "position")
_KEY_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class SliceRows:
    """Rows in memory, and the order in which they leave.

    Attributes:
        columns: of all rows, some of which may not be wanted; `batches` empties it.
        order: the places of those that are, first to last.
        schema: of the batches.
    """

    columns: list[pa.Array]
    order: npt.NDArray[np.int64]
    schema: pa.Schema

    def batches(self, *, rows_max: int | None, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the first *rows_max* rows, or all, at most *batch_rows* at once; to be called once.

        Each column is gathered as a whole, and then not held in its first order any more.
        """
        order = pa.array(self.order if rows_max is None else self.order[:rows_max])
        self.columns.reverse()
        gathered = [self.columns.pop().take(order) for _ in self.schema]
        for start in range(0, len(order), batch_rows):
            columns = [_decoded(one.slice(start, batch_rows)) for one in gathered]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)


def can_be_read(files: Sequence[DataFile], asked: RetrievalFilter, schema: pa.Schema, *, rows_max: int) -> bool:
    """Whether `read_slice` may do instead of a query.

    Not where row groups can be told apart by user; not where files lack columns, or have others; not where most rows of
    the files lie outside of the slice.
    """
    return (
        asked.user_id is None
        and asked.user_prefix is None
        and sum(one.rows for one in files) <= rows_max
        and all_have_columns((one.path for one in files), schema)
    )


def read_slice(
    files: Sequence[DataFile],
    memory: pa.Table,
    erased: ErasedRows,
    asked: RetrievalFilter,
    order: Order,
    schema: pa.Schema,
    check: Callable[[], None],
) -> SliceRows | None:
    """Read all columns of the rows that are asked for; None where that would take more memory than it may.

    Args:
        files: that can hold such rows, of the type that is asked for only; `can_be_read` said so.
        memory: rows that are in none of them, with the columns of *schema*.
        erased: rows to be left out.
        asked: type and bounds of time.
        order: by time, then by journal and position.
        schema: the columns of the table.
        check: called between files; raises to give up.

    Raises:
        OSError, pa.ArrowException: a file cannot be read.
    """
    contents = []
    pages_bytes = 0
    for one in files:
        check()
        contents.append(_content_of(pq.read_metadata(one.path)))
        pages_bytes += contents[-1].pages_bytes
        if pages_bytes > PAGES_BYTES_MAX:
            return None
    packed = _packed(schema, frozenset().union(*(one.in_dictionaries for one in contents)))
    parts: list[pa.Table] = []
    for one, content in zip(files, contents, strict=True):
        check()
        parts.append(_with_missing(_read(one.path, content, packed), one, packed))
    if memory.num_rows:
        parts.append(_of_type(memory, asked.action_type).cast(packed))
    table = erased.without(pa.concat_tables(parts) if parts else packed.empty_table())
    chunked = table.columns
    parts.clear()
    del table
    batch = pa.RecordBatch.from_arrays(_in_one_piece(chunked), schema=packed)
    return SliceRows(batch.columns, _in_order(batch, asked, order), schema)


@dataclass(frozen=True, slots=True)
class _Content:
    """What a footer says: its columns, which of them hold nothing but nulls, and which others dictionaries."""

    footer: pq.FileMetaData
    pages_bytes: int
    empty: frozenset[str]
    in_dictionaries: frozenset[str]


def _content_of(footer: pq.FileMetaData) -> _Content:
    filled: set[str] = set()
    in_dictionaries: set[str] = set()
    names = [footer.schema.column(place).name for place in range(footer.num_columns)]
    pages_bytes = 0
    for at in range(footer.num_row_groups):
        group = footer.row_group(at)
        pages_bytes += group.total_byte_size
        for place, name in enumerate(names):
            chunk = group.column(place)
            said = chunk.statistics
            if said is None or not said.has_null_count or said.null_count < group.num_rows:
                filled.add(name)
                if chunk.has_dictionary_page:
                    in_dictionaries.add(name)
    return _Content(footer, pages_bytes, frozenset(names) - filled, frozenset(in_dictionaries))


def _packed(schema: pa.Schema, in_dictionaries: frozenset[str]) -> pa.Schema:
    """The schema with dictionaries for texts that are not of a row's own, and that files have in dictionaries.

    Texts that no file has in one are no longer than the pages, and would cost a table of all of them.
    """
    in_dictionaries |= set(PARTITION_COLUMNS)
    return pa.schema(
        [
            one.with_type(_SHARED_TEXT)
            if one.type == pa.string() and one.name not in _OWN_TEXTS and one.name in in_dictionaries
            else one
            for one in schema
        ]
    )


def _read(path: str, content: _Content, packed: pa.Schema) -> pa.Table:
    """Read what a file has to be read for."""
    texts = [one.name for one in packed if one.type == _SHARED_TEXT and one.name not in PARTITION_COLUMNS]
    wanted = [name for name in packed.names if name not in PARTITION_COLUMNS and name not in content.empty]
    with pq.ParquetFile(path, metadata=content.footer, read_dictionary=texts, page_checksum_verification=True) as file:
        return file.read(columns=wanted, use_threads=False)


def _in_one_piece(chunked: list[pa.ChunkedArray]) -> list[pa.Array]:
    """Put the chunks of each column together, and let go of them before the next: *chunked* is empty then."""
    chunked.reverse()
    whole: list[pa.Array] = []
    while chunked:
        whole.append(chunked.pop().unify_dictionaries().combine_chunks())
    return whole


def _with_missing(rows: pa.Table, file: DataFile, packed: pa.Schema) -> pa.Table:
    """Add the columns that the file's folder tells, and those that are empty."""
    types = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows.num_rows, np.int32)), pa.array([file.type]))
    dates = pa.repeat(pa.scalar(file.date, pa.date32()), rows.num_rows)
    columns = {**{name: rows[name] for name in rows.column_names}, "date": dates, "type": types}
    return pa.table(
        [columns[one.name] if one.name in columns else pa.nulls(rows.num_rows, one.type) for one in packed],
        schema=packed,
    )


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _of_type(rows: pa.Table, action_type: str | None) -> pa.Table:
    return rows if action_type is None else rows.filter(pc.equal(rows["type"], action_type))


def _in_order(rows: pa.RecordBatch, asked: RetrievalFilter, order: Order) -> npt.NDArray[np.int64]:
    """The places of the rows within the bounds of time, in order.

    Time and place of a row are one number of 63 bits, unless times are too far apart. Only rows of the same microsecond
    are then compared by journal and position.
    """
    times: npt.NDArray[np.int64] = rows["time"].cast(pa.int64()).to_numpy()
    places: npt.NDArray[np.int64] | None = None
    for bound, is_beyond in ((asked.from_us, np.less), (asked.to_us, np.greater)):
        if bound is not None and len(times) and is_beyond(times, bound).any():
            within = np.flatnonzero(~is_beyond(times, bound))
            times, places = times[within], within if places is None else places[within]
    if not len(times):
        return np.arange(0)
    if places is None:
        ordered = _ascending(times, lambda at: _by_all_keys(rows, at))
    else:
        known = places
        ordered = known[_ascending(times, lambda at: _by_all_keys(rows, known[at]))]
    return ordered if order == "asc" else ordered[::-1]


def _ascending(
    times: npt.NDArray[np.int64], by_all_keys: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """Order places by time; those of one time by *by_all_keys*, which orders some places by all that counts."""
    first, bits = int(times.min()), len(times).bit_length()
    everywhere = np.arange(len(times))
    if (int(times.max()) - first).bit_length() + bits > _KEY_BITS:
        return everywhere[by_all_keys(everywhere)]
    keys = ((times - first) << bits) | everywhere
    keys.sort()
    ordered = keys & ((1 << bits) - 1)
    keys >>= bits
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        tied = np.union1d(same, same + 1)
        ordered[tied] = ordered[tied][by_all_keys(ordered[tied])]
    return ordered


def _by_all_keys(rows: pa.RecordBatch, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    chosen = rows.select(list(_KEYS)).take(pa.array(places))
    journals = _decoded(chosen["journal"])
    compared = pa.table([chosen["time"], journals, chosen["position"]], names=list(_KEYS))
    found: npt.NDArray[np.int64] = pc.sort_indices(compared, [(name, "ascending") for name in _KEYS]).to_numpy()
    return found.astype(np.int64)

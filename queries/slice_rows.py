"""The rows of one slice of a stream, read from files by Arrow and put into order of time, without a query.

A stream of all columns needs no engine: the rows of a slice are all read, and only their order is to be found. Arrow
reads files in two thirds of the processor time that DuckDB takes. The order is found first, from the times; then each
column is read and gathered by itself (`slice_columns`), batch by batch, by two threads that take turns.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from queries.file_index import RetrievalFilter
from queries.slice_columns import FileContent, SliceColumn, SliceColumns, TextsTooLong
from queries.sources import Order
from storage.data_files import DataFile
from storage.erased_rows import ErasedRows
from storage.file_names import all_have_columns

# Of all pages of a slice's files, decompressed, and again of texts that their dictionaries hold once: twice what
# 180,000 usual rows take.
PAGES_BYTES_MAX: Final = 20 << 20
# Each batch costs some calls a column, for which threads wait for each other.
BATCH_ROWS: Final = 32_768
_KEYS: Final = ("time", "journal", "position")
_ERASED_BY: Final = ("user_id", "journal", "position")
# What numpy sorts by counting, in a tenth of the time that comparing takes.
_DIGIT_BITS: Final = 16
_COARSE_BITS: Final = 2 * _DIGIT_BITS
_NUMBER_BITS: Final = 63
# Of rows whose coarse times are the same; when there are more, all bits are looked at.
_SAME_SHARE_MAX: Final = 1 / 16


@dataclass(frozen=True, slots=True)
class SliceRows:
    """Rows in memory, in the order in which they leave.

    Attributes:
        parts: of each batch the number of its rows and its columns; `batches` takes them out, so that what was sent is
            held no longer.
        schema: of the batches.
    """

    parts: deque[tuple[int, list[SliceColumn]]]
    rows: int
    schema: pa.Schema

    def batches(self, *, rows_max: int | None) -> Iterator[pa.RecordBatch]:
        """Yield the first *rows_max* rows, or all, in batches; to be called once."""
        left = self.rows if rows_max is None else min(self.rows, rows_max)
        while left > 0:
            count, columns = self.parts.popleft()
            batch = pa.RecordBatch.from_arrays([one.whole(count) for one in columns], schema=self.schema)
            del columns
            yield batch.slice(0, left)
            left -= count
        self.parts.clear()


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
    *,
    beside: Executor | None = None,
    batch_rows: int = BATCH_ROWS,
) -> SliceRows | None:
    """Read all columns of the rows that are asked for; None where that would take more memory than it may.

    Args:
        files: that can hold such rows, of the type that is asked for only; `can_be_read` said so.
        memory: rows that are in none of them, with the columns of *schema*.
        erased: rows to be left out.
        asked: type and bounds of time.
        order: by time, then by journal and position.
        schema: the columns of the table.
        check: called between columns; raises to give up.
        beside: has a thread that reads columns, too, if there is one.
        batch_rows: the rows of a batch at the most.

    Raises:
        OSError, pa.ArrowException: a file cannot be read.
    """
    contents: list[FileContent] = []
    pages_bytes = 0
    for one in files:
        check()
        contents.append(FileContent.of(one))
        pages_bytes += sum(contents[-1].pages_bytes.values())
        if pages_bytes > PAGES_BYTES_MAX:
            return None
    columns = SliceColumns(
        contents, _asked_for(memory, asked), schema, batch_rows=batch_rows, text_bytes_max=PAGES_BYTES_MAX
    )
    with columns.opened() as read:
        # What tells the order, which need not be read again.
        keys: dict[str, SliceColumn] = {}

        def read_key(name: str) -> pa.Array:
            if name not in keys:
                keys[name] = read(name)
            return keys[name].whole(columns.rows)

        ordered = _in_order(read_key, erased, asked, order)
        # Each batch has memory of its own, which is free again when it was sent, for the next slice to take.
        orders = [pa.array(ordered[start : start + batch_rows]) for start in range(0, len(ordered), batch_rows)]
        names = deque(columns.largest_first())
        gathered: dict[str, list[SliceColumn]] = {}

        def gather(read: Callable[[str], SliceColumn]) -> None:
            while True:
                try:
                    name = names.popleft()
                except IndexError:
                    return
                check()
                whole = keys.pop(name, None) or read(name)
                gathered[name] = [whole.take(one) for one in orders]

        def gather_beside() -> None:
            with columns.opened() as read_beside:
                gather(read_beside)

        other = None if beside is None else beside.submit(gather_beside)
        failed: BaseException | None = None
        try:
            gather(read)
        except TextsTooLong as error:
            failed = error
        finally:
            # Whatever happened: nothing is left for the other one, and nothing of it goes on.
            names.clear()
            if other is not None:
                failed = failed or other.exception()
        if isinstance(failed, TextsTooLong):
            return None
        if failed is not None:
            raise failed
    parts = deque((len(one), [gathered[name][at] for name in schema.names]) for at, one in enumerate(orders))
    return SliceRows(parts, len(ordered), schema)


def _asked_for(rows: pa.Table, asked: RetrievalFilter) -> pa.Table:
    """The rows of the type and within the bounds that are asked for."""
    if not rows.num_rows:
        return rows
    masks = [] if asked.action_type is None else [pc.equal(rows["type"], asked.action_type)]
    for bound, is_within in ((asked.from_us, pc.greater_equal), (asked.to_us, pc.less_equal)):
        if bound is not None:
            masks.append(is_within(rows["time"].cast(pa.int64()), bound))
    return rows.filter(functools.reduce(pc.and_, masks)) if masks else rows


def _in_order(
    read: Callable[[str], pa.Array], erased: ErasedRows, asked: RetrievalFilter, order: Order
) -> npt.NDArray[np.int64]:
    """The places of the rows that are asked for and not erased, in order."""
    times: npt.NDArray[np.int64] = read("time").cast(pa.int64()).to_numpy()
    kept: npt.NDArray[np.bool_] | None = None
    for bound, is_within in ((asked.from_us, np.greater_equal), (asked.to_us, np.less_equal)):
        if bound is not None:
            within = is_within(times, bound)
            kept = within if kept is None else kept & within
    if erased:
        found = pa.Table.from_arrays([read(name) for name in _ERASED_BY], names=list(_ERASED_BY))
        left: npt.NDArray[np.bool_] = ~erased.mask(found).to_numpy(zero_copy_only=False)
        kept = left if kept is None else kept & left
    if kept is None or kept.all():
        ordered = _ascending(times, lambda at: _by_all_keys(read, at))
    else:
        places = np.flatnonzero(kept)
        ordered = places[_ascending(times[places], lambda at: _by_all_keys(read, places[at]))]
    return ordered if order == "asc" else ordered[::-1]


def _ascending(
    times: npt.NDArray[np.int64], by_all_keys: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """Order places by time; those of one time by *by_all_keys*, which orders some places by all that counts.

    The highest bits in which times differ are sorted digit by digit, which leaves hardly any two rows with the same
    ones, unless most rows are at a few times of a long span: then all bits are.
    """
    if not len(times):
        return np.arange(0)
    first = int(times.min())
    bits = (int(times.max()) - first).bit_length()
    if bits > _NUMBER_BITS:
        return by_all_keys(np.arange(len(times)))
    for dropped in sorted({max(0, bits - _COARSE_BITS), 0}, reverse=True):
        numbers = times - first
        numbers >>= dropped
        if bits - dropped <= _COARSE_BITS:
            # Half as much goes through the caches.
            numbers = numbers.astype(np.uint32)
        ordered = _by_digits(numbers, bits - dropped)
        sorted_numbers = numbers.take(ordered)
        same = np.flatnonzero(sorted_numbers[1:] == sorted_numbers[:-1])
        if len(same) <= len(times) * _SAME_SHARE_MAX:
            break
    if len(same):
        tied = np.union1d(same, same + 1)
        ordered[tied] = ordered[tied][by_all_keys(ordered[tied])]
    return ordered


def _by_digits(numbers: npt.NDArray[np.integer[Any]], bits: int) -> npt.NDArray[np.int64]:
    """The places of numbers of so many bits, in order; those of the same number in the order of their places."""
    ordered = np.argsort(numbers.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, bits, _DIGIT_BITS):
        digits = (numbers >> shift).astype(np.uint16)
        ordered = ordered.take(np.argsort(digits.take(ordered), kind="stable"))
    return ordered


def _by_all_keys(read: Callable[[str], pa.Array], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    chosen = pa.array(places)
    compared = pa.Table.from_arrays([read(name).take(chosen) for name in _KEYS], names=list(_KEYS))
    found: npt.NDArray[np.int64] = pc.sort_indices(compared, [(name, "ascending") for name in _KEYS]).to_numpy()
    return found.astype(np.int64)

"""Cutting a slice that holds too much: by what its rows are counted to be, not by what its files' share would be.

The table's log says how many rows a file has, but not when in its day they are, nor how long their texts are. A slice
that may be too large is therefore counted first: a query that reads times, and the lengths of properties only where
they can be long, tells how much lies in each of many short spans, which are then put together to parts of bounded rows
and bytes. A span that holds too much by itself is counted again, down to the single microsecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from queries.engine import QueryConnection
from queries.file_index import RetrievalFilter
from queries.retrieval import RetrievalQuery
from queries.slice_columns import FREE_TEXT, FileContent
from storage.data_files import DataFile
from storage.erased_rows import ErasedRows

# So many counts of a slice are held at once; what is in one of them is counted again if it is too much.
_SPANS: Final = 1_024


@dataclass(frozen=True, slots=True)
class SliceBounds:
    """What a slice may hold: rows, and bytes of their properties."""

    rows_max: int
    text_bytes_max: int


@dataclass(frozen=True, slots=True)
class Span:
    """Times, both included, and what is between them."""

    from_us: int
    to_us: int
    rows: int
    text_bytes: int


class SliceCutter:
    """Cuts slices of one retrieval.

    Args:
        connection: on which rows are counted.
        memory: rows that are in no file.
        erased: rows to be left out.
        bounds: what a part may hold.
    """

    def __init__(self, connection: QueryConnection, memory: pa.Table, erased: ErasedRows, bounds: SliceBounds) -> None:
        self._connection = connection
        self._memory = memory
        self._erased = erased
        self._bounds = bounds

    def parts(
        self, files: Sequence[DataFile], asked: RetrievalFilter, *, descending: bool
    ) -> Iterator[tuple[int | None, int | None]]:
        """Yield bounds of time, both included, that cover all between those of *asked* once, in order.

        Each part holds no more than it may, unless all of it is at one instant. Later ones are found when they are
        asked for.

        Args:
            files: that can hold rows that are asked for.
            asked: which rows.
            descending: the latest first.

        Raises:
            QueryStopped: the connection was interrupted.
            OSError, pa.ArrowException: a file cannot be read.
        """
        long_texts = self._have_long_texts(files)
        rows = sum(one.rows for one in files) + self._memory.num_rows
        if rows <= self._bounds.rows_max and not long_texts:
            yield asked.from_us, asked.to_us
            return
        low_us, high_us = self._times(files, asked)
        # The next one last. What is in it is counted first.
        waiting = [Span(low_us, high_us, self._bounds.rows_max + 1, 0)]
        edge_us = asked.to_us if descending else asked.from_us
        while waiting:
            span = waiting.pop()
            # A single instant cannot be cut.
            if not self._is_within(span) and span.from_us < span.to_us:
                finer = self._counted(files, asked, span, long_texts=long_texts)
                waiting += finer if descending else finer[::-1]
            elif waiting:
                # Times between parts, at which there is nothing, belong to the later of both.
                inner_us = span.from_us if descending else span.to_us
                yield (inner_us, edge_us) if descending else (edge_us, inner_us)
                edge_us = inner_us - 1 if descending else inner_us + 1
        yield (asked.from_us, edge_us) if descending else (edge_us, asked.to_us)

    def _is_within(self, span: Span) -> bool:
        return span.rows <= self._bounds.rows_max and span.text_bytes <= self._bounds.text_bytes_max

    def _have_long_texts(self, files: Iterable[DataFile]) -> bool:
        """Whether properties may be longer than usual, by what footers say and what is in memory."""
        if self._memory.nbytes > self._bounds.text_bytes_max:
            return True
        pages_bytes = rows = 0
        for one in files:
            content = FileContent.of(one)
            if FREE_TEXT in content.in_dictionaries:
                # It has each text once, however long that is.
                return True
            pages_bytes += content.pages_bytes[FREE_TEXT]
            rows += one.rows
        # Of a slice with as many rows as it may have, if all texts were alike; half as much may be more in a part.
        return pages_bytes * min(1, self._bounds.rows_max / max(1, rows)) > self._bounds.text_bytes_max / 2

    def _times(self, files: Sequence[DataFile], asked: RetrievalFilter) -> tuple[int, int]:
        """Between which times, both included, all rows are: what is asked for may be all time."""
        lows, highs = [one.time_min_us for one in files], [one.time_max_us for one in files]
        if self._memory.num_rows:
            found = pc.min_max(self._memory["time"].cast(pa.int64())).as_py()
            lows.append(found["min"])
            highs.append(found["max"])
        low_us, high_us = min(lows, default=0), max(highs, default=0)
        return (
            low_us if asked.from_us is None else max(low_us, asked.from_us),
            high_us if asked.to_us is None else min(high_us, asked.to_us),
        )

    def _counted(
        self, files: Sequence[DataFile], asked: RetrievalFilter, span: Span, *, long_texts: bool
    ) -> list[Span]:
        """What lies in short parts of *span*, those put together that one slice may hold; ordered by time."""
        width_us = max(1, -(-(span.to_us - span.from_us + 1) // _SPANS))
        query = RetrievalQuery(replace(asked, from_us=span.from_us, to_us=span.to_us))
        source = query.source(self._connection, files, self._memory, self._erased)
        size = f"strlen({FREE_TEXT})" if long_texts else "0"
        query.parameters |= {"span_from_us": span.from_us, "span_width_us": width_us}
        sql = (
            f"SELECT (epoch_us(time) - $span_from_us) // $span_width_us AS number, count(*) AS rows,"  # noqa: S608
            f" sum({size})::BIGINT AS text_bytes FROM ({source}) GROUP BY number ORDER BY number"
        )
        finer = []
        for one in self._connection.fetch(sql, query.parameters).to_pylist():
            from_us = span.from_us + one["number"] * width_us
            to_us = min(span.to_us, from_us + width_us - 1)
            finer.append(Span(from_us, to_us, one["rows"], one["text_bytes"]))
        rows_max = self._even_rows(finer)
        spans: list[Span] = []
        for following in finer:
            both = _together(spans[-1], following) if spans else None
            if both is not None and both.rows <= rows_max and self._is_within(both):
                spans[-1] = both
            else:
                spans.append(following)
        return spans

    def _even_rows(self, spans: Sequence[Span]) -> int:
        """How many rows a part may have, so that all have about as many: each one costs reading all files again."""
        rows, text_bytes = sum(one.rows for one in spans), sum(one.text_bytes for one in spans)
        # Parts are not quite full, since they consist of whole spans.
        share = 1.02 * max(rows / self._bounds.rows_max, text_bytes / self._bounds.text_bytes_max)
        return math.ceil(rows / max(1, math.ceil(share))) + max((one.rows for one in spans), default=0)


def _together(one: Span, following: Span) -> Span:
    rows, text_bytes = one.rows + following.rows, one.text_bytes + following.text_bytes
    return Span(one.from_us, following.to_us, rows, text_bytes)
